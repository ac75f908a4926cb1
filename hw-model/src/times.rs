//! Times of layers, remembered.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::layer::LayerTime;
use crate::model::Model;
use crate::schedule::{Trip, taken_by_copies};
use crate::system::System;
use crate::work::{CopiedRun, ExpertRun, LayerWork};

/// Times of one model on one machine, remembered: for those who ask for millions of layers, and for those who compare
/// ways to divide one. One for each thread: it is not shared.
///
/// ```
/// use cptr_hw_model::{ExpertRun, LayerTimes, LayerWork, Model, System};
///
/// let (system, model) = (System::find("ndp").ok_or("no such machine")?, Model::find("OLMoE").ok_or("no such model")?);
/// let times = LayerTimes::new(system, model);
/// let near_data = [ExpertRun::at(2.0), ExpertRun::at(4.0)];
/// let layer = LayerWork { tokens: 1, near_data: &near_data, ..LayerWork::default() };
/// assert_eq!(times.get(&layer), system.layer_time(model, &layer));
/// // Would one of them be done sooner on the GPU, if it has to be copied there first?
/// assert!(times.near_run_ps(near_data[1]) < times.copy_ps(16.0) + times.gpu_run_ps(ExpertRun::at(16.0)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LayerTimes<'a> {
    system: &'a System,
    model: &'a Model,
    known: RefCell<Known>,
    /// Experts near the data by bits (as their pattern) and tokens.
    near_ps: RefCell<HashMap<(u64, u32), f64>>,
}

/// Layers of one token, and room to put a question together.
#[derive(Debug, Default)]
struct Known {
    /// By the words of [`Known::get`].
    layers: HashMap<Box<[u64]>, LayerTime>,
    words: Vec<u64>,
    gpu: Vec<ExpertRun>,
    copied: Vec<CopiedRun>,
    near_data: Vec<ExpertRun>,
    copies_bits: Vec<f64>,
}

impl<'a> LayerTimes<'a> {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(system: &'a System, model: &'a Model) -> Self {
        Self { system, model, known: RefCell::default(), near_ps: RefCell::default() }
    }

    /// The machine.
    #[must_use]
    pub const fn system(&self) -> &'a System {
        self.system
    }

    /// The model.
    #[must_use]
    pub const fn model(&self) -> &'a Model {
        self.model
    }

    /// [`System::layer_time`]. Of one token it is that of the layer with each list in the order of its bits, so that
    /// what is remembered does not depend on who asked first; layers of a batch are rarely alike, and are computed each
    /// time.
    #[must_use]
    pub fn get(&self, work: &LayerWork<'_>) -> LayerTime {
        let copied = work.copied.iter().map(|copied| &copied.run);
        let one_token = work.gpu.iter().chain(work.near_data).chain(copied).all(|run| run.tokens == 1);
        if work.sequences() > 1 || !one_token {
            return self.system.layer_time(self.model, work);
        }
        let alone = LayerWork { attended: 0, ..*work };
        let time = self.known.borrow_mut().get(&alone, |work| self.system.layer_time(self.model, work));
        self.with_attention(time, work)
    }

    /// `time`, which is that of `work` with nothing attended, with its attention: the same as asking for both at once.
    #[must_use]
    pub fn with_attention(&self, time: LayerTime, work: &LayerWork<'_>) -> LayerTime {
        if work.attended == 0 { time } else { self.system.with_attention(self.model, time, work) }
    }

    /// One expert on the GPU, from its memory, in picoseconds.
    #[must_use]
    pub fn gpu_run_ps(&self, run: ExpertRun) -> f64 {
        self.system.kernel_ps(self.model.expert_parameters(), run)
    }

    /// One expert near the data in picoseconds, without its trip; 0 without a device.
    #[must_use]
    pub fn near_run_ps(&self, run: ExpertRun) -> f64 {
        let find = || self.system.expert(self.model, run).map_or(0.0, |expert| expert.run_ps() as f64);
        *self.near_ps.borrow_mut().entry((run.bits.to_bits(), run.tokens)).or_insert_with(find)
    }

    /// A copy of one expert at `bits` bits per weight into GPU memory, in picoseconds, with nothing else on the link.
    #[must_use]
    pub fn copy_ps(&self, bits: f64) -> f64 {
        self.system.copy_ps(self.model.expert_bytes(bits)) as f64
    }

    /// Share of the device's memory that a migration takes from experts at `bits` bits per weight; 0 without a device.
    #[must_use]
    pub fn migration_share(&self, bits: f64) -> f64 {
        self.system
            .expert(self.model, ExpertRun::at(bits))
            .map_or(0.0, |expert| taken_by_copies(self.system, &[expert]))
    }

    /// About how long a layer of a batch of `tokens` takes whose GPU is busy with experts for `gpu_ps` and whose device
    /// for `near_ps`: launches, the dense part and the slower of the two, with the trip to the device; without
    /// attention over keys and values, which is the same however experts are divided. For comparing divisions;
    /// [`Self::get`] is exact.
    #[must_use]
    pub fn estimate_ps(&self, tokens: u32, gpu_ps: f64, near_ps: f64) -> f64 {
        let dense_run = ExpertRun { bits: self.system.dense_bits, tokens };
        let dense_ps = self.system.kernel_ps(self.model.dense_parameters(), dense_run);
        let link = self.system.link();
        let trip_ps = if near_ps > 0.0 {
            let trip = Trip::new(link, self.model, 0, 1);
            (trip.there_ps + trip.result_ps + link.one_way_ps() + link.back_ps() + link.launch_ps()) as f64
        } else {
            0.0
        };
        let launches_ps = self.system.gpu().launches_ps(self.system.gpu().kernels_per_layer) as f64;
        launches_ps + dense_ps + gpu_ps.max(near_ps + trip_ps)
    }
}

impl Known {
    /// Layers with the same words have the same time: switches, lengths, then the bits of each list in their order.
    fn get(&mut self, work: &LayerWork<'_>, compute: impl FnOnce(&LayerWork<'_>) -> LayerTime) -> LayerTime {
        sort(&mut self.gpu, work.gpu, |run| (run.bits, 0.0));
        sort(&mut self.near_data, work.near_data, |run| (run.bits, 0.0));
        sort(&mut self.copies_bits, work.copies_bits, |&bits| (bits, 0.0));
        sort(&mut self.copied, work.copied, |copied| (copied.run.bits, copied.bits));
        let words = &mut self.words;
        words.clear();
        words.push(u64::from(work.scored) << 32 | u64::from(work.tracked));
        words.push((work.gpu.len() as u64) << 32 | work.near_data.len() as u64);
        words.push((work.copied.len() as u64) << 1 | u64::from(work.migrating));
        let copied = self.copied.iter().flat_map(|copied| [copied.run.bits, copied.bits]);
        let runs = self.gpu.iter().chain(&self.near_data).map(|run| run.bits);
        words.extend(runs.chain(copied).chain(self.copies_bits.iter().copied()).map(f64::to_bits));
        if let Some(&time) = self.layers.get(&**words) {
            return time;
        }
        let time = compute(&LayerWork {
            gpu: &self.gpu,
            copied: &self.copied,
            near_data: &self.near_data,
            copies_bits: &self.copies_bits,
            ..*work
        });
        self.layers.insert(words.as_slice().into(), time);
        time
    }
}

/// Fills `to` with `from`, the least bits first; of equal ones the least of the second number.
fn sort<T: Copy>(to: &mut Vec<T>, from: &[T], bits: impl Fn(&T) -> (f64, f64)) {
    to.clear();
    to.extend_from_slice(from);
    to.sort_by(|a, b| {
        let (a, b) = (bits(a), bits(b));
        a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::work::tests::lists;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However often, and in whichever order experts are named.
        #[test]
        fn what_is_remembered_is_the_layer(
            questions in prop::collection::vec((lists(1), any::<bool>(), 0u32..3, 0u64..5000), 1..9),
            far in 0.0f64..1.0,
        ) {
            let model = Model::find("olmoe").unwrap();
            let mut system = System::find("ndp").unwrap().clone();
            system.kv_far_share = far;
            let times = LayerTimes::new(&system, model);
            for (lists, migrating, scored, attended) in questions.iter().chain(&questions) {
                let (mut sorted, mut turned) = (lists.clone(), lists.clone());
                sorted.gpu.sort_by(|a, b| a.bits.total_cmp(&b.bits));
                sorted.near_data.sort_by(|a, b| a.bits.total_cmp(&b.bits));
                sorted.copied.sort_by(|a, b| a.run.bits.total_cmp(&b.run.bits).then(a.bits.total_cmp(&b.bits)));
                sorted.copies_bits.sort_by(f64::total_cmp);
                turned.gpu.reverse();
                turned.near_data.reverse();
                turned.copied.reverse();
                turned.copies_bits.reverse();
                let ask = |lists: &crate::work::tests::Lists, ask: &dyn Fn(&LayerWork<'_>) -> LayerTime| {
                    let (migrating, scored, attended) = (*migrating, *scored, *attended);
                    ask(&LayerWork { migrating, scored, attended, ..lists.work() })
                };
                let exact = ask(&sorted, &|work| system.layer_time(model, work));
                prop_assert_eq!(ask(lists, &|work| times.get(work)), exact);
                prop_assert_eq!(ask(&turned, &|work| times.get(work)), exact);
            }
            prop_assert!(times.known.borrow().layers.len() <= questions.len());
        }
    }

    #[test]
    fn a_batch_is_computed_and_estimates_are_parts_of_the_layer() {
        let (system, model) = (System::find("ndp").unwrap(), Model::find("olmoe").unwrap());
        let times = LayerTimes::new(system, model);
        let batch = LayerWork { tokens: 4, near_data: &[ExpertRun { bits: 2.0, tokens: 3 }], ..LayerWork::default() };
        assert_eq!(times.get(&batch), system.layer_time(model, &batch));
        assert!(times.known.borrow().layers.is_empty());
        let near_ps = times.near_run_ps(batch.near_data[0]);
        assert_eq!(near_ps as u64, times.get(&batch).ndp_ps);
        assert!((times.estimate_ps(4, 0.0, near_ps) / times.get(&batch).total_ps as f64 - 1.0).abs() < 0.1);
        assert!((0.0..0.1).contains(&times.migration_share(16.0)));
        let offload = LayerTimes::new(System::find("offload").unwrap(), model);
        assert_eq!((offload.near_run_ps(ExpertRun::at(2.0)), offload.migration_share(2.0)), (0.0, 0.0));
    }
}
