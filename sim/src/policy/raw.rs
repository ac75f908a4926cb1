//! The model's own choice.

use super::{Kind, Layer, Policy, Token};
use crate::spec::Values;
use cptr_trace::Knowledge;

pub(super) const KIND: Kind = Kind {
    name: super::RAW,
    summary: "the model's own choice",
    parameters: &[],
    needs: Knowledge::Ids,
    placement: "lru",
    make,
};

struct Raw;

fn make<'a>(_: &Values, _: Layer<'a>) -> Box<dyn Policy + 'a> {
    Box::new(Raw)
}

impl Policy for Raw {
    fn select(&mut self, token: &Token<'_>, chosen: &mut Vec<u16>) {
        chosen.extend_from_slice(token.wanted);
    }
}
