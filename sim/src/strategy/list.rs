//! What there is, for help and for other programs.

use cptr_trace::Knowledge;

use super::parse::AXES;
use super::{Kind, Parameter, division, precision, prefetch, residency, select};

/// One kind of one axis.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct KindRow {
    /// The axis.
    pub axis: &'static str,
    /// See [`Kind::name`].
    pub name: &'static str,
    /// See [`Kind::summary`].
    pub summary: &'static str,
    /// See [`Kind::parameters`].
    pub parameters: &'static [Parameter],
    /// See [`Kind::needs`].
    pub needs: Knowledge,
    /// See [`Kind::asks_routers`].
    pub asks_routers: bool,
    /// See [`Kind::sees_future`].
    pub sees_future: bool,
    /// See [`Kind::slow`].
    pub slow: bool,
}

/// All kinds, axis by axis.
#[must_use]
pub fn kinds() -> Vec<KindRow> {
    fn rows<M>(axis: &'static str, kinds: &[&Kind<M>]) -> Vec<KindRow> {
        let row = |kind: &&Kind<M>| KindRow {
            axis,
            name: kind.name,
            summary: kind.summary,
            parameters: kind.parameters,
            needs: kind.needs,
            asks_routers: kind.asks_routers,
            sees_future: kind.sees_future,
            slow: kind.slow,
        };
        kinds.iter().map(row).collect()
    }
    let all = [
        rows(AXES[0], select::KINDS),
        rows(AXES[1], residency::KINDS),
        rows(AXES[2], prefetch::KINDS),
        rows(AXES[3], division::KINDS),
        rows(AXES[4], precision::KINDS),
    ];
    all.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::{Strategy, Values};

    #[test]
    fn names_are_unique_and_defaults_mean_what_they_say() {
        let kinds = kinds();
        for (i, kind) in kinds.iter().enumerate() {
            assert!(kinds[..i].iter().all(|other| other.name != kind.name), "{}", kind.name);
            assert!(Strategy::parse(kind.name).is_ok(), "{}", kind.name);
            for parameter in kind.parameters {
                let mut values = Values::defaults(kind.parameters);
                let pair = format!("{}={}", parameter.name, parameter.default_text());
                values.set(kind.name, &pair).unwrap();
                assert_eq!(values, Values::defaults(kind.parameters), "{}: {pair}", kind.name);
            }
        }
    }
}
