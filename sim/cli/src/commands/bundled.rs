//! What comes with the program: a small model trained for it, and the text that it did not see in training.

use include_dir::{Dir, include_dir};

use cptr_model::Model;
use cptr_trace::error::Result;

const CONFIG: &str = include_str!("../../../data/model/config.json");
const TOKENIZER: &str = include_str!("../../../data/model/tokenizer.json");
const WEIGHTS: &[u8] = include_bytes!("../../../data/model/model.safetensors");
static HELD_OUT: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../data/held-out");
static CALIBRATION: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../data/calibration");

/// The model.
pub(super) fn model() -> Result<Model> {
    Ok(Model::from_parts(CONFIG, WEIGHTS, TOKENIZER)?)
}

/// Domain and text of every held-out document, in the order of domains and names.
pub(super) fn held_out() -> impl Iterator<Item = (&'static str, &'static str)> {
    texts(&HELD_OUT)
}

/// Domain and text of documents that the model saw in training, to calibrate quantisation on.
pub(super) fn calibration() -> impl Iterator<Item = (&'static str, &'static str)> {
    texts(&CALIBRATION)
}

fn texts(folder: &'static Dir<'static>) -> impl Iterator<Item = (&'static str, &'static str)> {
    let mut domains: Vec<_> = folder.dirs().collect();
    domains.sort_by_key(|domain| domain.path());
    domains.into_iter().flat_map(|domain| {
        let name = domain.path().file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let mut files: Vec<_> = domain.files().collect();
        files.sort_by_key(|file| file.path());
        files.into_iter().filter_map(move |file| Some((name, file.contents_utf8()?)))
    })
}
