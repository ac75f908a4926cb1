//! Columns of the rows of `cptr run`.

use crate::columns::Format::{Change, Flag, Microjoules, Microseconds, Number, Percent, Plain, Ratio, Text};
use crate::columns::{Column, column};

pub(crate) static RUN: [Column; 51] = [
    column("strategy", "strategy", Text, ""),
    column("select", "select", Text, "which experts run").detail(),
    column("residency", "residency", Text, "which stay in fast memory").detail(),
    column("prefetch", "prefetch", Text, "which are fetched before they are asked for").detail(),
    column("division", "division", Text, "which run where").detail(),
    column("precision", "precision", Text, "at how many bits").detail(),
    column("perplexity", "is", Number(3), "perplexity of the model that reads with the strategy in the loop").if_any(),
    column("perplexity_change", "perplexity", Change, "to the unaltered model").if_any(),
    column("perplexity_change_low", "from", Change, "interval of 95 %, by bootstrap over documents").if_any(),
    column("perplexity_change_high", "to", Change, "").if_any(),
    column("divergence", "divergence", Number(5), "of the predictions from the unaltered model's, nats per token")
        .if_any(),
    column("tokens_per_s", "tokens/s", Number(1), "all sequences together").if_any(),
    column("low_tokens_per_s", "from", Number(1), "band of tokens/s, by what is not known well of the machine")
        .if_any(),
    column("high_tokens_per_s", "to", Number(1), "").if_any(),
    column("switch_rate", "switch", Percent, "choices that the token before did not run"),
    column("stall_rate", "stall", Percent, "choices whose expert was waited for"),
    column("miss_rate", "miss", Percent, "choices that were not in fast memory when they were wanted")
        .unless_as("stall_rate"),
    column("load_rate", "load", Percent, "experts copied into fast memory, per choice").unless_as("stall_rate"),
    column("fetch_rate", "fetch", Percent, "of them, asked for before they were wanted").unless(0.0),
    column("migration_rate", "migrate", Percent, "of them, copied by a placement behind decoding").unless(0.0),
    column("misses_to_raw", "to raw", Ratio, "misses over those of the raw router with lru").if_any(),
    column("full_precision", "full", Percent, "routing mass that ran at full precision").unless(1.0),
    column("coverage", "covered", Percent, "routing mass of experts in fast memory").detail(),
    column("mean_near_bits", "bits", Number(1), "near the data, mean over the routing mass there").detail(),
    column("quantisation_loss", "quantised", Number(5), "what experts lose at few bits, by a table of losses").if_any(),
    column("skipped_mass", "skipped", Percent, "routing mass of experts that were left out").unless(0.0),
    column("mass_loss", "mass loss", Percent, "wanted routing mass given up"),
    column("worst_mass_loss", "worst", Percent, "the same, of the worst token and layer").detail(),
    column("agreement", "agree", Percent, "choices that the model wanted"),
    column(
        "least_run.share",
        "least run",
        Percent,
        "of the tokens that want the expert silenced most, those that run it",
    )
    .detail(),
    column("least_run.below_half", "silenced", Plain, "experts that less than half of the tokens run which want them")
        .detail(),
    column("token_time_us", "token", Microseconds, "mean time of a token").if_any(),
    column("low_token_time_us", "from", Microseconds, "the band of that").if_any(),
    column("high_token_time_us", "to", Microseconds, "").if_any(),
    column("token_time_p50_us", "P50", Microseconds, "").if_any(),
    column("token_time_p95_us", "P95", Microseconds, "").if_any(),
    column("token_time_p99_us", "P99", Microseconds, "").if_any(),
    column("ratio_to_raw", "to raw", Ratio, "time of a token over that of the raw router with lru").if_any(),
    column("gpu_us", "GPU", Microseconds, "busy, per token").detail(),
    column("link_us", "link", Microseconds, "busy, per token").detail(),
    column("ndp_us", "device", Microseconds, "busy, per token").detail(),
    column("controller_us", "controller", Microseconds, "busy, per token").detail(),
    column("controller_share", "controller", Percent, "of the time of a token").detail(),
    column("energy_uj", "energy", Microjoules, "of a token").detail(),
    column("placement_s", "placement", Number(3), "seconds of copies between prompt and decoding").detail(),
    column("after_change.tokens_per_s", "tokens/s after", Number(1), "from the first change of domain on").if_any(),
    column("after_change.full_precision", "full after", Percent, "").if_any(),
    column("after_change.coverage", "covered after", Percent, "").detail(),
    column("loads_per_token", "loads", Number(2), "experts copied per token, all layers").detail(),
    column("bound", "bound", Flag, "no system that loads on demand waits less often").detail(),
    column("sees_future", "future", Flag, "knows what tokens will want").detail(),
];

/// What each sequence of a batch has of the copies behind decoding.
pub(super) static TENANTS: [Column; 6] = [
    column("strategy", "strategy", Text, ""),
    column("sequence", "sequence", Plain, ""),
    column("miss_rate", "miss", Percent, "choices that were not in fast memory when they were wanted"),
    column("migrations_per_token", "migrations", Number(2), "on its account, per token"),
    column("fetches_per_token", "fetches", Number(2), "ahead, on its account, per token"),
    column("refused_per_token", "refused", Number(2), "copies per token for which its part was used up"),
];

/// What people see of strategies that run the model's experts on the GPU.
pub(crate) const SELECTION: &[&str] = &[
    "strategy",
    "switch_rate",
    "stall_rate",
    "miss_rate",
    "load_rate",
    "fetch_rate",
    "migration_rate",
    "full_precision",
    "skipped_mass",
    "mass_loss",
    "agreement",
    "token_time_us",
    "low_token_time_us",
    "high_token_time_us",
    "token_time_p99_us",
    "ratio_to_raw",
];

/// What they see where some run near the data.
pub(crate) const SYSTEMS: &[&str] = &[
    "strategy",
    "tokens_per_s",
    "low_tokens_per_s",
    "high_tokens_per_s",
    "ratio_to_raw",
    "token_time_p50_us",
    "token_time_p95_us",
    "token_time_p99_us",
    "full_precision",
    "coverage",
    "stall_rate",
    "load_rate",
    "fetch_rate",
    "migration_rate",
    "quantisation_loss",
    "skipped_mass",
    "mass_loss",
    "after_change.tokens_per_s",
    "after_change.full_precision",
];

/// What they see of a model that reads.
#[cfg(any(feature = "model", test))]
pub(crate) const MODEL: &[&str] = &[
    "strategy",
    "perplexity_change",
    "perplexity_change_low",
    "perplexity_change_high",
    "divergence",
    "switch_rate",
    "stall_rate",
    "miss_rate",
    "misses_to_raw",
    "full_precision",
    "mass_loss",
    "token_time_us",
    "low_token_time_us",
    "high_token_time_us",
];

/// Counts without token order.
pub(crate) static COUNTS: [Column; 6] = [
    column("table", "table", Text, ""),
    column("select", "select", Text, ""),
    column("residency", "residency", Text, ""),
    column("resident", "resident", Plain, "experts per layer"),
    column("miss_rate", "miss", Percent, "choices that are not resident"),
    column("miss_rate_uniform", "if uniform", Percent, "the same if all experts were equally frequent"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::Table;
    use cptr_sim::replay::{Budget, Plan, run};
    use cptr_sim::strategy::Strategy;
    use cptr_trace::{Shape, Trace};

    /// A row has every key but those of a model that reads, and people see keys that there are.
    #[test]
    fn columns_are_keys_of_rows() {
        let ids = (0..300).map(|token| token % 3).collect();
        let trace = Trace::of_ids(Shape { tokens: 300, layers: 1, experts: 4, k: 1 }, ids);
        let strategies = Strategy::parse_list("lru,tracked").unwrap();
        let outcome = run(&trace, &Plan { strategies, ..Plan::new(Budget::Experts(2)) }).unwrap();
        let table = Table::new(&RUN, &outcome.rows);
        let of_models =
            ["perplexity", "perplexity_change", "perplexity_change_low", "perplexity_change_high", "divergence"];
        let row = table.rows[0].as_object().unwrap();
        for column in &RUN {
            let key = column.key.split('.').next().unwrap();
            assert!(row.contains_key(key) || of_models.contains(&key) || key == "misses_to_raw", "{key}");
        }
        for key in [SELECTION, SYSTEMS, MODEL].concat() {
            assert!(RUN.iter().any(|column| column.key == key), "{key}");
        }
        assert!(table.viewed(SELECTION).text().contains("| lru "));
    }
}
