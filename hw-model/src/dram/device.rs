//! What a memory device is: organisation and timing of one channel.
//!
//! All times are in clock cycles of the command clock (`t_ck_ps` picoseconds each), named as in the standards: `n_rcd`
//! is tRCD in cycles. The ready-made devices stand in [`super::presets`].
//!
//! A device of one's own is a TOML file, see [`Device::from_toml`]; `data/devices/ddr5-4800.toml` documents every
//! field.
use super::energy::Power;
use super::error::DeviceFileError;
use super::management::RefreshManagement;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

mod validate;

/// Most banks that one channel may have (all ranks together).
pub const MAX_BANKS: u32 = 256;
/// Most banks of one rank.
pub const MAX_RANK_BANKS: u32 = 64;

/// Most ranks of one channel.
pub const MAX_RANKS: usize = 8;

/// Levels of one channel. Counts are powers of two, so that addresses are bit fields; those of ranks and of rows need
/// not be (three ranks, devices of 24 Gb).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Organisation {
    /// Ranks on the channel; pseudo-channels for HBM.
    pub ranks: u32,
    /// Stack identifiers (SID) of an HBM3 pseudo-channel; 1 elsewhere.
    pub stacks: u32,
    /// Bank groups of a rank (of a stack).
    pub groups: u32,
    /// Banks of a group.
    pub banks: u32,
    /// Rows of a bank.
    pub rows: u32,
    /// Columns of a row, counted in beats of the channel width.
    pub columns: u32,
    /// Beats of one access (burst length, BL).
    pub burst_length: u32,
    /// Data width of a rank in bits.
    pub width_bits: u32,
    /// Capacity of the channel in bytes: the product of all levels. Given so that a slip in one level is noticed.
    pub capacity_bytes: u64,
}

impl Organisation {
    /// Bytes that one read or write moves.
    pub const fn access_bytes(&self) -> u64 {
        self.burst_length as u64 * self.width_bits as u64 / 8
    }

    /// Accesses that fit into one row.
    pub const fn accesses_per_row(&self) -> u32 {
        self.columns / self.burst_length
    }

    /// Bytes of one row (page) of a rank.
    pub const fn row_bytes(&self) -> u64 {
        self.columns as u64 * self.width_bits as u64 / 8
    }

    /// Bank groups of the channel, all ranks and stacks.
    pub const fn total_groups(&self) -> u32 {
        self.ranks * self.stacks * self.groups
    }

    /// Banks of a rank.
    pub const fn banks_per_rank(&self) -> u32 {
        self.stacks * self.groups * self.banks
    }

    /// Banks of the channel.
    pub const fn total_banks(&self) -> u32 {
        self.ranks * self.banks_per_rank()
    }
}

/// LPDDR5 and LPDDR6 only: activate in two halves and a data clock that must be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SplitActivate {
    /// ACT2 comes at most this long after ACT1.
    pub n_aad: u32,
    /// The data clock runs for nCL (nCWL) + nBL + this after a read (write).
    pub n_wck_pst: u32,
}

/// Which banks one bank-wise refresh covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefreshSet {
    /// One bank (HBM).
    Bank,
    /// Two banks: the same bank of groups g and g + groups/2 (LPDDR5 bank-group mode).
    Pair,
    /// The same bank of every group (DDR5 REFsb).
    SameBank,
}

/// Bank-wise refresh: DDR5 REFsb, LPDDR5 and HBM REFpb.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BankRefresh {
    /// Banks of one command.
    pub set: RefreshSet,
    /// The refreshed banks stay busy for this long.
    pub n_rfc: u32,
    /// Distance of two such refreshes of a rank, on average.
    pub n_refi: u32,
    /// Refresh to refresh of another set of the rank.
    pub n_ref_to_ref: u32,
    /// Refresh to activate of another bank of the rank.
    pub n_ref_to_act: u32,
}

/// Timing in clock cycles. Names as in the standards, `_s` for another bank group, `_l` for the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Clock period in picoseconds.
    pub t_ck_ps: u32,
    /// Data bus cycles of one burst.
    pub n_bl: u32,
    /// Cycles that a burst keeps its bank group busy (LPDDR5 and LPDDR6 BL/n_max); elsewhere equal to `n_bl`.
    pub n_bl_max: u32,
    /// RD to first data.
    pub n_cl: u32,
    /// WR to first data.
    pub n_cwl: u32,
    /// ACT to RD.
    pub n_rcd_rd: u32,
    /// ACT to WR.
    pub n_rcd_wr: u32,
    /// PRE to ACT of the bank.
    pub n_rp: u32,
    /// PREab to ACT.
    pub n_rp_all: u32,
    /// ACT to PRE.
    pub n_ras: u32,
    /// ACT to ACT of a bank.
    pub n_rc: u32,
    /// RD to PRE.
    pub n_rtp: u32,
    /// End of write data to PRE.
    pub n_wr: u32,
    /// RD to RD, other group.
    pub n_ccd_s: u32,
    /// RD to RD, same group.
    pub n_ccd_l: u32,
    /// RD to RD, other stack of an HBM3 pseudo-channel.
    pub n_ccd_r: u32,
    /// WR to WR, other group.
    pub n_ccd_s_wr: u32,
    /// WR to WR, same group.
    pub n_ccd_l_wr: u32,
    /// ACT to ACT, other group.
    pub n_rrd_s: u32,
    /// ACT to ACT, same group.
    pub n_rrd_l: u32,
    /// At most four ACT within this many cycles.
    pub n_faw: u32,
    /// End of write data to RD, other group.
    pub n_wtr_s: u32,
    /// End of write data to RD, same group.
    pub n_wtr_l: u32,
    /// RD to WR of a rank.
    pub n_rtw: u32,
    /// PRE to PRE; 0 if the standard has no such rule.
    pub n_ppd: u32,
    /// Extra cycles between bursts of two ranks.
    pub n_cs: u32,
    /// All-bank refresh to ACT.
    pub n_rfc: u32,
    /// Average distance of all-bank refreshes.
    pub n_refi: u32,
    /// Cycles of ACT on the command bus.
    pub act_cycles: u32,
    /// Cycles of RD and WR on the command bus.
    pub column_cycles: u32,
    /// Cycles of every other command on the command bus (ACT2 and CAS among them); 1 but for LPDDR6.
    #[serde(default = "one")]
    pub other_cycles: u32,
}

const fn one() -> u32 {
    1
}

impl Timing {
    /// Every field with its name in a configuration.
    const fn fields(&self) -> [(&'static str, u32); 31] {
        [
            ("timing.t_ck_ps", self.t_ck_ps),
            ("timing.n_bl", self.n_bl),
            ("timing.n_bl_max", self.n_bl_max),
            ("timing.n_cl", self.n_cl),
            ("timing.n_cwl", self.n_cwl),
            ("timing.n_rcd_rd", self.n_rcd_rd),
            ("timing.n_rcd_wr", self.n_rcd_wr),
            ("timing.n_rp", self.n_rp),
            ("timing.n_rp_all", self.n_rp_all),
            ("timing.n_ras", self.n_ras),
            ("timing.n_rc", self.n_rc),
            ("timing.n_rtp", self.n_rtp),
            ("timing.n_wr", self.n_wr),
            ("timing.n_ccd_s", self.n_ccd_s),
            ("timing.n_ccd_l", self.n_ccd_l),
            ("timing.n_ccd_r", self.n_ccd_r),
            ("timing.n_ccd_s_wr", self.n_ccd_s_wr),
            ("timing.n_ccd_l_wr", self.n_ccd_l_wr),
            ("timing.n_rrd_s", self.n_rrd_s),
            ("timing.n_rrd_l", self.n_rrd_l),
            ("timing.n_faw", self.n_faw),
            ("timing.n_wtr_s", self.n_wtr_s),
            ("timing.n_wtr_l", self.n_wtr_l),
            ("timing.n_rtw", self.n_rtw),
            ("timing.n_ppd", self.n_ppd),
            ("timing.n_cs", self.n_cs),
            ("timing.n_rfc", self.n_rfc),
            ("timing.n_refi", self.n_refi),
            ("timing.act_cycles", self.act_cycles),
            ("timing.column_cycles", self.column_cycles),
            ("timing.other_cycles", self.other_cycles),
        ]
    }
}

/// One channel of a memory: a name, its organisation and timing, and where the numbers come from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Name, e.g. `DDR5-4800`.
    pub name: String,
    /// Levels and sizes.
    pub organisation: Organisation,
    /// Timing in clock cycles.
    pub timing: Timing,
    /// LPDDR5, LPDDR6: activate in two halves.
    pub split_activate: Option<SplitActivate>,
    /// Bank-wise refresh, where the standard has one.
    pub bank_refresh: Option<BankRefresh>,
    /// Refresh management, where the device asks for it.
    pub refresh_management: Option<RefreshManagement>,
    /// Currents, where they are known.
    pub power: Option<Power>,
    /// Row and column commands have a bus each (HBM); otherwise one command per cycle in all.
    #[serde(default)]
    pub dual_command_bus: bool,
    /// The ranks are pseudo-channels with data wires of their own (HBM): no gap when the rank changes.
    #[serde(default)]
    pub pseudo_channels: bool,
    /// Commands use both edges of the clock (HBM3): ACT takes half a clock less than `act_cycles`, PRE and refresh half
    /// a clock; PRE may begin at either edge, all others at the rising one. A cycle of the model is then half a clock.
    #[serde(default)]
    pub half_clocks: bool,
    /// Rows of the table of constraints whose distance is given here, by their names, in place of the formula's: cycles
    /// of the model from first cycle to first cycle, as [`super::constraints::constraints`] has them.
    #[serde(default)]
    pub distances: BTreeMap<String, u32>,
    /// Where the numbers come from.
    pub source: String,
    /// True if the numbers were scaled from another device and not read from a table of this one.
    #[serde(default)]
    pub derived: bool,
}

impl Device {
    /// Reads a device of one's own from the text of a TOML file; the fields are those of this structure, all of them
    /// must be there but `split_activate`, `bank_refresh`, `refresh_management`, `power`, `distances`, `other_cycles`
    /// and the flags.
    ///
    /// # Errors
    /// The line and what is wrong there: no TOML, an unknown or missing field; or a field, its value and the rule that
    /// it breaks.
    ///
    /// With `base = "NAME"`, the name of a built-in device, all that is left out is as there.
    pub fn from_toml(text: &str) -> Result<Self, DeviceFileError> {
        let wrong = |error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map(|before| before.matches('\n').count() + 1);
            DeviceFileError::Text { line, message: error.message().into() }
        };
        let mut table: toml::Table = toml::from_str(text).map_err(wrong)?;
        let device: Self = match table.remove("base") {
            None => toml::from_str(text).map_err(wrong)?,
            Some(base) => Self::on_top_of(base.as_str().unwrap_or_default(), table)?,
        };
        device.validate()?;
        Ok(device)
    }

    /// The built-in device called `base` with the fields of `changes` in place of its own.
    fn on_top_of(base: &str, changes: toml::Table) -> Result<Self, DeviceFileError> {
        let fail = |message: String| DeviceFileError::Text { line: None, message };
        let names = || fail(format!("base: expected one of {}, found \"{base}\"", super::presets::NAMES.join(", ")));
        let device = super::presets::by_name(base).ok_or_else(names)?;
        let mut table = toml::Table::try_from(device).map_err(|error| fail(error.to_string()))?;
        for (name, value) in changes {
            match (table.get_mut(&name), value) {
                (Some(toml::Value::Table(old)), toml::Value::Table(new)) => old.extend(new),
                (_, value) => {
                    table.insert(name, value);
                }
            }
        }
        table.try_into().map_err(|error: toml::de::Error| fail(error.message().into()))
    }

    /// Greatest rate of the data bus of the channel in GB/s (10^9 bytes), pseudo-channels together.
    pub fn peak_gb_s(&self) -> f64 {
        let buses = if self.pseudo_channels { self.organisation.ranks } else { 1 };
        let per_burst = self.organisation.access_bytes() as f64 * f64::from(buses);
        per_burst / (f64::from(self.timing.n_bl) * f64::from(self.timing.t_ck_ps)) * 1e3
    }

    /// Cycles of the model in a clock.
    pub const fn cycles_per_clock(&self) -> u32 {
        if self.half_clocks { 2 } else { 1 }
    }

    /// The same device with its times in cycles of the model: half clocks where commands use both edges.
    pub fn in_cycles(&self) -> Self {
        let by = self.cycles_per_clock();
        let mut device = self.clone();
        let t = &mut device.timing;
        for cycles in [
            &mut t.n_bl,
            &mut t.n_bl_max,
            &mut t.n_cl,
            &mut t.n_cwl,
            &mut t.n_rcd_rd,
            &mut t.n_rcd_wr,
            &mut t.n_rp,
            &mut t.n_rp_all,
            &mut t.n_ras,
            &mut t.n_rc,
            &mut t.n_rtp,
            &mut t.n_wr,
            &mut t.n_ccd_s,
            &mut t.n_ccd_l,
            &mut t.n_ccd_r,
            &mut t.n_ccd_s_wr,
            &mut t.n_ccd_l_wr,
            &mut t.n_rrd_s,
            &mut t.n_rrd_l,
            &mut t.n_faw,
            &mut t.n_wtr_s,
            &mut t.n_wtr_l,
            &mut t.n_rtw,
            &mut t.n_ppd,
            &mut t.n_cs,
            &mut t.n_rfc,
            &mut t.n_refi,
            &mut t.act_cycles,
            &mut t.column_cycles,
        ] {
            *cycles *= by;
        }
        t.act_cycles -= u32::from(self.half_clocks);
        if let Some(refresh) = &mut device.bank_refresh {
            for cycles in
                [&mut refresh.n_rfc, &mut refresh.n_refi, &mut refresh.n_ref_to_ref, &mut refresh.n_ref_to_act]
            {
                *cycles *= by;
            }
        }
        if let Some(management) = &mut device.refresh_management {
            management.n_rfm *= by;
        }
        device
    }

    /// Clocks from RD to the end of its data.
    pub fn read_latency(&self) -> u32 {
        self.timing.n_cl + self.timing.n_bl
    }
}
