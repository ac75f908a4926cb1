//! High-bandwidth memory. R2, derived: as in the module above.
use super::super::device::{BankRefresh, Device, Organisation, RefreshSet, Timing};
use std::collections::BTreeMap;

/// HBM2 at 2000 Mb/s a pin: one 128-bit channel as two 64-bit pseudo-channels.
pub fn hbm2_2000() -> Device {
    Device {
        name: "HBM2-2000".into(),
        organisation: Organisation {
            ranks: 2, // pseudo-channels
            stacks: 1,
            groups: 4,       // R2 HBM2_8Gb
            banks: 4,        // R2
            rows: 1 << 16,   // R2
            columns: 1 << 7, // R2: 32 bursts of 4
            burst_length: 4,
            width_bits: 64,
            capacity_bytes: 2 << 30, // two pseudo-channels of 8 Gb
        },
        timing: Timing {
            t_ck_ps: 1000, // R2 HBM2_2000Mbps, and all primary timings below
            n_bl: 2,
            n_bl_max: 2,
            n_cl: 14,
            n_cwl: 5,
            n_rcd_rd: 14,
            n_rcd_wr: 12,
            n_rp: 14,
            n_rp_all: 14,
            n_ras: 34,
            n_rc: 48,
            n_rtp: 5, // R2 nRTPL
            n_wr: 16,
            n_ccd_s: 2,
            n_ccd_l: 4,
            n_ccd_r: 2, // no stacks
            n_ccd_s_wr: 2,
            n_ccd_l_wr: 4,
            n_rrd_s: 4, // R2: 4 ns
            n_rrd_l: 4, // R2: 4 ns
            n_faw: 15,  // R2: 15 ns
            n_wtr_s: 6,
            n_wtr_l: 8,
            n_rtw: 14 + 2 + 2 - 5, // R2: nCL + nBL + 2 - nCWL
            n_ppd: 0,
            n_cs: 0,
            n_rfc: 350,    // R2: 350 ns, 8 Gb
            n_refi: 3900,  // R2: 3.9 us
            act_cycles: 2, // R2
            column_cycles: 1,
            other_cycles: 1,
        },
        split_activate: None,
        bank_refresh: Some(BankRefresh {
            set: RefreshSet::Bank,
            n_rfc: 160,      // R2: 160 ns
            n_refi: 243,     // R2: 3.9 us / 16 banks of a pseudo-channel
            n_ref_to_ref: 8, // derived: as n_ref_to_act
            n_ref_to_act: 8, // R2 nRREFD: 8 ns
        }),
        refresh_management: None,
        power: None,
        dual_command_bus: true,
        pseudo_channels: true,
        half_clocks: false,
        distances: BTreeMap::new(),
        source: "Ramulator 2.1 c5b1c3a, HBM2_2000Mbps with HBM2_8Gb (JESD235)".into(),
        derived: false,
    }
}

/// HBM3 at 6400 Mb/s a pin: one 64-bit channel of an 8-high stack as two 32-bit pseudo-channels with two stack
/// identifiers.
///
/// Its cycles are half clocks.
pub fn hbm3_6400() -> Device {
    Device {
        name: "HBM3-6400".into(),
        organisation: Organisation {
            ranks: 2,        // pseudo-channels
            stacks: 2,       // R2 HBM3_32Gb_8hi
            groups: 4,       // R2
            banks: 4,        // R2
            rows: 1 << 15,   // R2
            columns: 1 << 8, // R2: 32 bursts of 8
            burst_length: 8,
            width_bits: 32,
            capacity_bytes: 2 << 30, // 2 pseudo-channels x 2 stacks x 16 banks x 32,768 rows x 1 KiB
        },
        timing: Timing {
            t_ck_ps: 625, // R2 HBM3_6400Mbps, and all timings below
            n_bl: 2,
            n_bl_max: 2,
            n_cl: 20,
            n_cwl: 10,
            n_rcd_rd: 31,
            n_rcd_wr: 15,
            n_rp: 26,
            n_rp_all: 26,
            n_ras: 45,
            n_rc: 72,
            n_rtp: 9,
            n_wr: 33,
            n_ccd_s: 2,
            n_ccd_l: 4,
            n_ccd_r: 3,
            n_ccd_s_wr: 2,
            n_ccd_l_wr: 4,
            n_rrd_s: 4,
            n_rrd_l: 5,
            n_faw: 24,
            n_wtr_s: 7,
            n_wtr_l: 10,
            n_rtw: 20,
            n_ppd: 2,
            n_cs: 0,
            n_rfc: 720,    // R2: 450 ns, 16 Gb a channel
            n_refi: 6240,  // R2
            act_cycles: 2, // R2: 1.5, half a clock less
            column_cycles: 1,
            other_cycles: 1,
        },
        split_activate: None,
        bank_refresh: Some(BankRefresh {
            set: RefreshSet::Bank,
            n_rfc: 320,      // R2
            n_refi: 195,     // R2: tREFI / 32 banks of a pseudo-channel
            n_ref_to_ref: 8, // R2 nRREFD
            n_ref_to_act: 8, // R2 nRREFD
        }),
        refresh_management: None,
        power: None,
        dual_command_bus: true,
        pseudo_channels: true,
        half_clocks: true, // R2: ACT 1.5 clocks, PRE and REF half a clock, a PRE at either edge
        distances: BTreeMap::new(),
        source: "Ramulator 2.1 c5b1c3a, HBM3_6400Mbps with HBM3_32Gb_8hi (JESD238)".into(),
        derived: false,
    }
}

/// HBM4 at 8000 Mb/s a pin: one 64-bit channel of an 8-high stack as two 32-bit pseudo-channels with two stack
/// identifiers. Its cycles are half clocks, as those of [`hbm3_6400`].
///
/// The one public table at hand is Ramulator's; its HBM4-16000 doubles every count of cycles of this one and was left
/// out.
pub fn hbm4_8000() -> Device {
    let hbm3 = hbm3_6400();
    Device {
        name: "HBM4-8000".into(),
        organisation: Organisation {
            ranks: 2,      // pseudo-channels
            stacks: 2,     // R2 HBM4_32Gb_8Hi
            groups: 2,     // R2
            banks: 8,      // R2
            rows: 1 << 14, // R2
            columns: 1 << 8,
            burst_length: 8,
            width_bits: 32,
            capacity_bytes: 1 << 30, // 2 pseudo-channels x 2 stacks x 16 banks x 16,384 rows x 1 KiB
        },
        timing: Timing {
            t_ck_ps: 500, // R2 HBM4_8000Mbps, and all timings below
            n_bl: 2,
            n_bl_max: 2,
            n_cl: 20,
            n_cwl: 10,
            n_rcd_rd: 39,
            n_rcd_wr: 19,
            n_rp: 33,
            n_rp_all: 33,
            n_ras: 57,
            n_rc: 90,
            n_rtp: 12,
            n_wr: 42,
            n_ccd_s: 2,
            n_ccd_l: 4,
            n_ccd_r: 2,
            n_ccd_s_wr: 2,
            n_ccd_l_wr: 4,
            n_rrd_s: 5,
            n_rrd_l: 7,
            n_faw: 30,
            n_wtr_s: 9,
            n_wtr_l: 13,
            n_rtw: 25,
            n_ppd: 2,
            n_cs: 0,
            n_rfc: 900,    // R2: 450 ns, 8 Gb a channel
            n_refi: 7800,  // R2: 3.9 us
            act_cycles: 2, // R2: 1.5, half a clock less
            column_cycles: 1,
            other_cycles: 1,
        },
        bank_refresh: Some(BankRefresh {
            set: RefreshSet::Bank,
            n_rfc: 560,       // R2
            n_refi: 243,      // R2: tREFI / 32 banks of a pseudo-channel, rounded down
            n_ref_to_ref: 16, // R2 nRREFD: 8 ns
            n_ref_to_act: 16, // R2 nRREFD
        }),
        source: "Ramulator 2.1 c5b1c3a, HBM4_8000Mbps with HBM4_32Gb_8Hi".into(),
        ..hbm3
    }
}
