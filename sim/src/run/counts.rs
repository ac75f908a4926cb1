//! What can be said of counts without token order: how much a fixed choice of resident experts would miss. Nothing else: no switches,
//! no times, as these depend on the order of tokens.

use serde::Serialize;

use cptr_trace::counts::{CountTable, Counts};
use cptr_trace::error::{Error, Result};

/// Figures of one count table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CountRow {
    /// Name of the table.
    pub table: String,
    /// Always `raw`: counts are the model's own choices.
    pub policy: &'static str,
    /// Always `static`: the most frequent experts of each layer are resident from the start.
    pub placement: &'static str,
    /// Experts per layer in fast memory.
    pub cache: usize,
    /// Share of the choices that are not resident, mean over layers.
    pub miss_rate: f64,
    /// The same share if all experts were equally frequent.
    pub miss_rate_uniform: f64,
}

/// Runs every table with `cache` resident experts per layer, or twice the active ones (a quarter of all where k is unknown).
///
/// # Errors
/// A cache of no or of more experts than a layer has.
pub fn run(counts: &Counts, cache: Option<usize>) -> Result<Vec<CountRow>> {
    counts.tables.iter().map(|table| row(table, cache)).collect()
}

fn row(table: &CountTable, cache: Option<usize>) -> Result<CountRow> {
    let experts = table.counts.first().map_or(0, Vec::len);
    let default = if table.k > 0 { 2 * table.k } else { experts / 4 };
    let cache = cache.unwrap_or_else(|| default.clamp(1, experts.max(1)));
    if cache == 0 || cache > experts {
        return Err(Error::new(format!(
            "--cache: expected 1 to {experts} experts per layer for {}, found {cache}",
            table.name
        )));
    }
    let missed = table.counts.iter().map(|layer| {
        let mut sorted = layer.clone();
        sorted.sort_unstable();
        let all: u64 = sorted.iter().sum();
        let cold: u64 = sorted[..experts - cache].iter().sum();
        if all == 0 { 0.0 } else { cold as f64 / all as f64 }
    });
    Ok(CountRow {
        table: table.name.clone(),
        policy: "raw",
        placement: "static",
        cache,
        miss_rate: missed.sum::<f64>() / table.counts.len() as f64,
        miss_rate_uniform: 1.0 - cache as f64 / experts as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!((rows[0].cache, rows[0].miss_rate, rows[0].miss_rate_uniform), (2, 0.15, 0.5));
        assert!(run(&counts, Some(5)).is_err() && run(&counts, Some(0)).is_err());
    }
}
