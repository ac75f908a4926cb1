//! What a memory device is: organisation and timing of one channel.
//!
//! All times are in clock cycles of the command clock (`t_ck_ps` picoseconds each), named as in the standards: `n_rcd`
//! is tRCD in cycles. The ready-made devices stand in [`super::presets`].
//!
//! A device of one's own is a TOML file, see [`Device::from_toml`]; `data/devices/ddr5-4800.toml` documents every
//! field.
use super::energy::Power;
use super::error::{ConfigError, DeviceFileError};
use serde::{Deserialize, Serialize};

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

/// LPDDR5 only: activate in two halves and a data clock that must be started.
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
    /// Cycles that a burst keeps its bank group busy (LPDDR5 BL/n_max); elsewhere equal to `n_bl`.
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
}

impl Timing {
    /// Every field with its name in a configuration.
    const fn fields(&self) -> [(&'static str, u32); 30] {
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
    /// LPDDR5: activate in two halves.
    pub split_activate: Option<SplitActivate>,
    /// Bank-wise refresh, where the standard has one.
    pub bank_refresh: Option<BankRefresh>,
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
    /// Where the numbers come from.
    pub source: String,
    /// True if the numbers were scaled from another device and not read from a table of this one.
    #[serde(default)]
    pub derived: bool,
}

impl Device {
    /// Reads a device of one's own from the text of a TOML file; the fields are those of this structure, all of them
    /// must be there but `split_activate`, `bank_refresh`, `power` and the flags.
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
        device
    }

    /// Clocks from RD to the end of its data.
    pub fn read_latency(&self) -> u32 {
        self.timing.n_cl + self.timing.n_bl
    }

    /// Refuses what no memory can be: the field, its value and the rule that it breaks.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_organisation()?;
        self.validate_timing()?;
        if let Some(split) = self.split_activate {
            at_least("split_activate.n_aad", split.n_aad, "1", 1)?;
            at_most_longest("split_activate.n_aad", split.n_aad)?;
            at_most_longest("split_activate.n_wck_pst", split.n_wck_pst)?;
            // ACT1 and ACT2 are a cycle each, and ACT2 may have to go out right behind any command.
            for (field, cycles) in
                [("timing.act_cycles", self.timing.act_cycles), ("timing.column_cycles", self.timing.column_cycles)]
            {
                if cycles != 1 {
                    return Err(ConfigError::new(field, cycles, "must be 1 where the activate is split"));
                }
            }
        }
        if self.half_clocks && (self.split_activate.is_some() || !self.dual_command_bus) {
            return Err(ConfigError::new(
                "half_clocks",
                true,
                "needs a row bus and a column bus, and no split activate",
            ));
        }
        if let Some(refresh) = self.bank_refresh {
            at_most_longest("bank_refresh.n_refi", refresh.n_refi)?;
            at_most_longest("bank_refresh.n_ref_to_act", refresh.n_ref_to_act)?;
            at_least("bank_refresh.n_rfc", refresh.n_rfc, "1", 1)?;
            at_least("bank_refresh.n_refi", refresh.n_refi, "bank_refresh.n_ref_to_ref", refresh.n_ref_to_ref.max(1))?;
            at_least("timing.n_rfc", self.timing.n_rfc, "bank_refresh.n_rfc", refresh.n_rfc)?;
            if refresh.set == RefreshSet::Pair && self.organisation.groups < 2 {
                return Err(ConfigError::new("bank_refresh.set", "Pair", "needs at least two bank groups"));
            }
            self.validate_bank_refresh(refresh)?;
        }
        self.power.as_ref().map_or(Ok(()), |power| power.validate(self))
    }

    /// Refreshes must leave time to open a row, or a run would never end: in the other banks from one refresh to the
    /// next, and in the banks of a set until its turn comes again.
    fn validate_bank_refresh(&self, refresh: BankRefresh) -> Result<(), ConfigError> {
        let (t, o) = (&self.timing, &self.organisation);
        let sets = match refresh.set {
            RefreshSet::Bank => o.banks_per_rank(),
            RefreshSet::Pair => o.banks_per_rank() / 2,
            RefreshSet::SameBank => o.banks,
        };
        let row = u64::from(t.n_rc) + u64::from(t.n_rp_all);
        let other = u64::from(refresh.n_ref_to_act) + u64::from(t.n_rrd_l) + row;
        let same = (u64::from(refresh.n_rfc) + row).div_ceil(u64::from(sets));
        let least = other.max(same);
        if u64::from(refresh.n_refi) <= least {
            let rule = format!("must leave time to open a row between two refreshes: more than {least}");
            return Err(ConfigError::new("bank_refresh.n_refi", refresh.n_refi, rule));
        }
        // The ranks are refreshed one after the other, and each may have a row to close first.
        let turns = u64::from(o.ranks) * u64::from(t.n_rc);
        if u64::from(refresh.n_refi) < turns {
            let rule = format!("must leave time to close a row of each rank: at least {turns}");
            return Err(ConfigError::new("bank_refresh.n_refi", refresh.n_refi, rule));
        }
        Ok(())
    }

    fn validate_organisation(&self) -> Result<(), ConfigError> {
        let o = &self.organisation;
        let levels = [
            ("organisation.stacks", o.stacks),
            ("organisation.groups", o.groups),
            ("organisation.banks", o.banks),
            ("organisation.columns", o.columns),
            ("organisation.burst_length", o.burst_length),
            ("organisation.width_bits", o.width_bits),
        ];
        for (field, value) in levels {
            if !value.is_power_of_two() {
                return Err(ConfigError::new(field, value, "must be a power of two, at least 1"));
            }
        }
        at_least("organisation.ranks", o.ranks, "1", 1)?;
        at_least("organisation.rows", o.rows, "1", 1)?;
        if o.width_bits < 8 {
            return Err(ConfigError::new("organisation.width_bits", o.width_bits, "must be at least 8"));
        }
        if o.columns < o.burst_length {
            return Err(ConfigError::new("organisation.columns", o.columns, "must hold at least one burst"));
        }
        let product = [o.ranks, o.stacks, o.groups, o.banks, o.rows, o.columns, o.width_bits / 8]
            .iter()
            .try_fold(1u64, |product, &level| product.checked_mul(u64::from(level)));
        if product != Some(o.capacity_bytes) {
            let product = product.map_or("more than 2^64".to_string(), |p| p.to_string());
            let rule = format!("must be the product of the levels, {product} bytes");
            return Err(ConfigError::new("organisation.capacity_bytes", o.capacity_bytes, rule));
        }
        if o.ranks as usize > MAX_RANKS {
            return Err(ConfigError::new("organisation.ranks", o.ranks, format!("must be at most {MAX_RANKS}")));
        }
        let banks = u64::from(o.ranks) * u64::from(o.stacks) * u64::from(o.groups) * u64::from(o.banks);
        if banks > u64::from(MAX_RANK_BANKS) * u64::from(o.ranks) {
            let rule = format!("gives more than {MAX_RANK_BANKS} banks a rank, which are the most that are supported");
            return Err(ConfigError::new("organisation.banks", o.banks, rule));
        }
        if banks > u64::from(MAX_BANKS) {
            let rule = format!("gives {banks} banks a channel, and at most {MAX_BANKS} are supported");
            return Err(ConfigError::new("organisation.banks", o.banks, rule));
        }
        Ok(())
    }

    fn validate_timing(&self) -> Result<(), ConfigError> {
        let t = &self.timing;
        for (field, value) in [
            ("timing.t_ck_ps", t.t_ck_ps),
            ("timing.n_bl", t.n_bl),
            ("timing.n_cl", t.n_cl),
            ("timing.n_cwl", t.n_cwl),
            ("timing.n_rcd_rd", t.n_rcd_rd),
            ("timing.n_rcd_wr", t.n_rcd_wr),
            ("timing.n_rp", t.n_rp),
            ("timing.n_rtp", t.n_rtp),
            ("timing.n_rrd_s", t.n_rrd_s),
            ("timing.n_rtw", t.n_rtw),
            ("timing.act_cycles", t.act_cycles),
            ("timing.column_cycles", t.column_cycles),
        ] {
            at_least(field, value, "1", 1)?;
        }
        for (field, value) in t.fields() {
            at_most_longest(field, value)?;
        }
        at_least("timing.n_bl_max", t.n_bl_max, "timing.n_bl", t.n_bl)?;
        at_least("timing.n_ccd_s", t.n_ccd_s, "timing.n_bl", t.n_bl)?;
        at_least("timing.n_ccd_l", t.n_ccd_l, "timing.n_ccd_s", t.n_ccd_s)?;
        at_least("timing.n_ccd_r", t.n_ccd_r, "timing.n_ccd_s", t.n_ccd_s)?;
        at_least("timing.n_ccd_s_wr", t.n_ccd_s_wr, "timing.n_bl", t.n_bl)?;
        at_least("timing.n_ccd_l_wr", t.n_ccd_l_wr, "timing.n_ccd_s_wr", t.n_ccd_s_wr)?;
        at_least("timing.n_rrd_l", t.n_rrd_l, "timing.n_rrd_s", t.n_rrd_s)?;
        at_least("timing.n_wtr_l", t.n_wtr_l, "timing.n_wtr_s", t.n_wtr_s)?;
        at_least("timing.n_faw", t.n_faw, "timing.n_rrd_s", t.n_rrd_s)?;
        at_least("timing.n_rp_all", t.n_rp_all, "timing.n_rp", t.n_rp)?;
        at_least("timing.n_ras", t.n_ras, "timing.n_rcd_rd", t.n_rcd_rd)?;
        at_least("timing.n_rc", t.n_rc, "timing.n_ras", t.n_ras)?;
        at_least("timing.n_rfc", t.n_rfc, "timing.n_rp_all", t.n_rp_all)?;
        // Otherwise the data of the write would meet that of the read.
        at_least("timing.n_rtw", t.n_rtw, "timing.n_cl + n_bl - n_cwl", (t.n_cl + t.n_bl).saturating_sub(t.n_cwl))?;
        let busy = t.n_rfc.saturating_add(t.n_rp_all).saturating_add(t.n_rc);
        if t.n_refi <= busy {
            let rule = format!("must leave time beside timing.n_rfc + n_rp_all + n_rc = {busy}");
            return Err(ConfigError::new("timing.n_refi", t.n_refi, rule));
        }
        for (field, cycles) in [("timing.act_cycles", t.act_cycles), ("timing.column_cycles", t.column_cycles)] {
            if cycles > 2 {
                return Err(ConfigError::new(field, cycles, "must be 1 or 2"));
            }
        }
        Ok(())
    }
}

/// Longest time in cycles (and the longest cycle in picoseconds): far above any memory, far below what could overflow.
const LONGEST: u32 = 1 << 20;

fn at_most_longest(field: &'static str, value: u32) -> Result<(), ConfigError> {
    if value > LONGEST { Err(ConfigError::new(field, value, format!("must be at most {LONGEST}"))) } else { Ok(()) }
}

fn at_least(field: &'static str, value: u32, what: &str, least: u32) -> Result<(), ConfigError> {
    if value >= least {
        return Ok(());
    }
    let rule = if what == least.to_string() {
        format!("must be at least {least}")
    } else {
        format!("must be at least {what}, which is {least}")
    };
    Err(ConfigError::new(field, value, rule))
}

#[cfg(test)]
mod tests {
    use super::super::presets;
    use super::*;

    fn refused(change: impl FnOnce(&mut Device)) -> ConfigError {
        let mut device = presets::ddr4_3200();
        change(&mut device);
        device.validate().expect_err("must be refused")
    }

    #[test]
    fn a_long_timing_below_the_short_one_is_refused() {
        let error = refused(|d| d.timing.n_rrd_l = 3);
        assert_eq!(error.to_string(), "timing.n_rrd_l is 3, but it must be at least timing.n_rrd_s, which is 4");
        assert_eq!(refused(|d| d.timing.n_ccd_l = 3).field, "timing.n_ccd_l");
        assert_eq!(refused(|d| d.timing.n_wtr_l = 3).field, "timing.n_wtr_l");
        assert_eq!(refused(|d| d.timing.n_ccd_l_wr = 3).field, "timing.n_ccd_l_wr");
        assert_eq!(refused(|d| d.timing.n_rc = 51).field, "timing.n_rc");
    }

    #[test]
    fn capacity_is_the_product_of_the_levels() {
        let error = refused(|d| d.organisation.capacity_bytes *= 2);
        assert_eq!(error.field, "organisation.capacity_bytes");
        assert!(error.rule.contains("8589934592"), "{error}");
        assert_eq!(refused(|d| d.organisation.rows *= 2).field, "organisation.capacity_bytes");
    }

    #[test]
    fn zero_and_odd_levels_are_refused() {
        assert_eq!(refused(|d| d.organisation.ranks = 0).field, "organisation.ranks");
        assert_eq!(refused(|d| d.organisation.rows = 0).field, "organisation.rows");
        assert_eq!(refused(|d| d.organisation.groups = 3).field, "organisation.groups");
        assert_eq!(refused(|d| d.organisation.columns = 4).field, "organisation.columns");
        assert_eq!(refused(|d| d.timing.t_ck_ps = 0).field, "timing.t_ck_ps");
        assert_eq!(refused(|d| d.timing.n_refi = 600).field, "timing.n_refi");
        let error = refused(|d| {
            d.organisation.banks = 32;
            d.organisation.capacity_bytes *= 8;
        });
        assert_eq!(error.field, "organisation.banks");
        assert_eq!(
            refused(|d| (d.organisation.ranks, d.organisation.capacity_bytes) = (16, 128 << 30)).field,
            "organisation.ranks"
        );
        let five = |d: &mut Device| {
            (d.organisation.ranks, d.organisation.stacks, d.organisation.capacity_bytes) = (5, 4, 160 << 30);
        };
        assert!(refused(five).rule.contains("at most 256"));
    }

    const EXAMPLE: &str = include_str!("../../data/devices/ddr5-4800.toml");

    #[test]
    fn the_shipped_file_is_the_preset() {
        assert_eq!(Device::from_toml(EXAMPLE), Ok(presets::ddr5_4800()));
        let with_split = EXAMPLE.replace("# [split_activate]", "[split_activate]").replace("# n_", "n_");
        let long = Device::from_toml(&with_split).unwrap_err().to_string();
        assert_eq!(long, "timing.act_cycles is 2, but it must be 1 where the activate is split");
        let short =
            with_split.replace("act_cycles = 2", "act_cycles = 1").replace("column_cycles = 2", "column_cycles = 1");
        let split = SplitActivate { n_aad: 8, n_wck_pst: 1 };
        assert_eq!(Device::from_toml(&short).unwrap().split_activate, Some(split));
    }

    #[test]
    fn a_bad_file_is_refused_with_line_or_field() {
        let refused = |from: &str, to: &str| {
            assert!(EXAMPLE.contains(from), "{from}");
            Device::from_toml(&EXAMPLE.replacen(from, to, 1)).unwrap_err().to_string()
        };
        let line = EXAMPLE.lines().position(|line| line.starts_with("n_cl ")).unwrap() + 1;
        assert!(refused("n_cl = 34", "n_clx = 34").starts_with(&format!("line {line}: unknown field `n_clx`")));
        assert!(refused("n_cl = 34 ", "# n_cl = 34").contains("missing field `n_cl`"));
        assert!(refused("n_cl = 34", "n_cl = -1").starts_with(&format!("line {line}: invalid value: integer `-1`")));
        assert!(refused("n_cl = 34", "n_cl = 5e9").starts_with(&format!("line {line}: invalid type")));
        assert!(refused("n_cl = 34", "n_cl =").starts_with(&format!("line {line}: ")));
        assert!(refused("\"same-bank\"", "\"all\"").contains("unknown variant `all`"));
        assert_eq!(
            refused("n_ref_to_act = 73", "n_ref_to_act = 1172"),
            "bank_refresh.n_refi is 1171, but it must leave time to open a row between two refreshes: more than 1329"
        );
        assert_eq!(
            refused("n_wr = 72", "n_wr = 4294967295"),
            "timing.n_wr is 4294967295, but it must be at most 1048576"
        );
        assert_eq!(
            refused("n_rtw = 14", "n_rtw = 9"),
            "timing.n_rtw is 9, but it must be at least timing.n_cl + n_bl - n_cwl, which is 10"
        );
        assert_eq!(Device::from_toml("").unwrap_err().to_string(), "line 1: missing field `name`");
    }

    #[test]
    fn a_file_may_change_a_device_that_is_there() {
        let text =
            "base = \"DDR5-4800\"\nname = \"three ranks\"\n[organisation]\nranks = 3\ncapacity_bytes = 25769803776\n";
        let device = Device::from_toml(text).unwrap();
        assert_eq!((device.organisation.total_banks(), device.name.as_str()), (96, "three ranks"));
        assert_eq!(device.timing, presets::ddr5_4800().timing);
        assert_eq!(Device::from_toml("base = \"HBM3-6400\""), Ok(presets::hbm3_6400()));
        assert_eq!(Device::from_toml("base = \"LPDDR5-6400\""), Ok(presets::lpddr5_6400()));
        let refused = |text: &str| Device::from_toml(text).unwrap_err().to_string();
        assert!(refused("base = \"DDR9\"").starts_with("base: expected one of DDR4-3200, "));
        assert!(refused("base = 3").contains("found \"\""));
        assert!(refused("base = \"DDR5-4800\"\n[timing]\nn_clx = 3").contains("unknown field `n_clx`"));
        assert!(refused("base = \"DDR5-4800\"\n[timing]\nn_cl = -3").contains("-3"));
        assert!(refused("base = \"DDR5-4800\"\ntiming = 3").contains("expected struct"));
        assert!(
            refused("base = \"DDR5-4800\"\n[organisation]\nranks = 3").starts_with("organisation.capacity_bytes is")
        );
    }

    #[test]
    fn peak_is_bytes_over_burst_time() {
        assert!((presets::ddr4_3200().peak_gb_s() - 25.6).abs() < 1e-9);
        assert!((presets::lpddr5_6400().peak_gb_s() - 12.8).abs() < 1e-9);
    }
}
