//! A strategy in the loop of a model that runs in Python: its forward pass hands over what a layer's router wants, and
//! runs what comes back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cptr_sim::replay::{Budget, Replay, Routers, Setup};
use cptr_sim::source::Routed;
use cptr_sim::strategy::{Has, Strategy};
use cptr_trace::{Knowledge, Meta, NO_EXPERT, Router, Shape};
use numpy::{PyArray2, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::error::{UnsupportedError, raise, usage};

/// One strategy on its way through the tokens of a model. For each forward pass `begin`, `layer` for each layer in
/// turn, then `end`.
#[pyclass(module = "cptr._cptr")]
pub(crate) struct Stepper {
    /// Only for Python's sake, which lets threads share what it holds.
    replay: Mutex<Replay<'static>>,
    strategy: Strategy,
    shape: Shape,
    scored: usize,
    /// Tokens before this forward pass.
    steps: usize,
    /// For each token of it whether a text begins.
    starts: Vec<bool>,
    /// The layer that comes next.
    next: usize,
    /// Room of one layer.
    wanted: Vec<u16>,
}

#[pymethods]
impl Stepper {
    /// `router` as its text, `bias` `[L * S]` or empty, `layer_ids` the model's own numbers; at most `tokens` tokens
    /// are counted.
    #[new]
    #[pyo3(signature = (strategy, *, layers, experts, k, router, resident, layer_ids, bias, tokens))]
    #[expect(clippy::too_many_arguments, reason = "all have names in Python")]
    fn new(
        strategy: &str,
        layers: usize,
        experts: usize,
        k: usize,
        router: &str,
        resident: &str,
        layer_ids: Vec<u32>,
        bias: Vec<f32>,
        tokens: usize,
    ) -> PyResult<Self> {
        let strategy = Strategy::parse(strategy).map_err(|error| raise(&error))?;
        let router: Router = router.parse().map_err(|error| raise(&error))?;
        let resident: Budget = resident.parse().map_err(|error| raise(&error))?;
        let scored = experts + usize::from(router.null_experts);
        if layers == 0 || k == 0 || k > scored || scored > cptr_trace::MAX_EXPERTS || k > cptr_trace::MAX_TOP_K {
            return Err(usage(format!("expected layers that choose some of their experts, found {k} of {experts}")));
        }
        match resident {
            Budget::Experts(count) if !(1..=experts).contains(&count) => {
                return Err(usage(format!("memory: expected 1 to {experts} experts per layer, found {count}")));
            }
            Budget::Experts(_) => {}
            Budget::Bytes { .. } => return Err(usage("memory: expected experts per layer, found bytes")),
        }
        if layer_ids.len() != layers || !(bias.is_empty() || bias.len() == layers * scored) {
            return Err(usage("layer_ids and bias: expected one for each layer"));
        }
        let shape = Shape { tokens, layers, experts, k };
        let has = Has {
            knowledge: Knowledge::Logits,
            bound: true,
            routers: false,
            future: false,
            system: None,
            sizes: false,
            numbers: [layers * scored, 0],
        };
        let parts = (strategy.division.kind.name, strategy.precision.kind.name, strategy.select.kind.name);
        let beyond = match parts {
            _ if strategy.asks_routers() => Some("later layers' routers cannot be asked"),
            ("gpu", "full", "drop") => Some("a model in Python runs as many experts of every token"),
            ("gpu", "full", _) => None,
            _ => Some("a model in Python runs all experts in one place, at the bits that they have"),
        };
        let meta = Meta { router, layer_ids, ..Meta::default() };
        let routers = Routers::new(&meta, shape, &bias, &[]).map_err(|error| raise(&error))?;
        let setup = Setup {
            shape,
            sequences: 1,
            fair: None,
            prefill: 0,
            resident,
            routers: Arc::new(routers),
            machine: None,
            losses: None,
        };
        let refused = beyond.map(str::to_owned).or_else(|| strategy.refusal(&has)).or_else(|| setup.refusal(&strategy));
        if let Some(reason) = refused {
            return Err(UnsupportedError::new_err(format!("{strategy}: {reason}")));
        }
        let replay = Replay::new(&strategy, &setup, None).map_err(|error| raise(&error))?;
        Ok(Self {
            replay: Mutex::new(replay),
            strategy,
            shape,
            scored,
            steps: 0,
            starts: Vec::new(),
            next: 0,
            wanted: Vec::new(),
        })
    }

    /// Whether what runs may be other than what the router wants.
    #[getter]
    fn replaces(&self) -> bool {
        self.strategy.select.kind.name != "raw"
    }

    /// Whether it takes one token at a time, all layers of it before the next.
    #[getter]
    fn couples_layers(&self) -> bool {
        self.strategy.couples_layers()
    }

    /// Tokens that have gone through.
    #[getter]
    fn tokens(&self) -> usize {
        self.steps
    }

    /// A forward pass of so many tokens begins; `starts` has true where a text begins. What a pass that failed left
    /// over is closed first.
    fn begin(&mut self, starts: Vec<bool>) -> PyResult<()> {
        self.end()?;
        if self.steps + starts.len() > self.shape.tokens {
            let most = self.shape.tokens;
            return Err(usage(format!("tokens: expected at most {most} in all, as attach was told, found more")));
        }
        if starts.len() > 1 && self.strategy.couples_layers() {
            let strategy = &self.strategy;
            return Err(UnsupportedError::new_err(format!(
                "{strategy}: expected one token at a time, as what it does in a layer depends on others, found {}",
                starts.len()
            )));
        }
        self.starts = starts;
        self.next = 0;
        Ok(())
    }

    /// Decides a layer for all tokens of the pass: logits `[N, S]` and what the router wants `[N, k]` (negative: none);
    /// what runs `[N, k]`, in the same places, and the experts that are resident afterwards.
    fn layer<'py>(
        &mut self,
        py: Python<'py>,
        layer: usize,
        logits: PyReadonlyArray2<'py, f32>,
        wanted: PyReadonlyArray2<'py, i64>,
    ) -> PyResult<(Bound<'py, PyArray2<i64>>, Vec<u16>)> {
        let (k, scored, tokens) = (self.shape.k, self.scored, self.starts.len());
        if logits.shape() != [tokens, scored] || wanted.shape() != [tokens, k] {
            return Err(usage(format!(
                "expected logits [{tokens}, {scored}] and a choice [{tokens}, {k}], found {:?} and {:?}",
                logits.shape(),
                wanted.shape()
            )));
        }
        if layer != self.next || layer >= self.shape.layers {
            return Err(usage(format!("expected layer {} to be decided, found {layer}", self.next)));
        }
        let logits: Vec<f32> = logits.as_array().iter().copied().collect();
        let ids: Vec<i64> = wanted.as_array().iter().copied().collect();
        let known = |&id: &i64| id < 0 || (id as usize) < scored;
        if !ids.iter().all(known) || logits.iter().any(|z| z.is_nan()) {
            return Err(usage(format!("layer {layer}: expected ids below {scored} and logits that are numbers")));
        }
        let mut chosen = ids.clone();
        py.detach(|| self.decide(layer, &logits, &ids, &mut chosen))?;
        self.next += 1;
        let shape = numpy::ndarray::Array2::from_shape_vec((tokens, k), chosen);
        let chosen = shape.map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
        Ok((PyArray2::from_owned_array(py, chosen), self.resident(layer)?))
    }

    /// The pass has gone through.
    fn end(&mut self) -> PyResult<()> {
        if self.next == self.shape.layers {
            for step in self.steps..self.steps + self.starts.len() {
                self.replay().end_step(step).map_err(|error| raise(&error))?;
            }
            self.steps += self.starts.len();
        }
        self.starts.clear();
        self.next = 0;
        Ok(())
    }

    /// The experts of a layer in fast memory.
    fn resident(&self, layer: usize) -> PyResult<Vec<u16>> {
        if layer >= self.shape.layers {
            return Err(usage(format!("layer: expected one below {}, found {layer}", self.shape.layers)));
        }
        let replay = self.replay();
        let resident = replay.resident(layer);
        Ok((0..self.shape.experts as u16).filter(|&expert| resident.contains(expert)).collect())
    }

    /// By layer: tokens, choices, misses, experts loaded, choices that the model wanted, mass lost (mean, worst).
    fn counts(&self) -> Vec<(u64, u64, u64, u64, u64, f64, f64)> {
        let row = |t: &cptr_sim::replay::LayerTally| {
            (t.tokens, t.choices, t.misses, t.loads(), t.agreed, t.mass_lost, t.worst_mass_loss)
        };
        self.replay().tally().layers.iter().map(row).collect()
    }
}

impl Stepper {
    fn replay(&self) -> MutexGuard<'_, Replay<'static>> {
        self.replay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(&mut self, layer: usize, logits: &[f32], ids: &[i64], chosen: &mut [i64]) -> PyResult<()> {
        let (k, scored, experts) = (self.shape.k, self.scored, self.shape.experts);
        let replay = self.replay.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (row, &starts_sequence) in self.starts.iter().enumerate() {
            let set = &ids[row * k..(row + 1) * k];
            // Null experts come behind the others.
            self.wanted.clear();
            let real = |id: &&i64| **id >= 0 && (**id as usize) < experts;
            self.wanted.extend(set.iter().filter(real).map(|&id| id as u16));
            let places: Vec<usize> = (0..k).filter(|&i| real(&&set[i])).collect();
            self.wanted.extend(set.iter().filter(|&&id| id as usize >= experts && id >= 0).map(|&id| id as u16));
            let nulls = (0..k).filter(|&i| set[i] >= 0 && !real(&&set[i]));
            let places: Vec<usize> = places.into_iter().chain(nulls).collect();
            let logits = &logits[row * scored..(row + 1) * scored];
            let routed = [Routed { wanted: &self.wanted, weights: &[], logits, ahead: &[], starts_sequence }];
            let outcome = replay.layer(self.steps + row, layer, &routed).map_err(|error| raise(&error))?;
            let new = outcome.chosen(0);
            if new.contains(&NO_EXPERT) || new.len() != places.len() {
                return Err(UnsupportedError::new_err("a model in Python runs as many experts of every token"));
            }
            for (&place, &id) in places.iter().zip(new) {
                chosen[row * k + place] = id.into();
            }
        }
        Ok(())
    }
}
