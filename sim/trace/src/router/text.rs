//! The text form of a router.

use std::fmt;
use std::str::FromStr;

use super::{BiasPlace, Count, Rating, Router, Score};
use crate::error::{Error, Result};

/// Names of the scores, as the text form begins with them.
const SCORES: [(&str, Score); 6] = [
    ("unknown", Score::Unknown),
    ("softmax-all", Score::SoftmaxAll),
    ("softmax-selected", Score::SoftmaxSelected),
    ("sigmoid", Score::Sigmoid),
    ("sqrt-softplus", Score::SqrtSoftplus),
    ("sparse-mixer", Score::SparseMixer { jitter: JITTER }),
];
/// PhiMoE's `router_jitter_noise`.
const JITTER: f32 = 0.01;

impl fmt::Display for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = Self::new(self.score);
        let same = |score: &Score| std::mem::discriminant(score) == std::mem::discriminant(&self.score);
        let (name, _) = SCORES.iter().find(|(_, score)| same(score)).unwrap_or(&SCORES[0]);
        f.write_str(name)?;
        // A sigmoid has always been written with its groups.
        if self.groups > 1 || self.score == Score::Sigmoid {
            write!(f, ":{}:{}", self.groups, self.top_groups)?;
        }
        if self.groups > 1 && self.rating != usual.rating {
            f.write_str(if self.rating == Rating::Best { ":rating=best" } else { ":rating=two" })?;
        }
        if let Score::SparseMixer { jitter } = self.score {
            write!(f, ":jitter={jitter}")?;
        }
        match self.bias {
            BiasPlace::Selection => {}
            BiasPlace::SelectionLogits => f.write_str(":bias=choice")?,
            BiasPlace::Logits => f.write_str(":bias=logits")?,
        }
        if self.renormalise != usual.renormalise {
            f.write_str(if self.renormalise { ":renormalise=on" } else { ":renormalise=off" })?;
        }
        if self.scale != 1.0 {
            write!(f, ":scale={}", self.scale)?;
        }
        match self.count {
            Count::Fixed => {}
            Count::TopP(share) => write!(f, ":top-p={share}")?,
            Count::Threshold(score) => write!(f, ":threshold={score}")?,
        }
        for (key, value) in [("null", self.null_experts.into()), ("table", self.table_layers)] {
            if value != 0 {
                write!(f, ":{key}={value}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Router {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            // Words of old traces.
            "softmax over all" => return Ok(Self::SOFTMAX_ALL),
            "softmax over the selected" => return Ok(Self::SOFTMAX_SELECTED),
            _ => {}
        }
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let Some((_, score)) = SCORES.iter().find(|(known, _)| *known == name) else {
            let names: Vec<&str> = SCORES.iter().map(|(name, _)| *name).collect();
            return Err(Error::usage(format!(
                "expected a router convention ({}, then :GROUPS:TOP_GROUPS and :key=value), found \"{text}\"",
                names.join(", ")
            )));
        };
        let mut router = Self::new(*score);
        let mut numbers = Vec::new();
        for part in parts {
            match part.split_once('=') {
                Some((key, value)) => router.set(key, value).map_err(|error| error.at(format!("router {text}")))?,
                None => numbers.push(number(part, "a number of groups").map_err(|error| error.at(text))?),
            }
        }
        match numbers[..] {
            [] => {}
            [groups, top_groups] => router = router.grouped(groups, top_groups),
            _ => return Err(Error::usage(format!("expected :GROUPS:TOP_GROUPS, found \"{text}\""))),
        }
        if router.top_groups < 1 || router.top_groups > router.groups {
            return Err(Error::usage(format!(
                "expected 1 to {} groups that take part, found \"{text}\"",
                router.groups
            )));
        }
        Ok(router)
    }
}

impl Router {
    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "groups" => self.groups = number(value, "a number of groups")?,
            "keep" => self.top_groups = number(value, "a number of groups")?,
            "rating" => self.rating = word(value, &[("best", Rating::Best), ("two", Rating::TwoBest)])?,
            "bias" => {
                let places = [
                    ("selection", BiasPlace::Selection),
                    ("choice", BiasPlace::SelectionLogits),
                    ("logits", BiasPlace::Logits),
                ];
                self.bias = word(value, &places)?;
            }
            "renormalise" => self.renormalise = word(value, &[("on", true), ("off", false)])?,
            "scale" => self.scale = float(value, |v| v > 0.0, "a number above 0")?,
            "null" => self.null_experts = number(value, "a number of null experts")?,
            "table" => self.table_layers = number(value, "a number of layers")?,
            "top-p" => self.count = Count::TopP(float(value, |v| v > 0.0 && v <= 1.0, "a share above 0 and up to 1")?),
            "threshold" => self.count = Count::Threshold(float(value, |v| v >= 0.0, "a score of at least 0")?),
            "jitter" if matches!(self.score, Score::SparseMixer { .. }) => {
                self.score = Score::SparseMixer { jitter: float(value, |v| v >= 0.0, "a share of at least 0")? };
            }
            _ => {
                return Err(Error::usage(format!(
                    "expected rating, bias, renormalise, scale, null, table, top-p or threshold, found \"{key}\""
                )));
            }
        }
        Ok(())
    }
}

fn number<T: FromStr>(text: &str, what: &str) -> Result<T> {
    text.parse().map_err(|_| Error::usage(format!("expected {what}, found \"{text}\"")))
}

fn float(text: &str, fits: impl Fn(f32) -> bool, what: &str) -> Result<f32> {
    let value = text.parse().ok().filter(|value: &f32| value.is_finite() && fits(*value));
    value.ok_or_else(|| Error::usage(format!("expected {what}, found \"{text}\"")))
}

fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        Error::usage(format!("expected {}, found \"{text}\"", names.join(" or ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routers_survive_their_text() {
        for text in [
            "unknown",
            "softmax-all",
            "softmax-selected",
            "sigmoid:8:4",
            "sigmoid:1:1",
            "softmax-all:4:2",
            "softmax-all:4:2:rating=two:renormalise=on",
            "sigmoid:8:4:rating=best:bias=logits:renormalise=off:scale=2.5",
            "sigmoid:1:1:bias=choice",
            "sqrt-softplus:scale=1.5:table=3",
            "sparse-mixer:jitter=0.02",
            "softmax-all:scale=6:null=16",
            "softmax-all:top-p=0.9",
            "sigmoid:1:1:threshold=0.25",
        ] {
            let router: Router = text.parse().unwrap();
            assert_eq!(router.to_string(), text);
            let json = serde_json::to_string(&router).unwrap();
            assert_eq!(serde_json::from_str::<Router>(&json).unwrap(), router, "{json}");
        }
        assert_eq!("sigmoid".parse::<Router>().unwrap().to_string(), "sigmoid:1:1");
        assert_eq!("softmax-all:groups=4:keep=2".parse::<Router>().unwrap().to_string(), "softmax-all:4:2");
        assert_eq!("sparse-mixer".parse::<Router>().unwrap().to_string(), "sparse-mixer:jitter=0.01");
        for text in [
            "",
            "softmax",
            "sigmoid:4:8",
            "sigmoid:0:0",
            "sigmoid:x:1",
            "sigmoid:8",
            "softmax-all:8:4:2",
            "softmax-all:scale=0",
            "softmax-all:scale=NaN",
            "softmax-all:jitter=0.1",
            "softmax-all:top-p=1.5",
            "softmax-all:renormalise=0.4",
        ] {
            let error = text.parse::<Router>().unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::Usage, "{text}: {error}");
        }
    }
}
