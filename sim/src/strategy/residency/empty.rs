//! Nothing in fast memory: the floor for placements.

use cptr_core::placement::Demand;

use super::{Kind, Make, Residency};

pub(super) const KIND: Kind<Make> = Kind::new("empty", "nothing stays", Make(|_, _| Box::new(Empty)));

struct Empty;

impl Residency for Empty {
    fn worth(&mut self, _: usize, _: &[Demand], order: &mut Vec<u16>) {
        order.clear();
    }
}
