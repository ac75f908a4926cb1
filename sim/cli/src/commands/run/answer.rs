//! What a run comes to, in one sentence made of its rows.

use serde_json::Value;

use crate::columns::format;
use crate::report::{name, number};

/// Most that perplexity may rise for a strategy to be named, of a model that reads.
const SAME_MODEL: f64 = 0.005;

/// The best strategy that a system can run against the model's own choice with LRU, what it costs, and the best of
/// those that cost nothing. `None` without rows.
pub(super) fn sentence(rows: &[Value]) -> Option<String> {
    let (first, gain) = (rows.first()?, Gain::of(rows));
    let can_run = || rows.iter().filter(|row| row["sees_future"] != true && gain.of_row(row).is_finite());
    let of_same_model = || can_run().filter(|row| number(row, "perplexity_change").max(0.0) <= SAME_MODEL);
    let least = |a: &&Value, b: &&Value| gain.of_row(a).total_cmp(&gain.of_row(b));
    let Some(best) = of_same_model().min_by(least) else {
        return Some(format!("None of {} strategies is one that a system can run.", rows.len()));
    };
    let reference = rows.iter().find(|row| is_lru(row)).unwrap_or(first);
    if can_run().count() == 1 {
        return Some(format!("{} {}, {}.", name(best), gain.has(best), price(best)));
    }
    let among = match number(best, "perplexity_change").is_nan() {
        true => format!("Of {} strategies that a system can run", can_run().count()),
        false => format!("Of {} strategies that raise perplexity by at most 0.5%", of_same_model().count()),
    };
    let against = |row: &Value| gain.against(row, reference);
    let mut text = format!("{among}, {} {}{}, {}", name(best), gain.is_best(best), against(best), price(best));
    let free = can_run().filter(|row| is_free(row)).min_by(least).filter(|_| !is_free(best));
    if let Some(free) = free {
        text += &format!("; of those that change nothing of the model, {} with {}{}", name(free), gain.value(free), {
            against(free)
        });
    }
    Some(text + ".")
}

/// The same in few words: the strategy, its gain and price.
pub(in super::super) fn brief(rows: &[Value]) -> Option<String> {
    let gain = Gain::of(rows);
    let reference = rows.iter().find(|row| is_lru(row)).or(rows.first())?;
    let can_run = rows.iter().filter(|row| row["sees_future"] != true && gain.of_row(row).is_finite());
    let best = can_run.min_by(|a, b| gain.of_row(a).total_cmp(&gain.of_row(b)))?;
    Some(format!("{}: {}{}, {}", name(best), gain.value(best), gain.against(best, reference), price(best)))
}

/// Of counts: the table that fast memory suits best.
pub(super) fn of_counts(rows: &[Value]) -> Option<String> {
    let least = |a: &&Value, b: &&Value| number(a, "miss_rate").total_cmp(&number(b, "miss_rate"));
    let best = rows.iter().min_by(least)?;
    Some(format!(
        "Of {} tables of counts, {} has the fewest misses: {} of the choices with {} experts a layer in fast memory, \
         {} if all were wanted alike.",
        rows.len(),
        best["table"].as_str().unwrap_or_default(),
        format::percent(number(best, "miss_rate")),
        best["resident"],
        format::percent(number(best, "miss_rate_uniform"))
    ))
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gain {
    Time,
    Stalls,
    Misses,
}

impl Gain {
    fn of(rows: &[Value]) -> Self {
        let any = |key: &str| rows.iter().any(|row| number(row, key) > 0.0);
        match () {
            () if any("token_time_us") => Self::Time,
            () if any("stall_rate") => Self::Stalls,
            () => Self::Misses,
        }
    }

    fn of_row(self, row: &Value) -> f64 {
        number(
            row,
            match self {
                Self::Time => "token_time_us",
                Self::Stalls => "stall_rate",
                Self::Misses => "miss_rate",
            },
        )
    }

    fn value(self, row: &Value) -> String {
        match self {
            Self::Time => format!("{} a token", format::microseconds(self.of_row(row))),
            Self::Stalls => format!("stalls at {} of the choices", format::percent(self.of_row(row))),
            Self::Misses => format!("misses at {} of the choices", format::percent(self.of_row(row))),
        }
    }

    fn is_best(self, row: &Value) -> String {
        match self {
            Self::Time => format!("is the fastest: {}", self.value(row)),
            Self::Stalls | Self::Misses => format!("has the fewest: {}", self.value(row)),
        }
    }

    fn has(self, row: &Value) -> String {
        let stalls = format!("waits for {} of the choices", format::percent(number(row, "stall_rate")));
        match self {
            Self::Time => format!("takes {} and {stalls}", self.value(row)),
            Self::Stalls => stalls,
            Self::Misses => format!("has {}", self.value(row)),
        }
    }

    /// How a row stands to the reference, where it is another.
    fn against(self, row: &Value, reference: &Value) -> String {
        if row["strategy"] == reference["strategy"] {
            return " (the reference)".into();
        }
        let change = self.of_row(row) / self.of_row(reference) - 1.0;
        let name = if is_lru(reference) { "LRU" } else { name(reference) };
        let stalls = match self {
            Self::Time if number(row, "stall_rate") != number(reference, "stall_rate") => format!(
                ", stalls {} against {}",
                format::percent(number(row, "stall_rate")),
                format::percent(number(reference, "stall_rate"))
            ),
            _ => String::new(),
        };
        if !change.is_finite() {
            return stalls;
        }
        let (size, word) = (format::percent(change.abs()), if change > 0.0 { "more" } else { "less" });
        format!(" ({size} {word} than {name}{stalls})")
    }
}

/// What a strategy costs.
fn price(row: &Value) -> String {
    let mut parts = Vec::new();
    let perplexity = number(row, "perplexity_change");
    if perplexity.is_finite() {
        parts.push(format!("perplexity {}", format::change(perplexity)));
    }
    match number(row, "mass_loss") {
        loss if loss > 0.0 => parts.push(format!("{} of the routing mass lost", format::percent(loss))),
        _ => parts.push("no routing mass lost".into()),
    }
    let full = number(row, "full_precision");
    if full < 1.0 {
        parts.push(format!("{} of it at full precision", format::percent(full)));
    }
    let skipped = number(row, "skipped_mass");
    if skipped > 0.0 {
        parts.push(format!("{} left out", format::percent(skipped)));
    }
    parts.join(", ")
}

/// The model's own choice, its experts at full precision, whoever was not used for longest goes.
fn is_lru(row: &Value) -> bool {
    let is = |key: &str, part: &str| row[key] == part;
    is("select", "raw") && is("residency", "lru") && is("prefetch", "none")
}

/// Whether the model computes what it would have.
fn is_free(row: &Value) -> bool {
    let none = |key: &str| number(row, key) == 0.0;
    none("mass_loss") && none("skipped_mass") && number(row, "full_precision") == 1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(strategy: &str, time_us: Option<f64>, stalls: f64, loss: f64) -> Value {
        let (select, residency) = if strategy == "raw" { ("raw", "lru") } else { ("other", "tracked") };
        json!({
            "strategy": strategy, "select": select, "residency": residency, "prefetch": "none", "stall_rate": stalls,
            "miss_rate": stalls, "token_time_us": time_us, "mass_loss": loss, "full_precision": 1.0,
            "skipped_mass": 0.0, "sees_future": strategy == "belady",
        })
    }

    #[test]
    fn the_best_is_named_with_its_gain_and_price() {
        let rows = [
            row("raw", Some(200.0), 0.5, 0.0),
            row("belady", Some(100.0), 0.2, 0.0),
            row("recall", Some(180.0), 0.4, 0.0),
            row("bounded", Some(150.0), 0.3, 0.02),
        ];
        assert_eq!(
            sentence(&rows).unwrap(),
            "Of 3 strategies that a system can run, bounded is the fastest: 150 µs a token (25.0% less than LRU, \
             stalls 30.0% against 50.0%), 2.00% of the routing mass lost; of those that change nothing of the model, \
             recall with 180 µs a token (10.0% less than LRU, stalls 40.0% against 50.0%)."
        );
        assert_eq!(
            brief(&rows[..3]).unwrap(),
            "recall: 180 µs a token (10.0% less than LRU, stalls 40.0% against 50.0%), no routing mass lost"
        );
    }

    #[test]
    fn without_times_stalls_count_and_one_row_is_described() {
        let rows = [row("raw", None, 0.5, 0.0), row("recall", None, 0.4, 0.0)];
        assert_eq!(
            sentence(&rows).unwrap(),
            "Of 2 strategies that a system can run, recall has the fewest: stalls at 40.0% of the choices \
             (20.0% less than LRU), no routing mass lost."
        );
        assert_eq!(sentence(&rows[..1]).unwrap(), "raw waits for 50.0% of the choices, no routing mass lost.");
        assert_eq!(sentence(&[]), None);
        assert!(sentence(&[row("belady", None, 0.1, 0.0)]).unwrap().starts_with("None of 1"));
    }
}
