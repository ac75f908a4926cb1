//! The constraints of a device, resolved to the least distance of each pair of commands.
//!
//! The standards count from the last cycle of a command; here, as in Ramulator, from its first. So a distance grows by
//! one if the earlier command takes two cycles on the bus and shrinks by one if the later one does.
use super::device::{Device, RefreshSet};

/// Least distances in cycles, first cycle to first cycle. `a_b` reads "a, then b". The scope stands in front of each
/// group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Latencies {
    // Same bank.
    pub(super) act_act: u64,
    pub(super) act_rd: u64,
    pub(super) act_wr: u64,
    pub(super) act_pre: u64,
    pub(super) act_ref: u64,
    pub(super) pre_act: u64,
    pub(super) pre_ref: u64,
    pub(super) rd_pre: u64,
    pub(super) wr_pre: u64,
    /// Read with auto-precharge to ACT and to refresh.
    pub(super) rda_act: u64,
    pub(super) rda_ref: u64,
    pub(super) wra_act: u64,
    pub(super) wra_ref: u64,
    // Same bank group.
    pub(super) group_act_act: u64,
    pub(super) group_rd_rd: u64,
    pub(super) group_wr_wr: u64,
    pub(super) group_rd_wr: u64,
    pub(super) group_wr_rd: u64,
    // Same rank.
    pub(super) rank_act_act: u64,
    pub(super) rank_four_acts: u64,
    pub(super) rank_rd_rd: u64,
    pub(super) rank_wr_wr: u64,
    pub(super) rank_rd_wr: u64,
    pub(super) rank_wr_rd: u64,
    pub(super) stack_column: u64,
    pub(super) pre_pre: u64,
    pub(super) act_preab: u64,
    pub(super) rd_preab: u64,
    pub(super) wr_preab: u64,
    pub(super) preab_act: u64,
    pub(super) preab_ref: u64,
    pub(super) preab_refpb: u64,
    pub(super) refab_act: u64,
    pub(super) refab_other: u64,
    // Bank-wise refresh.
    pub(super) refpb_act: u64,
    pub(super) refpb_other_act: u64,
    pub(super) refpb_refpb: u64,
    pub(super) act_other_refpb: u64,
    pub(super) refpb_refab: u64,
    // Other rank of the channel.
    pub(super) other_rd_rd: u64,
    pub(super) other_rd_wr: u64,
    pub(super) other_wr_rd: u64,
    pub(super) other_wr_wr: u64,
    // Bus and data clock.
    pub(super) act_cycles: u64,
    pub(super) column_cycles: u64,
    pub(super) wck_after_rd: u64,
    pub(super) wck_after_wr: u64,
}

impl Latencies {
    pub(super) fn of(device: &Device) -> Self {
        let t = &device.timing;
        let (act, col) = (i64::from(t.act_cycles) - 1, i64::from(t.column_cycles) - 1);
        // Extra cycles of the earlier command, extra cycles of the later one.
        let gap = |nominal: u32, first: i64, second: i64| (i64::from(nominal) + first - second).max(1) as u64;
        let write_end = t.n_cwl + t.n_bl;
        // JESD209-5 counts write recovery from one clock later; the reference simulator's 6400 table does not.
        let write_to_pre = write_end + t.n_wr;
        let refresh = device.bank_refresh.unwrap_or(super::device::BankRefresh {
            set: RefreshSet::Bank,
            n_rfc: t.n_rfc,
            n_refi: t.n_refi,
            n_ref_to_ref: t.n_rfc,
            n_ref_to_act: t.n_rfc,
        });
        let switch = |cycles: i64| if device.pseudo_channels { 0 } else { cycles.max(1) as u64 };
        let (bl, cs, cl, cwl) = (i64::from(t.n_bl), i64::from(t.n_cs), i64::from(t.n_cl), i64::from(t.n_cwl));
        let wck_post = device.split_activate.map_or(0, |split| split.n_wck_pst);
        Self {
            act_act: gap(t.n_rc, 0, 0),
            act_rd: gap(t.n_rcd_rd, act, col),
            act_wr: gap(t.n_rcd_wr, act, col),
            act_pre: gap(t.n_ras, act, 0),
            act_ref: gap(t.n_rc, act, 0),
            pre_act: gap(t.n_rp, 0, act),
            pre_ref: gap(t.n_rp, 0, 0),
            rd_pre: gap(t.n_rtp, col, 0),
            wr_pre: gap(write_to_pre, col, 0),
            rda_act: gap(t.n_rtp + t.n_rp, col, act),
            rda_ref: gap(t.n_rtp + t.n_rp, col, 0),
            wra_act: gap(write_to_pre + t.n_rp, col, act),
            wra_ref: gap(write_to_pre + t.n_rp, col, 0),
            group_act_act: gap(t.n_rrd_l, 0, 0),
            group_rd_rd: gap(t.n_ccd_l, 0, 0),
            group_wr_wr: gap(t.n_ccd_l_wr, 0, 0),
            group_rd_wr: gap(t.n_rtw + t.n_bl_max - t.n_bl, 0, 0),
            group_wr_rd: gap(t.n_cwl + t.n_bl_max + t.n_wtr_l, 0, 0),
            rank_act_act: gap(t.n_rrd_s, 0, 0),
            rank_four_acts: gap(t.n_faw, 0, 0),
            rank_rd_rd: gap(t.n_ccd_s.max(t.n_bl), 0, 0),
            rank_wr_wr: gap(t.n_ccd_s_wr.max(t.n_bl), 0, 0),
            rank_rd_wr: gap(t.n_rtw, 0, 0),
            rank_wr_rd: gap(write_end + t.n_wtr_s, 0, 0),
            stack_column: gap(t.n_ccd_r, 0, 0),
            pre_pre: u64::from(t.n_ppd),
            act_preab: gap(t.n_ras, act, 0),
            rd_preab: gap(t.n_rtp, col, 0),
            wr_preab: gap(write_to_pre, col, 0),
            preab_act: gap(t.n_rp_all, 0, act),
            // The reference simulator waits nRP, not nRPab, between PREab and REFab.
            preab_ref: gap(t.n_rp, 0, 0),
            preab_refpb: gap(t.n_rp_all, 0, 0),
            refab_act: gap(t.n_rfc, 0, act),
            refab_other: gap(t.n_rfc, 0, 0),
            refpb_act: gap(refresh.n_rfc, 0, act),
            refpb_other_act: gap(refresh.n_ref_to_act, 0, act),
            refpb_refpb: gap(refresh.n_ref_to_ref, 0, 0),
            act_other_refpb: gap(t.n_rrd_s, act, 0),
            refpb_refab: gap(refresh.n_rfc, 0, 0),
            other_rd_rd: switch(bl + cs),
            // The reference simulator takes nBL + nCS here too, which lets a burst of one rank run into that of the
            // other.
            other_rd_wr: switch(cl + bl + cs - cwl),
            other_wr_rd: switch(cwl + bl + cs - cl),
            other_wr_wr: switch(bl + cs),
            act_cycles: u64::from(t.act_cycles),
            column_cycles: u64::from(t.column_cycles),
            wck_after_rd: u64::from(t.n_cl + t.n_bl + wck_post),
            wck_after_wr: u64::from(t.n_cwl + t.n_bl + wck_post),
        }
    }
}
