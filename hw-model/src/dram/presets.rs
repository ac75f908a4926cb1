//! Ready-made devices, with the source beside each number.
//!
//! Where to look first: [`by_name`] for a name from a configuration, [`NAMES`] for the list. Sources, as marked in the
//! tables:
//! - **R2** Ramulator 2.1 (github.com/CMU-SAFARI/ramulator2, commit c5b1c3a, MIT), `python/ramulator/dram/*.py`, whose
//!   values follow JESD79-4, JESD79-5, JESD209-5, JESD209-6, JESD235 and JESD238; its HBM4 names no standard;
//! - **R2.0** the DDR5 table of Ramulator 2.0 (commit 6c0cd42), which has the same-bank refresh that 2.1 leaves out;
//! - **derived** computed here; the sentence says from what.
//!
//! Deviations from R2, both to the standard: its DDR5-3200 has nRRD_L = 5 below nRRD_S = 8, which no memory can have;
//! here it is max(8, 5 ns) = 8. And its nRRD_S of DDR5-5600 and -6400 are 14 and 16, as its nRRD_L; JESD79-5 has 8
//! clocks at all speeds, and so it is here. `data/devices/ramulator-2.1` has the devices as R2 publishes them.
mod hbm;
mod lpddr;

pub use hbm::{hbm2_2000, hbm3_6400, hbm4_8000};
pub use lpddr::{lpddr5_6400, lpddr5x_8533, lpddr6_10667};

use super::device::{BankRefresh, Device, Organisation, RefreshSet, Timing};
use super::energy::{Power, Supply};
use std::collections::BTreeMap;

/// Names that [`by_name`] knows.
pub const NAMES: [&str; 11] = [
    "DDR4-3200",
    "DDR5-3200",
    "DDR5-4800",
    "DDR5-5600",
    "DDR5-6400",
    "LPDDR5-6400",
    "LPDDR5X-8533",
    "LPDDR6-10667",
    "HBM2-2000",
    "HBM3-6400",
    "HBM4-8000",
];

/// The device called `name` (upper or lower case); `None` if there is none.
pub fn by_name(name: &str) -> Option<Device> {
    let device = match name.to_ascii_uppercase().as_str() {
        "DDR4-3200" => ddr4_3200(),
        "DDR5-3200" => ddr5_3200(),
        "DDR5-4800" => ddr5_4800(),
        "DDR5-5600" => ddr5_5600(),
        "DDR5-6400" => ddr5_6400(),
        "LPDDR5-6400" => lpddr5_6400(),
        "LPDDR5X-8533" => lpddr5x_8533(),
        "LPDDR6-10667" => lpddr6_10667(),
        "HBM2-2000" => hbm2_2000(),
        "HBM3-6400" => hbm3_6400(),
        "HBM4-8000" => hbm4_8000(),
        _ => return None,
    };
    Some(device)
}

/// All ready-made devices.
pub fn all() -> Vec<Device> {
    NAMES.iter().filter_map(|name| by_name(name)).collect()
}

/// DDR4-3200AA, 8 Gb x8, 64-bit channel, one rank.
pub fn ddr4_3200() -> Device {
    Device {
        name: "DDR4-3200".into(),
        organisation: Organisation {
            ranks: 1,
            stacks: 1,
            groups: 4,     // R2 DDR4_8Gb_x8
            banks: 4,      // R2
            rows: 1 << 16, // R2
            columns: 1 << 10,
            burst_length: 8,
            width_bits: 64,
            capacity_bytes: 8 << 30, // eight devices of 8 Gb
        },
        timing: Timing {
            t_ck_ps: 625, // R2 DDR4_3200AA, and all primary timings below
            n_bl: 4,
            n_bl_max: 4, // no separate value in DDR4
            n_cl: 22,
            n_cwl: 16,
            n_rcd_rd: 22,
            n_rcd_wr: 22,
            n_rp: 22,
            n_rp_all: 22, // as n_rp in DDR4
            n_ras: 52,
            n_rc: 74,
            n_rtp: 12,
            n_wr: 24,
            n_ccd_s: 4,
            n_ccd_l: 8,
            n_ccd_r: 4, // no stacks
            n_ccd_s_wr: 4,
            n_ccd_l_wr: 8,
            n_rrd_s: 4, // R2, x8
            n_rrd_l: 8, // R2, x8 at 3200
            n_faw: 34,  // R2, x8 at 3200 (21 ns)
            n_wtr_s: 4,
            n_wtr_l: 12,
            n_rtw: 22 + 4 + 2 - 16, // R2: nCL + nBL + 2 - nCWL
            n_ppd: 0,
            n_cs: 2,
            n_rfc: 576,    // R2: 360 ns, 8 Gb
            n_refi: 12480, // R2: 7.8 us
            act_cycles: 1,
            column_cycles: 1,
            other_cycles: 1,
        },
        split_activate: None,
        bank_refresh: None, // DDR4 has no bank-wise refresh
        refresh_management: None,
        power: Some(Power {
            devices: 8,
            source: "DRAMsim3 2981759, configs/DDR4_8Gb_x8_3200.ini".into(),
            supplies: vec![supply(1200, [57, 37, 52, 168, 150, 250])],
        }),
        dual_command_bus: false,
        pseudo_channels: false,
        half_clocks: false,
        distances: BTreeMap::new(),
        source: "Ramulator 2.1 c5b1c3a, DDR4_3200AA with DDR4_8Gb_x8 (JESD79-4)".into(),
        derived: false,
    }
}

/// What differs between the DDR5 speeds, in cycles.
struct Ddr5 {
    name: &'static str,
    t_ck_ps: u32,
    n_cl: u32, // = nRCD = nRP in the AN bins
    n_ras: u32,
    n_rc: u32,
    n_wr: u32,
    n_rtp: u32,
    n_cwl: u32,
    n_ccd_l: u32,
    n_ccd_l_wr: u32,
    n_wtr_s: u32,
    n_wtr_l: u32,
    n_rrd_l: u32,
    n_faw: u32,
    /// I0, 2N, 3N, 4R, 4W and 5B of VDD and of VPP in milliamperes, where they are known.
    currents: Option<[[u32; 6]; 2]>,
    source: &'static str,
}

/// A supply of so many millivolts; I0, 2N, 3N, 4R, 4W and 5B in milliamperes.
fn supply(mv: u32, ma: [u32; 6]) -> Supply {
    let [i0_ua, i2n_ua, i3n_ua, i4r_ua, i4w_ua, i5b_ua] = ma.map(|ma| ma * 1000);
    Supply { mv, i0_ua, i2n_ua, i3n_ua, i4r_ua, i4w_ua, i5b_ua }
}

/// 16 Gb x8 on a 32-bit sub-channel, one rank.
fn ddr5(speed: &Ddr5) -> Device {
    let cycles = |ns: u32| (ns * 1000).div_ceil(speed.t_ck_ps);
    let n_refi = cycles(3900); // R2: tREFI 3.9 us
    Device {
        name: speed.name.into(),
        organisation: Organisation {
            ranks: 1,
            stacks: 1,
            groups: 8,     // R2 DDR5_16Gb_x8
            banks: 4,      // R2
            rows: 1 << 16, // R2
            columns: 1 << 10,
            burst_length: 16,
            width_bits: 32,
            capacity_bytes: 8 << 30, // four devices of 16 Gb
        },
        timing: Timing {
            t_ck_ps: speed.t_ck_ps,
            n_bl: 8,
            n_bl_max: 8,
            n_cl: speed.n_cl,
            n_cwl: speed.n_cwl,
            n_rcd_rd: speed.n_cl,
            n_rcd_wr: speed.n_cl,
            n_rp: speed.n_cl,
            n_rp_all: speed.n_cl,
            n_ras: speed.n_ras,
            n_rc: speed.n_rc,
            n_rtp: speed.n_rtp,
            n_wr: speed.n_wr,
            n_ccd_s: 8, // R2, all speeds
            n_ccd_l: speed.n_ccd_l,
            n_ccd_r: 8, // no stacks
            n_ccd_s_wr: 8,
            n_ccd_l_wr: speed.n_ccd_l_wr,
            n_rrd_s: 8, // JESD79-5: 8 nCK at all speeds; R2 has 14 at 5600 and 16 at 6400, its nRRD_L
            n_rrd_l: speed.n_rrd_l,
            n_faw: speed.n_faw,
            n_wtr_s: speed.n_wtr_s,
            n_wtr_l: speed.n_wtr_l,
            n_rtw: speed.n_cl + 8 + 4 - speed.n_cwl, // R2: nCL + nBL + 2 - nCWL + 2
            n_ppd: 2,                                // R2
            n_cs: 2,                                 // R2
            n_rfc: cycles(295),                      // R2: tRFC1 295 ns, 16 Gb
            n_refi,
            act_cycles: 2,    // R2, JESD79-5 table 30
            column_cycles: 2, // R2
            other_cycles: 1,
        },
        split_activate: None,
        bank_refresh: Some(BankRefresh {
            set: RefreshSet::SameBank, // JESD79-5 4.13: REFsb in fine granularity mode
            n_rfc: cycles(130),        // R2.0: tRFCsb 130 ns, 16 Gb
            n_refi: n_refi / 8,        // derived: tREFI2 / banks of a group = tREFI / 2 / 4
            n_ref_to_ref: cycles(130), // derived: one set at a time
            n_ref_to_act: cycles(30),  // R2.0: tREFSBRD 30 ns
        }),
        refresh_management: None,
        power: speed.currents.map(|[vdd, vpp]| Power {
            devices: 4,
            source: "Stardust-lf/ramulator2-latency-supported, illustration_script/chip_pow_config.py; IPP2N as IPP3N"
                .into(),
            supplies: vec![supply(1100, vdd), supply(1800, vpp)],
        }),
        dual_command_bus: false,
        pseudo_channels: false,
        half_clocks: false,
        distances: BTreeMap::new(),
        source: speed.source.into(),
        derived: false,
    }
}

/// DDR5-3200AN, 16 Gb x8, 32-bit sub-channel.
pub fn ddr5_3200() -> Device {
    ddr5(&Ddr5 {
        name: "DDR5-3200",
        t_ck_ps: 625,
        n_cl: 24,
        n_ras: 52,
        n_rc: 76,
        n_wr: 48,
        n_rtp: 12,
        n_cwl: 22,
        n_ccd_l: 8,
        n_ccd_l_wr: 32,
        n_wtr_s: 6,
        n_wtr_l: 16,
        n_rrd_l: 8, // derived: max(8, 5 ns); R2 has 5, below nRRD_S
        n_faw: 32,  // R2: max(32, 20 ns)
        currents: None,
        source: "Ramulator 2.1 c5b1c3a, DDR5_3200AN with DDR5_16Gb_x8 (JESD79-5); nRRD_L corrected from 5 to 8",
    })
}

/// DDR5-4800AN, 16 Gb x8, 32-bit sub-channel.
pub fn ddr5_4800() -> Device {
    ddr5(&Ddr5 {
        name: "DDR5-4800",
        t_ck_ps: 416,
        n_cl: 34,
        n_ras: 77,
        n_rc: 111,
        n_wr: 72,
        n_rtp: 18,
        n_cwl: 32,
        n_ccd_l: 12,
        n_ccd_l_wr: 48,
        n_wtr_s: 6,
        n_wtr_l: 24,
        n_rrd_l: 12, // R2
        n_faw: 48,   // R2: 20 ns of 2e6/4800 ps
        currents: Some([[103, 92, 142, 318, 345, 277], [8, 7, 7, 9, 36, 28]]),
        source: "Ramulator 2.1 c5b1c3a, DDR5_4800AN with DDR5_16Gb_x8 (JESD79-5)",
    })
}

/// DDR5-5600AN, 16 Gb x8, 32-bit sub-channel.
pub fn ddr5_5600() -> Device {
    ddr5(&Ddr5 {
        name: "DDR5-5600",
        t_ck_ps: 357,
        n_cl: 40,
        n_ras: 90,
        n_rc: 130,
        n_wr: 84,
        n_rtp: 20,
        n_cwl: 38,
        n_ccd_l: 12,
        n_ccd_l_wr: 56,
        n_wtr_s: 5,
        n_wtr_l: 28,
        n_rrd_l: 14, // R2: max(8, 5 ns)
        n_faw: 56,   // R2: 20 ns
        currents: Some([[105, 92, 142, 337, 374, 277], [9, 8, 8, 9, 36, 28]]),
        source: "Ramulator 2.1 c5b1c3a, DDR5_5600AN with DDR5_16Gb_x8 (JESD79-5)",
    })
}

/// DDR5-6400AN, 16 Gb x8, 32-bit sub-channel. Twenty such sub-channels (ten 64-bit channels) give 512 GB/s nominal.
pub fn ddr5_6400() -> Device {
    ddr5(&Ddr5 {
        name: "DDR5-6400",
        t_ck_ps: 312,
        n_cl: 46,
        n_ras: 103,
        n_rc: 149,
        n_wr: 96,
        n_rtp: 24,
        n_cwl: 44,
        n_ccd_l: 16,
        n_ccd_l_wr: 64,
        n_wtr_s: 5,
        n_wtr_l: 32,
        n_rrd_l: 16, // R2: max(8, 5 ns)
        n_faw: 64,   // R2: 20 ns of 312.5 ps
        currents: Some([[105, 92, 142, 337, 374, 277], [9, 8, 8, 9, 36, 28]]),
        source: "Ramulator 2.1 c5b1c3a, DDR5_6400AN with DDR5_16Gb_x8 (JESD79-5)",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_possible_and_found_by_its_name() {
        for device in all() {
            device.validate().unwrap_or_else(|error| panic!("{}: {error}", device.name));
            assert_eq!(by_name(&device.name.to_lowercase()), Some(device));
        }
        assert_eq!(all().len(), NAMES.len());
        assert_eq!(by_name("DDR3-1600"), None);
    }

    #[test]
    fn cycles_that_follow_from_nanoseconds() {
        let table =
            [("DDR5-3200", 472, 6240), ("DDR5-4800", 710, 9375), ("DDR5-5600", 827, 10925), ("DDR5-6400", 946, 12500)];
        for (name, n_rfc, n_refi) in table {
            let timing = by_name(name).unwrap().timing;
            assert_eq!((timing.n_rfc, timing.n_refi), (n_rfc, n_refi), "{name}");
        }
        let lpddr5x = lpddr5x_8533().timing;
        assert_eq!((lpddr5x.n_rcd_rd, lpddr5x.n_rp_all, lpddr5x.n_ras, lpddr5x.n_rc), (20, 23, 46, 66));
        assert_eq!((lpddr5x.n_faw, lpddr5x.n_ccd_l, lpddr5x.n_cl, lpddr5x.n_rfc), (22, 4, 23, 224));
    }

    #[test]
    fn one_access_moves_a_line_of_the_standard() {
        let bytes: Vec<u64> = all().iter().map(|device| device.organisation.access_bytes()).collect();
        assert_eq!(bytes, [64, 64, 64, 64, 64, 32, 32, 32, 32, 32, 32]);
        // HBM columns are bursts already: a row is 1 KiB, not a fraction of it.
        assert_eq!(hbm2_2000().organisation.row_bytes(), 1024);
        assert_eq!(hbm3_6400().organisation.row_bytes(), 1024);
        assert_eq!(hbm4_8000().organisation.row_bytes(), 1024);
    }

    #[test]
    fn ten_channels_of_ddr5_6400_are_512_gb_s() {
        // 20 sub-channels; the clock is rounded to 312 ps, so slightly more than nominal.
        let rate = 20.0 * ddr5_6400().peak_gb_s();
        assert!((rate / 512.0 - 1.0).abs() < 0.002, "{rate}");
    }

    #[test]
    fn siblings_share_their_rules() {
        // HBM2 to HBM4, LPDDR5 and LPDDR5X, and all DDR5 have the same kinds of constraint.
        let kinds = |d: &Device| (d.dual_command_bus, d.split_activate.is_some(), d.bank_refresh.map(|r| r.set));
        assert_eq!(kinds(&hbm2_2000()), kinds(&hbm3_6400()));
        assert_eq!(kinds(&hbm3_6400()), kinds(&hbm4_8000()));
        assert_eq!(kinds(&lpddr5_6400()), kinds(&lpddr5x_8533()));
        assert_eq!(kinds(&ddr5_3200()), kinds(&ddr5_6400()));
    }
}
