//! Misses at the same price: the rows of a policy as a curve, and curves against each other.

use serde::Serialize;

use super::outcome::Row;

/// Changes of perplexity at which curves are compared.
const PRICES: [f64; 3] = [0.0025, 0.005, 0.01];

/// A setting of a policy on its curve.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    /// Relative change of perplexity.
    price: f64,
    /// Miss rate.
    misses: f64,
}

/// What one policy with one placement reaches at a price.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// Policy without its parameters.
    pub policy: String,
    /// Placement without its parameters.
    pub placement: String,
    /// Relative change of perplexity.
    pub perplexity_change: f64,
    /// Miss rate, between the two nearest settings on the curve.
    pub miss_rate: f64,
    /// Share of the misses of the raw router with LRU that are gone.
    pub fewer_than_raw: f64,
    /// Share of cache-prior's misses that are gone; `None` without a curve of cache-prior with LRU.
    pub fewer_than_cache_prior: Option<f64>,
}

/// The curve of a policy and placement, named without their parameters: cheaper settings first, without those that cost more and miss
/// more than another. The raw router with the same placement is its beginning.
fn points(rows: &[Row], policy: &str, placement: &str) -> Vec<Point> {
    let is = |text: &str, name: &str| text.split(':').next() == Some(name);
    let mut points: Vec<Point> = rows
        .iter()
        .filter(|row| (is(&row.policy, policy) || is(&row.policy, "raw")) && is(&row.placement, placement))
        .map(|row| Point { price: row.perplexity_change.max(0.0), misses: row.miss_rate })
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
    let mut pairs: Vec<(String, String)> = Vec::new();
    for row in rows.iter().filter(|row| name(&row.policy) != "raw") {
        let pair = (name(&row.policy), name(&row.placement));
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    let cache_prior = points(rows, "cache-prior", "lru");
    let mut verdicts = Vec::new();
    for price in PRICES {
        for (policy, placement) in &pairs {
            let Some(miss_rate) = at(&points(rows, policy, placement), price) else { continue };
            verdicts.push(Verdict {
                policy: policy.clone(),
                placement: placement.clone(),
                perplexity_change: price,
                miss_rate,
                fewer_than_raw: 1.0 - miss_rate / raw,
                fewer_than_cache_prior: at(&cache_prior, price).map(|other| 1.0 - miss_rate / other),
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
