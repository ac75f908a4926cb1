//! LPDDR5, LPDDR5X and LPDDR6.
use super::super::device::{BankRefresh, Device, Organisation, RefreshSet, SplitActivate, Timing};
use std::collections::BTreeMap;

/// LPDDR5-6400, 8 Gb x16, bank-group mode, WCK 4:1.
pub fn lpddr5_6400() -> Device {
    Device {
        name: "LPDDR5-6400".into(),
        organisation: Organisation {
            ranks: 1,
            stacks: 1,
            groups: 4,     // R2 LPDDR5_8Gb_x16
            banks: 4,      // R2
            rows: 1 << 15, // R2
            columns: 1 << 10,
            burst_length: 16,
            width_bits: 16,
            capacity_bytes: 1 << 30, // one device of 8 Gb
        },
        timing: Timing {
            t_ck_ps: 1250, // R2 LPDDR5_6400: CK 800 MHz; all primary timings below
            n_bl: 2,       // R2 nBL_min
            n_bl_max: 4,   // R2 nBL_max
            n_cl: 17,
            n_cwl: 9,
            n_rcd_rd: 15,
            n_rcd_wr: 15,
            n_rp: 15,
            n_rp_all: 17, // R2 nRPab
            n_ras: 34,
            n_rc: 49,
            n_rtp: 8,
            n_wr: 28,
            n_ccd_s: 2,
            n_ccd_l: 4,
            n_ccd_r: 2, // no stacks
            n_ccd_s_wr: 2,
            n_ccd_l_wr: 4,
            n_rrd_s: 4, // R2: max(4, 5 ns)
            n_rrd_l: 4, // R2: max(4, 5 ns)
            n_faw: 16,  // R2: 20 ns
            n_wtr_s: 5,
            n_wtr_l: 10,
            n_rtw: 17 + 2 + 2 - 9, // R2: nCL + nBL_min + 2 - nCWL
            n_ppd: 2,              // R2
            n_cs: 2,               // R2
            n_rfc: 168,            // R2: tRFCab 210 ns, 8 Gb
            n_refi: 3125,          // R2: 3.906 us
            act_cycles: 1,
            column_cycles: 1,
            other_cycles: 1,
        },
        split_activate: Some(SplitActivate { n_aad: 8, n_wck_pst: 1 }), // R2
        bank_refresh: Some(BankRefresh {
            set: RefreshSet::Pair, // JESD209-5, bank-group mode: eight REFpb cover the sixteen banks
            n_rfc: 96,             // R2: tRFCpb 120 ns, 8 Gb
            n_refi: 391,           // R2: tREFIpb 488 ns
            n_ref_to_ref: 72,      // R2: tpbR2pbR 90 ns
            n_ref_to_act: 6,       // R2: tpbR2act 7.5 ns
        }),
        refresh_management: None,
        power: None,
        dual_command_bus: false,
        pseudo_channels: false,
        half_clocks: false,
        distances: BTreeMap::new(),
        source: "Ramulator 2.1 c5b1c3a, LPDDR5_6400 with LPDDR5_8Gb_x16 (JESD209-5)".into(),
        derived: false,
    }
}

/// LPDDR5X-8533, scaled from [`lpddr5_6400`]: the same nanoseconds at a clock of 938 ps. No full table was at hand.
pub fn lpddr5x_8533() -> Device {
    let base = lpddr5_6400();
    let t_ck_ps = 938; // derived: 1250 ps * 6400 / 8533
    let up = |cycles: u32| (cycles * base.timing.t_ck_ps).div_ceil(t_ck_ps);
    let down = |ps: u32| ps / t_ck_ps;
    let t = base.timing;
    let (n_cl, n_cwl) = (up(t.n_cl), up(t.n_cwl));
    Device {
        name: "LPDDR5X-8533".into(),
        timing: Timing {
            t_ck_ps,
            n_cl,
            n_cwl,
            n_rcd_rd: up(t.n_rcd_rd), // derived: 18.75 ns
            n_rcd_wr: up(t.n_rcd_wr),
            n_rp: up(t.n_rp),         // derived: 18.75 ns
            n_rp_all: up(t.n_rp_all), // derived: 21.25 ns
            n_ras: up(t.n_ras),       // derived: 42.5 ns
            n_rc: up(t.n_rc),         // derived: 61.25 ns
            n_rtp: up(t.n_rtp),
            n_wr: up(t.n_wr),
            n_rrd_s: up(t.n_rrd_s),
            n_rrd_l: up(t.n_rrd_l),
            n_faw: up(t.n_faw), // derived: 20 ns
            n_wtr_s: up(t.n_wtr_s),
            n_wtr_l: up(t.n_wtr_l),
            n_rtw: n_cl + t.n_bl + 2 - n_cwl,
            n_rfc: up(t.n_rfc),      // derived: 210 ns
            n_refi: down(3_906_000), // derived: 3.906 us
            ..t                      // burst, nCCD, nPPD, nCS: fixed in clocks, not in nanoseconds
        },
        bank_refresh: base.bank_refresh.map(|refresh| BankRefresh {
            n_rfc: up(refresh.n_rfc),
            n_refi: down(488_000), // derived: 488 ns
            n_ref_to_ref: up(refresh.n_ref_to_ref),
            n_ref_to_act: up(refresh.n_ref_to_act),
            ..refresh
        }),
        source: "derived: the nanoseconds of LPDDR5-6400 at 938 ps".into(),
        derived: true,
        ..base
    }
}

/// LPDDR6-10667, 16 Gb x12 (one sub-channel), bursts of 24 beats.
///
/// An access has 288 bits on the wires: 32 bytes of data and 4 of metadata. The organisation counts data only, as 16
/// beats of 16 bits. Every command takes two clocks. Bursts of 48 are left out: nothing here asks for them.
pub fn lpddr6_10667() -> Device {
    let t_ck_ps = 375; // R2 LPDDR6_10667_BL24; all primary timings below
    let ps = |ps: u32| ps.div_ceil(t_ck_ps);
    let (n_bl, n_bl_max, n_cl, n_cwl) = (6, 12, 56, 26); // R2: BL/n_min and BL/n_max (JESD209-6, table 381), RL, WL
    let n_ras = ps(20_000); // R2
    let n_acu = ps(22_000); // R2: tACU, JESD209-6, tables 414 and 415
    let (n_rp, n_rp_all) = (n_acu + ps(18_000), n_acu + ps(21_000)); // R2
    Device {
        name: "LPDDR6-10667".into(),
        organisation: Organisation {
            ranks: 1,
            stacks: 1,
            groups: 4,     // R2 LPDDR6_16Gb_x12
            banks: 4,      // R2
            rows: 1 << 16, // R2
            columns: 1 << 10,
            burst_length: 16,
            width_bits: 16,
            capacity_bytes: 2 << 30, // one device of 16 Gb
        },
        timing: Timing {
            t_ck_ps,
            n_bl,
            n_bl_max,
            n_cl,
            n_cwl,
            n_rcd_rd: 48,
            n_rcd_wr: 22,
            n_rp,
            n_rp_all,
            n_ras,
            n_rc: n_ras + n_rp_all, // R2
            n_rtp: 14,
            n_wr: 32 + n_bl_max - n_bl, // R2: nWTP, counted from BL/n_max on
            n_ccd_s: 6,
            n_ccd_l: 10,
            n_ccd_r: 6, // no stacks
            n_ccd_s_wr: 6,
            n_ccd_l_wr: 10,
            n_rrd_s: 10, // R2 nRRD, of the same and of another group
            n_rrd_l: 10,
            n_faw: 40,
            n_wtr_s: 17,
            n_wtr_l: 32,
            n_rtw: n_cl + n_bl + 5 - 27 + 1, // R2, with ODT: nRL + BL/n_min + nWCK2DQO - nODTLon + 1
            n_ppd: 4,
            n_cs: 2,
            n_rfc: ps(380_000),    // R2: tRFCab, 32 Gb of two sub-channels (JESD209-6, table 302)
            n_refi: ps(3_906_000), // R2
            act_cycles: 2,         // R2: all commands
            column_cycles: 2,
            other_cycles: 2,
        },
        split_activate: Some(SplitActivate { n_aad: 8, n_wck_pst: 3 }), // R2
        bank_refresh: None,                                             // not in R2's table
        refresh_management: None,
        power: None,
        dual_command_bus: false,
        pseudo_channels: false,
        half_clocks: false,
        distances: BTreeMap::new(),
        source: "Ramulator 2.1 c5b1c3a, LPDDR6_10667_BL24 with LPDDR6_16Gb_x12 (JESD209-6); unverified".into(),
        derived: false,
    }
}
