//! The text of a strategy: `name[:parameter=value]…` joined by `+`, a comma between strategies.

use cptr_trace::error::{Error, Result};

use super::{Part, Preset, Strategy, division, precision, prefetch, presets, residency, select};
use crate::nearest::hint;

/// Axes in the order of texts.
pub(crate) const AXES: [&str; 5] = ["select", "residency", "prefetch", "division", "precision"];

/// Sets the part of an axis to a name's kind if the axis has it.
macro_rules! kind_of {
    ($name:expr, $module:ident) => {
        $module::KINDS.iter().find(|kind| kind.name == $name)
    };
}

impl Strategy {
    /// The router's choice, least recently used, nothing fetched, all on the GPU at full precision.
    pub(super) fn plain() -> Self {
        Self {
            text: String::new(),
            select: Part::new(select::KINDS[0]),
            residency: Part::new(residency::KINDS[0]),
            prefetch: Part::new(prefetch::KINDS[0]),
            division: Part::new(division::KINDS[0]),
            precision: Part::new(precision::KINDS[0]),
        }
    }

    /// Reads one strategy: the name of a preset or of a part first, then parts that say what differs.
    ///
    /// # Errors
    /// Names and parameters that there are not, values that do not fit, two parts of one axis.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let mut strategy = Self { text: text.into(), ..Self::plain() };
        // What has been named for each axis.
        let mut named: [Option<&str>; 5] = [None; 5];
        for (index, item) in text.split('+').map(str::trim).enumerate() {
            let name = item.split(':').next().unwrap_or("");
            let preset = presets::find(name).filter(|_| index == 0);
            if let Some(preset) = preset {
                strategy.apply(preset)?;
            }
            let axis = strategy.set_kind(name, preset.is_some());
            match (axis, preset) {
                (Some(axis), _) => {
                    if let Some(first) = named[axis].replace(name) {
                        let axis = AXES[axis];
                        return Err(Error::new(format!("{text}: expected one {axis}, found {first} and {name}")));
                    }
                }
                (None, Some(_)) => {}
                (None, None) => return Err(unknown(name, index == 0)),
            }
            for pair in item.split(':').skip(1) {
                strategy.set(name, axis, preset, pair)?;
            }
        }
        Ok(strategy)
    }

    /// Reads strategies with a comma between them.
    ///
    /// # Errors
    /// As [`Self::parse`]; no strategy.
    pub fn parse_list(text: &str) -> Result<Vec<Self>> {
        text.split(',').map(Self::parse).collect()
    }

    /// Takes the five parts of a preset.
    fn apply(&mut self, preset: &Preset) -> Result<()> {
        for item in preset.text.split('+') {
            let name = item.split(':').next().unwrap_or("");
            let axis = self.set_kind(name, false);
            item.split(':').skip(1).try_for_each(|pair| self.set(name, axis, None, pair))?;
        }
        Ok(())
    }

    /// Makes the part of a name's axis that kind; where it is that already, and the name is a preset's, nothing
    /// changes. `None`: no kind.
    fn set_kind(&mut self, name: &str, keep: bool) -> Option<usize> {
        fn put<M>(part: &mut Part<M>, kind: &'static super::Kind<M>, keep: bool) {
            if !keep || part.kind.name != kind.name {
                *part = Part::new(kind);
            }
        }
        if let Some(kind) = kind_of!(name, select) {
            put(&mut self.select, kind, keep);
            Some(0)
        } else if let Some(kind) = kind_of!(name, residency) {
            put(&mut self.residency, kind, keep);
            Some(1)
        } else if let Some(kind) = kind_of!(name, prefetch) {
            put(&mut self.prefetch, kind, keep);
            Some(2)
        } else if let Some(kind) = kind_of!(name, division) {
            put(&mut self.division, kind, keep);
            Some(3)
        } else if let Some(kind) = kind_of!(name, precision) {
            put(&mut self.precision, kind, keep);
            Some(4)
        } else {
            None
        }
    }

    /// Sets a parameter: of the part that is named, or where a preset is named of the part of its five that has it, its
    /// own first.
    fn set(&mut self, owner: &str, axis: Option<usize>, preset: Option<&Preset>, pair: &str) -> Result<()> {
        let name = pair.split('=').next().unwrap_or("");
        let axes = [0, 1, 2, 3, 4];
        let has = axes.map(|axis| self.values(axis).parameters().iter().any(|parameter| parameter.name == name));
        let own = axis.filter(|&axis| has[axis] || preset.is_none());
        let Some(axis) = own.or_else(|| has.iter().position(|has| *has)) else {
            let parameters = axes.iter().flat_map(|&axis| self.values(axis).parameters());
            let known: Vec<&str> = parameters.map(|parameter| parameter.name).collect();
            let hint = hint(name, known.iter().copied());
            let known = if known.is_empty() { "no parameters".into() } else { known.join(", ") };
            return Err(Error::new(format!("{owner}: expected {known}, found \"{pair}\"{hint}")));
        };
        self.values_mut(axis).set(owner, pair)
    }
}

fn unknown(name: &str, first: bool) -> Error {
    fn names<M>(kinds: &[&super::Kind<M>]) -> Vec<&'static str> {
        kinds.iter().map(|kind| kind.name).collect()
    }
    let parts = [
        names(select::KINDS),
        names(residency::KINDS),
        names(prefetch::KINDS),
        names(division::KINDS),
        names(precision::KINDS),
    ];
    let presets: Vec<&str> = presets::PRESETS.iter().filter(|_| first).map(|preset| preset.name).collect();
    let hint = hint(name, presets.iter().chain(parts.iter().flatten()).copied());
    let parts = AXES.iter().zip(&parts).map(|(axis, names)| format!("a {axis} ({})", names.join(", ")));
    let parts = parts.collect::<Vec<_>>().join(", ");
    let strategy = if first { format!("a strategy ({}), or ", presets.join(", ")) } else { String::new() };
    Error::new(format!("found \"{name}\"{hint}, expected {strategy}{parts}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn five(text: &str) -> String {
        let strategy = Strategy::parse(text).unwrap();
        let Strategy { select, residency, prefetch, division, precision, .. } = strategy;
        format!("{select}+{residency}+{prefetch}+{division}+{precision}")
    }

    #[test]
    fn presets_parts_and_their_parameters() {
        assert_eq!(five("raw"), "raw+lru+none+gpu+full");
        assert_eq!(five("bounded:eps=0.02"), "bounded:eps=0.02+tracked+none+gpu+full");
        assert_eq!(five("bounded:eps=0.02+lru"), "bounded:eps=0.02+lru+none+gpu+full");
        assert_eq!(five("lru + transition:most=2"), "raw+lru+transition:most=2+none".replace("+none", "+gpu+full"));
        assert_eq!(five("migrate:slack=0.6:rate=0.5"), "raw+migrate:rate=0.5+none+slack:slack=0.6+uniform");
        assert_eq!(five("monde:hot=1+lru"), "raw+lru+none+bandwidth:hot=1+full");
        assert_eq!(five("ctx-aware+mean:bits=2"), "raw+once:alpha=0.5+none+in-place+mean:bits=2");
        assert_eq!(five("in-place+once:tokens=100"), "raw+once:tokens=100+none+in-place+full");
        assert_eq!(five("hobbit:t1=0.5"), "raw+lru+none+gpu+graded:t1=0.5");
    }

    #[test]
    fn every_preset_reads_and_prints() {
        for preset in presets::PRESETS {
            assert_eq!(Strategy::parse(preset.name).unwrap().to_string(), preset.name);
            assert_eq!(preset.text.split('+').count(), 5, "{}", preset.name);
            let five = Strategy::parse(&five(preset.name)).unwrap();
            assert!(Strategy::parse(preset.name).unwrap().is(&five), "{}", preset.name);
        }
        assert_eq!(Strategy::parse_list("lru,bounded:eps=0.04+lfu").unwrap().len(), 2);
    }

    #[test]
    fn refuses_with_what_there_is() {
        for (text, part) in [
            ("nonsense", "expected a strategy (raw, lru, "),
            ("raw+nonsense", "expected a select (raw, smoothing, "),
            ("", "found \"\""),
            ("lru,", "found \"\""),
            ("raw+", "found \"\", expected a select ("),
            ("lru+lfu", "lru+lfu: expected one residency, found lru and lfu"),
            ("bounded+raw", "expected one select, found bounded and raw"),
            ("raw+hobbit", "expected a select"),
            (
                "bounded:lambda=1",
                "bounded: expected eps, error, keep, pair, spare, floor, slow, fast, reopened, threshold, found \"lambda=1\"",
            ),
            ("bounded:keep=1.9", "bounded: expected keep as a whole number from 0 to 64, found \"1.9\""),
            ("monde:hot=-0.5", "monde: expected hot as a whole number from 0 to 1024, or auto, found \"-0.5\""),
            ("uniform:everywhere=0.4", "expected everywhere as on or off, found \"0.4\""),
            ("lru+gpu:bits=3", "gpu: expected no parameters, found \"bits=3\""),
            ("belady:x=1", "belady: expected no parameters, found \"x=1\""),
        ] {
            let found = Strategy::parse_list(text).unwrap_err().to_string();
            assert!(found.contains(part), "{text}: {found}");
        }
    }
}
