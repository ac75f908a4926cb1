//! What no memory can be.
use super::super::error::ConfigError;
use super::super::management::{ManagementCommand, RefreshManagement};
use super::{BankRefresh, Device, MAX_BANKS, MAX_RANK_BANKS, MAX_RANKS, RefreshSet};

impl Device {
    /// Refuses what no memory can be: the field, its value and the rule that it breaks.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_organisation()?;
        self.validate_timing()?;
        if let Some(split) = self.split_activate {
            // ACT2 may have to go out right behind any command, so all are equally long.
            let length = self.timing.other_cycles;
            at_least("split_activate.n_aad", split.n_aad, "timing.other_cycles", length)?;
            at_most_longest("split_activate.n_aad", split.n_aad)?;
            at_most_longest("split_activate.n_wck_pst", split.n_wck_pst)?;
            for (field, cycles) in
                [("timing.act_cycles", self.timing.act_cycles), ("timing.column_cycles", self.timing.column_cycles)]
            {
                if cycles != length {
                    let rule = format!("must be timing.other_cycles, which is {length}, where the activate is split");
                    return Err(ConfigError::new(field, cycles, rule));
                }
            }
        } else if self.timing.other_cycles != 1 {
            let rule = "must be 1 where the activate is not split";
            return Err(ConfigError::new("timing.other_cycles", self.timing.other_cycles, rule));
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
        if let Some(management) = self.refresh_management {
            self.validate_management(management)?;
        }
        for (row, &cycles) in &self.distances {
            at_most_longest("distances", cycles)?;
            if !super::super::constraints::is_row(row) {
                let rule = "must name a row of the table of constraints (cptr dram --constraints)";
                return Err(ConfigError::new("distances", row, rule));
            }
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

    /// Management must leave time for refresh, and for an activate at all.
    fn validate_management(&self, management: RefreshManagement) -> Result<(), ConfigError> {
        at_least("refresh_management.raaimt", management.raaimt, "1", 1)?;
        at_least("refresh_management.raammt", management.raammt, "refresh_management.raaimt", management.raaimt)?;
        at_least("refresh_management.n_rfm", management.n_rfm, "1", 1)?;
        at_most_longest("refresh_management.raammt", management.raammt)?;
        if management.refresh_decrement > management.raaimt {
            let rule = format!("must be at most refresh_management.raaimt, which is {}", management.raaimt);
            return Err(ConfigError::new("refresh_management.refresh_decrement", management.refresh_decrement, rule));
        }
        let most = self.timing.n_refi - self.timing.n_rfc;
        if management.n_rfm > most {
            let rule = format!("must be at most timing.n_refi - n_rfc, which is {most}");
            return Err(ConfigError::new("refresh_management.n_rfm", management.n_rfm, rule));
        }
        if management.command == ManagementCommand::BankWise && self.bank_refresh.is_none() {
            let rule = "needs bank_refresh, which says the banks of a command";
            return Err(ConfigError::new("refresh_management.command", "bank-wise", rule));
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
            ("timing.other_cycles", t.other_cycles),
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
        for (field, cycles) in [
            ("timing.act_cycles", t.act_cycles),
            ("timing.column_cycles", t.column_cycles),
            ("timing.other_cycles", t.other_cycles),
        ] {
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
    use super::super::super::presets;
    use super::super::SplitActivate;
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

    const EXAMPLE: &str = include_str!("../../../data/devices/ddr5-4800.toml");

    #[test]
    fn the_shipped_file_is_the_preset() {
        assert_eq!(Device::from_toml(EXAMPLE), Ok(presets::ddr5_4800()));
        let used = |fields: &[&str]| {
            fields.iter().fold(EXAMPLE.to_string(), |text, field| text.replace(&format!("# {field}"), field))
        };
        let managed = used(&["[refresh_management]", "command =", "raa", "refresh_decrement", "n_rfm"]);
        let needs = Device::from_toml(&managed).unwrap().refresh_management.unwrap();
        assert_eq!((needs.raaimt, needs.raammt, needs.n_rfm), (32, 96, presets::ddr5_4800().timing.n_rfc));
        let with_split = used(&["[split_activate]", "n_aad", "n_wck_pst"]);
        let long = Device::from_toml(&with_split).unwrap_err().to_string();
        let rule =
            "timing.act_cycles is 2, but it must be timing.other_cycles, which is 1, where the activate is split";
        assert_eq!(long, rule);
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
