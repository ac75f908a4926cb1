//! What a target may take: `firmware/budgets.toml`.

use std::collections::BTreeMap;
use std::fs;

use serde::Deserialize;

use super::command::{Done, folder};
use super::linked::Memory;

/// Most bytes of a target.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Budget {
    /// The library's routers, trackers, placement and dispatch.
    pub(super) library: Memory,
    /// Stack of the function of these that needs most.
    pub(super) library_stack: u64,
    /// The library without caches for engines.
    pub(super) device: Memory,
    /// Stack of the function of these that needs most.
    pub(super) device_stack: u64,
    /// The library with everything in it.
    pub(super) engine: Memory,
    /// Stack of the function of the library that needs most.
    pub(super) engine_stack: u64,
    /// The controller's image.
    pub(super) controller: Memory,
    /// Stack of that image after a conversation of the largest sizes.
    pub(super) controller_stack: u64,
    /// Stack of the image `cptr-bench`, which calls every kernel with its largest arguments.
    pub(super) bench_stack: u64,
}

/// The budget of a target.
pub(super) fn budget(target: &str) -> Done<Budget> {
    let file = folder().join("budgets.toml");
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut budgets: BTreeMap<String, Budget> =
        toml::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    budgets.remove(target).ok_or_else(|| format!("{} has no [{target}]", file.display()))
}
