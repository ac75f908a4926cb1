//! The modelled machine as a function of what a paper does not give.
//!
//! For every combination of the listed parameters the mean layer of every system is timed once, with all of its copies
//! made and with none; the ranged parameters are linear on top:
//!
//! layer = (1 - copied) x (without copies + near x dispatch) + copied x (with copies + near x dispatch)
//!         + copies x copy + constant,
//!
//! where *near* is the share of layers with experts near the data, and *copies* are those beside what the strategy
//! says.

use std::collections::HashMap;

use cptr_hw_model::{ExpertRun, LayerWork, Model, System};
use cptr_trace::Trace;
use cptr_trace::error::{Error, Result};
use rayon::prelude::*;

use super::demand::{Demand, Mean, routing};
use super::paper::{Decoded, Figure, Meaning, Paper, Quantity, number, shown};
use super::solve::{Space, Theory, Which};

/// Experts of an imitated layer.
const EXPERTS: usize = 8;
/// Of which a token chooses.
const CHOSEN: usize = 2;

/// A free parameter in its place.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) which: Which,
    pub(super) meaning: Meaning,
    /// Values of its list.
    pub(super) values: Vec<toml::Value>,
}

/// A system on a model at some bits, timed.
#[derive(Debug)]
struct Run {
    layers: f64,
    /// Where the space has the share of copies that are made, and what it holds.
    copied_at: Option<usize>,
    holds_at: Option<usize>,
    /// And of copies that the strategy does not say.
    copies_at: Option<usize>,
    /// By machine, batch, scales, losses and what it holds: without copies and with them.
    means: Vec<[Mean; 2]>,
    /// Seconds to fill its memory after the prompt, by machine and what it holds.
    placement_s: Vec<f64>,
    holds: usize,
    /// Microseconds of a copy, by machine.
    copy_us: Vec<f64>,
}

/// Where the space has what all runs share.
#[derive(Debug, Clone, Default)]
struct Places {
    batch: Option<usize>,
    scales: Option<usize>,
    losses: Option<usize>,
    layer: Option<usize>,
    dispatch: Option<usize>,
    /// Parameters of the machine and the number of their values.
    machine: Vec<(usize, usize)>,
}

#[derive(Debug)]
enum Compiled {
    Rate(usize),
    Speedup {
        of: usize,
        over: usize,
    },
    EndToEnd {
        of: usize,
        over: usize,
        prompt_us: Vec<f64>,
    },
    /// By machine and scales.
    Table(Vec<f64>),
}

/// What the paper's figures are on the modelled machine.
#[derive(Debug)]
pub(super) struct Modelled {
    pub(super) space: Space,
    pub(super) parameters: Vec<Placed>,
    /// Figures that the model can express, as indices into the paper's.
    pub(super) expressed: Vec<usize>,
    places: Places,
    runs: Vec<Run>,
    figures: Vec<Compiled>,
    /// Sequences of each batch.
    batches: Vec<f64>,
    scales: usize,
    losses: usize,
    answer: f64,
}

/// What a run is known by.
type Key = (usize, usize, u8);

impl Modelled {
    /// Replays every system and times it on every machine.
    ///
    /// # Errors
    /// A strategy that does not run with the memory that it is given.
    pub(super) fn new(paper: &Paper) -> Result<Self> {
        let (space, parameters) = place(paper)?;
        let list = |meaning: Meaning| {
            let of = parameters.iter().find(|placed| placed.meaning == meaning);
            of.map(|placed| placed.values.iter().filter_map(number).collect::<Vec<f64>>())
        };
        let batches = list(Meaning::Batch).unwrap_or_else(|| vec![1.0]);
        let scales = list(Meaning::ScaleBits).unwrap_or_else(|| vec![0.0]);
        let steep: Vec<bool> = match parameters.iter().find(|placed| placed.meaning == Meaning::Losses) {
            Some(placed) => placed.values.iter().map(|value| value.as_str() == Some("steep")).collect(),
            None => vec![false],
        };
        let machines = machines(paper, &parameters)?;

        let expressed: Vec<usize> = (0..paper.figures.len()).filter(|&i| paper.figures[i].cannot.is_none()).collect();
        let mut keys: Vec<Key> = Vec::new();
        let mut run_of = |figure: &Figure, name: &Option<String>| -> Result<usize> {
            let key = key(paper, figure, name)?;
            Ok(keys.iter().position(|known| *known == key).unwrap_or_else(|| {
                keys.push(key);
                keys.len() - 1
            }))
        };
        let mut figures = Vec::new();
        for &i in &expressed {
            let figure = &paper.figures[i];
            figures.push(match figure.quantity {
                Quantity::TokensPerS => Compiled::Rate(run_of(figure, &figure.of)?),
                Quantity::Speedup => {
                    Compiled::Speedup { of: run_of(figure, &figure.of)?, over: run_of(figure, &figure.over)? }
                }
                Quantity::EndToEnd => {
                    let (of, over) = (run_of(figure, &figure.of)?, run_of(figure, &figure.over)?);
                    let model = sizes(model_of(paper, figure)?)?;
                    let us = |system: &System| prompt_us(system, model, paper.prompt);
                    Compiled::EndToEnd { of, over, prompt_us: machines.iter().map(us).collect() }
                }
                _ => Compiled::Table(table(paper, figure, &machines, &scales)?),
            });
        }
        let traces = traces(paper, &keys, &batches)?;
        let shipped = paper.machine(&[])?;
        let run = |&(strategy, model, bits): &Key| {
            let named = &paper.strategies[strategy];
            let holds = list(Meaning::Holds(strategy)).unwrap_or_else(|| named.holds.into_iter().collect());
            let decoded = &paper.models[model];
            let text = named.text.replace("{bits}", &bits.to_string());
            let at_strategy = |error: Error| error.at(format!("strategy {}", named.name));
            // By batch, losses and what it holds.
            let mut demands = Vec::new();
            for batch in &batches {
                for &steep in &steep {
                    for &holds in &holds {
                        let trace = &traces[&(model, *batch as usize)];
                        let resident = resident(decoded, holds).map_err(at_strategy)?;
                        demands.push(Demand::of(trace, paper.prompt, &text, (resident, steep), &shipped)?);
                    }
                }
            }
            let sizes = sizes(decoded)?;
            // Times are those in the middle of an answer.
            let context = (paper.prompt + paper.answer / 2) as u64;
            let timed = |system: &System| {
                let mut means = Vec::new();
                for batch in demands.chunks(steep.len() * holds.len()) {
                    for &scale in &scales {
                        means.extend(batch.iter().map(|demand| {
                            [false, true].map(|copied| demand.mean(system, sizes, context, scale, copied))
                        }));
                    }
                }
                means
            };
            let copy_s = |system: &System, experts: f64| {
                system.copy_ps(experts * sizes.expert_bytes(system.gpu_bits)) as f64 / 1e12
            };
            let placed = |system: &System| -> Vec<f64> {
                let experts = |holds: f64| (holds * decoded.resident as f64).round() * decoded.layers as f64;
                let moved = |holds: f64| if named.places { experts(holds) } else { 0.0 };
                holds.iter().map(|&holds| copy_s(system, moved(holds))).collect()
            };
            let at = |meaning: Meaning| find(&parameters, &meaning);
            Ok(Run {
                copied_at: at(Meaning::Copied(strategy)),
                holds_at: at(Meaning::Holds(strategy)),
                copies_at: at(Meaning::Copies(strategy)),
                layers: decoded.layers as f64,
                means: machines.par_iter().map(timed).collect::<Vec<_>>().concat(),
                placement_s: machines.iter().flat_map(placed).collect(),
                holds: holds.len(),
                copy_us: machines.iter().map(|system| copy_s(system, 1.0) * 1e6).collect(),
            })
        };
        let runs = keys.par_iter().map(run).collect::<Result<Vec<Run>>>()?;
        let (scales, losses, answer) = (scales.len(), steep.len(), paper.answer as f64);
        let places = Places {
            batch: find(&parameters, &Meaning::Batch),
            scales: find(&parameters, &Meaning::ScaleBits),
            losses: find(&parameters, &Meaning::Losses),
            layer: find(&parameters, &Meaning::Layer),
            dispatch: find(&parameters, &Meaning::Dispatch),
            machine: machine_places(&parameters).collect(),
        };
        Ok(Self { space, parameters, expressed, places, runs, figures, batches, scales, losses, answer })
    }

    /// The listed values of the shipped machine, its first batch, no time that nothing explains, all copies made.
    pub(super) fn shipped(&self, paper: &Paper) -> Result<(Vec<usize>, Vec<f64>)> {
        let file: toml::Table = toml::from_str(System::file(&paper.system).unwrap_or_default())
            .map_err(|error| Error::new(error.message()))?;
        let (mut listed, mut ranged) = (vec![0; self.space.listed.len()], vec![0.0; self.space.ranged.len()]);
        for (placed, parameter) in self.parameters.iter().zip(&paper.parameters) {
            match placed.which {
                Which::Listed(at) => {
                    let mut value = None;
                    let mut table = Some(&file);
                    for key in parameter.name.split('.') {
                        value = table.and_then(|table| table.get(key));
                        table = value.and_then(toml::Value::as_table);
                    }
                    let same = |other: &toml::Value| value.is_some_and(|value| shown(value) == shown(other));
                    // What the file does not say of the machine: of shares the whole, of others the first.
                    let whole = placed.values.iter().position(|value| number(value) == Some(1.0)).unwrap_or(0);
                    let usual = if matches!(placed.meaning, Meaning::Holds(_)) { whole } else { 0 };
                    listed[at] = placed.values.iter().position(same).unwrap_or(usual);
                }
                Which::Ranged(at) => {
                    let (low, high) = self.space.ranged[at];
                    ranged[at] = if matches!(placed.meaning, Meaning::Copied(_)) { high } else { low };
                }
            }
        }
        Ok((listed, ranged))
    }

    fn machine(&self, listed: &[usize]) -> usize {
        self.places.machine.iter().fold(0, |index, &(at, count)| index * count + listed[at])
    }

    /// What a mean layer of a system takes, in microseconds: on the machine, for dispatch, for copies that its strategy
    /// does not say, and the constant.
    fn parts(&self, run: &Run, listed: &[usize], ranged: &[f64]) -> [f64; 4] {
        let value = |at: Option<usize>| at.map_or(0, |at| listed[at]);
        let (batch, scale) = (value(self.places.batch), value(self.places.scales));
        let machine = self.machine(listed);
        let group = (machine * self.batches.len() + batch) * self.scales + scale;
        let group = group * self.losses + value(self.places.losses);
        let [without, with] = run.means[group * run.holds + value(run.holds_at)];
        let copied = run.copied_at.map_or(1.0, |at| ranged[at]);
        let mix = |of: fn(&Mean) -> f64| (1.0 - copied) * of(&without) + copied * of(&with);
        let open = |at: Option<usize>| at.map_or(0.0, |at| ranged[at]);
        let copies_us = open(run.copies_at) * self.batch(listed) * run.copy_us[machine];
        let dispatch_us = mix(|mean| mean.near) * open(self.places.dispatch);
        [mix(|mean| mean.us), dispatch_us, copies_us, open(self.places.layer)]
    }

    fn batch(&self, listed: &[usize]) -> f64 {
        self.batches[self.places.batch.map_or(0, |at| listed[at])]
    }

    fn layer_us(&self, run: usize, listed: &[usize], ranged: &[f64]) -> f64 {
        self.parts(&self.runs[run], listed, ranged).iter().sum()
    }

    /// Parts of the mean layer behind a rate, in microseconds; `None` for other figures.
    pub(super) fn layer(&self, figure: usize, listed: &[usize], ranged: &[f64]) -> Option<[f64; 4]> {
        let Compiled::Rate(run) = self.figures[figure] else { return None };
        Some(self.parts(&self.runs[run], listed, ranged))
    }

    /// Microseconds of a layer that a rate stands for.
    pub(super) fn layer_of_rate(&self, figure: usize, listed: &[usize], rate: f64) -> Option<f64> {
        let Compiled::Rate(run) = self.figures[figure] else { return None };
        Some(self.batch(listed) * 1e6 / rate / self.runs[run].layers)
    }
}

impl Theory for Modelled {
    fn predict(&self, listed: &[usize], ranged: &[f64], figures: &mut [f64]) {
        for (value, figure) in figures.iter_mut().zip(&self.figures) {
            *value = match figure {
                Compiled::Rate(run) => {
                    self.batch(listed) * 1e6 / self.layer_us(*run, listed, ranged) / self.runs[*run].layers
                }
                Compiled::Speedup { of, over } => {
                    self.layer_us(*over, listed, ranged) / self.layer_us(*of, listed, ranged)
                }
                Compiled::EndToEnd { of, over, prompt_us } => {
                    let us = |at: Option<usize>| at.map_or(0.0, |at| ranged[at]);
                    let beside_us = us(self.places.dispatch) + us(self.places.layer);
                    let machine = self.machine(listed);
                    let whole_s = |at: usize| {
                        let run = &self.runs[at];
                        let layer_us = prompt_us[machine] + beside_us;
                        let decode_us = self.answer * self.layer_us(at, listed, ranged);
                        let holds = run.holds_at.map_or(0, |at| listed[at]);
                        let placement_s = run.placement_s[machine * run.holds + holds];
                        (layer_us + decode_us) * run.layers / 1e6 + placement_s
                    };
                    whole_s(*over) / whole_s(*of)
                }
                Compiled::Table(values) => {
                    values[self.machine(listed) * self.scales + self.places.scales.map_or(0, |at| listed[at])]
                }
            };
        }
    }
}

/// Where the space has the parameter that means this.
fn find(parameters: &[Placed], meaning: &Meaning) -> Option<usize> {
    let placed = parameters.iter().find(|placed| placed.meaning == *meaning)?;
    let (Which::Listed(at) | Which::Ranged(at)) = placed.which;
    Some(at)
}

/// Places of the parameters of the machine and the number of their values, in their order.
fn machine_places(parameters: &[Placed]) -> impl Iterator<Item = (usize, usize)> + '_ {
    parameters.iter().filter_map(|placed| match (&placed.meaning, placed.which) {
        (Meaning::Machine, Which::Listed(at)) => Some((at, placed.values.len())),
        _ => None,
    })
}

fn place(paper: &Paper) -> Result<(Space, Vec<Placed>)> {
    let (mut space, mut parameters) = (Space::default(), Vec::new());
    for parameter in &paper.parameters {
        let meaning = paper.meaning(&parameter.name)?;
        let values = parameter.values.clone().unwrap_or_default();
        let which = match (parameter.from, parameter.to) {
            (Some(from), Some(to)) => {
                space.ranged.push((from, to));
                Which::Ranged(space.ranged.len() - 1)
            }
            _ => {
                space.listed.push(values.len());
                Which::Listed(space.listed.len() - 1)
            }
        };
        parameters.push(Placed { which, meaning, values });
    }
    Ok((space, parameters))
}

/// Every machine, the last parameter fastest; those with the same device share what is known of it.
fn machines(paper: &Paper, parameters: &[Placed]) -> Result<Vec<System>> {
    let of: Vec<(&str, &[toml::Value])> = paper
        .parameters
        .iter()
        .zip(parameters)
        .filter(|(_, placed)| placed.meaning == Meaning::Machine)
        .map(|(parameter, placed)| (parameter.name.as_str(), placed.values.as_slice()))
        .collect();
    let count = of.iter().map(|(_, values)| values.len()).product();
    let mut machines: Vec<System> = Vec::new();
    for mut index in 0..count {
        let mut changes = Vec::new();
        for (name, values) in of.iter().rev() {
            changes.push((*name, &values[index % values.len()]));
            index /= values.len();
        }
        let machine = paper.machine(&changes)?;
        let alike = machines.iter().find(|other| other.ndp() == machine.ndp()).cloned();
        machines.push(match alike {
            Some(alike) => machine.knowing(&alike),
            None => machine,
        });
    }
    Ok(machines)
}

/// The routing of every model that is run, for every batch.
fn traces(paper: &Paper, keys: &[Key], batches: &[f64]) -> Result<HashMap<(usize, usize), Trace>> {
    let mut wanted: Vec<(usize, usize)> =
        keys.iter().flat_map(|&(_, model, _)| batches.iter().map(move |&batch| (model, batch as usize))).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let one = |&(model, batch): &(usize, usize)| {
        Ok(((model, batch), routing(&paper.models[model], paper.prompt, paper.answer, batch)?))
    };
    wanted.par_iter().map(one).collect()
}

fn key(paper: &Paper, figure: &Figure, name: &Option<String>) -> Result<Key> {
    let strategy = paper.strategies.iter().position(|strategy| Some(&strategy.name) == name.as_ref());
    let model = paper.models.iter().position(|model| Some(&model.name) == figure.model.as_ref());
    let (Some(strategy), Some(model)) = (strategy, model) else {
        return Err(Error::new("expected a system and a model").at(format!("figure \"{}\"", figure.name)));
    };
    let bits = if paper.strategies[strategy].text.contains("{bits}") { figure.bits.unwrap_or(16) } else { 16 };
    Ok((strategy, model, bits))
}

fn model_of<'a>(paper: &'a Paper, figure: &Figure) -> Result<&'a Decoded> {
    let found = paper.models.iter().find(|model| Some(&model.name) == figure.model.as_ref());
    found.ok_or_else(|| Error::new("expected a model").at(format!("figure \"{}\"", figure.name)))
}

fn sizes(model: &Decoded) -> Result<&'static Model> {
    Model::find(&model.name).ok_or_else(|| Error::new(format!("no sizes of model {}", model.name)))
}

fn resident(model: &Decoded, holds: f64) -> Result<usize> {
    match (holds * model.resident as f64).round() as usize {
        resident @ 1..=EXPERTS => Ok(resident),
        other => Err(Error::new(format!("holds {other} experts of {}: expected 1 to {EXPERTS}", model.name))),
    }
}

/// A layer for a whole prompt, alike in all systems: every expert near the data at 16 bits, for its even share.
fn prompt_us(system: &System, model: &Model, prompt: usize) -> f64 {
    let tokens = (prompt * CHOSEN).div_ceil(EXPERTS) as u32;
    let near_data = [ExpertRun { bits: 16.0, tokens }; EXPERTS];
    let work = LayerWork { tokens: prompt as u32, near_data: &near_data, ..LayerWork::default() };
    system.layer_time(model, &work).total_ps as f64 / 1e6
}

/// Figures of the machine alone, by machine and scales.
fn table(paper: &Paper, figure: &Figure, machines: &[System], scales: &[f64]) -> Result<Vec<f64>> {
    let device = |system: &System| {
        let ndp = system.ndp().ok_or_else(|| Error::new(format!("machine {} has no device", system.name)))?;
        ndp.memory.peak_gb_s().map_err(|error| Error::new(error.to_string()))
    };
    let one = |system: &System| -> Result<Vec<f64>> {
        let peak = device(system)?;
        let value = |scale: &f64| {
            Ok(match figure.quantity {
                Quantity::PeakGbS => peak,
                Quantity::GpuShare => system.link().copy_gb_s() / (system.link().copy_gb_s() + peak),
                _ => {
                    let model = sizes(model_of(paper, figure)?)?;
                    let run = |bits: f64| {
                        system.expert(model, ExpertRun::at(bits)).map_or(f64::NAN, |expert| expert.run_ps() as f64)
                    };
                    run(16.0) / run(f64::from(figure.bits.unwrap_or(16)) + scale)
                }
            })
        };
        scales.iter().map(value).collect()
    };
    let all = machines.par_iter().map(one).collect::<Result<Vec<_>>>()?;
    Ok(all.concat())
}
