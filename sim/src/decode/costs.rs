//! Times of single experts and of whole layers on one machine for one model, remembered.

use std::cell::RefCell;
use std::collections::HashMap;

use cptr_hw_model::{DecodeTime, DecodeWork, ExpertRun, Model, System};

/// Bits that experts run at: those of the replicas near the data, and full precision.
const BITS: [u8; 5] = [1, 2, 3, 4, 16];

/// What a layer of one sequence has to do, in counts: the key under which its time is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Key {
    gpu: [u8; 5],
    near: [u8; 5],
    awaited: [u8; 5],
    flags: u8,
}

/// A layer's work with what it waits for by bits.
#[derive(Debug, Clone, Default)]
pub struct Work {
    /// Experts on the GPU, resident ones first.
    pub gpu: Vec<ExpertRun>,
    /// Experts near the data.
    pub near: Vec<ExpertRun>,
    /// Bits of the copies that the layer waits for.
    pub awaited: Vec<u8>,
    /// Whether a migration is under way.
    pub migrating: bool,
    /// Whether the controller goes through all scores before dispatch.
    pub selects: bool,
    /// Whether it goes through all levels behind dispatch.
    pub updates: bool,
}

/// Times on one machine for one model.
#[derive(Debug)]
pub struct Costs<'a> {
    system: &'a System,
    model: &'a Model,
    experts: u32,
    sequences: u32,
    /// Experts near the data by bits, for one token.
    near_ps: [f64; 5],
    known: RefCell<HashMap<Key, DecodeTime>>,
}

fn index(bits: u8) -> usize {
    BITS.iter().position(|&known| known >= bits).unwrap_or(BITS.len() - 1)
}

impl<'a> Costs<'a> {
    /// For layers of `experts` experts and a batch of `sequences`. Simulates the memory of the device once for each number of bits.
    pub fn new(system: &'a System, model: &'a Model, experts: usize, sequences: usize) -> Self {
        let near = |bits: u8| system.expert_at(model, f64::from(bits)).map_or(0.0, |expert| expert.run_ps() as f64);
        Self {
            system,
            model,
            experts: experts as u32,
            sequences: sequences as u32,
            near_ps: BITS.map(near),
            known: RefCell::default(),
        }
    }

    /// Bytes of an expert at full precision, as it is copied.
    pub fn expert_bytes(&self) -> f64 {
        self.model.expert_bytes(16.0)
    }

    /// The machine.
    pub const fn system(&self) -> &System {
        self.system
    }

    /// One expert on the GPU, from its memory, in picoseconds.
    pub fn gpu_run_ps(&self, bits: u8, tokens: u32) -> f64 {
        let parameters = self.model.expert_parameters() as f64;
        self.system.gpu().kernel_ps(parameters * f64::from(bits) / 8.0, parameters * f64::from(tokens))
    }

    /// One expert near the data in picoseconds, when others follow it without a gap.
    pub fn near_run_ps(&self, bits: u8, tokens: u32) -> f64 {
        if tokens == 1 {
            return self.near_ps[index(bits)];
        }
        let (bits, model) = (f64::from(bits), self.model);
        let one = self.system.expert_at(model, bits).zip(self.system.ndp());
        one.map_or(0.0, |(one, ndp)| ndp.for_tokens(&one, model, bits, tokens).run_ps() as f64)
    }

    /// A copy of one expert into GPU memory in picoseconds, nothing else on the link.
    pub fn copy_ps(&self, bits: u8) -> f64 {
        self.system.link().copy_ps(self.model.expert_bytes(f64::from(bits))) as f64
    }

    /// Share of the time near the data that a migration takes from experts at `bits` bits while it is under way.
    pub fn migration_share(&self, bits: u8) -> f64 {
        let expert = self.system.expert_at(self.model, f64::from(bits));
        let device_gb_s = expert.map_or(f64::INFINITY, |expert| expert.bytes as f64 / expert.stream_ps as f64 * 1e3);
        (self.system.link().copy_gb_s() / device_gb_s).min(0.9)
    }

    /// A layer whose GPU is busy with experts for `gpu_ps` and its device for `near_ps`: dense part and the slower of the two, with the trip
    /// to the device. For comparing divisions; [`Self::layer`] is exact.
    pub fn layer_ps(&self, gpu_ps: f64, near_ps: f64) -> f64 {
        let dense = self.model.dense_parameters as f64;
        let dense_ps = self.system.gpu().kernel_ps(dense * 2.0, dense * f64::from(self.sequences));
        let link = self.system.link();
        let trip_ps = if near_ps > 0.0 {
            let there_and_back = link.send(self.model.activation_bytes() as u64).serial_ps * 2;
            (there_and_back + 2 * link.one_way_ps() + link.launch_ps()) as f64
        } else {
            0.0
        };
        dense_ps + gpu_ps.max(near_ps + trip_ps)
    }

    /// Time and energy of a layer.
    pub fn layer(&self, work: &Work) -> DecodeTime {
        if self.sequences > 1 {
            return self.compute(work);
        }
        let mut key = Key {
            flags: u8::from(work.migrating) | u8::from(work.selects) << 1 | u8::from(work.updates) << 2,
            ..Key::default()
        };
        work.gpu.iter().for_each(|run| key.gpu[index(run.bits as u8)] += 1);
        work.near.iter().for_each(|run| key.near[index(run.bits as u8)] += 1);
        work.awaited.iter().for_each(|&bits| key.awaited[index(bits)] += 1);
        if let Some(&time) = self.known.borrow().get(&key) {
            return time;
        }
        // In the order of the key, so that what is remembered does not depend on who asked first.
        let mut sorted = work.clone();
        sorted.gpu.sort_by(|a, b| a.bits.total_cmp(&b.bits));
        sorted.near.sort_by(|a, b| a.bits.total_cmp(&b.bits));
        let time = self.compute(&sorted);
        self.known.borrow_mut().insert(key, time);
        time
    }

    fn compute(&self, work: &Work) -> DecodeTime {
        let awaited_bytes = work.awaited.iter().map(|&bits| self.model.expert_bytes(f64::from(bits))).sum();
        let counted = |yes: bool| if yes { self.experts } else { 0 };
        self.system.decode_time(
            self.model,
            &DecodeWork {
                tokens: self.sequences,
                gpu: &work.gpu,
                near_data: &work.near,
                awaited_bytes,
                awaited: work.awaited.len() as u32,
                migrating: work.migrating,
                selected_from: counted(work.selects),
                updated: counted(work.updates),
            },
        )
    }
}
