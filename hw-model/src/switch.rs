//! Several devices behind one switch: what they send each other, over how many hops, and how long that takes.
//!
//! A hop is a message from a device to another, through the port of each and the switch between them. Every device has
//! one port, of as many bytes per second in each direction at once; the switch itself is never the bound. A collective
//! starts once on every device.
//!
//! ```
//! use cptr_hw_model::Switch;
//!
//! let switch = Switch { name: "s".into(), gb_s: 450.0, device_ns: 15.0, switch_ns: 20.0, start_ns: 1000.0 };
//! assert_eq!(switch.hop_ps(), 50_000);
//! // 4 KiB to three others: 12 KiB out of each port, one hop.
//! let small = switch.all_reduce(4, 4096);
//! assert_eq!((small.hops, small.bytes), (1, 12_288));
//! // 64 MiB: each device sums a quarter and hands it out, so that twice three quarters go out of each port.
//! let large = switch.all_reduce(4, 64 << 20);
//! assert_eq!((large.hops, large.bytes), (2, 96 << 20));
//! ```

use serde::Deserialize;

use crate::dram::ConfigError;
use crate::validate::within;

/// A switch and the ports of the devices behind it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// Name for people.
    pub name: String,
    /// Rate of a device's port in each direction, 10^9 bytes per second.
    pub gb_s: f64,
    /// What a message takes in the port of a device, in nanoseconds.
    pub device_ns: f64,
    /// What it takes in the switch and on its wires, in nanoseconds.
    pub switch_ns: f64,
    /// Start of a collective, in nanoseconds: its kernel.
    pub start_ns: f64,
}

/// What devices send each other in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collective {
    /// Bytes out of the port of the device that sends the most.
    pub bytes: u64,
    /// Hops that follow each other.
    pub hops: u64,
    /// From its start to its end, in picoseconds.
    pub ps: u64,
}

impl Switch {
    /// Refuses impossible values; fields are named below `switch`.
    pub fn validate(&self) -> Result<(), ConfigError> {
        within("switch.gb_s", self.gb_s, 1e-3, 1e6)?;
        within("switch.device_ns", self.device_ns, 0.0, 1e9)?;
        within("switch.switch_ns", self.switch_ns, 0.0, 1e9)?;
        within("switch.start_ns", self.start_ns, 0.0, 1e9)
    }

    /// From a device to another without payload, in picoseconds.
    #[must_use]
    pub fn hop_ps(&self) -> u64 {
        ((2.0 * self.device_ns + self.switch_ns) * 1e3).round() as u64
    }

    fn collective(&self, bytes: u64, hops: u64) -> Collective {
        let wire_ps = bytes as f64 / self.gb_s * 1e3;
        let ps = (self.start_ns * 1e3 + wire_ps).round() as u64 + hops * self.hop_ps();
        Collective { bytes, hops, ps }
    }

    /// Every device has `bytes` bytes of its own, and gets the sum of all: in one hop, where each sends all it has to
    /// all others, or in two, where each sums a part of it and sends that to all others; the faster of both.
    #[must_use]
    pub fn all_reduce(&self, devices: u64, bytes: u64) -> Collective {
        if devices < 2 {
            return Collective::default();
        }
        let once = self.collective((devices - 1) * bytes, 1);
        let parts = self.collective(2 * (devices - 1) * bytes.div_ceil(devices), 2);
        if parts.ps < once.ps { parts } else { once }
    }

    /// Every device gets `bytes` bytes of each other.
    #[must_use]
    pub fn all_gather(&self, devices: u64, bytes: u64) -> Collective {
        if devices < 2 { Collective::default() } else { self.collective((devices - 1) * bytes, 1) }
    }

    /// Messages to others, of which the busiest port sends so many bytes in all.
    #[must_use]
    pub fn all_to_all(&self, devices: u64, bytes: u64) -> Collective {
        if devices < 2 || bytes == 0 { Collective::default() } else { self.collective(bytes, 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switch() -> Switch {
        Switch { name: String::new(), gb_s: 450.0, device_ns: 15.0, switch_ns: 20.0, start_ns: 1000.0 }
    }

    #[test]
    fn collectives_by_hand() {
        // 1 us of start, one hop of 50 ns, 12,288 bytes at 450 GB/s.
        assert_eq!(switch().all_reduce(4, 4096).ps, 1_000_000 + 50_000 + 27_307);
        // Ports of an FPGA: 60 ns each.
        let slow = Switch { device_ns: 60.0, ..switch() };
        assert_eq!(slow.all_reduce(4, 4096).ps, 1_000_000 + 140_000 + 27_307);
        assert_eq!(switch().all_gather(8, 8), Collective { bytes: 56, hops: 1, ps: 1_050_124 });
        assert_eq!(switch().all_to_all(8, 0), Collective::default());
        assert_eq!(switch().all_reduce(1, 4096), Collective::default());
        // Both ways meet where the bytes that the second saves take a hop.
        for bytes in [1_u64 << 10, 1 << 14, 1 << 18, 1 << 24] {
            let found = switch().all_reduce(8, bytes);
            let (one, two) = (7 * bytes, 14 * bytes / 8);
            let ps = |bytes: u64, hops: u64| 1_000_000 + hops * 50_000 + (bytes as f64 / 0.45).round() as u64;
            assert_eq!(found.ps, ps(one, 1).min(ps(two, 2)), "{bytes}");
        }
    }

    #[test]
    fn impossible_switches_are_refused() {
        assert_eq!(switch().validate(), Ok(()));
        assert_eq!(Switch { gb_s: 0.0, ..switch() }.validate().unwrap_err().field, "switch.gb_s");
        assert_eq!(Switch { device_ns: -1.0, ..switch() }.validate().unwrap_err().field, "switch.device_ns");
    }
}
