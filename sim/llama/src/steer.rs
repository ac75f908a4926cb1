//! A strategy in the loop of llama.cpp: the tap that hands a layer's logits and choice to a replay, and writes back
//! what it decides.
//!
//! In each layer two nodes are asked for: the router's logits, whose memory may be used again behind the softmax, and
//! the ids of the chosen experts, from which llama.cpp gathers weights behind them. Nothing else is touched.

use std::sync::Arc;

use cptr_hw_model::{Model as Sizes, System};
use cptr_sim::replay::{Budget, Machine, Replay, Routers, Setup, Tally};
use cptr_sim::source::Routed;
use cptr_sim::strategy::{Has, Strategy};
use cptr_trace::error::{Error, Result};
use cptr_trace::{Knowledge, NO_EXPERT};

use crate::ffi::{Node, Tap};
use crate::moe::Moe;

/// Names of llama.cpp's nodes; a number of the layer follows.
const LOGITS: &[u8] = b"ffn_moe_logits-";
const BIASED_LOGITS: &[u8] = b"ffn_moe_logits_biased-";
const CHOICE: &[u8] = b"ffn_moe_topk-";

/// A strategy with what it runs for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    /// The model's experts.
    pub(crate) moe: &'a Moe,
    /// Fast memory.
    pub(crate) resident: Budget,
    /// What times are for.
    pub(crate) machine: Machine<'a>,
    /// Tokens that are decoded.
    pub(crate) tokens: usize,
}

impl<'a> Plan<'a> {
    /// What a replay is made for.
    ///
    /// # Errors
    /// A router that the engine has no numbers for.
    pub(crate) fn setup(&self) -> Result<Setup<'a>> {
        let shape = self.moe.shape(self.tokens);
        Ok(Setup {
            shape,
            sequences: 1,
            fair: None,
            prefill: 0,
            resident: self.resident,
            routers: Arc::new(Routers::new(&self.moe.meta(), shape, &self.moe.bias, &[])?),
            machine: Some(self.machine),
            losses: None,
        })
    }

    /// Refuses what llama.cpp cannot do, and memory that does not fit.
    ///
    /// # Errors
    /// The reason, in one sentence.
    pub(crate) fn check(&self, strategy: &Strategy) -> Result<()> {
        let experts = self.moe.experts;
        if let Budget::Experts(resident) = self.resident
            && !(1..=experts).contains(&resident)
        {
            return Err(Error::usage(format!("memory: expected 1 to {experts} experts per layer, found {resident}")));
        }
        let Machine { system, model, .. } = self.machine;
        let has = Has {
            knowledge: Knowledge::Logits,
            bound: true,
            routers: false,
            future: false,
            system: Some(system),
            sizes: model.is_some(),
            numbers: [self.moe.layers.len() * experts, 0],
        };
        let names = (strategy.division.kind.name, strategy.precision.kind.name, strategy.select.kind.name);
        let beyond = match names {
            _ if strategy.asks_routers() => Some("asking later layers' routers is not possible in llama.cpp"),
            ("gpu", "full", "drop") => Some("llama.cpp runs as many experts of every token"),
            ("gpu", "full", _) => None,
            _ => Some("llama.cpp runs all experts in one place, at the bits of the file"),
        };
        let refused = beyond.map(str::to_owned);
        match refused.or_else(|| strategy.refusal(&has)).or_else(|| self.setup().ok()?.refusal(strategy)) {
            Some(reason) => Err(Error::usage(format!("{strategy}: {reason}"))),
            None => Ok(()),
        }
    }
}

/// Sizes of a model as `cptr run` takes them for one of its own.
pub(crate) fn sizes(moe: &Moe) -> Sizes {
    Sizes::new(&moe.name, moe.hidden, moe.inner)
}

/// The system called so, or of this file.
///
/// # Errors
/// No such system, or a file that is none.
pub(crate) fn system(name: &str) -> std::result::Result<System, String> {
    if name.ends_with(".toml") {
        let text = std::fs::read_to_string(name).map_err(|error| error.to_string())?;
        return System::from_toml(&text).map_err(|error| error.to_string());
    }
    let names = || System::all().iter().map(|system| system.name.as_str()).collect::<Vec<_>>().join(", ");
    System::find(name).cloned().ok_or_else(|| format!("expected a file ending in .toml, or one of {}", names()))
}

/// What sees each decision before the experts of the layer run.
pub(crate) trait Watch {
    /// A layer of a step has been decided: these experts run, and what the replay holds is to be there.
    ///
    /// # Errors
    /// Why the experts cannot run: the computation ends with it.
    fn decided(&mut self, layer: usize, chosen: &[u16], replay: &Replay<'_>) -> Result<()>;

    /// Layers have been decided that were not run: this is what is resident now.
    fn adopt(&mut self, _: &Replay<'_>) {}

    /// Asked once before each product with experts' matrices: whether it is to wait behind it.
    fn pauses(&mut self) -> bool {
        false
    }

    /// Such a product has been computed.
    ///
    /// # Errors
    /// As [`Self::decided`].
    fn multiplied(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Watch for () {
    fn decided(&mut self, _: usize, _: &[u16], _: &Replay<'_>) -> Result<()> {
        Ok(())
    }
}

/// What routing is replaced by, for models whose weights mean nothing: ids and logits of a recording.
pub(crate) trait Script {
    /// Appends the logits `[E]`, or none where they were not recorded, and the choice `[k]` of a token in a layer.
    fn routing(&mut self, step: usize, layer: usize, logits: &mut Vec<f32>, wanted: &mut Vec<u16>);
}

/// A replay inside llama.cpp's graph.
pub(crate) struct Steering<'a, W: Watch> {
    moe: &'a Moe,
    replay: Replay<'a>,
    watch: W,
    script: Option<Box<dyn Script + 'a>>,
    /// Whether the model's own choice stays as it is.
    raw: bool,
    /// For each token of the batch its step, and whether a text begins with it.
    rows: Vec<(usize, bool)>,
    steps: usize,
    /// Of the layer that is computed: logits `[T, E]`, ids `[T, k]`.
    logits: Vec<f32>,
    ids: Vec<i32>,
    wanted: Vec<u16>,
    chosen: Vec<u16>,
    new: Vec<i32>,
    /// Layers of the batch that have been decided.
    seen: usize,
    error: Option<Error>,
}

impl<'a, W: Watch> Steering<'a, W> {
    /// Before the first token.
    ///
    /// # Errors
    /// As [`Replay::new`].
    pub(crate) fn new(plan: &Plan<'a>, strategy: &Strategy, watch: W) -> Result<Self> {
        Ok(Self {
            moe: plan.moe,
            replay: Replay::new(strategy, &plan.setup()?, None)?,
            watch,
            script: None,
            raw: strategy.select.kind.name == "raw",
            rows: Vec::new(),
            steps: 0,
            logits: Vec::new(),
            ids: Vec::new(),
            wanted: Vec::new(),
            chosen: Vec::new(),
            new: Vec::new(),
            seen: 0,
            error: None,
        })
    }

    /// Has the routing come from a script: the choice of the strategy is written back in any case.
    pub(crate) fn scripted(mut self, script: Box<dyn Script + 'a>) -> Self {
        self.script = Some(script);
        self.raw = false;
        self
    }

    /// Shows the strategy so many tokens of the script without running them; `starts` says where sequences begin.
    ///
    /// # Errors
    /// As [`Replay::layer`].
    pub(crate) fn skip(&mut self, tokens: usize, starts: impl Fn(usize) -> bool) -> Result<()> {
        let Some(script) = &mut self.script else { return Ok(()) };
        for step in self.steps..self.steps + tokens {
            for layer in 0..self.moe.layers.len() {
                self.logits.clear();
                self.wanted.clear();
                script.routing(step, layer, &mut self.logits, &mut self.wanted);
                let (wanted, logits) = (&self.wanted[..], &self.logits[..]);
                let starts_sequence = starts(step);
                let routed = [Routed { wanted, weights: &[], logits, ahead: &[], starts_sequence }];
                self.replay.layer(step, layer, &routed)?;
            }
            self.replay.end_step(step)?;
        }
        self.steps += tokens;
        self.watch.adopt(&self.replay);
        Ok(())
    }

    /// The next batch has so many tokens; a text begins with the first of them, or none does.
    pub(crate) fn begin(&mut self, tokens: usize, starts: bool) {
        self.rows.clear();
        self.rows.extend((0..tokens).map(|at| (self.steps + at, starts && at == 0)));
        self.steps += tokens;
        self.seen = 0;
    }

    /// The batch has been computed.
    ///
    /// # Errors
    /// Why it could not be; a graph in which not every MoE layer was seen.
    pub(crate) fn end(&mut self) -> Result<()> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if self.seen != self.moe.layers.len() {
            return Err(Error::unsupported(format!(
                "expected {} layers that choose experts in llama.cpp's graph of {}, found {}",
                self.moe.layers.len(),
                self.moe.architecture,
                self.seen
            )));
        }
        self.rows.drain(..).try_for_each(|(step, _)| self.replay.end_step(step))
    }

    /// What has been counted so far.
    pub(crate) const fn tally(&self) -> &Tally {
        self.replay.tally()
    }

    /// What was made of the decisions.
    pub(crate) const fn watch(&mut self) -> &mut W {
        &mut self.watch
    }

    fn decide(&mut self, layer: usize, node: &mut Node<'_>) -> Result<()> {
        let Self { moe, replay, rows, logits, ids, wanted, chosen, new, .. } = self;
        let (k, experts) = (moe.k, moe.experts);
        ids.clear();
        node.read_i32(ids);
        if node.sizes() != (k, rows.len()) || ids.len() != k * rows.len() {
            let found = node.sizes().1;
            return Err(Error::unsupported(format!(
                "expected the choices of {} tokens in layer {}, found {found}",
                rows.len(),
                moe.layers[layer]
            )));
        }
        if let Some(script) = &mut self.script {
            logits.clear();
            wanted.clear();
            rows.iter().for_each(|&(step, _)| script.routing(step, layer, logits, wanted));
        } else {
            wanted.clear();
            let known = |&id: &i32| u16::try_from(id).ok().filter(|id| usize::from(*id) < experts);
            wanted.extend(ids.iter().filter_map(known));
        }
        let scored = if logits.is_empty() && self.script.is_some() { 0 } else { experts };
        if logits.len() != scored * rows.len() || wanted.len() != ids.len() {
            return Err(Error::unsupported(format!(
                "expected logits of {experts} experts and ids below in layer {}, found others",
                moe.layers[layer]
            )));
        }
        for (row, &(step, starts_sequence)) in rows.iter().enumerate() {
            let wanted = &wanted[row * k..(row + 1) * k];
            let logits = &logits[row * scored..(row + 1) * scored];
            let routed = [Routed { wanted, weights: &[], logits, ahead: &[], starts_sequence }];
            let outcome = replay.layer(step, layer, &routed)?;
            chosen.clear();
            chosen.extend_from_slice(outcome.chosen(0));
            if chosen.contains(&NO_EXPERT) || chosen.len() != k {
                return Err(Error::unsupported("llama.cpp runs as many experts of every token"));
            }
            if !self.raw {
                new.clear();
                new.extend(chosen.iter().map(|&id| i32::from(id)));
                if new[..] != ids[row * k..(row + 1) * k] {
                    node.write_i32(row, new);
                }
            }
            self.watch.decided(layer, chosen, replay)?;
        }
        self.seen += 1;
        Ok(())
    }
}

/// Which node of a MoE layer one is.
pub(crate) enum Kind {
    Logits,
    Choice,
}

/// What a node says, and the index of its MoE layer; `None` of all others.
pub(crate) fn kind(moe: &Moe, node: &Node<'_>) -> Option<(Kind, usize)> {
    let (kind, number) = match node.layer(CHOICE) {
        Some(number) => (Kind::Choice, number),
        None => (Kind::Logits, node.layer(LOGITS).or_else(|| node.layer(BIASED_LOGITS))?),
    };
    Some((kind, moe.index(number)?))
}

impl<W: Watch> Tap for Steering<'_, W> {
    fn wants(&mut self, node: &Node<'_>) -> bool {
        if self.error.is_some() {
            return false;
        }
        if node.multiplies_experts() {
            return self.watch.pauses();
        }
        kind(self.moe, node).is_some_and(|(kind, _)| self.script.is_none() || matches!(kind, Kind::Choice))
    }

    fn see(&mut self, node: &mut Node<'_>) -> bool {
        let done = match kind(self.moe, node) {
            Some((Kind::Logits, _)) => {
                self.logits.clear();
                node.read_f32(&mut self.logits);
                Ok(())
            }
            Some((Kind::Choice, layer)) => self.decide(layer, node),
            None => self.watch.multiplied(),
        };
        if let Err(error) = done {
            self.error = Some(error);
        }
        self.error.is_none()
    }
}
