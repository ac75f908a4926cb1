//! Everything in fast memory: what one would do if only it fits.

use cptr_core::placement::Demand;

use super::{Kind, Make, Residency, Setup};

pub(super) const KIND: Kind<Make> = Kind::new(
    "all",
    "all experts stay, where all the memory that there is has room for them at their bits",
    Make(|_, setup: &Setup<'_>| Box::new(All { experts: setup.experts as u16 })),
);

struct All {
    experts: u16,
}

impl Residency for All {
    fn worth(&mut self, _: usize, _: &[Demand], order: &mut Vec<u16>) {
        order.clear();
        order.extend(0..self.experts);
    }
}
