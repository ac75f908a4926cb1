//! A model that llama.cpp has loaded.

use std::path::Path;
use std::ptr::NonNull;

use cptr_trace::error::{Error, Result};

use super::{gguf, sys};

/// A loaded model.
#[derive(Debug)]
pub(crate) struct Model {
    pub(super) raw: NonNull<sys::llama_model>,
}

impl Model {
    /// Loads a GGUF file; its weights stay in the mapped file, in the layout of the file.
    ///
    /// # Errors
    /// What llama.cpp complains about.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        super::start();
        let name = gguf::c_path(path)?;
        super::forget();
        // SAFETY: default parameters are a plain value; the name ends in zero and the parameters point to nothing.
        let raw = unsafe {
            let mut parameters = sys::llama_model_default_params();
            parameters.load_mode = sys::LLAMA_LOAD_MODE_MMAP;
            // Weights that are repacked are no longer where the file has them.
            parameters.use_extra_bufts = false;
            sys::llama_model_load_from_file(name.as_ptr(), parameters)
        };
        let refused = || Error::in_file(path, super::complaint("expected a model that llama.cpp can load"));
        Ok(Self { raw: NonNull::new(raw).ok_or_else(refused)? })
    }

    /// Number of token ids.
    pub(crate) fn vocabulary(&self) -> usize {
        // SAFETY: the model is alive, and so is its vocabulary.
        usize::try_from(unsafe { sys::llama_vocab_n_tokens(self.vocab()) }).unwrap_or(0)
    }

    /// Whether a token ends a text.
    pub(crate) fn ends(&self, token: u32) -> bool {
        // SAFETY: the vocabulary is alive; ids that it does not have are checked first.
        (token as usize) < self.vocabulary() && unsafe { sys::llama_vocab_is_eog(self.vocab(), token as i32) }
    }

    /// Token ids of a text, with what the model puts before one.
    ///
    /// # Errors
    /// If the model has no tokenizer or cannot take the text.
    pub(crate) fn tokenize(&self, text: &str) -> Result<Vec<u32>> {
        let wrong = || Error::new("expected a text that the model's tokenizer takes, found another");
        let length = i32::try_from(text.len()).map_err(|_| wrong())?;
        let mut tokens: Vec<i32> = vec![0; text.len() + 8];
        // SAFETY: the vocabulary is alive, text and tokens are as long as is said.
        let count = unsafe {
            if sys::llama_vocab_type(self.vocab()) == sys::LLAMA_VOCAB_TYPE_NONE {
                return Err(Error::new("expected a model with a tokenizer, found none: give token ids"));
            }
            sys::llama_tokenize(
                self.vocab(),
                text.as_ptr().cast(),
                length,
                tokens.as_mut_ptr(),
                tokens.len() as i32,
                true,
                false,
            )
        };
        tokens.truncate(usize::try_from(count).map_err(|_| wrong())?);
        tokens.into_iter().map(|id| u32::try_from(id).map_err(|_| wrong())).collect()
    }

    /// The bytes of a token's text; empty where it has none.
    pub(crate) fn piece(&self, token: u32) -> Vec<u8> {
        let mut bytes = vec![0_u8; 256];
        if token as usize >= self.vocabulary() {
            return Vec::new();
        }
        // SAFETY: the vocabulary is alive and has the token; the buffer is as long as is said.
        let length = unsafe {
            if sys::llama_vocab_type(self.vocab()) == sys::LLAMA_VOCAB_TYPE_NONE {
                return Vec::new();
            }
            let (buffer, room) = (bytes.as_mut_ptr().cast(), bytes.len() as i32);
            sys::llama_token_to_piece(self.vocab(), token as i32, buffer, room, 0, false)
        };
        bytes.truncate(usize::try_from(length).unwrap_or(0));
        bytes
    }

    fn vocab(&self) -> *const sys::llama_vocab {
        // SAFETY: the model is alive as long as `self`.
        unsafe { sys::llama_model_get_vocab(self.raw.as_ptr()) }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: made by `llama_model_load_from_file`, dropped once, behind all contexts, which borrow it.
        unsafe { sys::llama_model_free(self.raw.as_ptr()) };
    }
}
