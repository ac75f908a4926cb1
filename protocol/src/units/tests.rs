//! Jobs from their token to their results.

use std::cell::Cell;
use std::vec;
use std::vec::Vec;

use cptr_core::expert::{ActivationGroup, Layout, Replicas, Scratch, Workspace};
use cptr_core::{Gate, Logit};
use proptest::prelude::*;
use zerocopy::little_endian::{I32, U16};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::*;
use crate::controller::{Controller, Layer, Uncounted};
use crate::wire::{
    self, Command, Configure, Counters, Decision, Event, Frame, Head, Identity, LINE, OVERHEAD, Read, Run, Status,
    Token, Write, Writer,
};

const EXPERTS: u16 = 6;
const INPUTS: usize = 40;
const INNER: usize = 24;
/// Lines of a result.
const STRIDE: usize = (4 * INPUTS).div_ceil(LINE);
/// Where the replicas, the activation and the results lie.
const REPLICAS: u32 = 1;
const ACTIVATION: usize = 1_000;
const RESULT: usize = 1_003;
const MEMORY: usize = LINE * 1_024;

/// Buffers of a workspace.
struct Buffers {
    values: Vec<i64>,
    codes: Vec<i16>,
    groups: Vec<ActivationGroup>,
    hidden: Vec<i64>,
    hidden_codes: Vec<i16>,
    hidden_groups: Vec<ActivationGroup>,
}

impl Buffers {
    fn new() -> Self {
        Self {
            values: vec![0; 64],
            codes: vec![0; 64],
            groups: vec![ActivationGroup::default(); 2],
            hidden: vec![0; 32],
            hidden_codes: vec![0; 32],
            hidden_groups: vec![ActivationGroup::default(); 1],
        }
    }

    fn workspace(&mut self) -> Workspace<'_> {
        Workspace {
            values: &mut self.values,
            codes: &mut self.codes,
            groups: &mut self.groups,
            scratch: Scratch {
                hidden: &mut self.hidden,
                codes: &mut self.hidden_codes,
                groups: &mut self.hidden_groups,
            },
        }
    }
}

/// A memory with two layers of experts, of each a replica at 2 and at 3 bits, but none of expert 5.
fn memory() -> Vec<u8> {
    let mut numbers = 7u32;
    let mut next = || {
        numbers = numbers.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        numbers >> 8
    };
    let mut image = vec![0; LINE * Replicas::first_line(2, EXPERTS).unwrap() as usize];
    let mut places = Vec::new();
    for (layer, expert, bits) in (0..2).flat_map(|l| (0..5).flat_map(move |e| [(l, e, 2), (l, e, 3)])) {
        places.push((layer, expert, bits, (image.len() / LINE) as u32));
        for (rows, columns) in [(INNER, INPUTS), (INNER, INPUTS), (INPUTS, INNER)] {
            let layout = Layout::new(bits, 32, -12, rows as u32, columns as u32).unwrap();
            let mut bytes = vec![0; layout.byte_len() as usize];
            layout.write(&mut bytes).unwrap();
            for row in bytes[16..].chunks_exact_mut(layout.row_bytes()) {
                let codes: Vec<u8> = (0..columns).map(|_| next() as u8 & ((1 << bits) - 1)).collect();
                let scales: Vec<u16> = (0..layout.groups()).map(|_| 500 + (next() as u16 & 511)).collect();
                layout.pack_row(&codes, &scales, &vec![100; layout.groups()], row).unwrap();
            }
            image.extend(bytes);
        }
        image.resize(image.len().next_multiple_of(LINE), 0);
    }
    let lines = (image.len() / LINE) as u32;
    Replicas::write_header(&mut image, 2, EXPERTS, lines).unwrap();
    for (layer, expert, bits, line) in places {
        let entry = Replicas::entry(EXPERTS, layer, expert, bits).unwrap();
        image[entry..entry + 4].copy_from_slice(&line.to_le_bytes());
    }
    let mut memory = vec![0; MEMORY];
    memory[LINE..LINE + image.len()].copy_from_slice(&image);
    memory
}

/// The result of an expert by the core alone.
fn expected(memory: &[u8], layer: u16, expert: u16, bits: u8, x: &[f32], weight: Gate) -> Vec<u8> {
    let expert = Replicas::new(&memory[LINE..]).unwrap().expert(layer, expert, bits).unwrap();
    let (mut buffers, x) = (Buffers::new(), x.iter().map(|x| x.to_le_bytes()).collect::<Vec<_>>());
    expert.run(&x, &mut buffers.workspace()).unwrap().weighted(weight).flatten().collect()
}

/// A host of one controller, whose units are `U`.
struct Host<'a, U> {
    engine: Controller<'a, U, Uncounted, 8, 1>,
    sequence: u32,
}

impl<'a, U: Units> Host<'a, U> {
    fn new(layers: &'a mut [Layer<8, 1>], answers: &'a mut [u8], units: U) -> Self {
        let mut host = Self { engine: Controller::new(layers, answers, units, Uncounted), sequence: 0 };
        host.ask(Command::Reset, &[&[0; 4]]).unwrap();
        host
    }

    fn ask(&mut self, command: Command, body: &[&[u8]]) -> Result<Vec<u8>, Status> {
        let mut buffer = vec![0; wire::max_request(8)];
        let mut writer = Writer::new(&mut buffer);
        body.iter().for_each(|bytes| writer.put(*bytes));
        let head = Head { kind: command as u8, queue: 0, session: 1, sequence: self.sequence };
        let answer = Frame::open(self.engine.handle(writer.finish(head, Status::Done))).unwrap();
        match Status::from_number(answer.header.status).unwrap() {
            Status::Done => {
                self.sequence += 1;
                Ok(answer.body.rest().to_vec())
            }
            status => Err(status),
        }
    }

    /// Six experts, three a token, one of which may be in fast memory.
    fn configure(&mut self, replicas: u32) -> Result<Vec<u8>, Status> {
        let mut descriptor = Configure { replicas: replicas.into(), ..Configure::new_zeroed() };
        (descriptor.layers, descriptor.experts, descriptor.capacity) = (2.into(), EXPERTS.into(), 1.into());
        (descriptor.k, descriptor.score, descriptor.bits, descriptor.threshold) = (3, 1, 2, 8);
        (descriptor.groups, descriptor.top_groups, descriptor.renormalise) = (1, 1, 1);
        (descriptor.on_demand, descriptor.events, descriptor.scale) = (1, 1, (1 << 24).into());
        self.ask(Command::Configure, &[descriptor.as_bytes()])
    }

    fn token(&mut self, layer: u16, wanted: &[u16]) -> Vec<Run> {
        let head = Token {
            layer: layer.into(),
            experts: EXPERTS.into(),
            wanted: wanted.len() as u8,
            starts_sequence: 0,
            loaded: 0,
            failed: 0,
            activation: (ACTIVATION as u32).into(),
            result: (RESULT as u32).into(),
        };
        let rank = |expert| wanted.iter().position(|&other| other == expert).unwrap_or(9) as i32;
        let logits: Vec<I32> = (0..EXPERTS).map(|e| I32::new(Logit::from_num(2 - rank(e)).to_bits())).collect();
        let ids: Vec<U16> = wanted.iter().map(|&expert| expert.into()).collect();
        let answer = self.ask(Command::Token, &[head.as_bytes(), logits.as_bytes(), ids.as_bytes()]).unwrap();
        let (head, rest) = Decision::read_from_prefix(&answer).unwrap();
        <[Run]>::ref_from_prefix_with_elems(rest, head.runs.into()).unwrap().0.to_vec()
    }

    fn write(&mut self, line: usize, bytes: &[u8]) -> Result<Vec<u8>, Status> {
        self.ask(Command::Write, &[Write { line: (line as u32).into() }.as_bytes(), bytes])
    }

    fn read(&mut self, line: usize, lines: usize) -> Result<Vec<u8>, Status> {
        let descriptor = Read { line: (line as u32).into(), lines: (lines as u16).into(), reserved: 0.into() };
        self.ask(Command::Read, &[descriptor.as_bytes()])
    }

    fn all<T: FromBytes + Immutable>(&mut self, command: Command) -> Vec<T> {
        let bytes = self.ask(command, &[]).unwrap();
        bytes.chunks_exact(size_of::<T>()).map(|bytes| T::read_from_bytes(bytes).unwrap()).collect()
    }
}

fn input() -> Vec<f32> {
    (0..INPUTS).map(|i| (i as f32 * 0.37).sin() * 3.0).collect()
}

/// The input in whole lines.
fn lines(x: &[f32]) -> Vec<u8> {
    let mut bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
    bytes.resize(bytes.len().next_multiple_of(LINE), 0);
    bytes
}

#[test]
fn a_token_brings_the_results_of_its_cold_experts() {
    let (mut memory, mut buffers) = (memory(), Buffers::new());
    let before = memory.clone();
    let (mut layers, mut answers) = ([Layer::new(), Layer::new()], vec![0; wire::max_answer(8)]);
    let mut host = Host::new(&mut layers, &mut answers, Kernels::new(&mut memory, buffers.workspace()));
    let who = Identity::read_from_bytes(&host.ask_who()).unwrap();
    assert_eq!(who.lines.get() as usize, MEMORY / LINE);
    host.configure(REPLICAS).unwrap();
    for (layer, wanted) in [(0, [3, 1, 0]), (1, [4, 2, 3])] {
        let x: Vec<f32> = input().iter().map(|x| x * f32::from(layer + 1)).collect();
        host.write(ACTIVATION, &lines(&x)).unwrap();
        let runs = host.token(layer, &wanted);
        while host.engine.outstanding() > 0 {
            host.engine.idle();
        }
        let events: Vec<Event> = host.all(Command::Events);
        assert_eq!(events.len(), 3);
        assert!(events.iter().all(|event| event.kind == Outcome::Done as u8 && event.layer.get() == layer));
        for (rank, run) in runs.iter().enumerate() {
            let weight = Gate::from_bits(run.weight.get());
            let expected = expected(&before, layer, run.expert.get(), run.bits, &x, weight);
            let found = host.read(RESULT + rank * STRIDE, STRIDE).unwrap();
            assert_eq!((run.bits, &found[..expected.len()]), (2, &expected[..]), "layer {layer}, rank {rank}");
            assert!(expected.iter().any(|&byte| byte != 0));
        }
    }
}

impl<U: Units> Host<'_, U> {
    fn ask_who(&mut self) -> Vec<u8> {
        let sequence = self.sequence;
        let answer = self.ask(Command::Identify, &[]).unwrap();
        self.sequence = sequence;
        answer
    }
}

#[test]
fn jobs_that_cannot_run_fail_and_change_nothing() {
    let x = input();
    for case in 0..5 {
        let (mut memory, mut buffers) = (memory(), Buffers::new());
        let mut not_finite = x.clone();
        not_finite[7] = f32::NAN;
        let input = if case == 0 { &not_finite } else { &x };
        memory[LINE * ACTIVATION..][..4 * INPUTS].copy_from_slice(&lines(input)[..4 * INPUTS]);
        if case == 1 {
            buffers.values.truncate(INPUTS - 1);
        }
        let before = memory.clone();
        let mut units = Kernels::new(&mut memory, buffers.workspace());
        units.configure(REPLICAS);
        let job = Job { expert: 2, bits: 2, activation: ACTIVATION as u32, result: RESULT as u32, ..Job::NONE };
        let outside = (MEMORY / LINE) as u32;
        let job = match case {
            2 => Job { expert: 5, ..job },
            3 => Job { activation: outside - 1, ..job },
            4 => Job { result: outside - STRIDE as u32, rank: 1, ..job },
            _ => job,
        };
        units.submit(&job).unwrap();
        assert_eq!(units.submit(&job), Err(Busy));
        assert_eq!(units.ended(), Some((job, Outcome::Failed)), "{case}");
        assert_eq!(units.ended(), None);
        assert!(units.memory() == before, "{case}");
    }
}

#[test]
fn without_replicas_jobs_end_and_give_nothing() {
    let (mut memory, mut buffers) = (memory(), Buffers::new());
    let before = memory.clone();
    let (mut layers, mut answers) = ([Layer::new(), Layer::new()], vec![0; wire::max_answer(8)]);
    let mut host = Host::new(&mut layers, &mut answers, Kernels::new(&mut memory, buffers.workspace()));
    assert_eq!(host.configure((MEMORY / LINE) as u32), Err(Status::Value));
    host.configure(0).unwrap();
    host.token(0, &[1, 2, 3]);
    while host.engine.outstanding() > 0 {
        host.engine.idle();
    }
    let counters = host.ask(Command::Counters, &[&[0xFF; 2]]).unwrap();
    let counters = Counters::read_from_bytes(&counters).unwrap();
    assert_eq!((counters.jobs.get(), counters.failed.get()), (3, 0));
    drop(host);
    assert!(memory == before);
}

#[test]
fn memory_is_written_and_read_by_lines() {
    let (mut memory, mut buffers) = (vec![0; 10 * LINE + 5], Buffers::new());
    let (mut layers, mut answers) = ([Layer::new(), Layer::new()], vec![0; wire::max_answer(8)]);
    let mut host = Host::new(&mut layers, &mut answers, Kernels::new(&mut memory, buffers.workspace()));
    let bytes: Vec<u8> = (0..2 * LINE).map(|i| i as u8).collect();
    assert_eq!(host.write(8, &bytes), Ok(Vec::new()));
    assert_eq!((host.read(8, 2), host.read(7, 2)), (Ok(bytes.clone()), Ok([&[0; LINE], &bytes[..LINE]].concat())));
    assert_eq!(host.write(9, &bytes), Err(Status::Value));
    assert_eq!((host.read(9, 2), host.read(usize::MAX, 1), host.read(3, 0)), {
        (Err(Status::Value), Err(Status::Value), Err(Status::Value))
    });
    assert_eq!((host.write(0, &bytes[1..]), host.write(0, &[])), (Err(Status::Length), Err(Status::Length)));
    // As much as an answer holds, and more.
    let most = wire::max_lines(8);
    assert!(most >= 4 && host.read(0, most.min(10)).is_ok());
    assert_eq!(host.read(0, most + 10), Err(Status::Length));
    let longest = OVERHEAD + size_of::<Write>() + most * LINE;
    assert!(longest <= wire::max_request(8) && OVERHEAD + most * LINE <= wire::max_answer(8));
    // Units without a memory.
    let (mut layers, mut answers) = ([Layer::new(), Layer::new()], vec![0; wire::max_answer(8)]);
    let mut host = Host::new(&mut layers, &mut answers, Untimed::default());
    assert_eq!((host.read(0, 1), host.write(0, &bytes)), (Err(Status::Value), Err(Status::Value)));
}

impl Clock for &Cell<u32> {
    fn now(&self) -> u32 {
        self.get()
    }
}

proptest! {
    #[test]
    fn any_memory_and_any_job_are_harmless(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        replicas in prop_oneof![0u32..4, any::<u32>()],
        jobs in prop::collection::vec((0u16..3, 0u16..7, 0u8..6, any::<u8>(), any::<u32>(), any::<u32>()), 1..6),
        near: bool,
    ) {
        let (mut memory, mut buffers) = (memory(), Buffers::new());
        // Most of it is replicas: the first lines are header and table.
        let upto = if near { 8 * LINE } else { MEMORY };
        changes.into_iter().for_each(|(at, byte)| memory[at.index(upto)] = byte);
        let mut units = Kernels::new(&mut memory, buffers.workspace());
        units.configure(replicas);
        for (layer, expert, bits, rank, activation, result) in jobs {
            let lines = (MEMORY / LINE) as u32;
            let place = |line: u32| if near { line % (lines + 2) } else { line };
            let (activation, result) = (place(activation), place(result));
            let job = Job { layer, expert, bits, rank, activation, result, weight: Gate::ONE, token: 1 };
            units.submit(&job).unwrap();
            prop_assert_eq!(units.ended().map(|(job, _)| job), Some(job));
        }
    }

    /// Longest first on units of one speed: the last one ends when a simulation by hand says so.
    #[test]
    fn timed_units_end_when_their_time_is_over(
        bits in prop::collection::vec(1u8..5, 1..12),
        start: u32,
    ) {
        const UNITS: usize = 3;
        let clock = Cell::new(start);
        let ticks = core::array::from_fn(|bits| 10 * bits as u32);
        let mut units = Timed::<_, _, UNITS>::new(Untimed::default(), &clock, ticks);
        let mut queue = cptr_core::dispatch::Queue::<[Job; 16]>::new();
        let jobs: Vec<Job> =
            bits.iter().enumerate().map(|(i, &bits)| Job { expert: i as u16, bits, ..Job::NONE }).collect();
        queue.push(&jobs).unwrap();
        let mut free = [0; UNITS];
        for job in &jobs {
            *free.iter_mut().min().unwrap() += 10 * u32::from(job.bits);
        }
        let mut ended = 0;
        while queue.outstanding() > 0 {
            ended += queue.advance(&mut units);
            if queue.outstanding() > 0 {
                clock.set(clock.get().wrapping_add(1));
            }
        }
        prop_assert_eq!((ended, clock.get().wrapping_sub(start)), (jobs.len(), *free.iter().max().unwrap()));
    }
}
