//! The link between GPU and memory device: CXL flits for small messages, PCIe copies for whole experts, the launch of
//! work.
//!
//! # Flits
//! A message of N bytes is written as 64-byte lines, each one header slot and four data slots of 16 bytes, packed in
//! order:
//!
//! | | bytes | header | slots | credits | CRC | FEC |
//! |---|---|---|---|---|---|---|
//! | 68-byte flit (CXL 1.1/2.0) | 68 | 2 (protocol id) | 4 x 16 (4 of slot 0: flit header) | in the header | 2 | - |
//! | 256-byte flit (CXL 3.x) | 256 | 2 | 14 + 14 x 16 | 2 | 8 | 6 |
//!
//! Slot 0 takes a message header only; a 68-byte flit is all data instead when four data slots wait. Packed so, no slot
//! stays empty before the last flit, and the count has a closed form: ceil(5 lines / slots per flit). A packer that
//! places slot by slot agrees (unit tests). Field sizes of both flits are from secondary notes on the CXL
//! specification.
//!
//! # Time
//! Flits leave back to back as long as the receiver has credits for them; the first arrives after half a round trip. A
//! flit that arrives damaged costs the round trip of a retry, and everything sent behind it is sent again: the
//! *expected* number of retries is charged, so results do not depend on chance.
use serde::Deserialize;

use crate::dram::ConfigError;
use crate::validate::{share, within};

/// Bytes of a line, the unit of CXL.mem.
pub const LINE_BYTES: u64 = 64;

/// Slots of a written line: one header and four of data.
const SLOTS_PER_LINE: u64 = 5;

/// Format of a flit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Flit {
    /// CXL 1.1 and 2.0, up to 32 GT/s; no forward error correction.
    #[serde(rename = "cxl-68")]
    Cxl68,
    /// CXL 3.x, with forward error correction.
    #[serde(rename = "cxl-256")]
    Cxl256,
}

impl Flit {
    /// Bytes on the wire.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Cxl68 => 68,
            Self::Cxl256 => 256,
        }
    }

    /// Slots, the first of which is for message headers.
    pub const fn slots(self) -> u64 {
        match self {
            Self::Cxl68 => 4,
            Self::Cxl256 => 15,
        }
    }

    /// Flits that a message of `bytes` bytes takes, written as whole lines.
    pub const fn flits(self, bytes: u64) -> u64 {
        (bytes.div_ceil(LINE_BYTES) * SLOTS_PER_LINE).div_ceil(self.slots())
    }

    /// Probability that a flit must be sent again, if each bit is wrong with probability `bit_error_rate`,
    /// independently.
    ///
    /// Without forward error correction (FEC) any wrong bit is caught by the CRC. The FEC of the 256-byte flit is three
    /// interleaved codes of 86, 85 and 85 bytes that correct one byte each (as PCIe 6): a retry is two wrong bytes in
    /// one of them.
    pub fn retry_probability(self, bit_error_rate: f64) -> f64 {
        // ln_1p and exp_m1 keep the digits of tiny rates.
        let any = |bits: f64| -(bits * (-bit_error_rate).ln_1p()).exp_m1();
        match self {
            Self::Cxl68 => any(68.0 * 8.0),
            Self::Cxl256 => {
                let byte = any(8.0);
                let group = |bytes: i32| two_or_more(bytes, byte);
                1.0 - (1.0 - group(86)) * (1.0 - group(85)).powi(2)
            }
        }
    }
}

/// Probability of at least two events among `trials` of probability `each`, as a sum of positive terms (a difference
/// from 1 would lose all digits at small rates).
fn two_or_more(trials: i32, each: f64) -> f64 {
    if each >= 1.0 {
        return 1.0;
    }
    let odds = each / (1.0 - each);
    let mut term = (1.0 - each).powi(trials);
    let mut sum = 0.0;
    for events in 1..=trials {
        term *= f64::from(trials - events + 1) / f64::from(events) * odds;
        if events >= 2 {
            sum += term;
        }
    }
    sum.min(1.0)
}

/// How the device learns that there is work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Launch {
    /// Descriptors are stored straight into the device's memory (CXL.mem), behind the activations: no extra trip.
    Doorbell,
    /// Descriptors lie in a ring in GPU or host memory: a store rings, the device fetches them (CXL.io), one round trip
    /// more.
    Ring,
}

/// A link. All bandwidths are of one direction.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Name for people.
    pub name: String,
    /// Transfers per second of one lane, 10^9: 8, 16, 32 (128b/130b coding) or 64 (flit mode, no line code).
    pub gt_s: f64,
    /// Lanes, 1 to 16.
    pub lanes: u32,
    /// Flits; needed where a device works near the data, absent where there are only copies and small messages.
    pub flit: Option<Flit>,
    /// From the sender to the receiver and back, without payload, in nanoseconds: ports, wires, switches.
    pub round_trip_ns: f64,
    /// Flits that the receiver takes before it must return credits.
    pub credits: u32,
    /// Probability that a bit arrives wrong.
    pub bit_error_rate: f64,
    /// Share of the coded bandwidth that bulk copies reach.
    pub copy_efficiency: f64,
    /// Start of a batch of copies, in nanoseconds.
    pub copy_launch_ns: f64,
    /// Whether a copy that nobody waits for makes way for one that is waited for: it is made in small pieces. Otherwise
    /// what has started is not broken off.
    #[serde(default)]
    pub copies_yield: bool,
    /// Share of its rate that the direction towards the GPU keeps while both directions are busy: 1 for full duplex,
    /// 0.5 and 0.5 for half.
    pub both_ways_to_gpu: f64,
    /// Likewise for the direction away from the GPU.
    pub both_ways_from_gpu: f64,
    /// How work is launched.
    pub launch: Launch,
    /// From the arrival of the first descriptor to the first command of the device, in nanoseconds; includes the driver
    /// for a ring.
    pub launch_ns: f64,
    /// From the arrival of a result or an answer to the GPU's notice of it, in nanoseconds: half of the time between
    /// two looks.
    #[serde(default)]
    pub poll_ns: f64,
    /// Energy per bit on the wire, both ends, in picojoules.
    pub pj_per_bit: f64,
}

/// One message in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Transfer {
    /// Flits, retries not counted.
    pub flits: u64,
    /// Flits expected to be sent again because of bit errors, the first of each go-back only.
    pub expected_retries: f64,
    /// From the start of the first flit to the end of the last at the sender, stalls and expected retries included.
    pub serial_ps: u64,
}

/// Femtoseconds in a picosecond: flit times are kept in femtoseconds, so that a million of them are off by less than a
/// nanosecond.
const FS: u64 = 1000;

impl Link {
    /// Refuses impossible values; fields are named below `link`.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if ![8.0, 16.0, 32.0, 64.0].contains(&self.gt_s) {
            return Err(ConfigError::new("link.gt_s", self.gt_s, "must be 8, 16, 32 or 64"));
        }
        within("link.lanes", f64::from(self.lanes), 1.0, 16.0)?;
        if self.flit == Some(Flit::Cxl68) && self.gt_s > 32.0 {
            return Err(ConfigError::new("link.flit", "cxl-68", "must be \"cxl-256\" above 32 GT/s"));
        }
        within("link.credits", f64::from(self.credits), 1.0, 1e6)?;
        within("link.round_trip_ns", self.round_trip_ns, 0.0, 1e9)?;
        within("link.copy_launch_ns", self.copy_launch_ns, 0.0, 1e9)?;
        within("link.launch_ns", self.launch_ns, 0.0, 1e9)?;
        within("link.poll_ns", self.poll_ns, 0.0, 1e9)?;
        within("link.pj_per_bit", self.pj_per_bit, 0.0, 1e3)?;
        within("link.bit_error_rate", self.bit_error_rate, 0.0, 1e-3)?;
        share("link.copy_efficiency", self.copy_efficiency)?;
        share("link.both_ways_to_gpu", self.both_ways_to_gpu)?;
        share("link.both_ways_from_gpu", self.both_ways_from_gpu)?;
        if self.both_ways_to_gpu + self.both_ways_from_gpu < 1.0 {
            let rule = "must be at least 1 - link.both_ways_to_gpu: one direction after the other is always possible";
            return Err(ConfigError::new("link.both_ways_from_gpu", self.both_ways_from_gpu, rule));
        }
        Ok(())
    }

    /// Bandwidth after line coding in GB/s (10^9 bytes).
    pub fn coded_gb_s(&self) -> f64 {
        let code = if self.gt_s > 32.0 { 1.0 } else { 128.0 / 130.0 };
        self.gt_s * f64::from(self.lanes) * code / 8.0
    }

    /// Bandwidth of bulk copies in GB/s (10^9 bytes).
    pub fn copy_gb_s(&self) -> f64 {
        self.coded_gb_s() * self.copy_efficiency
    }

    /// One way without payload, in picoseconds.
    pub fn one_way_ps(&self) -> u64 {
        (self.round_trip_ns * 500.0).round() as u64
    }

    /// From the device to the GPU without payload, until the GPU notices, in picoseconds.
    pub fn back_ps(&self) -> u64 {
        self.one_way_ps() + (self.poll_ns * 1e3).round() as u64
    }

    /// A request of one line and its answer of one line, both small and waited for, until the GPU notices.
    pub fn ask_ps(&self) -> u64 {
        2 * self.send(LINE_BYTES).serial_ps + self.one_way_ps() + self.back_ps()
    }

    /// A message of `bytes` bytes in one direction; a link without flits takes it at the rate of its copies.
    pub fn send(&self, bytes: u64) -> Transfer {
        let Some(flit) = self.flit else {
            let serial_ps = (bytes as f64 / self.copy_gb_s() * 1e3).round() as u64;
            return Transfer { serial_ps, ..Transfer::default() };
        };
        let flits = flit.flits(bytes);
        let flit_fs = self.flit_fs(flit);
        let error = flit.retry_probability(self.bit_error_rate);
        let expected_retries = flits as f64 * error / (1.0 - error);
        let retry_fs = (2 * self.one_way_ps() * FS + flit_fs) as f64;
        let retries_ps = (expected_retries * retry_fs / FS as f64).round() as u64;
        Transfer { flits, expected_retries, serial_ps: self.serial_fs(flits, flit_fs).div_ceil(FS) + retries_ps }
    }

    /// A read of one line that waits for its data, without the memory behind the link: one request flit there, the
    /// flits of a line back.
    pub fn lone_read_ps(&self) -> u64 {
        let request_ps = self.flit.map_or(0, |flit| self.flit_fs(flit).div_ceil(FS));
        request_ps + 2 * self.one_way_ps() + self.send(LINE_BYTES).serial_ps
    }

    /// Bytes on the wire of a message of `bytes` bytes.
    pub fn wire_bytes(&self, bytes: u64) -> u64 {
        self.flit.map_or(bytes, |flit| flit.flits(bytes) * flit.bytes())
    }

    /// What the device waits for, beyond the arrival of activations and descriptors, before it starts.
    pub fn launch_ps(&self) -> u64 {
        let fetch = match self.launch {
            Launch::Doorbell => 0,
            Launch::Ring => 2 * self.one_way_ps(),
        };
        fetch + (self.launch_ns * 1e3).round() as u64
    }

    /// A batch of bulk copies of `bytes` bytes in all, in one direction.
    pub fn copy_ps(&self, bytes: f64) -> u64 {
        if bytes == 0.0 {
            return 0;
        }
        (self.copy_launch_ns * 1e3 + bytes / self.copy_gb_s() * 1e3).round() as u64
    }

    /// Time until both directions are done, if each alone would take so long. While both are busy each keeps its share
    /// of its rate.
    pub fn both_ways_ps(&self, to_gpu_ps: u64, from_gpu_ps: u64) -> u64 {
        let (a, b) = (to_gpu_ps as f64, from_gpu_ps as f64);
        let (share_a, share_b) = (self.both_ways_to_gpu, self.both_ways_from_gpu);
        let first = (a / share_a).min(b / share_b);
        (first + (a - first * share_a).max(b - first * share_b)).round() as u64
    }

    /// Time of a flit on the wire in femtoseconds.
    fn flit_fs(&self, flit: Flit) -> u64 {
        (flit.bytes() as f64 / self.coded_gb_s() * 1e6).round() as u64
    }

    /// From the start of the first flit to the end of the last. A credit is back one flit and one round trip after its
    /// flit started.
    fn serial_fs(&self, flits: u64, flit_fs: u64) -> u64 {
        let Some(last) = flits.checked_sub(1) else { return 0 };
        let window = u64::from(self.credits);
        let credit_fs = flit_fs + 2 * self.one_way_ps() * FS;
        let start = if window * flit_fs >= credit_fs {
            last * flit_fs
        } else {
            last / window * credit_fs + last % window * flit_fs
        };
        start + flit_fs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn link(flit: Flit, gt_s: f64) -> Link {
        Link {
            name: String::new(),
            gt_s,
            lanes: 16,
            flit: Some(flit),
            round_trip_ns: 180.0,
            credits: 128,
            bit_error_rate: 0.0,
            copy_efficiency: 0.787,
            copy_launch_ns: 1000.0,
            copies_yield: false,
            both_ways_to_gpu: 0.444,
            both_ways_from_gpu: 0.968,
            launch: Launch::Doorbell,
            launch_ns: 0.0,
            poll_ns: 0.0,
            pj_per_bit: 4.4,
        }
    }

    /// Places one slot after the other by the rules; `true` is a header.
    fn pack(flit: Flit, lines: u64) -> u64 {
        let mut waiting: VecDeque<bool> = (0..lines).flat_map(|_| [true, false, false, false, false]).collect();
        let mut flits = 0;
        while !waiting.is_empty() {
            flits += 1;
            let all_data = flit == Flit::Cxl68 && waiting.iter().take(4).filter(|&&header| !header).count() == 4;
            if all_data {
                waiting.drain(..4);
                continue;
            }
            let data_first = waiting.iter().position(|&header| header);
            // Slot 0: a header, be it of a line whose turn has not come yet; else empty.
            if let Some(at) = data_first {
                waiting.remove(at);
            }
            let rest = waiting.len().min(flit.slots() as usize - 1);
            waiting.drain(..rest);
        }
        flits
    }

    #[test]
    fn fields_fill_the_flits() {
        assert_eq!(2 + 4 * 16 + 2, Flit::Cxl68.bytes());
        assert_eq!(2 + 14 + 14 * 16 + 2 + 8 + 6, Flit::Cxl256.bytes());
        assert_eq!(1 + 14, Flit::Cxl256.slots());
    }

    #[test]
    fn payload_efficiency_as_published() {
        // 64 of 85 bytes; three lines in a flit (CENT): 192 of 256.
        let efficiency = |flit: Flit| 6e6 / (flit.flits(6_000_000) * flit.bytes()) as f64;
        assert!((efficiency(Flit::Cxl68) - 64.0 / 85.0).abs() < 1e-4);
        assert!((efficiency(Flit::Cxl256) - 0.75).abs() < 1e-4);
        assert!((link(Flit::Cxl68, 16.0).coded_gb_s() - 31.51).abs() < 0.005);
        assert!((link(Flit::Cxl256, 64.0).coded_gb_s() - 128.0).abs() < 1e-9);
    }

    #[test]
    fn lone_read_is_the_round_trip_and_three_flits() {
        let link = link(Flit::Cxl68, 16.0);
        assert_eq!(link.lone_read_ps(), 180_000 + 2159 + 4317);
    }

    #[test]
    fn copies_as_measured() {
        let link = link(Flit::Cxl68, 16.0);
        assert!((link.copy_gb_s() - 24.8).abs() < 0.01);
        // 24.8 GB in each direction at once: 24 and 11 GB/s while both run, then 24.8.
        let alone = 1_000_000_000_000;
        let both = link.both_ways_ps(alone, alone) as f64 / 1e12;
        let first = 1.0 / 0.968;
        assert!((both - (first + 1.0 - 0.444 * first)).abs() < 1e-9, "{both}");
        let half = Link { both_ways_to_gpu: 0.5, both_ways_from_gpu: 0.5, ..link.clone() };
        let full = Link { both_ways_to_gpu: 1.0, both_ways_from_gpu: 1.0, ..link };
        assert_eq!((half.both_ways_ps(30, 70), full.both_ways_ps(30, 70)), (100, 70));
    }

    #[test]
    fn retries_by_bit_error_rate() {
        let near = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-3, "{found} {expected}");
        near(Flit::Cxl68.retry_probability(1e-12), 544e-12);
        // Pairs of bytes within a code, at eight wrong bits in a million bytes.
        near(Flit::Cxl256.retry_probability(1e-6), (86.0 * 85.0 + 2.0 * 85.0 * 84.0) / 2.0 * 64e-12);
        assert_eq!(Flit::Cxl256.retry_probability(0.0), 0.0);
        let noisy = Link { bit_error_rate: 1e-5, ..link(Flit::Cxl68, 16.0) };
        let sent = noisy.send(1 << 20);
        near(sent.expected_retries, 20_480.0 * 0.005425_f64 / (1.0 - 0.005425));
        assert!(sent.serial_ps > link(Flit::Cxl68, 16.0).send(1 << 20).serial_ps);
    }

    /// Draws errors flit by flit; the mean of many runs is the expectation charged.
    #[test]
    fn expected_retries_are_the_mean_of_drawn_ones() {
        let noisy = Link { bit_error_rate: 1e-4, ..link(Flit::Cxl68, 16.0) };
        let error = Flit::Cxl68.retry_probability(1e-4);
        let (runs, bytes) = (400, 1 << 16);
        let mut state = 1u64;
        let mut draw = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 11) as f64) / (1u64 << 53) as f64
        };
        let mut retries = 0u64;
        for _ in 0..runs * Flit::Cxl68.flits(bytes) {
            while draw() < error {
                retries += 1;
            }
        }
        let mean = retries as f64 / runs as f64;
        assert!((mean / noisy.send(bytes).expected_retries - 1.0).abs() < 0.03, "{mean}");
    }

    #[test]
    fn a_ring_costs_a_round_trip_more() {
        let doorbell = link(Flit::Cxl68, 16.0);
        let ring = Link { launch: Launch::Ring, ..doorbell.clone() };
        assert_eq!(ring.launch_ps() - doorbell.launch_ps(), 180_000);
    }

    #[test]
    fn impossible_links_are_refused() {
        let good = link(Flit::Cxl68, 16.0);
        assert_eq!(good.validate(), Ok(()));
        for (bad, field) in [
            (Link { gt_s: 12.0, ..good.clone() }, "link.gt_s"),
            (Link { lanes: 0, ..good.clone() }, "link.lanes"),
            (Link { gt_s: 64.0, ..good.clone() }, "link.flit"),
            (Link { credits: 0, ..good.clone() }, "link.credits"),
            (Link { round_trip_ns: f64::NAN, ..good.clone() }, "link.round_trip_ns"),
            (Link { bit_error_rate: 0.5, ..good.clone() }, "link.bit_error_rate"),
            (Link { copy_efficiency: 0.0, ..good.clone() }, "link.copy_efficiency"),
            (Link { both_ways_from_gpu: 0.1, ..good.clone() }, "link.both_ways_from_gpu"),
        ] {
            assert_eq!(bad.validate().unwrap_err().field, field);
        }
    }

    proptest! {
        #[test]
        fn the_closed_form_is_the_packer(lines in 0u64..400) {
            for flit in [Flit::Cxl68, Flit::Cxl256] {
                prop_assert_eq!(flit.flits(lines * LINE_BYTES), pack(flit, lines), "{:?}", flit);
            }
        }

        #[test]
        fn time_is_that_of_flits_sent_one_by_one(bytes in 0u64..100_000, credits in 1u32..200, round_trip_ns in 0u32..600) {
            let link = Link { credits, round_trip_ns: f64::from(round_trip_ns), ..link(Flit::Cxl68, 16.0) };
            let flit_fs = link.flit_fs(Flit::Cxl68);
            let mut starts: Vec<u64> = Vec::new();
            for i in 0..Flit::Cxl68.flits(bytes) as usize {
                let wire = if i > 0 { starts[i - 1] + flit_fs } else { 0 };
                let credit = i.checked_sub(credits as usize).map_or(0, |old| starts[old] + flit_fs + 2 * link.one_way_ps() * FS);
                starts.push(wire.max(credit));
            }
            let end = starts.last().map_or(0, |start| start + flit_fs);
            prop_assert_eq!(link.send(bytes).serial_ps, end.div_ceil(FS));
        }

        #[test]
        fn both_ways_lies_between_full_and_half_duplex(a in 0u64..1 << 40, b in 0u64..1 << 40, more in 0u64..1 << 30) {
            let link = link(Flit::Cxl68, 16.0);
            let both = link.both_ways_ps(a, b);
            prop_assert!(both + 1 >= a.max(b) && both <= a + b + 1);
            prop_assert!(link.both_ways_ps(a + more, b) >= both && link.both_ways_ps(a, b + more) >= both);
        }
    }
}
