//! What a fit says, as rows.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::paper::{Hypothesis, number, shown};

/// The value of a parameter.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Setting {
    /// A number.
    Number(f64),
    /// A name.
    Name(String),
}

impl Setting {
    pub(super) fn of(value: &toml::Value) -> Self {
        number(value).map_or_else(|| Self::Name(shown(value)), Self::Number)
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => f.write_str(&short(*number)),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A number with four digits.
#[must_use]
pub fn short(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let digits = (3 - value.abs().log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

/// What the fit says of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Within its error.
    In,
    /// Not.
    Out,
    /// The model has no quantity for it, or it alone says what the model has for it: agreement means nothing.
    NotIdentifiable,
}

/// What the fit says of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Known {
    /// Both ends of its interval lie inside its range; one value of a list is possible.
    Identified,
    /// One end of its interval is the end of its range; some values of a list are possible.
    Partly,
    /// It can be anything in its range.
    WholeRange,
    /// No figure depends on it.
    NoInfluence,
}

impl Known {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Identified => "identified",
            Self::Partly => "partly",
            Self::WholeRange => "whole range",
            Self::NoInfluence => "no influence",
        }
    }
}

impl Verdict {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
            Self::NotIdentifiable => "not identifiable",
        }
    }
}

/// A published figure and what the fit has for it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FigureRow {
    /// In words.
    pub figure: String,
    /// Its unit; empty for ratios.
    pub unit: String,
    /// As published; both the same where it is one value.
    pub published_low: f64,
    /// Upper end.
    pub published_high: f64,
    /// One standard deviation, of 1.
    pub error: Option<f64>,
    /// The machine, before any fit.
    pub unfitted: Option<f64>,
    /// The best fit.
    pub fitted: Option<f64>,
    /// Relative difference to the published value, or to the nearer end of its range.
    pub off: Option<f64>,
    /// The same in standard deviations.
    pub off_sigma: Option<f64>,
    /// What the best fit to the others predicts.
    pub left_out: Option<f64>,
    /// Lower end of that, 95 %.
    pub left_out_low: Option<f64>,
    /// Upper end.
    pub left_out_high: Option<f64>,
    /// Least that the model can give, whatever the parameters.
    pub reachable_low: Option<f64>,
    /// Greatest.
    pub reachable_high: Option<f64>,
    /// In, out, or neither.
    pub verdict: Verdict,
    /// Whether it was fitted, or only compared because it follows from others.
    pub counted: bool,
    /// Why it is not identifiable, or what it follows from.
    pub reason: String,
    /// Where it is published.
    pub source: String,
}

/// A parameter that the paper does not give.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ParameterRow {
    /// Its name.
    pub name: String,
    /// Its unit; empty where it has none.
    pub unit: String,
    /// Best value.
    pub best: Setting,
    /// What it can be, 95 %: possible values, or two ends.
    pub interval: Vec<Setting>,
    /// What it was allowed to be.
    pub range: Vec<Setting>,
    /// Whether it has a list of values, or a range.
    pub listed: bool,
    /// How far it is known.
    pub verdict: Known,
    /// What it is.
    pub why: String,
}

/// Two parameters that cannot be told apart: the interval of the second is more than halved if the first is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trade {
    /// If this were known,
    pub known: String,
    /// this would be.
    pub then: String,
}

/// What a parameter with a list would need the others to be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ValueRow {
    /// The parameter.
    pub name: String,
    /// Its value.
    pub value: Setting,
    /// Chi squared of the best fit with it.
    pub chi2: f64,
    /// Whether that is within 3.84 of the least.
    pub possible: bool,
    /// The other parameters there.
    pub others: BTreeMap<String, Setting>,
}

/// A hypothesis tested.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HypothesisRow {
    /// The statement and what it says.
    #[serde(flatten)]
    pub hypothesis: Hypothesis,
    /// Chi squared of the best fit with it.
    pub chi2: f64,
    /// Of the best fit without it.
    pub chi2_without: f64,
    /// Whether it is within 3.84 of the best fit.
    pub possible: bool,
    /// Whether nothing else is.
    pub only: bool,
}

/// A mean layer behind a rate, in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerRow {
    /// The rate.
    pub figure: String,
    /// Bits near the data.
    pub bits: Option<u8>,
    /// What the published rate stands for.
    pub published_us: f64,
    /// The machine.
    pub unfitted_us: f64,
    /// The fit,
    pub fitted_us: f64,
    /// of that the modelled machine,
    pub machine_us: f64,
    /// the dispatch,
    pub dispatch_us: f64,
    /// copies that the strategy does not say,
    pub copies_us: f64,
    /// and the constant.
    pub constant_us: f64,
}

/// A fit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fitted {
    /// Figures in the paper's order.
    pub figures: Vec<FigureRow>,
    /// Parameters in the file's order.
    pub parameters: Vec<ParameterRow>,
    /// Pairs that cannot be told apart.
    pub trades: Vec<Trade>,
    /// Every value of every list.
    pub values: Vec<ValueRow>,
    /// Hypotheses.
    pub hypotheses: Vec<HypothesisRow>,
    /// Layers behind the rates.
    pub layers: Vec<LayerRow>,
    /// Chi squared of the best fit.
    pub chi2: f64,
    /// Single values that were fitted.
    pub fitted_values: usize,
    /// Ranges that were fitted.
    pub fitted_ranges: usize,
    /// Parameters on which a fitted figure depends.
    pub used_parameters: usize,
    /// Values less parameters; below 1 nothing is left to contradict the fit.
    pub degrees_of_freedom: i64,
}
