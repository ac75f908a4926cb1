//! Texts with holes: `bounded:eps={eps}`.

use cptr_trace::error::{Error, Result};

use crate::nearest::hint;

/// A text in which `{name}` stands for the value of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// Index of a parameter.
    Hole(usize),
}

impl Template {
    /// Reads a text; `names` are those of the parameters, `place` is where the text is in the file.
    pub(super) fn parse(text: &str, names: &[&str], place: &str) -> Result<Self> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('{') {
            let Some((name, after)) = behind.split_once('}') else {
                return Err(Error::new(format!("{place}: expected }} after {{, found \"{text}\"")));
            };
            let hole = names.iter().position(|known| *known == name).ok_or_else(|| {
                let hint = hint(name, names.iter().copied());
                Error::new(format!("{place}: expected the name of a parameter, found \"{name}\"{hint}"))
            })?;
            pieces.extend([Piece::Text(before.into()), Piece::Hole(hole)]);
            rest = after;
        }
        pieces.push(Piece::Text(rest.into()));
        Ok(Self(pieces))
    }

    /// The parameters that it names.
    pub(super) fn holes(&self) -> impl Iterator<Item = usize> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Hole(parameter) => Some(*parameter),
            Piece::Text(_) => None,
        })
    }

    /// The text with what `value` says in its holes.
    pub(super) fn fill(&self, value: &mut dyn FnMut(usize) -> String) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Hole(parameter) => value(*parameter),
        };
        self.0.iter().map(piece).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_filled() {
        let names = ["eps", "residency"];
        let template = Template::parse("bounded:eps={eps}+{residency}", &names, "run.strategy").unwrap();
        assert_eq!(template.holes().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(template.fill(&mut |hole| ["0.1", "lru"][hole].into()), "bounded:eps=0.1+lru");
        assert_eq!(Template::parse("lru", &names, "").unwrap().fill(&mut |_| String::new()), "lru");
        for (text, expected) in [
            ("{esp}", "run.strategy: expected the name of a parameter, found \"esp\" (eps?)"),
            ("{", "run.strategy: expected } after {, found \"{\""),
            ("{}", "found \"\""),
        ] {
            let found = Template::parse(text, &names, "run.strategy").unwrap_err().to_string();
            assert!(found.contains(expected), "{found}");
        }
    }
}
