//! Nothing is fetched.

use super::{Kind, Make, Next, Prefetch};
use crate::strategy::Served;

pub(super) const KIND: Kind<Make> = Kind::new("none", "nothing is fetched", Make(|_, _| Box::new(Nothing)));

struct Nothing;

impl Prefetch for Nothing {
    fn never(&self) -> bool {
        true
    }

    fn ask(&mut self, _: &Served<'_>, _: Next<'_>, _: &mut Vec<u16>) {}

    fn most(&self) -> usize {
        0
    }
}
