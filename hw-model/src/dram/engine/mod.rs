//! The memory as a part of another simulator: requests go in one by one, completions come out in order of time.
//!
//! ```
//! use cptr_hw_model::dram::{Config, Engine, EngineConfig, MappingKind, Refresh, Request, presets};
//!
//! // Two channels, 256 bytes to each in turn; source 0 goes before source 1.
//! let controller = Config::new(MappingKind::Mop4ClXor, Refresh::AllBank);
//! let config = EngineConfig { channels: 2, stripe_bytes: 256, priorities: vec![0, 1], controller };
//! let mut memory = Engine::new(&presets::ddr5_4800(), config)?;
//!
//! let (mut offered, mut completed) = (0, 0);
//! while completed < 10_000 {
//!     // As many as there is room for now.
//!     while offered < 10_000 && memory.offer(Request::read(64 * offered).from_source(1)).is_ok() {
//!         offered += 1;
//!     }
//!     // An event-driven simulator goes to the next event, one that steps to the next cycle: the same comes out.
//!     let next = memory.next_event().expect("reads are on their way");
//!     memory.advance(next)?;
//!     while let Some(completion) = memory.pop() {
//!         assert!(completion.cycle <= memory.now() && completion.source == 1);
//!         completed += 1;
//!     }
//! }
//! assert_eq!(memory.statistics().reads_served, 10_000);
//! assert!(memory.bandwidth_gb_s() > 1.8 * 0.9 * presets::ddr5_4800().peak_gb_s() / 2.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Time
//! The engine is at a cycle of the command clock, [`Engine::now`]. A request is offered in that cycle; its first
//! command can go out in the next one. [`Engine::advance`] lets everything happen up to a later cycle, that one
//! included. Into how many steps a stretch of time is cut makes no difference to anything. A read is complete when its
//! last data has come over the bus, a write when its last data has gone there; what the write queue answers (a read of
//! an address that waits to be written, a write to it) in the next cycle. Who answers writes at once does so when they
//! are taken.
//!
//! # Sources
//! Who asks, by its index: near-data units, the host, a cache of keys and values. A source has a priority, 0 the first.
//! Among the commands that can go out in a cycle the one for the request of the first priority goes, then the oldest; a
//! row stays open for a request that hits it unless one of a higher priority wants another row. Priority is strict: who
//! comes last may wait for ever. Reads and writes still take turns as ever, a refresh goes before the queue, and places
//! in the queues are given to who asks first.
//!
//! # Memory
//! Does not grow with the length of a run. Completions wait until they are taken; when 65,536 of a channel wait, it
//! takes no more requests ([`NotTaken::Unread`]).

mod completions;
mod errors;
mod save;

use completions::Completions;
pub use completions::{Completion, Id};
pub use errors::{CallError, NotTaken, SnapshotError};

use super::config::Config;
use super::controller::{Busy, Controller};
use super::device::Device;
use super::energy::{CommandEnergy, Energy};
use super::error::{AddressError, ConfigError};
use super::mapping::ChannelStripe;
use super::queue::{BELOW_PRIORITY, Queue};
use super::request::{Request, RequestKind};
use super::statistics::{SourceStatistics, Statistics};

/// Most completions of a channel that wait to be taken.
const MOST_UNREAD: usize = 1 << 16;
/// Most channels.
const MOST_CHANNELS: u32 = 1024;
/// Last cycle: far beyond any run.
const LAST_CYCLE: u64 = 1 << 48;

/// How an engine is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// The controller of each channel.
    pub controller: Config,
    /// Channels, 1 to 1024.
    pub channels: u32,
    /// Bytes that one channel holds before the next one's turn: whole accesses. Not looked at where there is one
    /// channel.
    pub stripe_bytes: u64,
    /// Priority of each source, 0 the first: one to 256 sources.
    pub priorities: Vec<u8>,
}

impl EngineConfig {
    /// One channel, one source.
    pub fn new(controller: Config) -> Self {
        Self { controller, channels: 1, stripe_bytes: 256, priorities: vec![0] }
    }
}

/// Channels of a memory with their controllers, to be driven by others. See the [module](self).
#[derive(Debug, Clone)]
pub struct Engine {
    lanes: Vec<Controller<Completions>>,
    /// None where there is one channel.
    stripe: Option<ChannelStripe>,
    sources: usize,
    now: u64,
    t_ck_ps: u64,
    cycles_per_clock: u64,
    command_energy: Option<CommandEnergy>,
    /// Of device and configuration: a snapshot belongs to them.
    fingerprint: u64,
}

impl Engine {
    /// An idle memory at cycle 0.
    ///
    /// # Errors
    /// An impossible device or configuration: the field, the value and the rule.
    pub fn new(device: &Device, config: EngineConfig) -> Result<Self, ConfigError> {
        if config.channels == 0 || config.channels > MOST_CHANNELS {
            let rule = format!("must lie between 1 and {MOST_CHANNELS}");
            return Err(ConfigError::new("channels", config.channels, rule));
        }
        if config.priorities.is_empty() || config.priorities.len() > 256 {
            return Err(ConfigError::new("priorities", config.priorities.len(), "must be those of 1 to 256 sources"));
        }
        let stripe = match config.channels {
            1 => None,
            channels => Some(ChannelStripe::new(channels, config.stripe_bytes, device)?),
        };
        let mut lane = Controller::with_observer(device, config.controller, Completions::default())?;
        lane.set_sources(&config.priorities);
        Ok(Self {
            lanes: vec![lane; config.channels as usize],
            stripe,
            sources: config.priorities.len(),
            now: 0,
            t_ck_ps: u64::from(device.timing.t_ck_ps),
            cycles_per_clock: u64::from(device.cycles_per_clock()),
            command_energy: CommandEnergy::of(device),
            fingerprint: save::fingerprint(device, &config),
        })
    }

    /// Current cycle.
    pub const fn now(&self) -> u64 {
        self.now
    }

    /// Current time in picoseconds.
    pub const fn time_ps(&self) -> u64 {
        self.now * self.t_ck_ps / self.cycles_per_clock
    }

    /// Picoseconds of a clock.
    pub const fn clock_ps(&self) -> u64 {
        self.t_ck_ps
    }

    /// Cycles in a clock: 2 where commands use both edges (HBM3), else 1.
    pub const fn cycles_per_clock(&self) -> u64 {
        self.cycles_per_clock
    }

    /// Bytes of all channels.
    pub fn capacity(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.map.capacity()).sum()
    }

    /// Bytes of one access.
    pub fn access_bytes(&self) -> u64 {
        self.lanes.first().map_or(1, |lane| lane.map.access_bytes())
    }

    /// Number of channels.
    pub const fn channels(&self) -> usize {
        self.lanes.len()
    }

    /// Number of sources.
    pub const fn sources(&self) -> usize {
        self.sources
    }

    /// Offers a request in the current cycle; [`Request::not_before`] is not looked at.
    ///
    /// # Errors
    /// Why it was not taken; nothing has changed. [`NotTaken::is_busy`] tells whether a later cycle may take it.
    #[inline]
    pub fn offer(&mut self, request: Request) -> Result<Id, NotTaken> {
        let (channel, local) = match &self.stripe {
            None => (0, request.address),
            Some(stripe) => {
                let (channel, local) = stripe.split(request.address);
                (channel as usize, local)
            }
        };
        let count = self.lanes.len() as u64;
        let lane = &mut self.lanes[channel];
        if let Err(error) = lane.map.check(local) {
            return Err(NotTaken::Address(match error {
                AddressError::Unaligned { access_bytes, .. } => {
                    AddressError::Unaligned { address: request.address, access_bytes }
                }
                AddressError::OutOfRange { capacity, .. } => {
                    AddressError::OutOfRange { address: request.address, capacity: capacity * count }
                }
            }));
        }
        if usize::from(request.source) >= self.sources {
            return Err(NotTaken::NoSuchSource { source: request.source, sources: self.sources });
        }
        if lane.observer.len() >= MOST_UNREAD {
            return Err(NotTaken::Unread);
        }
        let entry = lane.entry(local, request.kind == RequestKind::Write, request.source);
        match lane.accept(&entry) {
            Ok(number) => Ok(Id::new(number, channel, count)),
            Err(Busy::Queue) => Err(NotTaken::QueueFull),
            Err(Busy::Cycle) => Err(NotTaken::NextCycle),
        }
    }

    /// Goes to cycle `to` and lets happen what happens up to then, that cycle included.
    ///
    /// # Errors
    /// A cycle that is past, or beyond 2^48; nothing has changed.
    #[inline]
    pub fn advance(&mut self, to: u64) -> Result<(), CallError> {
        if to < self.now {
            return Err(CallError::Backwards { now: self.now, to });
        }
        if to > LAST_CYCLE {
            return Err(CallError::TooFar { to });
        }
        for lane in &mut self.lanes {
            lane.advance(to);
        }
        self.now = to;
        Ok(())
    }

    /// First cycle in which something of what is known now can happen: a completion, or a command, after which there
    /// may be room again. The current one if a completion waits to be taken. `None` if nothing ever will: without
    /// requests and without refresh.
    #[inline]
    pub fn next_event(&mut self) -> Option<u64> {
        let event = |lane: &mut Controller<Completions>| lane.wake().min(lane.observer.next());
        let next = self.lanes.iter_mut().map(event).fold(u64::MAX, u64::min);
        (next != u64::MAX).then(|| next.max(self.now))
    }

    /// As [`Self::next_event`], commands only: who is refused for want of room need not ask before that.
    #[inline]
    pub fn next_command(&mut self) -> Option<u64> {
        let next = self.lanes.iter_mut().map(Controller::wake).fold(u64::MAX, u64::min);
        (next != u64::MAX).then_some(next)
    }

    /// First completion whose cycle has come; `None` if there is none. In order of their cycles, then of the channels,
    /// then as they were served.
    #[inline]
    pub fn pop(&mut self) -> Option<Completion> {
        let (mut first, mut channel) = (u64::MAX, 0);
        for (index, lane) in self.lanes.iter().enumerate() {
            let next = lane.observer.next();
            if next < first {
                (first, channel) = (next, index);
            }
        }
        if first > self.now {
            return None;
        }
        let served = self.lanes[channel].observer.take()?;
        Some(Completion {
            id: Id::new(served.number, channel, self.lanes.len() as u64),
            source: served.source,
            kind: if served.is_write { RequestKind::Write } else { RequestKind::Read },
            cycle: served.cycle,
            latency: served.latency,
        })
    }

    /// When a request completes or did, if that is known already: it is when its data command has gone out. Looks
    /// through the queues.
    ///
    /// # Errors
    /// An id that was never given, or whose completion was taken.
    pub fn completes(&self, id: Id) -> Result<Option<u64>, CallError> {
        let (number, channel) = id.parts(self.lanes.len() as u64);
        let lane = &self.lanes[channel];
        if let Some(cycle) = lane.observer.find(number) {
            return Ok(Some(cycle));
        }
        let state = &lane.state;
        let queued = state.queues.iter().flat_map(Queue::by_age);
        let opened = state.active.iter().flatten().map(|active| &active.entry).chain(&state.activating);
        let mut waiting = queued.chain(opened);
        if waiting.any(|entry| entry.sequence & BELOW_PRIORITY == number) {
            Ok(None)
        } else {
            Err(CallError::UnknownId)
        }
    }

    /// True if no request waits and every completion was taken.
    pub fn is_idle(&self) -> bool {
        self.lanes.iter().all(|lane| lane.is_idle() && lane.observer.len() == 0)
    }

    /// All counts since the start, of all channels together.
    pub fn statistics(&self) -> Statistics {
        let mut sum = Statistics::default();
        for lane in &self.lanes {
            sum.merge(&lane.counts());
        }
        sum
    }

    /// The counts of one channel; `None` if there is no such channel.
    pub fn channel_statistics(&self, channel: usize) -> Option<Statistics> {
        self.lanes.get(channel).map(Controller::counts)
    }

    /// Energy of all channels up to now; `None` where the device's currents are not known.
    pub fn energy(&self) -> Option<Energy> {
        let ranks: usize = self.lanes.iter().map(|lane| lane.state.channel.rank_count).sum();
        self.command_energy.map(|of| of.total(&self.statistics(), self.now * ranks as u64))
    }

    /// The counts of one source over all channels; `None` if there is no such source.
    pub fn source_statistics(&self, source: usize) -> Option<SourceStatistics> {
        if source >= self.sources {
            return None;
        }
        let mut sum = SourceStatistics::default();
        for lane in &self.lanes {
            match lane.by_source.get(source) {
                Some(of) => sum.merge(of),
                None => sum.merge(&SourceStatistics::of_all(&lane.statistics)),
            }
        }
        Some(sum)
    }

    /// Rate of the data served so far in GB/s (10^9 bytes), over all cycles since the start.
    pub fn bandwidth_gb_s(&self) -> f64 {
        let served: u64 =
            self.lanes.iter().map(|lane| lane.statistics.reads_served + lane.statistics.writes_served).sum();
        if self.now == 0 { 0.0 } else { (served * self.access_bytes()) as f64 / self.time_ps() as f64 * 1e3 }
    }

    /// All that the engine is, as bytes: what is to come is the same as if it had gone on. For the same device,
    /// configuration and version of this library.
    pub fn snapshot(&self) -> Vec<u8> {
        save::save(self)
    }

    /// Puts the engine where another one, or itself, was at a snapshot.
    ///
    /// # Errors
    /// Bytes that are damaged, or of another device, configuration or version; nothing has changed.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        *self = save::load(self, bytes)?;
        Ok(())
    }
}
