//! What can be said of counts without token order: how much a fixed choice of resident experts would miss. Nothing
//! else: no switches, no times, as these depend on the order of tokens.
//!
//! ```
//! use cptr_sim::replay::counts;
//! use cptr_trace::counts::{CountTable, Counts};
//!
//! let table =
//!     CountTable { name: "a".into(), model: String::new(), k: 1, layer_ids: vec![0], counts: vec![vec![1, 5, 2, 2]] };
//! let rows = counts::run(&Counts { tables: vec![table], ..Counts::default() }, Some(2))?;
//! assert_eq!(rows[0].miss_rate, 0.3);
//! # Ok::<(), cptr_trace::Error>(())
//! ```

use serde::Serialize;

use cptr_trace::counts::{CountTable, Counts};
use cptr_trace::error::{Error, Result};

/// Figures of one count table: the strategy `raw+once` with the whole recording as its prompt, in closed form.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CountRow {
    /// Name of the table.
    pub table: String,
    /// Always `raw`: counts are the model's own choices.
    pub select: &'static str,
    /// Always `once`: the most frequent experts of each layer are resident from the start.
    pub residency: &'static str,
    /// Experts per layer in fast memory.
    pub resident: usize,
    /// Share of the choices that are not resident, mean over layers.
    pub miss_rate: f64,
    /// The same share if all experts were equally frequent.
    pub miss_rate_uniform: f64,
}

/// Runs every table with so many resident experts per layer, or twice the active ones (a quarter of all where k is
/// unknown).
///
/// # Errors
/// None or more resident experts than a layer has.
pub fn run(counts: &Counts, resident: Option<usize>) -> Result<Vec<CountRow>> {
    counts.tables.iter().map(|table| row(table, resident)).collect()
}

fn row(table: &CountTable, resident: Option<usize>) -> Result<CountRow> {
    let experts = table.counts.first().map_or(0, Vec::len);
    let default = if table.k > 0 { 2 * table.k } else { experts / 4 };
    let resident = resident.unwrap_or_else(|| default.clamp(1, experts.max(1)));
    if resident == 0 || resident > experts {
        return Err(Error::new(format!(
            "--resident: expected 1 to {experts} experts per layer for {}, found {resident}",
            table.name
        )));
    }
    let missed = table.counts.iter().map(|layer| {
        let mut sorted = layer.clone();
        sorted.sort_unstable();
        let all: u64 = sorted.iter().sum();
        let cold: u64 = sorted[..experts - resident].iter().sum();
        if all == 0 { 0.0 } else { cold as f64 / all as f64 }
    });
    Ok(CountRow {
        table: table.name.clone(),
        select: "raw",
        residency: "once",
        resident,
        miss_rate: missed.sum::<f64>() / table.counts.len() as f64,
        miss_rate_uniform: 1.0 - resident as f64 / experts as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::{Budget, Plan};
    use crate::strategy::Strategy;
    use cptr_trace::{Shape, Trace};

    #[test]
    fn misses_what_is_not_among_the_most_frequent() {
        let table = CountTable {
            name: "a".into(),
            model: String::new(),
            k: 1,
            layer_ids: vec![0, 1],
            counts: vec![vec![1, 5, 2, 2], vec![10, 0, 0, 0]],
        };
        let counts = Counts { tables: vec![table], ..Counts::default() };
        let rows = run(&counts, None).unwrap();
        assert_eq!((rows[0].resident, rows[0].miss_rate, rows[0].miss_rate_uniform), (2, 0.15, 0.5));
        assert!(run(&counts, Some(5)).is_err() && run(&counts, Some(0)).is_err());
    }

    /// The closed form is what the loop finds: the same counts as a trace, once as the prompt and once behind it.
    #[test]
    fn is_the_loop_in_closed_form() {
        let ids: Vec<u16> = [0, 1, 1, 1, 1, 1, 2, 2, 3, 3].repeat(2);
        let trace = Trace::of_ids(Shape { tokens: 20, layers: 1, experts: 4, k: 1 }, ids);
        let strategies = Strategy::parse_list("once").unwrap();
        let plan = Plan { strategies, prefill: 10, ..Plan::new(Budget::Experts(2)) };
        assert_eq!(crate::replay::run(&trace, &plan).unwrap().rows[0].miss_rate, 0.3);
    }
}
