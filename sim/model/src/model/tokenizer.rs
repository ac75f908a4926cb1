//! Text to token ids and back: the checkpoint's own `tokenizer.json`.

use tokenizers::Tokenizer as Inner;

use crate::error::{Error, Result};

/// A tokenizer whose ids all fit the model.
#[derive(Debug)]
pub(super) struct Tokenizer(Inner);

impl Tokenizer {
    /// Reads a `tokenizer.json`, and checks that the model has a row for every id.
    pub(super) fn read(json: &[u8], vocab: usize) -> Result<Self> {
        let tokenizer = Inner::from_bytes(json).map_err(|error| Error::new(error.to_string()))?;
        let highest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        if highest as usize >= vocab {
            return Err(Error::new(format!(
                "expected token ids below {vocab}, the vocab_size in config.json, found {highest}: the \
                 tokenizer is another model's"
            )));
        }
        Ok(Self(tokenizer))
    }

    /// Ids of a text, with the special tokens that the tokenizer puts around one.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.0.encode_fast(text, true).map_err(|error| Error::new(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    pub(super) fn decode(&self, ids: &[u32]) -> Result<String> {
        self.0.decode(ids, true).map_err(|error| Error::new(error.to_string()))
    }
}
