//! The five parts of a strategy by the number of their axis, for who takes strategies apart.

use super::parse::AXES;
use super::{Strategy, Values};

impl Strategy {
    /// What every part is compared with: the router's choice, the least recently used goes, nothing fetched, all on
    /// the GPU, full precision.
    pub(crate) fn baseline() -> Self {
        Self::plain().named()
    }

    /// The values of an axis' part.
    pub(crate) const fn values(&self, axis: usize) -> &Values {
        match axis {
            0 => &self.select.values,
            1 => &self.residency.values,
            2 => &self.prefetch.values,
            3 => &self.division.values,
            _ => &self.precision.values,
        }
    }

    /// The same, to be changed.
    pub(super) const fn values_mut(&mut self, axis: usize) -> &mut Values {
        match axis {
            0 => &mut self.select.values,
            1 => &mut self.residency.values,
            2 => &mut self.prefetch.values,
            3 => &mut self.division.values,
            _ => &mut self.precision.values,
        }
    }

    /// The parts as texts, axis by axis.
    pub(crate) fn texts(&self) -> [String; AXES.len()] {
        [
            self.select.to_string(),
            self.residency.to_string(),
            self.prefetch.to_string(),
            self.division.to_string(),
            self.precision.to_string(),
        ]
    }

    /// The same with another strategy's part on one axis.
    pub(crate) fn with_part(&self, axis: usize, of: &Self) -> Self {
        let mut changed = self.clone();
        match axis {
            0 => changed.select = of.select.clone(),
            1 => changed.residency = of.residency.clone(),
            2 => changed.prefetch = of.prefetch.clone(),
            3 => changed.division = of.division.clone(),
            _ => changed.precision = of.precision.clone(),
        }
        changed.named()
    }

    /// The same with other values on one axis.
    pub(crate) fn with_values(&self, axis: usize, values: Values) -> Self {
        let mut changed = self.clone();
        *changed.values_mut(axis) = values;
        changed.named()
    }

    /// The same under a short text that means it: the five parts without those that the others imply.
    fn named(mut self) -> Self {
        let mut items: Vec<String> = self.texts().into();
        for usual in Self::plain().texts().iter().rev() {
            let shorter: Vec<String> = items.iter().filter(|item| *item != usual).cloned().collect();
            let text = shorter.join("+");
            if Self::parse(&text).is_ok_and(|short| short.is(&self)) {
                items = shorter;
            }
        }
        self.text = items.join("+");
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::PRESETS;

    #[test]
    fn short_texts_mean_the_same() {
        let plain = Strategy::baseline();
        assert_eq!(plain.to_string(), "raw");
        for preset in PRESETS {
            let whole = Strategy::parse(preset.name).unwrap();
            for axis in 0..AXES.len() {
                for changed in [whole.with_part(axis, &plain), plain.with_part(axis, &whole)] {
                    assert!(Strategy::parse(&changed.to_string()).unwrap().is(&changed), "{changed}");
                }
            }
        }
        let named = |text: &str| {
            let whole = Strategy::parse(text).unwrap();
            (0..AXES.len()).fold(plain.clone(), |built, axis| built.with_part(axis, &whole)).to_string()
        };
        assert_eq!(named("bounded:eps=0.02+lru"), "bounded:eps=0.02+lru");
        assert_eq!(named("bounded:fast=0"), "bounded+tracked:fast=0");
        assert_eq!(named("migrate+gpu+full"), "raw+migrate");
        assert_eq!(named("recall-fetch"), "recall+recall-fetch");
    }
}
