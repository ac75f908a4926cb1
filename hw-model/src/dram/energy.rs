//! Energy by commands: what each costs, and standby by time.
//!
//! From the currents of a data sheet, after Micron's technical note TN-40-07: a command costs what flows beyond standby
//! while it works. Of one supply, times the devices of a rank, with `U` its voltage and `n` the banks of a rank:
//!
//! | | energy |
//! |---|---|
//! | ACT and its PRE | `U ((I0 - I2N) tRC - (I3N - I2N) tRAS / n)` |
//! | RD, WR | `U (I4R - I3N) tBL`, `U (I4W - I3N) tBL` |
//! | REFab | `U (I5B - I2N) tRFC` |
//! | REFpb, REFsb | that of REFab times their interval over its own: the same over time (derived) |
//! | standby | `U I2N`, and `U (I3N - I2N) / n` for each bank with an open row |
//!
//! I3N is measured with rows open in all banks, I0 with one; so a bank's share of standby is an n-th, as in DRAMPower.
//! DRAMsim3 takes all of it as soon as one row is open, with which DDR5's activates would cost less than nothing. A row
//! counts as open from ACT to PRE, or to the read or write that precharges. Not in it: the drivers and terminations of
//! the data wires, the physical layer, the controller.
use serde::{Deserialize, Serialize};

use super::command::CommandKind;
use super::device::Device;
use super::error::ConfigError;
use super::management::ManagementCommand;
use super::statistics::Statistics;

/// Currents of the devices of a rank.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Power {
    /// Devices that work together in a rank: width of the channel over that of a device.
    pub devices: u32,
    /// Where the currents come from.
    pub source: String,
    /// The supplies of a device: VDD, and VPP where it is known.
    pub supplies: Vec<Supply>,
}

/// One supply of a device: voltage in millivolts, currents in microamperes, named as the data sheets' IDD and IPP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Supply {
    /// Voltage.
    pub mv: u32,
    /// One bank activated and precharged every tRC.
    pub i0_ua: u32,
    /// Standby, all banks closed.
    pub i2n_ua: u32,
    /// Standby, with open rows.
    pub i3n_ua: u32,
    /// Reading all the time.
    pub i4r_ua: u32,
    /// Writing all the time.
    pub i4w_ua: u32,
    /// Refreshing all banks all the time.
    pub i5b_ua: u32,
}

/// Most that a voltage, current or number of devices may be: far above any device.
const MOST: u32 = 10_000_000;

impl Power {
    pub(super) fn validate(&self, device: &Device) -> Result<(), ConfigError> {
        if self.devices == 0 || self.devices > 1024 {
            return Err(ConfigError::new("power.devices", self.devices, "must lie between 1 and 1024"));
        }
        let t = &device.timing;
        for supply in &self.supplies {
            let Supply { mv, i0_ua, i2n_ua, i3n_ua, i4r_ua, i4w_ua, i5b_ua } = *supply;
            for (field, value) in [
                ("power.supplies.mv", mv),
                ("power.supplies.i0_ua", i0_ua),
                ("power.supplies.i2n_ua", i2n_ua),
                ("power.supplies.i3n_ua", i3n_ua),
                ("power.supplies.i4r_ua", i4r_ua),
                ("power.supplies.i4w_ua", i4w_ua),
                ("power.supplies.i5b_ua", i5b_ua),
            ] {
                if value > MOST {
                    return Err(ConfigError::new(field, value, format!("must be at most {MOST}")));
                }
            }
            let charge = |current: u32, cycles: u32| u64::from(current) * u64::from(cycles);
            let banks = u64::from(device.organisation.banks_per_rank());
            let open = charge(i3n_ua.saturating_sub(i2n_ua), t.n_ras);
            let activate = charge(i0_ua.saturating_sub(i2n_ua), t.n_rc) * banks;
            for (field, value, holds, rule) in [
                ("power.supplies.i3n_ua", i3n_ua, i3n_ua >= i2n_ua, "must be at least i2n_ua"),
                ("power.supplies.i4r_ua", i4r_ua, i4r_ua >= i3n_ua, "must be at least i3n_ua"),
                ("power.supplies.i4w_ua", i4w_ua, i4w_ua >= i3n_ua, "must be at least i3n_ua"),
                ("power.supplies.i5b_ua", i5b_ua, i5b_ua >= i2n_ua, "must be at least i2n_ua"),
                ("power.supplies.i0_ua", i0_ua, i0_ua >= i2n_ua, "must be at least i2n_ua"),
                ("power.supplies.i0_ua", i0_ua, activate >= open, "must be at least standby over tRC"),
            ] {
                if !holds {
                    return Err(ConfigError::new(field, value, rule));
                }
            }
        }
        Ok(())
    }
}

/// What commands and standby of a device cost, in picojoules.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CommandEnergy {
    /// An ACT with its PRE.
    pub activate_pj: f64,
    /// A RD.
    pub read_pj: f64,
    /// A WR.
    pub write_pj: f64,
    /// A REFab.
    pub refresh_all_pj: f64,
    /// A REFpb or REFsb.
    pub refresh_bank_pj: f64,
    /// A RFMab or RFMpb: as a refresh that takes as long (derived).
    pub management_pj: f64,
    /// A cycle of a rank.
    pub cycle_pj: f64,
    /// A cycle of an open row beside.
    pub open_cycle_pj: f64,
}

impl CommandEnergy {
    /// `None` for a device whose currents are not known.
    pub fn of(device: &Device) -> Option<Self> {
        let power = device.power.as_ref()?;
        let t = &device.timing;
        // Millivolts times microamperes times picoseconds are 10^-21 J.
        let sum = |charge: &dyn Fn(&Supply) -> f64| {
            let of = |supply: &Supply| f64::from(supply.mv) * charge(supply);
            power.supplies.iter().map(of).sum::<f64>() * f64::from(power.devices) * f64::from(t.t_ck_ps) * 1e-9
        };
        let times = |current: u32, cycles: u32| f64::from(current) * f64::from(cycles);
        let refresh_all_pj = sum(&|s| times(s.i5b_ua - s.i2n_ua, t.n_rfc));
        let share = device.bank_refresh.map_or(0.0, |refresh| f64::from(refresh.n_refi) / f64::from(t.n_refi));
        let management_pj = device.refresh_management.map_or(0.0, |needs| {
            let (refresh_pj, n_rfc) = match (needs.command, device.bank_refresh) {
                (ManagementCommand::BankWise, Some(refresh)) => (refresh_all_pj * share, refresh.n_rfc),
                _ => (refresh_all_pj, t.n_rfc),
            };
            refresh_pj * f64::from(needs.n_rfm) / f64::from(n_rfc)
        });
        let banks = f64::from(device.organisation.banks_per_rank());
        let clocks = 1.0 / f64::from(device.cycles_per_clock());
        Some(Self {
            activate_pj: sum(&|s| times(s.i0_ua - s.i2n_ua, t.n_rc) - times(s.i3n_ua - s.i2n_ua, t.n_ras) / banks),
            read_pj: sum(&|s| times(s.i4r_ua - s.i3n_ua, t.n_bl)),
            write_pj: sum(&|s| times(s.i4w_ua - s.i3n_ua, t.n_bl)),
            refresh_all_pj,
            refresh_bank_pj: refresh_all_pj * share,
            management_pj,
            cycle_pj: sum(&|s| times(s.i2n_ua, 1)) * clocks,
            open_cycle_pj: sum(&|s| times(s.i3n_ua - s.i2n_ua, 1)) / banks * clocks,
        })
    }

    /// The energy of a run with these counts, of which all ranks together took `rank_cycles` cycles: cycles times ranks
    /// times channels.
    pub fn total(&self, counts: &Statistics, rank_cycles: u64) -> Energy {
        let commands = |kinds: &[CommandKind]| kinds.iter().map(|&kind| counts.commands.get(kind)).sum::<u64>() as f64;
        Energy {
            activate_pj: self.activate_pj * commands(&[CommandKind::Act]),
            read_pj: self.read_pj * commands(&[CommandKind::Rd, CommandKind::RdA]),
            write_pj: self.write_pj * commands(&[CommandKind::Wr, CommandKind::WrA]),
            refresh_pj: self.refresh_all_pj * commands(&[CommandKind::RefAll])
                + self.refresh_bank_pj * commands(&[CommandKind::RefBank])
                + self.management_pj * commands(&[CommandKind::RfmAll, CommandKind::RfmBank]),
            standby_pj: self.cycle_pj * rank_cycles as f64 + self.open_cycle_pj * counts.open_cycles as f64,
        }
    }
}

/// Where the energy of a run went, in picojoules.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Energy {
    /// Rows opened and closed.
    pub activate_pj: f64,
    /// Reads beyond standby.
    pub read_pj: f64,
    /// Writes beyond standby.
    pub write_pj: f64,
    /// Refreshes and their management beyond standby.
    pub refresh_pj: f64,
    /// Standby, with open rows and without.
    pub standby_pj: f64,
}

impl Energy {
    /// All of it.
    pub fn total_pj(&self) -> f64 {
        self.activate_pj + self.read_pj + self.write_pj + self.refresh_pj + self.standby_pj
    }
}
