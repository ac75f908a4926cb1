//! The constraints between two commands: one table, from which everything else comes.
//!
//! A row says at which level two commands must meet, which command comes first, which one is put off, and by how many
//! cycles, as a formula of the device's timing. From the rows come the resolved distances (`Latencies`), what a
//! command puts off when it goes out (`Channel::constrain`), and the tables that people read ([`constraints`]). A row
//! that does not concern a command costs that command nothing: which rows do is known when the program is compiled.
//!
//! The standards count from the last cycle of a command; the model, as Ramulator, from its first. So a distance grows
//! by the further cycles of the first command and shrinks by those of the second. It is at least one cycle.
use super::channel::{Channel, banks_of, spot};
use super::command::CommandKind;
use super::device::{Device, MAX_BANKS, MAX_RANKS};
use super::management::ManagementCommand;
use std::fmt;

/// Where two commands meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// The same bank; of a bank-wise refresh, each bank that it refreshes.
    Bank,
    /// The same bank group.
    Group,
    /// The same rank, another stack (HBM3).
    OtherStack,
    /// The same rank; pseudo-channel of HBM.
    Rank,
    /// Another rank on the same data wires.
    OtherRank,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bank => "bank",
            Self::Group => "bank group",
            Self::OtherStack => "other stack",
            Self::Rank => "rank",
            Self::OtherRank => "other rank",
        })
    }
}

/// A row of the table, for one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// Where the commands meet.
    pub level: Level,
    /// Any of these comes first.
    pub before: Vec<CommandKind>,
    /// These are put off.
    pub after: Vec<CommandKind>,
    /// Times that the first command must have come before it counts: 4 for the window of four activates, else 1.
    pub window: u32,
    /// Least distance in cycles, first cycle to first cycle.
    pub cycles: u64,
    /// The standards' formula, last cycle to last cycle; `given` where the device gives the distance itself.
    pub formula: String,
    /// Where it stands, and what is particular.
    pub source: &'static str,
    /// What [`Device::distances`] calls it.
    pub name: &'static str,
}

/// The values that formulas are made of.
struct Terms {
    n_rc: i64,
    n_rcd_rd: i64,
    n_rcd_wr: i64,
    n_ras: i64,
    n_rp: i64,
    n_rp_all: i64,
    n_rtp: i64,
    n_wr: i64,
    n_cl: i64,
    n_cwl: i64,
    n_bl: i64,
    n_bl_max: i64,
    n_ccd_s: i64,
    n_ccd_l: i64,
    n_ccd_r: i64,
    n_ccd_s_wr: i64,
    n_ccd_l_wr: i64,
    n_rrd_s: i64,
    n_rrd_l: i64,
    n_faw: i64,
    n_wtr_s: i64,
    n_wtr_l: i64,
    n_rtw: i64,
    n_ppd: i64,
    n_cs: i64,
    n_rfc: i64,
    /// Of bank-wise refresh.
    n_rfc_pb: i64,
    n_ref_to_ref: i64,
    n_ref_to_act: i64,
    /// Of refresh management.
    n_rfm: i64,
    /// Further cycles of ACT, of RD and WR, and of all others.
    act: i64,
    column: i64,
    other: i64,
}

impl Terms {
    fn of(device: &Device) -> Self {
        let t = &device.timing;
        let refresh = device.bank_refresh;
        // Without bank-wise refresh, or management, nothing looks at these.
        let of_refresh = |value: Option<u32>| i64::from(value.unwrap_or(t.n_rfc));
        Self {
            n_rc: t.n_rc.into(),
            n_rcd_rd: t.n_rcd_rd.into(),
            n_rcd_wr: t.n_rcd_wr.into(),
            n_ras: t.n_ras.into(),
            n_rp: t.n_rp.into(),
            n_rp_all: t.n_rp_all.into(),
            n_rtp: t.n_rtp.into(),
            n_wr: t.n_wr.into(),
            n_cl: t.n_cl.into(),
            n_cwl: t.n_cwl.into(),
            n_bl: t.n_bl.into(),
            n_bl_max: t.n_bl_max.into(),
            n_ccd_s: t.n_ccd_s.into(),
            n_ccd_l: t.n_ccd_l.into(),
            n_ccd_r: t.n_ccd_r.into(),
            n_ccd_s_wr: t.n_ccd_s_wr.into(),
            n_ccd_l_wr: t.n_ccd_l_wr.into(),
            n_rrd_s: t.n_rrd_s.into(),
            n_rrd_l: t.n_rrd_l.into(),
            n_faw: t.n_faw.into(),
            n_wtr_s: t.n_wtr_s.into(),
            n_wtr_l: t.n_wtr_l.into(),
            n_rtw: t.n_rtw.into(),
            n_ppd: t.n_ppd.into(),
            n_cs: t.n_cs.into(),
            n_rfc: t.n_rfc.into(),
            n_rfc_pb: of_refresh(refresh.map(|refresh| refresh.n_rfc)),
            n_ref_to_ref: of_refresh(refresh.map(|refresh| refresh.n_ref_to_ref)),
            n_ref_to_act: of_refresh(refresh.map(|refresh| refresh.n_ref_to_act)),
            n_rfm: of_refresh(device.refresh_management.map(|management| management.n_rfm)),
            act: i64::from(t.act_cycles) - 1,
            column: i64::from(t.column_cycles) - 1,
            other: i64::from(t.other_cycles) - 1,
        }
    }

    /// Further cycles of a command on the bus.
    const fn further(&self, kind: CommandKind) -> i64 {
        match kind {
            CommandKind::Act => self.act,
            CommandKind::Rd | CommandKind::RdA | CommandKind::Wr | CommandKind::WrA => self.column,
            _ => self.other,
        }
    }

    /// From first cycle to first cycle.
    fn resolve(&self, nominal: i64, before: CommandKind, after: CommandKind) -> u64 {
        (nominal + self.further(before) - self.further(after)).max(1) as u64
    }
}

/// The commands that a row with this field puts off.
macro_rules! kinds_of {
    (act) => {
        [CommandKind::Act]
    };
    (rd) => {
        [CommandKind::Rd, CommandKind::RdA]
    };
    (wr) => {
        [CommandKind::Wr, CommandKind::WrA]
    };
    (pre) => {
        [CommandKind::Pre]
    };
    (pre_all) => {
        [CommandKind::PreAll]
    };
    (refresh) => {
        [CommandKind::RefBank, CommandKind::RfmBank]
    };
    (ref_bank) => {
        [CommandKind::RefBank, CommandKind::RfmBank]
    };
    (ref_all) => {
        [CommandKind::RefAll, CommandKind::RfmAll]
    };
}

/// Puts a field of a level off to a cycle.
macro_rules! put_off {
    (Bank 1 $after:ident, $c:ident, $at:ident, $cycle:expr) => {
        if $at.kind.is_bank_wise() {
            for bank in banks_of(spot($at.bank as u16).0, $c.refresh_mask($at.bank as u16)) {
                raise(&mut $c.banks.$after[bank % BANKS], $cycle);
            }
        } else {
            raise(&mut $c.banks.$after[$at.bank % BANKS], $cycle);
        }
    };
    (Group 1 $after:ident, $c:ident, $at:ident, $cycle:expr) => {
        raise(&mut $c.groups.$after[$at.group % BANKS], $cycle)
    };
    (OtherStack 1 $after:ident, $c:ident, $at:ident, $cycle:expr) => {
        if $c.stacked {
            for other in $c.other_stacks($at.group) {
                raise(&mut $c.groups.$after[other % BANKS], $cycle);
            }
        }
    };
    (Rank 1 $after:ident, $c:ident, $at:ident, $cycle:expr) => {
        raise(&mut $c.ranks[$at.rank % MAX_RANKS].$after, $cycle)
    };
    (Rank 4 $after:ident, $c:ident, $at:ident, $cycle:expr) => {{
        let cycle = $cycle;
        let rank = &mut $c.ranks[$at.rank % MAX_RANKS];
        rank.window[usize::from(rank.oldest % 4)] = cycle;
        rank.oldest = (rank.oldest + 1) % 4;
        let leaves = rank.window[usize::from(rank.oldest % 4)];
        raise(&mut rank.$after, leaves);
    }};
    (OtherRank 1 $after:ident, $c:ident, $at:ident, $cycle:expr) => {
        if $c.ranks_share_wires {
            let cycle = $cycle;
            for other in (0..$c.rank_count).filter(|&other| other != $at.rank) {
                raise(&mut $c.ranks[other % MAX_RANKS].$after, cycle);
            }
        }
    };
}

/// Room for the banks of the greatest channel.
const BANKS: usize = MAX_BANKS as usize;

#[inline(always)]
fn raise(earliest: &mut u64, cycle: u64) {
    if *earliest < cycle {
        *earliest = cycle;
    }
}

/// Where a command acts.
struct At {
    kind: CommandKind,
    bank: usize,
    group: usize,
    rank: usize,
}

macro_rules! constraints {
    ($t:ident; $($name:ident: $level:ident $window:tt [$($before:ident)+] $after:ident = $formula:expr, $source:literal;)+) => {
        /// Least distances in cycles, first cycle to first cycle, by the names of the rows.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(super) struct Latencies {
            $(pub(super) $name: u64,)+
        }

        impl Latencies {
            pub(super) fn of(device: &Device) -> Self {
                let $t = Terms::of(device);
                let given = |row: &str| device.distances.get(row).map(|&cycles| u64::from(cycles.max(1)));
                Self {
                    $($name: given(stringify!($name)).unwrap_or_else(|| {
                        $t.resolve($formula, [$(CommandKind::$before),+][0], kinds_of!($after)[0])
                    }),)+
                }
            }
        }

        /// Whether the table has a row of this name.
        pub(super) fn is_row(name: &str) -> bool {
            [$(stringify!($name)),+].contains(&name)
        }

        impl Channel {
            /// Puts off what `kind` puts off when it goes out to `bank` in cycle `now`. Inlined, because callers know
            /// the kind: of the rows only those that concern it are left.
            #[inline(always)]
            pub(super) fn constrain(&mut self, kind: CommandKind, bank: u16, now: u64) {
                let at = At {
                    kind,
                    bank: usize::from(bank),
                    group: self.group_of(usize::from(bank)),
                    rank: self.rank_of(bank),
                };
                $(
                    if matches!(kind, $(CommandKind::$before)|+) {
                        put_off!($level $window $after, self, at, now + self.lat.$name);
                    }
                )+
            }
        }

        /// The table of constraints for a device: the rows that concern it, in cycles of the model.
        pub fn constraints(device: &Device) -> Vec<Constraint> {
            let lat = Latencies::of(&device.in_cycles());
            let rows = vec![$(
                Constraint {
                    level: Level::$level,
                    before: vec![$(CommandKind::$before),+],
                    after: kinds_of!($after).to_vec(),
                    window: $window,
                    cycles: lat.$name,
                    formula: if device.distances.contains_key(stringify!($name)) {
                        "given".into()
                    } else {
                        written(stringify!($formula))
                    },
                    source: $source,
                    name: stringify!($name),
                },
            )+];
            rows.into_iter().filter_map(|row| row.of(device)).collect()
        }
    };
}

// Where several rows have the same commands, the strictest holds. Management waits for what a refresh of the same banks
// waits for.
constraints! {
    t;
    act_act: Bank 1 [Act] act = t.n_rc, "tRC";
    act_rd: Bank 1 [Act] rd = t.n_rcd_rd, "tRCD";
    act_wr: Bank 1 [Act] wr = t.n_rcd_wr, "tRCD; HBM has one of its own for writes";
    act_pre: Bank 1 [Act] pre = t.n_ras, "tRAS";
    act_ref: Bank 1 [Act] refresh = t.n_rc, "tRC";
    pre_act: Bank 1 [Pre] act = t.n_rp, "tRP";
    pre_ref: Bank 1 [Pre] refresh = t.n_rp, "tRP";
    rd_pre: Bank 1 [Rd RdA] pre = t.n_rtp, "tRTP";
    wr_pre: Bank 1 [Wr WrA] pre = t.n_cwl + t.n_bl + t.n_wr, "tWR; JESD209-5 counts from a clock later";
    rda_act: Bank 1 [RdA] act = t.n_rtp + t.n_rp, "tRTP + tRP: it precharges itself";
    rda_ref: Bank 1 [RdA] refresh = t.n_rtp + t.n_rp, "tRTP + tRP";
    wra_act: Bank 1 [WrA] act = t.n_cwl + t.n_bl + t.n_wr + t.n_rp, "tWR + tRP: it precharges itself";
    wra_ref: Bank 1 [WrA] refresh = t.n_cwl + t.n_bl + t.n_wr + t.n_rp, "tWR + tRP";
    refpb_act: Bank 1 [RefBank] act = t.n_rfc_pb, "tRFCsb, tRFCpb";
    refpb_ref: Bank 1 [RefBank] refresh = t.n_rfc_pb, "tRFCsb, tRFCpb";
    rfmpb_act: Bank 1 [RfmBank] act = t.n_rfm, "tRFMsb, tRFMpb";
    rfmpb_ref: Bank 1 [RfmBank] refresh = t.n_rfm, "tRFMsb, tRFMpb";
    group_act_act: Group 1 [Act] act = t.n_rrd_l, "tRRD_L";
    group_rd_rd: Group 1 [Rd RdA] rd = t.n_ccd_l, "tCCD_L";
    group_wr_wr: Group 1 [Wr WrA] wr = t.n_ccd_l_wr, "tCCD_L_WR";
    group_rd_wr: Group 1 [Rd RdA] wr = t.n_rtw + t.n_bl_max - t.n_bl, "tRTW; LPDDR5 bursts keep a group longer";
    group_wr_rd: Group 1 [Wr WrA] rd = t.n_cwl + t.n_bl_max + t.n_wtr_l, "tWTR_L";
    stack_rd_rd: OtherStack 1 [Rd RdA] rd = t.n_ccd_r, "tCCD_R";
    stack_wr_wr: OtherStack 1 [Wr WrA] wr = t.n_ccd_s_wr, "tCCD_S: tCCD_R is of reads";
    rank_act_act: Rank 1 [Act] act = t.n_rrd_s, "tRRD_S";
    rank_four_acts: Rank 4 [Act] act = t.n_faw, "tFAW";
    rank_rd_rd: Rank 1 [Rd RdA] rd = t.n_ccd_s, "tCCD_S";
    rank_wr_wr: Rank 1 [Wr WrA] wr = t.n_ccd_s_wr, "tCCD_S_WR";
    rank_rd_wr: Rank 1 [Rd RdA] wr = t.n_rtw, "tRTW";
    rank_wr_rd: Rank 1 [Wr WrA] rd = t.n_cwl + t.n_bl + t.n_wtr_s, "tWTR_S";
    pre_pre: Rank 1 [Pre PreAll] pre = t.n_ppd, "tPPD; 0 where there is no such rule";
    pre_preab: Rank 1 [Pre PreAll] pre_all = t.n_ppd, "tPPD";
    act_preab: Rank 1 [Act] pre_all = t.n_ras, "tRAS";
    rd_preab: Rank 1 [Rd] pre_all = t.n_rtp, "tRTP";
    wr_preab: Rank 1 [Wr] pre_all = t.n_cwl + t.n_bl + t.n_wr, "tWR";
    preab_act: Rank 1 [PreAll] act = t.n_rp_all, "tRPab";
    preab_refpb: Rank 1 [PreAll] ref_bank = t.n_rp_all, "tRPab";
    preab_ref: Rank 1 [Pre PreAll] ref_all = t.n_rp, "tRP; of LPDDR5 tRPab in the standard, tRP in Ramulator";
    act_refab: Rank 1 [Act] ref_all = t.n_rc, "tRC";
    act_other_refpb: Rank 1 [Act] ref_bank = t.n_rrd_s, "tRRD_S";
    rda_refab: Rank 1 [RdA] ref_all = t.n_rtp + t.n_rp, "tRTP + tRP";
    wra_refab: Rank 1 [WrA] ref_all = t.n_cwl + t.n_bl + t.n_wr + t.n_rp, "tWR + tRP";
    refab_act: Rank 1 [RefAll] act = t.n_rfc, "tRFC";
    refab_preab: Rank 1 [RefAll] pre_all = t.n_rfc, "tRFC";
    refab_refab: Rank 1 [RefAll] ref_all = t.n_rfc, "tRFC";
    refab_refpb: Rank 1 [RefAll] ref_bank = t.n_rfc, "tRFC";
    rfmab_act: Rank 1 [RfmAll] act = t.n_rfm, "tRFMab";
    rfmab_preab: Rank 1 [RfmAll] pre_all = t.n_rfm, "tRFMab";
    rfmab_refab: Rank 1 [RfmAll] ref_all = t.n_rfm, "tRFMab";
    rfmab_refpb: Rank 1 [RfmAll] ref_bank = t.n_rfm, "tRFMab";
    refpb_other_act: Rank 1 [RefBank RfmBank] act = t.n_ref_to_act, "tREFSBRD, tpbR2act, tRREFD";
    refpb_refpb: Rank 1 [RefBank RfmBank] ref_bank = t.n_ref_to_ref, "tpbR2pbR, tRREFD; DDR5: one set at a time";
    refpb_refab: Rank 1 [RefBank] ref_all = t.n_rfc_pb, "tRFCsb, tRFCpb";
    rfmpb_refab: Rank 1 [RfmBank] ref_all = t.n_rfm, "tRFMsb, tRFMpb";
    other_rd_rd: OtherRank 1 [Rd RdA] rd = t.n_bl + t.n_cs, "nCS between bursts";
    other_rd_wr: OtherRank 1 [Rd RdA] wr = t.n_cl + t.n_bl + t.n_cs - t.n_cwl,
        "nCS; Ramulator: nBL + nCS";
    other_wr_rd: OtherRank 1 [Wr WrA] rd = t.n_cwl + t.n_bl + t.n_cs - t.n_cl, "nCS between bursts";
    other_wr_wr: OtherRank 1 [Wr WrA] wr = t.n_bl + t.n_cs, "nCS between bursts";
}

impl Constraint {
    /// The row with the commands that the device has; `None` if it has none of them, or not the level.
    fn of(mut self, device: &Device) -> Option<Self> {
        let o = &device.organisation;
        let level = match self.level {
            Level::OtherStack => o.stacks > 1,
            Level::OtherRank => o.ranks > 1 && !device.pseudo_channels,
            _ => true,
        };
        let management = device.refresh_management.map(|management| management.command);
        let known = |&kind: &CommandKind| match kind {
            CommandKind::RefBank => device.bank_refresh.is_some(),
            CommandKind::RfmAll => management == Some(ManagementCommand::AllBank),
            CommandKind::RfmBank => management == Some(ManagementCommand::BankWise),
            _ => true,
        };
        self.before.retain(known);
        self.after.retain(known);
        (level && !self.before.is_empty() && !self.after.is_empty()).then_some(self)
    }
}

/// `t.n_cwl + t.n_bl` as `nCWL + nBL`.
fn written(formula: &str) -> String {
    let word = |word: &str| match word.strip_prefix("t.n_") {
        None => word.to_string(),
        Some(name) => {
            // "_s", "_l", "_wr" and the like stay apart, as the standards write them.
            let (first, rest) = name
                .split_once('_')
                .map_or((name, String::new()), |(first, rest)| (first, format!("_{}", rest.to_ascii_uppercase())));
            format!("n{}{rest}", first.to_ascii_uppercase())
        }
    };
    formula.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}
