//! A paper as a file: what it gives, what it does not, and every figure that it publishes.
//!
//! `data/papers/ctx-aware.toml` explains every field. A new paper is one such file and one line in [`NAMES`]; a file
//! of one's own is read by [`Paper::from_toml`].

use std::collections::BTreeMap;

use cptr_hw_model::{Model, System};
use cptr_trace::error::{Error, Result};
use cptr_trace::generate::mixtral::LIKE;
use serde::{Deserialize, Serialize};

use crate::strategy::Strategy;

/// Papers that come with the crate: name and file.
const PAPERS: [(&str, &str); 4] = [
    ("ctx-aware", include_str!("../../../data/papers/ctx-aware.toml")),
    ("monde", include_str!("../../../data/papers/monde.toml")),
    ("dynande", include_str!("../../../data/papers/dynande.toml")),
    ("cxl-pnm", include_str!("../../../data/papers/cxl-pnm.toml")),
];

/// A paper.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paper {
    /// As given on the command line.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// Where it is published.
    pub source: String,
    /// The shipped machine that the free parameters change.
    pub system: String,
    /// What is otherwise than in the shipped machine, by path.
    #[serde(default)]
    pub set: BTreeMap<String, toml::Value>,
    /// Tokens of a prompt.
    #[serde(default)]
    pub prompt: usize,
    /// Tokens of an answer.
    #[serde(default)]
    pub answer: usize,
    /// Models that figures are of.
    #[serde(default, rename = "model")]
    pub models: Vec<Decoded>,
    /// Systems that figures are of.
    #[serde(default, rename = "strategy")]
    pub strategies: Vec<Named>,
    /// What the paper does not give.
    #[serde(default, rename = "free")]
    pub parameters: Vec<Parameter>,
    /// Statements about a parameter that the fit tests.
    #[serde(default, rename = "hypothesis")]
    pub hypotheses: Vec<Hypothesis>,
    /// What it publishes.
    #[serde(rename = "figure")]
    pub figures: Vec<Figure>,
}

/// A model and how it is decoded.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decoded {
    /// Its name in the table of sizes.
    pub name: String,
    /// Layers with experts.
    pub layers: usize,
    /// Experts a layer that a strategy with `holds = 1` keeps in GPU memory.
    pub resident: usize,
    /// Whose routing is imitated, a name of `cptr gen --like`.
    pub like: String,
}

/// A system by its strategy.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Name in the file.
    pub name: String,
    /// The strategy; `{bits}` stands for the bits of the figure.
    pub text: String,
    /// Share of the model's `resident` experts that it keeps in GPU memory, where that is no free parameter.
    pub holds: Option<f64>,
    /// Whether what it keeps is copied there after the prompt, which counts in a whole run.
    #[serde(default)]
    pub places: bool,
}

/// A parameter that the paper does not give.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// A path in the machine's file, or one of the names of [`Meaning`].
    pub name: String,
    /// Its unit; empty where it has none.
    #[serde(default)]
    pub unit: String,
    /// What it can be.
    pub values: Option<Vec<toml::Value>>,
    /// Or the lower end of what it can be.
    pub from: Option<f64>,
    /// And the upper end.
    pub to: Option<f64>,
    /// What it is, and why this range.
    pub why: String,
}

/// A statement that the fit tests.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Hypothesis {
    /// The statement.
    pub text: String,
    /// It says that this parameter, which has a list of values,
    pub parameter: String,
    /// has this one.
    pub value: String,
}

/// What a figure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quantity {
    /// Tokens decoded per second, by all sequences of a batch.
    TokensPerS,
    /// Those over those of another system.
    Speedup,
    /// Time of a prompt and its answer on another system over that on this one.
    EndToEnd,
    /// Time of an expert near the data at 16 bits over that at fewer.
    NearDataReduction,
    /// Rate of copies over that of copies and the device's memory: what a division by bandwidths sends to the GPU.
    GpuShare,
    /// Rate of the device's memory, GB/s.
    PeakGbS,
    /// What this model has no quantity for.
    None,
}

/// A published figure.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// In words.
    pub name: String,
    /// What it is.
    pub quantity: Quantity,
    /// Its unit; empty where it is a ratio.
    #[serde(default)]
    pub unit: String,
    /// Of which model.
    pub model: Option<String>,
    /// At how many bits near the data.
    pub bits: Option<u8>,
    /// Of which system.
    pub of: Option<String>,
    /// Over which other.
    pub over: Option<String>,
    /// As published.
    pub value: Option<f64>,
    /// Or as the lower end of a range.
    pub low: Option<f64>,
    /// And its upper end.
    pub high: Option<f64>,
    /// One standard deviation, of 1: of reading or rounding and of the model together.
    pub error: Option<f64>,
    /// Where the error comes from.
    #[serde(default)]
    pub why: String,
    /// Where it is published.
    pub source: String,
    /// What other figures it follows from: it is compared and not fitted.
    pub repeats: Option<String>,
    /// Why the model cannot express it.
    pub cannot: Option<String>,
}

/// What a free parameter means.
#[derive(Debug, Clone, PartialEq)]
pub enum Meaning {
    /// `batch`: sequences decoded side by side.
    Batch,
    /// `scale_bits`: bits per weight beside the weights, for scales and zero points of experts at few bits.
    ScaleBits,
    /// `losses`: what experts lose at few bits, so how a strategy that is given an average spreads it: `even` (all the
    /// same bits) or `steep` (as many of the most wanted as possible at 4 bits, the others at 1).
    Losses,
    /// `layer_us`: microseconds of every layer that nothing else explains.
    Layer,
    /// `dispatch_us`: microseconds of every layer with experts near the data, before they start.
    Dispatch,
    /// `STRATEGY.holds`: share of the model's resident experts that a strategy keeps in GPU memory.
    Holds(usize),
    /// `STRATEGY.copied`: share of the experts not in GPU memory and to be run there that are copied; the others run
    /// near the data.
    Copied(usize),
    /// `STRATEGY.copies`: experts that are copied per token and layer beside what the strategy says, and waited for.
    Copies(usize),
    /// A path in the machine's file.
    Machine,
}

impl Meaning {
    /// Whether it has a range and not a list.
    pub(super) fn ranged(&self) -> bool {
        matches!(self, Self::Layer | Self::Dispatch | Self::Copied(_) | Self::Copies(_))
    }
}

impl Paper {
    /// Names of the papers that come with the crate.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PAPERS.iter().map(|(name, _)| *name)
    }

    /// The paper called `name`.
    pub fn find(name: &str) -> Option<Self> {
        let (_, text) = PAPERS.iter().find(|(known, _)| *known == name)?;
        Some(Self::from_toml(text).expect("the shipped files are right: a unit test reads them"))
    }

    /// The paper that a file describes.
    ///
    /// # Errors
    /// Unknown or missing fields, names of nothing, ranges that contradict each other: one sentence.
    pub fn from_toml(text: &str) -> Result<Self> {
        let paper: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
            Error::new(message).at(format!("line {line}"))
        })?;
        paper.validate()?;
        Ok(paper)
    }

    fn validate(&self) -> Result<()> {
        if System::find(&self.system).is_none() {
            let known = System::all().iter().map(|system| system.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(wrong("system", format!("expected one of {known}, found \"{}\"", self.system)));
        }
        unique("model", self.models.iter().map(|model| &model.name))?;
        unique("strategy", self.strategies.iter().map(|strategy| &strategy.name))?;
        unique("free", self.parameters.iter().map(|parameter| &parameter.name))?;
        unique("figure", self.figures.iter().map(|figure| &figure.name))?;
        let lengths = self.prompt >= 1 && (1..=1 << 20).contains(&self.answer);
        if !lengths && !self.models.is_empty() {
            return Err(wrong("prompt and answer", "expected both, as there are models".into()));
        }
        for model in &self.models {
            model.validate().map_err(|error| error.at(format!("model {}", model.name)))?;
        }
        for strategy in &self.strategies {
            let at = format!("strategy {}", strategy.name);
            Strategy::parse(&strategy.text.replace("{bits}", "2")).map_err(|error| error.at(&at))?;
            let free = self.parameters.iter().any(|parameter| parameter.name == format!("{}.holds", strategy.name));
            match strategy.holds {
                Some(_) if free => {
                    return Err(wrong(&at, "holds is given and a free parameter: expected one of both".into()));
                }
                None if !free => {
                    let name = &strategy.name;
                    return Err(wrong(&at, format!("expected holds, or a free parameter {name}.holds")));
                }
                Some(holds) if !(0.0..=8.0).contains(&holds) => {
                    return Err(wrong(&at, format!("holds: expected 0 to 8, found {holds}")));
                }
                _ => {}
            }
        }
        for parameter in &self.parameters {
            self.validate_parameter(parameter).map_err(|error| error.at(format!("free {}", parameter.name)))?;
        }
        for figure in &self.figures {
            self.validate_figure(figure).map_err(|error| error.at(format!("figure \"{}\"", figure.name)))?;
        }
        for hypothesis in &self.hypotheses {
            let at = format!("hypothesis on {}", hypothesis.parameter);
            let of = self.parameters.iter().find(|parameter| parameter.name == hypothesis.parameter);
            let of = of.ok_or_else(|| wrong(&at, "expected a free parameter".into()))?;
            let values = of.values.as_deref().unwrap_or_default();
            if !values.iter().any(|value| shown(value) == hypothesis.value) {
                return Err(wrong(&at, format!("expected one of its values, found \"{}\"", hypothesis.value)));
            }
        }
        Ok(())
    }

    /// What a free parameter means.
    ///
    /// # Errors
    /// A name of nothing.
    pub(super) fn meaning(&self, name: &str) -> Result<Meaning> {
        let strategy = |name: &str| self.strategies.iter().position(|strategy| strategy.name == name);
        Ok(match (name, name.split_once('.')) {
            ("batch", _) => Meaning::Batch,
            ("scale_bits", _) => Meaning::ScaleBits,
            ("losses", _) => Meaning::Losses,
            ("layer_us", _) => Meaning::Layer,
            ("dispatch_us", _) => Meaning::Dispatch,
            (_, Some((of, "holds"))) if strategy(of).is_some() => Meaning::Holds(strategy(of).unwrap_or_default()),
            (_, Some((of, "copies"))) if strategy(of).is_some() => Meaning::Copies(strategy(of).unwrap_or_default()),
            (_, Some((of, "copied"))) if strategy(of).is_some() => Meaning::Copied(strategy(of).unwrap_or_default()),
            (_, Some(("gpu" | "link" | "ndp", _))) => Meaning::Machine,
            _ => {
                return Err(Error::new(
                    "expected batch, scale_bits, losses, layer_us, dispatch_us, STRATEGY.holds, STRATEGY.copied, STRATEGY.copies, or a number of the machine such as link.copy_efficiency",
                ));
            }
        })
    }

    fn validate_parameter(&self, parameter: &Parameter) -> Result<()> {
        let meaning = self.meaning(&parameter.name)?;
        match (&parameter.values, parameter.from, parameter.to) {
            (Some(values), None, None) if !meaning.ranged() => {
                if !(1..=64).contains(&values.len()) {
                    return Err(Error::new(format!("expected 1 to 64 values, found {}", values.len())));
                }
                unique("values", values.iter().map(shown))?;
                values.iter().try_for_each(|value| self.validate_value(&parameter.name, &meaning, value))
            }
            (None, Some(from), Some(to)) if meaning.ranged() => {
                let most = if matches!(meaning, Meaning::Copied(_) | Meaning::Copies(_)) { 1.0 } else { 1e6 };
                if from >= to {
                    return Err(Error::new(format!("expected from below to, found {from} and {to}")));
                }
                if from < 0.0 || to > most {
                    return Err(Error::new(format!("expected a range within 0 to {most}, found {from} to {to}")));
                }
                Ok(())
            }
            _ if meaning.ranged() => Err(Error::new("expected from and to, and no values")),
            _ => Err(Error::new("expected values, and neither from nor to")),
        }
    }

    fn validate_value(&self, name: &str, meaning: &Meaning, value: &toml::Value) -> Result<()> {
        let number = number(value);
        let within = |low: f64, high: f64| match number {
            Some(number) if (low..=high).contains(&number) => Ok(()),
            _ => Err(Error::new(format!("expected {low} to {high}, found {}", shown(value)))),
        };
        match meaning {
            Meaning::Batch => match value.as_integer() {
                Some(1..=16) => Ok(()),
                _ => Err(Error::new(format!("expected 1 to 16 sequences, found {}", shown(value)))),
            },
            Meaning::ScaleBits => within(0.0, 8.0),
            Meaning::Holds(_) => within(0.0, 8.0),
            Meaning::Losses => match value.as_str() {
                Some("even" | "steep") => Ok(()),
                _ => Err(Error::new(format!("expected even or steep, found {}", shown(value)))),
            },
            _ => self.machine(&[(name, value)]).map(|_| ()),
        }
    }

    fn validate_figure(&self, figure: &Figure) -> Result<()> {
        let (low, high) = figure.published()?;
        if !(low > 0.0 && low <= high && high < 1e12) {
            return Err(Error::new(format!("expected a range above 0 that rises, found {low} to {high}")));
        }
        match (figure.quantity, &figure.cannot) {
            (Quantity::None, Some(_)) => return Ok(()),
            (Quantity::None, None) => return Err(Error::new("expected cannot, the reason, as the quantity is none")),
            (_, Some(_)) => return Err(Error::new("cannot is given with a quantity: expected one of both")),
            _ => {}
        }
        let error = figure.error.unwrap_or(f64::NAN);
        if !(1e-4..=1.0).contains(&error) {
            return Err(Error::new("error: expected 0.0001 to 1, one standard deviation as a share of the figure"));
        }
        if let Some(other) = &figure.repeats
            && !self.figures.iter().any(|figure| figure.name == *other && figure.repeats.is_none())
        {
            return Err(Error::new(format!("repeats: expected a figure that repeats none, found \"{other}\"")));
        }
        let model = || match &figure.model {
            Some(name) if self.models.iter().any(|model| model.name == *name) => Ok(()),
            found => Err(Error::new(format!("model: expected one of the file's, found {found:?}"))),
        };
        let strategy = |key: &str, name: &Option<String>| match name {
            Some(name) if self.strategies.iter().any(|strategy| strategy.name == *name) => Ok(()),
            found => Err(Error::new(format!("{key}: expected a strategy of the file, found {found:?}"))),
        };
        let bits = || match figure.bits {
            Some(1..=4 | 16) => Ok(()),
            found => Err(Error::new(format!("bits: expected 1 to 4, or 16, found {found:?}"))),
        };
        match figure.quantity {
            Quantity::TokensPerS => model().and(strategy("of", &figure.of)).and(bits()),
            Quantity::Speedup | Quantity::EndToEnd => {
                model().and(strategy("of", &figure.of)).and(strategy("over", &figure.over)).and(bits())
            }
            Quantity::NearDataReduction => model().and(bits()),
            Quantity::GpuShare | Quantity::PeakGbS | Quantity::None => Ok(()),
        }
    }

    /// The machine with other values at some paths.
    ///
    /// # Errors
    /// A path that leads nowhere, a value that no machine has.
    pub(super) fn machine(&self, changes: &[(&str, &toml::Value)]) -> Result<System> {
        let text = System::file(&self.system).unwrap_or_default();
        let mut file: toml::Table = toml::from_str(text).map_err(|error| Error::new(error.message()))?;
        let set = self.set.iter().map(|(path, value)| (path.as_str(), value));
        for (path, value) in set.chain(changes.iter().copied()) {
            let (folders, key) = path.rsplit_once('.').unwrap_or(("", path));
            let mut table = Some(&mut file);
            for folder in folders.split('.').filter(|folder| !folder.is_empty()) {
                table = table.and_then(|table| table.get_mut(folder)).and_then(toml::Value::as_table_mut);
            }
            match table.and_then(|table| table.get_mut(key)) {
                Some(slot) => *slot = value.clone(),
                None => return Err(Error::new(format!("machine {} has no number {path}", self.system))),
            }
        }
        System::from_toml(&file.to_string()).map_err(|error| Error::new(error.to_string()))
    }
}

impl Decoded {
    fn validate(&self) -> Result<()> {
        if Model::find(&self.name).is_none() {
            return Err(Error::new("expected a model whose sizes are known"));
        }
        if !LIKE.iter().any(|like| like.name == self.like) {
            let known = LIKE.map(|like| like.name).join(", ");
            return Err(Error::new(format!("like: expected one of {known}, found \"{}\"", self.like)));
        }
        if !(1..=1024).contains(&self.layers) || !(1..=8).contains(&self.resident) {
            return Err(Error::new(format!(
                "expected 1 to 1024 layers with 1 to 8 resident experts, found {} and {}",
                self.layers, self.resident
            )));
        }
        Ok(())
    }
}

impl Figure {
    /// Both ends of what is published; the same where it is one value.
    ///
    /// # Errors
    /// Neither a value nor a range, or both.
    pub fn published(&self) -> Result<(f64, f64)> {
        match (self.value, self.low, self.high) {
            (Some(value), None, None) => Ok((value, value)),
            (None, Some(low), Some(high)) => Ok((low, high)),
            _ => Err(Error::new("expected value, or low and high")),
        }
    }
}

/// A value as people write it.
pub(super) fn shown(value: &toml::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), Into::into)
}

/// A value as a number.
pub(super) fn number(value: &toml::Value) -> Option<f64> {
    value.as_float().or_else(|| value.as_integer().map(|number| number as f64))
}

fn wrong(place: &str, message: String) -> Error {
    Error::new(message).at(place)
}

fn unique(what: &str, names: impl Iterator<Item = impl AsRef<str>>) -> Result<()> {
    let mut names: Vec<String> = names.map(|name| name.as_ref().into()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(wrong(what, format!("\"{}\" is there twice", pair[0]))),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "paper_tests.rs"]
mod tests;
