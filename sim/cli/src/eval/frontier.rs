//! Misses at the same price: the rows of a selection as a curve, and curves against each other.

use serde::Serialize;

use super::outcome::Row;

/// Changes of perplexity at which curves are compared.
const CHANGES: [f64; 3] = [0.0025, 0.005, 0.01];
/// Divergences, in nats per token, at which they are compared. A change of perplexity is a difference of large numbers
/// and can come out on either side of 0; the divergence adds up every deviation, so it tells settings apart that
/// perplexity cannot.
const DIVERGENCES: [f64; 3] = [0.005, 0.01, 0.02];

/// What is paid for fewer misses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Price {
    /// Relative change of perplexity; what comes out below 0 costs nothing.
    PerplexityChange,
    /// Divergence in nats per token.
    Divergence,
}

impl Price {
    fn of(self, row: &Row) -> f64 {
        match self {
            Self::PerplexityChange => row.perplexity_change.max(0.0),
            Self::Divergence => row.divergence,
        }
    }
}

/// A setting of a selection on its curve.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    price: f64,
    misses: f64,
}

/// What one selection with one residency reaches at a price.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Verdict {
    /// Selection without its parameters.
    pub(crate) select: String,
    /// Residency without its parameters.
    pub(crate) residency: String,
    /// What is paid.
    pub(crate) price: Price,
    /// How much of it.
    pub(crate) paid: f64,
    /// Miss rate, between the two nearest settings on the curve.
    pub(crate) miss_rate: f64,
    /// Share of the misses of the raw router with LRU that are gone.
    pub(crate) fewer_than_raw: f64,
    /// Share of cache-prior's misses that are gone; `None` without a curve of cache-prior with LRU.
    pub(crate) fewer_than_cache_prior: Option<f64>,
}

/// The curve of a selection and residency, named without their parameters: cheaper settings first, without those that
/// cost more and miss more than another. The raw router with the same residency is its beginning.
fn points(rows: &[Row], select: &str, residency: &str, price: Price) -> Vec<Point> {
    let is = |text: &str, name: &str| text.split(':').next() == Some(name);
    let mut points: Vec<Point> = rows
        .iter()
        .filter(|row| (is(&row.run.select, select) || is(&row.run.select, "raw")) && is(&row.run.residency, residency))
        .map(|row| Point { price: price.of(row), misses: row.run.miss_rate })
        .collect();
    points.sort_by(|a, b| a.price.total_cmp(&b.price).then(a.misses.total_cmp(&b.misses)));
    let mut fewest = f64::INFINITY;
    points.retain(|point| {
        let better = point.misses < fewest;
        fewest = fewest.min(point.misses);
        better
    });
    points
}

/// Miss rate at `price`, on the straight line between the settings on both sides; `None` beyond the last one.
fn at(points: &[Point], price: f64) -> Option<f64> {
    let after = points.iter().position(|point| point.price >= price)?;
    let end = points[after];
    let Some(start) = after.checked_sub(1).map(|before| points[before]) else {
        return (end.price == price).then_some(end.misses);
    };
    let share = (price - start.price) / (end.price - start.price);
    Some(start.misses + share * (end.misses - start.misses))
}

/// Every curve of at least two settings at every price that it reaches; the first row is the raw router with LRU.
pub(crate) fn verdicts(rows: &[Row]) -> Vec<Verdict> {
    let name = |text: &str| text.split(':').next().unwrap_or_default().to_owned();
    let Some(raw) = rows.first().map(|row| row.run.miss_rate) else { return Vec::new() };
    // Fewer bits have a price of their own.
    let rows: Vec<Row> = rows.iter().filter(|row| row.run.full_precision == 1.0).cloned().collect();
    let rows = rows.as_slice();
    let mut pairs: Vec<(String, String)> = Vec::new();
    for row in rows.iter().filter(|row| name(&row.run.select) != "raw") {
        let pair = (name(&row.run.select), name(&row.run.residency));
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    let prices = CHANGES.map(|paid| (Price::PerplexityChange, paid)).into_iter();
    let mut verdicts = Vec::new();
    for (price, paid) in prices.chain(DIVERGENCES.map(|paid| (Price::Divergence, paid))) {
        let cache_prior = at(&points(rows, "cache-prior", "lru", price), paid);
        for (select, residency) in &pairs {
            let Some(miss_rate) = at(&points(rows, select, residency, price), paid) else { continue };
            verdicts.push(Verdict {
                select: select.clone(),
                residency: residency.clone(),
                price,
                paid,
                miss_rate,
                fewer_than_raw: 1.0 - miss_rate / raw,
                fewer_than_cache_prior: cache_prior.map(|other| 1.0 - miss_rate / other),
            });
        }
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_two_settings_is_a_line() {
        let points = [Point { price: 0.0, misses: 0.5 }, Point { price: 0.01, misses: 0.3 }];
        assert_eq!(at(&points, 0.0), Some(0.5));
        assert!((at(&points, 0.005).unwrap() - 0.4).abs() < 1e-12);
        assert_eq!(at(&points, 0.02), None);
        assert_eq!(at(&points[1..], 0.005), None);
    }
}
