//! Experts in bounded memory, with real reads: what the strategy holds resident is in memory, what it loads is read
//! from the file, what it evicts is given back to the system. The same between host memory and a GPU's, which is
//! emulated: what is loaded is copied from host memory, at a link's bandwidth.
//!
//! A layer's experts run when they are there: those that are there already are not read, the others are read side by
//! side, and the later of an expert's matrices while llama.cpp multiplies with the first. What the strategy fetches is
//! read when nothing is waited for. Whether to fetch is decided by recall's rule on a machine of *measured* times
//! ([`measure`]), the same that predicts the time of a token.

mod link;
pub(crate) mod measure;
mod store;
mod work;

use std::sync::Arc;
use std::time::Duration;

use cptr_sim::memory::Resident;
use cptr_sim::replay::Replay;
use cptr_trace::error::{Error, Result};

use crate::common::{ModelArgs, OffloadArgs};
use crate::ffi::pages::{Pages, Place};
use crate::ffi::{Context, Model, Node, Options, Tap, Weights};
use crate::moe::Moe;
use crate::steer::Watch;
use link::Link;
pub(crate) use store::Store;

/// Finds where llama.cpp has the experts' matrices, in the order in which it multiplies with them.
#[derive(Default)]
struct Finder {
    found: Vec<Weights>,
}

impl Tap for Finder {
    fn wants(&mut self, node: &Node<'_>) -> bool {
        self.found.extend(node.experts());
        false
    }

    fn see(&mut self, _: &mut Node<'_>) -> bool {
        true
    }
}

/// Takes the experts of a model into bounded memory: none of them is there afterwards.
///
/// # Errors
/// Experts that are not in a mapping of the file; a file system without direct reads, or host memory that they do not
/// fit in.
pub(crate) fn take(model: &Model, moe: &Moe, from: &ModelArgs, args: &OffloadArgs) -> Result<Store> {
    let options = Options { tokens: 8, batch: 1, sequences: 1, threads: 1 };
    let mut context = Context::new(model, options, Finder::default())?;
    context.decode(&[0], 0)?;
    let found = std::mem::take(&mut context.tap().found);
    drop(context);
    let mut layers = vec![Vec::new(); moe.layers.len()];
    let mut places = Vec::new();
    for weights in found {
        let Some((layer, info)) = moe.matrices.iter().find(|(_, info)| info.name == weights.name) else { continue };
        let whole = weights.expert_bytes as u64 * weights.experts as u64 == info.bytes;
        if !weights.on_host || !whole || weights.experts != moe.experts {
            return Err(Error::unsupported(format!(
                "expected {} in main memory as it is in the file, found it elsewhere",
                weights.name
            )));
        }
        layers[*layer].push(places.len());
        places.push(Place {
            address: weights.address,
            offset: info.offset,
            expert_bytes: weights.expert_bytes,
            experts: weights.experts,
        });
    }
    if places.len() != moe.matrices.len() {
        return Err(Error::unsupported(format!(
            "expected {} tensors of experts in llama.cpp's graph of {}, found {}",
            moe.matrices.len(),
            moe.architecture,
            places.len()
        )));
    }
    let pages = Pages::take(&from.model, places, args.host())?;
    Ok(Store::new(pages, args.link().map(Link::new), layers, args.readers()))
}

/// What a run in bounded memory took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Waits {
    /// Choices whose expert was not there when it was wanted, on its way or not.
    pub(crate) late: u64,
    /// Time in which nothing was computed because an expert was not there.
    pub(crate) time: Duration,
}

/// Has done to memory what a replay decides.
pub(crate) struct Offload {
    store: Arc<Store>,
    /// What each layer holds.
    resident: Vec<Resident>,
    /// Experts that run without staying.
    passing: Vec<(usize, u16)>,
    /// Layer and experts that run, and the matrices of them that were asked about.
    layer: usize,
    runs: Vec<u16>,
    part: usize,
    waits: Waits,
}

impl Offload {
    /// Nothing is resident.
    pub(crate) fn new(store: Arc<Store>, layers: usize) -> Self {
        let resident = vec![Resident::new(); layers];
        Self { store, resident, passing: Vec::new(), layer: 0, runs: Vec::new(), part: 0, waits: Waits::default() }
    }

    /// Has experts of a layer read before anything else, as they run next.
    fn demand(&mut self, layer: usize, experts: &[u16]) {
        self.waits.late += self.store.demand(layer, experts) as u64;
        (self.layer, self.part) = (layer, 0);
        self.runs.clear();
        self.runs.extend_from_slice(experts);
    }

    /// Waits for the matrices that llama.cpp multiplies with first.
    fn begin(&mut self) -> Result<()> {
        self.waits.time += self.store.wait(self.layer, 0, &self.runs)?;
        Ok(())
    }

    /// What has been waited for so far.
    pub(crate) const fn waits(&self) -> Waits {
        self.waits
    }

    /// Reads what is resident once more, into memory that is empty.
    ///
    /// # Errors
    /// A read that fails.
    pub(crate) fn restore(&mut self) -> Result<()> {
        self.passing.clear();
        for (layer, resident) in self.resident.iter().enumerate() {
            (0..cptr_trace::MAX_EXPERTS as u16)
                .filter(|&expert| resident.contains(expert))
                .for_each(|expert| self.store.fetch(layer, expert));
        }
        self.store.settle()
    }
}

impl Watch for Offload {
    fn decided(&mut self, layer: usize, chosen: &[u16], replay: &Replay<'_>) -> Result<()> {
        for (layer, expert) in self.passing.drain(..) {
            if !self.resident[layer].contains(expert) {
                self.store.evict(layer, expert);
            }
        }
        // Room first.
        for (at, before) in self.resident.iter().enumerate() {
            let now = replay.resident(at);
            if before != now {
                let gone = |expert: &u16| before.contains(*expert) && !now.contains(*expert);
                let experts = (0..cptr_trace::MAX_EXPERTS as u16).filter(gone);
                // What runs is needed a little longer.
                for expert in experts {
                    if at == layer && chosen.contains(&expert) {
                        self.passing.push((at, expert));
                    } else {
                        self.store.evict(at, expert);
                    }
                }
            }
        }
        self.demand(layer, chosen);
        for (at, before) in self.resident.iter_mut().enumerate() {
            let now = replay.resident(at);
            if before != now {
                (0..cptr_trace::MAX_EXPERTS as u16)
                    .filter(|&expert| now.contains(expert) && !before.contains(expert))
                    .filter(|expert| at != layer || !chosen.contains(expert))
                    .for_each(|expert| self.store.fetch(at, expert));
                *before = *now;
            }
        }
        let passes = chosen.iter().filter(|&&expert| !self.resident[layer].contains(expert));
        self.passing.extend(passes.map(|&expert| (layer, expert)));
        self.begin()
    }

    fn adopt(&mut self, replay: &Replay<'_>) {
        for (layer, resident) in self.resident.iter_mut().enumerate() {
            *resident = *replay.resident(layer);
        }
    }

    fn pauses(&mut self) -> bool {
        self.part += 1;
        self.part < self.store.parts(self.layer) && !self.store.there(self.layer, self.part, &self.runs)
    }

    fn multiplied(&mut self) -> Result<()> {
        self.waits.time += self.store.wait(self.layer, self.part, &self.runs)?;
        Ok(())
    }
}
