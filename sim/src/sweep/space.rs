//! Parameters, and the values that a search gives them.

use fastrand::Rng;
use serde::Deserialize;
use serde_json::Value;

use super::MOST_POINTS;
use cptr_trace::error::{Error, Result};

/// Digits that a value between two ends is rounded to, so that a command with it can be read.
const DIGITS: usize = 6;

/// How values are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Every value of a parameter with every value of all others.
    Grid,
    /// Every value drawn by itself, all alike.
    Random,
    /// As many equal parts of every parameter as there are points, and one point in each part of each parameter.
    LatinHypercube,
}

/// The table `[search]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Search {
    pub(super) method: Method,
    /// Points to draw; none of a grid, which says itself how many it has.
    pub(super) points: Option<usize>,
    #[serde(default)]
    pub(super) seed: u64,
}

/// The values that a parameter may have.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Values {
    /// One of these.
    List(Vec<Value>),
    /// A number from one end to the other.
    Range(Range),
}

/// Numbers between two ends, the ends among them.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Range {
    from: f64,
    to: f64,
    /// Values of a grid.
    steps: Option<usize>,
    /// Whether equal steps are equal factors.
    #[serde(default)]
    log: bool,
    /// Whether only whole numbers are meant.
    #[serde(default)]
    whole: bool,
}

/// One parameter.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) values: Values,
}

impl Parameter {
    /// From what the file has under its name: a list, or a table with `from` and `to`.
    pub(super) fn new(name: &str, value: Value) -> Result<Self> {
        let wrong = |what: String| Error::new(format!("parameters.{name}: {what}"));
        let proper = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if name.is_empty() || !name.chars().all(proper) {
            return Err(wrong("expected a name of letters, digits, - and _".into()));
        }
        let values = match value {
            Value::Array(list) if list.is_empty() => return Err(wrong("expected a value at least, found none".into())),
            Value::Array(list) => {
                if let Some(other) = list.iter().find(|value| value.is_array() || value.is_object()) {
                    return Err(wrong(format!("expected numbers, texts, true or false, found {other}")));
                }
                Values::List(list)
            }
            table @ Value::Object(_) => {
                let range: Range = serde_json::from_value(table).map_err(|error| wrong(error.to_string()))?;
                range.check().map_err(wrong)?;
                Values::Range(range)
            }
            other => {
                return Err(wrong(format!("expected a list of values, or a table with from and to, found {other}")));
            }
        };
        Ok(Self { name: name.into(), values })
    }

    /// Values of a grid.
    fn steps(&self) -> Result<usize> {
        match &self.values {
            Values::List(list) => Ok(list.len()),
            Values::Range(range) => range.steps.ok_or_else(|| {
                Error::new(format!("parameters.{}: expected steps, of which a grid has to know how many", self.name))
            }),
        }
    }

    /// The value of a step of a grid.
    fn at_step(&self, step: usize) -> Value {
        match &self.values {
            Values::List(list) => list[step].clone(),
            Values::Range(range) => {
                let last = range.steps.unwrap_or(1).saturating_sub(1).max(1);
                range.at(step as f64 / last as f64)
            }
        }
    }

    /// The value at a share of all, from 0 to less than 1.
    fn at_share(&self, share: f64) -> Value {
        match &self.values {
            Values::List(list) => list[((share * list.len() as f64) as usize).min(list.len() - 1)].clone(),
            // Whole numbers have equal parts, the ends too.
            Values::Range(range) if range.whole && !range.log => {
                let wide = range.from.round() + (share * (range.to.round() - range.from.round() + 1.0)).floor();
                number(wide.min(range.to.round()), true)
            }
            Values::Range(range) => range.at(share),
        }
    }
}

impl Range {
    fn check(&self) -> std::result::Result<(), String> {
        let Self { from, to, steps, log, whole } = *self;
        if !(from.is_finite() && to.is_finite() && from < to) {
            return Err(format!("expected from below to, found {from} and {to}"));
        }
        if log && from <= 0.0 {
            return Err(format!("expected from above 0 for log, found {from}"));
        }
        if steps.is_some_and(|steps| !(2..=MOST_POINTS).contains(&steps)) {
            return Err(format!("expected 2 to {MOST_POINTS} steps, found {}", steps.unwrap_or(0)));
        }
        // Larger ones have no whole number beside each.
        if whole && (from.abs().max(to.abs()) > 1e15 || from.fract() != 0.0 || to.fract() != 0.0) {
            return Err(format!("expected whole ends, found {from} and {to}"));
        }
        Ok(())
    }

    /// The value at a share of the way.
    fn at(&self, share: f64) -> Value {
        let Self { from, to, log, whole, .. } = *self;
        let exact = match share {
            0.0 => from,
            1.0 => to,
            _ if log => rounded((from.ln() + share * (to.ln() - from.ln())).exp()),
            _ => rounded(from + share * (to - from)),
        };
        number(exact.clamp(from, to), whole)
    }
}

/// The number nearest to `value` that has a few digits.
fn rounded(value: f64) -> f64 {
    format!("{value:.*e}", DIGITS - 1).parse().unwrap_or(value)
}

fn number(value: f64, whole: bool) -> Value {
    if whole { (value.round() as i64).into() } else { value.into() }
}

/// All draws of a search.
#[derive(Debug, Clone)]
pub(super) struct Draws {
    method: Method,
    seed: u64,
    /// How many.
    pub(super) count: usize,
    /// Values of each parameter, of a grid.
    steps: Vec<usize>,
    /// Of a Latin hypercube: the part of each parameter that a draw is in.
    parts: Vec<Vec<u32>>,
}

impl Draws {
    /// # Errors
    /// Too many points, or a number of them that the method does not take.
    pub(super) fn new(search: Search, parameters: &[Parameter]) -> Result<Self> {
        let Search { method, points, seed } = search;
        let too_many = |found: String| {
            Error::new(format!(
                "expected at most {MOST_POINTS} points, found {found}: leave some out, or draw at random"
            ))
        };
        let (count, steps) = match (method, points) {
            (Method::Grid, Some(_)) => {
                return Err(Error::new("search.points: expected none of a grid, whose steps say how many it has"));
            }
            (Method::Grid, None) => {
                let steps = parameters.iter().map(Parameter::steps).collect::<Result<Vec<_>>>()?;
                let count = steps.iter().try_fold(1usize, |count, steps| count.checked_mul(*steps));
                let product = || steps.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
                let count = count.filter(|count| *count <= MOST_POINTS);
                (count.ok_or_else(|| too_many(product()))?, steps)
            }
            (_, None | Some(0)) => return Err(Error::new("search.points: expected at least 1")),
            (_, Some(points)) if points > MOST_POINTS => return Err(too_many(points.to_string())),
            (_, Some(points)) => (points, Vec::new()),
        };
        let mut random = Rng::with_seed(seed);
        let part = |_: &Parameter| {
            let mut parts: Vec<u32> = (0..count as u32).collect();
            random.shuffle(&mut parts);
            parts
        };
        let parts = if method == Method::LatinHypercube { parameters.iter().map(part).collect() } else { Vec::new() };
        Ok(Self { method, seed, count, steps, parts })
    }

    /// The values of all parameters in a draw.
    pub(super) fn values(&self, draw: usize, parameters: &[Parameter]) -> Vec<Value> {
        // Each draw has numbers of its own, so that one can be had without those before it.
        let mut random = Rng::with_seed(self.seed ^ (draw as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut rest = draw;
        let mut of = |index: usize, parameter: &Parameter| match self.method {
            Method::Grid => {
                let step = rest % self.steps[index];
                rest /= self.steps[index];
                parameter.at_step(step)
            }
            Method::Random => parameter.at_share(random.f64()),
            Method::LatinHypercube => {
                let part = f64::from(self.parts[index][draw]) + random.f64();
                parameter.at_share((part / self.count as f64).min(1.0 - f64::EPSILON))
            }
        };
        // The last parameter changes fastest.
        let mut values: Vec<Value> = parameters.iter().enumerate().rev().map(|(i, p)| of(i, p)).collect();
        values.reverse();
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn parameter(value: Value) -> Parameter {
        Parameter::new("p", value).unwrap()
    }

    fn grid(values: &[Value]) -> Vec<Vec<Value>> {
        let parameters: Vec<_> = values.iter().cloned().map(parameter).collect();
        let draws = Draws::new(Search { method: Method::Grid, points: None, seed: 0 }, &parameters).unwrap();
        (0..draws.count).map(|draw| draws.values(draw, &parameters)).collect()
    }

    #[test]
    fn a_grid_has_every_value_with_every_other() {
        let found = grid(&[json!(["a", "b"]), json!({"from": 0, "to": 0.3, "steps": 4})]);
        assert_eq!(found.len(), 8);
        assert_eq!(
            found[..5],
            [
                vec![json!("a"), json!(0.0)],
                vec![json!("a"), json!(0.1)],
                vec![json!("a"), json!(0.2)],
                vec![json!("a"), json!(0.3)],
                vec![json!("b"), json!(0.0)],
            ]
        );
        let whole: Vec<_> = grid(&[json!({"from": 1, "to": 64, "steps": 4, "log": true, "whole": true})]);
        assert_eq!(whole, [[json!(1)], [json!(4)], [json!(16)], [json!(64)]]);
    }

    #[test]
    fn too_many_points_are_refused_without_making_one() {
        let many = json!({"from": 0, "to": 1, "steps": 1001});
        let parameters = [parameter(many.clone()), parameter(many)];
        let refusal = |search, parameters: &[Parameter]| Draws::new(search, parameters).unwrap_err().to_string();
        let search = |method, points| Search { method, points, seed: 0 };
        let found = refusal(search(Method::Grid, None), &parameters);
        assert!(found.starts_with("expected at most 1000000 points, found 1001 x 1001"), "{found}");
        let huge = vec![parameter(json!({"from": 0, "to": 1, "steps": 1_000_000})); 12];
        assert!(refusal(search(Method::Grid, None), &huge).contains("1000000 x 1000000 x "));
        assert!(refusal(search(Method::Random, Some(1 << 40)), &parameters).contains("found 1099511627776"));
        assert!(refusal(search(Method::Random, None), &parameters).contains("at least 1"));
        assert!(refusal(search(Method::Grid, Some(3)), &parameters).contains("none of a grid"));
        let open = [parameter(json!({"from": 0, "to": 1}))];
        assert!(refusal(search(Method::Grid, None), &open).starts_with("parameters.p: expected steps"));
    }

    #[test]
    fn what_is_no_parameter_is_refused() {
        for (value, expected) in [
            (json!([]), "expected a value at least"),
            (json!([[1]]), "expected numbers, texts, true or false, found [1]"),
            (json!(3), "expected a list of values, or a table with from and to, found 3"),
            (json!({"from": 0}), "missing field `to`"),
            (json!({"from": 0, "to": 1, "step": 3}), "unknown field `step`"),
            (json!({"from": "low", "to": 1}), "invalid type: string \"low\""),
            (json!({"from": 2, "to": 1}), "expected from below to, found 2 and 1"),
            (json!({"from": 0, "to": 1, "log": true}), "expected from above 0 for log"),
            (json!({"from": 0, "to": 1, "steps": 1}), "expected 2 to 1000000 steps, found 1"),
            (json!({"from": 0.5, "to": 1, "whole": true}), "expected whole ends"),
        ] {
            let found = Parameter::new("p", value).unwrap_err().to_string();
            assert!(found.starts_with("parameters.p: ") && found.contains(expected), "{found}");
        }
        assert!(Parameter::new("a b", json!([1])).is_err() && Parameter::new("", json!([1])).is_err());
    }

    proptest! {
        #[test]
        fn a_latin_hypercube_has_one_point_in_each_part(points in 1usize..200, seed in any::<u64>(), most in 1u64..9) {
            let list: Vec<u64> = (0..most).collect();
            let parameters = [parameter(json!({"from": 0, "to": 1})), parameter(json!(list))];
            let search = Search { method: Method::LatinHypercube, points: Some(points), seed };
            let draws = Draws::new(search, &parameters).unwrap();
            let found: Vec<_> = (0..points).map(|draw| draws.values(draw, &parameters)).collect();
            let mut shares: Vec<f64> = found.iter().map(|values| values[0].as_f64().unwrap()).collect();
            shares.sort_by(f64::total_cmp);
            for (part, share) in shares.iter().enumerate() {
                // Six digits may round a value up to the next part.
                let (low, high) = (part as f64 / points as f64, (part + 1) as f64 / points as f64);
                prop_assert!((low - 1e-6..=high + 1e-6).contains(share), "{shares:?}");
            }
            let mut counts = vec![0; list.len()];
            found.iter().for_each(|values| counts[values[1].as_u64().unwrap() as usize] += 1);
            // A part may lie across the border of two values.
            let (low, high) = ((points / list.len()).saturating_sub(1), points.div_ceil(list.len()) + 1);
            prop_assert!(counts.iter().all(|count| (low..=high).contains(count)), "{counts:?}");
            // Drawn again, in any order, they are the same.
            prop_assert_eq!(draws.values(points - 1, &parameters), found[points - 1].clone());
        }

        #[test]
        fn values_lie_between_the_ends(
            from in -1e6f64..1e6,
            wide in 1e-3f64..1e6,
            seed in any::<u64>(),
            whole in any::<bool>(),
            log in any::<bool>(),
        ) {
            let (from, wide) = if whole { (from.round(), wide.ceil()) } else { (from, wide) };
            let from = if log { from.abs() + 1.0 } else { from };
            let to = from + wide;
            let parameters = [parameter(json!({"from": from, "to": to, "whole": whole, "log": log}))];
            let search = Search { method: Method::Random, points: Some(50), seed };
            let draws = Draws::new(search, &parameters).unwrap();
            for draw in 0..50 {
                let value = &draws.values(draw, &parameters)[0];
                prop_assert!((from..=to).contains(&value.as_f64().unwrap()) && value.is_i64() == whole, "{value}");
            }
        }
    }
}
