//! The model's own choice.

use super::{Kind, Make, Select};
use crate::strategy::Token;

pub(super) const KIND: Kind<Make> = Kind::new("raw", "the model's own choice", Make(|_| Box::new(Raw)));

struct Raw;

impl Select for Raw {
    fn select(&mut self, token: &Token<'_>, chosen: &mut Vec<u16>) {
        chosen.extend_from_slice(token.wanted);
    }
}
