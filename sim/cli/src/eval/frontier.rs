//! Misses at the same price: the rows of a policy as a curve, and curves against each other.

use serde::Serialize;

use super::outcome::Row;

/// Changes of perplexity at which curves are compared.
const CHANGES: [f64; 3] = [0.0025, 0.005, 0.01];
/// Divergences, in nats per token, at which they are compared. A change of perplexity is a difference of large numbers and can come out on
/// either side of 0; the divergence adds up every deviation, so it tells settings apart that perplexity cannot.
const DIVERGENCES: [f64; 3] = [0.005, 0.01, 0.02];

/// What is paid for fewer misses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Price {
    /// Relative change of perplexity; what comes out below 0 costs nothing.
    PerplexityChange,
    /// Divergence in nats per token.
    DivergenceNats,
}

impl Price {
    fn of(self, row: &Row) -> f64 {
        match self {
            Self::PerplexityChange => row.perplexity_change.max(0.0),
            Self::DivergenceNats => row.divergence_nats,
        }
    }
}

/// A setting of a policy on its curve.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    price: f64,
    misses: f64,
}

/// What one policy with one placement reaches at a price.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// Policy without its parameters.
    pub policy: String,
    /// Placement without its parameters.
    pub placement: String,
    /// What is paid.
    pub price: Price,
    /// How much of it.
    pub paid: f64,
    /// Miss rate, between the two nearest settings on the curve.
    pub miss_rate: f64,
    /// Share of the misses of the raw router with LRU that are gone.
    pub fewer_than_raw: f64,
    /// Share of cache-prior's misses that are gone; `None` without a curve of cache-prior with LRU.
    pub fewer_than_cache_prior: Option<f64>,
}

/// The curve of a policy and placement, named without their parameters: cheaper settings first, without those that cost more and miss
/// more than another. The raw router with the same placement is its beginning.
fn points(rows: &[Row], policy: &str, placement: &str, price: Price) -> Vec<Point> {
    let is = |text: &str, name: &str| text.split(':').next() == Some(name);
    let mut points: Vec<Point> = rows
        .iter()
        .filter(|row| (is(&row.policy, policy) || is(&row.policy, "raw")) && is(&row.placement, placement))
        .map(|row| Point { price: price.of(row), misses: row.miss_rate })
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

/// Every curve of at least two settings at every price that it reaches.
pub(super) fn verdicts(rows: &[Row]) -> Vec<Verdict> {
    let name = |text: &str| text.split(':').next().unwrap_or_default().to_owned();
    let Some(raw) = rows.first().map(|row| row.miss_rate) else { return Vec::new() };
    // Fewer bits have a price of their own.
    let rows: Vec<Row> = rows.iter().filter(|row| row.mean_bits == 0.0).cloned().collect();
    let rows = rows.as_slice();
    let mut pairs: Vec<(String, String)> = Vec::new();
    for row in rows.iter().filter(|row| name(&row.policy) != "raw") {
        let pair = (name(&row.policy), name(&row.placement));
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    let prices = CHANGES.map(|paid| (Price::PerplexityChange, paid)).into_iter();
    let mut verdicts = Vec::new();
    for (price, paid) in prices.chain(DIVERGENCES.map(|paid| (Price::DivergenceNats, paid))) {
        let cache_prior = at(&points(rows, "cache-prior", "lru", price), paid);
        for (policy, placement) in &pairs {
            let Some(miss_rate) = at(&points(rows, policy, placement, price), paid) else { continue };
            verdicts.push(Verdict {
                policy: policy.clone(),
                placement: placement.clone(),
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
