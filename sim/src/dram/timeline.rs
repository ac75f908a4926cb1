//! What the first commands of a run did to banks, refresh and data wires: slices of time on tracks, in cycles of the
//! command clock.
//!
//! [`super::draw`] shows them to viewers.

use std::borrow::Cow;

use cptr_hw_model::dram::{Command, CommandKind, Device};

use crate::timeline::{self, Shows};

/// The commands of the first cycles of a run.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    cycles: u64,
    commands: Vec<(u64, Command)>,
}

impl Recording {
    /// Keeps the commands of cycles below `cycles`.
    pub fn new(cycles: u64) -> Self {
        Self { cycles, commands: Vec::new() }
    }

    /// Sees one command; for the observer of a controller.
    pub fn see(&mut self, cycle: u64, command: Command) {
        if cycle < self.cycles {
            self.commands.push((cycle, command));
        }
    }
}

/// What a slice shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A row is open: from ACT to PRE, or to the end of a burst with auto-precharge.
    Row,
    /// A command, as long as it keeps its bank from the next one: ACT nRCD, PRE nRP, RD and WR the burst, refreshes
    /// nRFC; never beyond the next command of the track.
    Command(CommandKind),
    /// Data of a read or write on the wires.
    Data(CommandKind),
}

/// What a slice shows, and where. Slices of a track overlap only where a row holds the commands that it was open for; a
/// row comes before its commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Row, command or data.
    pub what: What,
    /// Flat number of the bank.
    pub bank: u16,
    /// The row that is open or opened, if any.
    pub row: Option<u32>,
}

impl Shows for Shown {
    fn name(&self) -> Cow<'static, str> {
        match (self.what, self.row) {
            (What::Row, Some(row)) => format!("row {row}").into(),
            (What::Row, None) => "row".into(),
            (What::Command(kind) | What::Data(kind), _) => kind.name().into(),
        }
    }

    fn numbers(&self) -> [Option<(&'static str, u64)>; 2] {
        [Some(("bank", self.bank.into())), self.row.map(|row| ("row", row.into()))]
    }
}

type Slice = timeline::Slice<Shown>;
type Track = timeline::Track<Shown>;

/// All tracks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    /// Name of the memory.
    pub device: String,
    /// Clock period in picoseconds.
    pub t_ck_ps: u32,
    /// Cycles in a clock.
    pub cycles_per_clock: u32,
    /// First cycle after everything.
    pub end: u64,
    /// The commands themselves with their length on the bus in cycles.
    pub commands: Vec<(u64, u32, Command)>,
    /// A track for each bank, by flat number.
    pub banks: Vec<Track>,
    /// A track for each rank.
    pub refresh: Vec<Track>,
    /// A track for each set of data wires: one, or one for each HBM pseudo-channel.
    pub data: Vec<Track>,
}

impl Timeline {
    /// Picoseconds from the beginning to a cycle.
    pub fn ps(&self, cycle: u64) -> u64 {
        cycle * u64::from(self.t_ck_ps) / u64::from(self.cycles_per_clock)
    }

    /// Lays the commands out. `device` is the one that they went to.
    pub fn new(device: &Device, recording: &Recording) -> Self {
        let o = &device.organisation;
        let track = |name: String| Track::new(name);
        let of_rank = |name: &str, rank: u32| if o.ranks > 1 { format!("{name} rank {rank}") } else { name.into() };
        let buses = if device.pseudo_channels { o.ranks } else { 1 };
        let mut timeline = Self {
            device: device.name.clone(),
            t_ck_ps: device.timing.t_ck_ps,
            cycles_per_clock: device.cycles_per_clock(),
            end: 0,
            commands: Vec::with_capacity(recording.commands.len()),
            banks: (0..o.total_banks()).map(|bank| track(bank_name(device, bank))).collect(),
            refresh: (0..o.ranks).map(|rank| track(of_rank("refresh", rank))).collect(),
            data: (0..buses).map(|bus| track(of_rank("data", if buses > 1 { bus } else { 0 }))).collect(),
        };
        if buses == 1 {
            timeline.data[0].name = "data".into();
        }
        let mut open = vec![None; o.total_banks() as usize];
        let device = &device.in_cycles();
        for &(cycle, command) in &recording.commands {
            timeline.add(device, &mut open, cycle, command);
        }
        timeline.finish(&open);
        timeline
    }

    /// `open` holds, for each bank, where the slice of its open row stands in its track.
    fn add(&mut self, device: &Device, open: &mut [Option<usize>], cycle: u64, command: Command) {
        use CommandKind::{Act, Pre, PreAll, Rd, RdA, RefAll, RefBank, RfmAll, RfmBank, Wr, WrA};
        let t = &device.timing;
        let Command { kind, bank, row } = command;
        let at = usize::from(bank);
        let rank = at / device.organisation.banks_per_rank() as usize;
        let on_bus = match kind {
            Act => t.act_cycles,
            Rd | RdA | Wr | WrA => t.column_cycles,
            _ => 1,
        };
        self.commands.push((cycle, on_bus, command));
        let busy = match kind {
            Act => t.n_rcd_rd,
            Pre => t.n_rp,
            PreAll => t.n_rp_all,
            Rd | RdA | Wr | WrA => t.n_bl.max(on_bus),
            RefAll => t.n_rfc,
            RefBank => device.bank_refresh.map_or(t.n_rfc, |refresh| refresh.n_rfc),
            RfmAll | RfmBank => device.refresh_management.map_or(t.n_rfc, |management| management.n_rfm),
            CommandKind::Act2 | CommandKind::Cas => on_bus,
        };
        let end = cycle + u64::from(busy);
        match kind {
            Act => {
                open[at] = Some(self.banks[at].slices.len());
                // Its end is not known yet.
                push(&mut self.banks[at], slice(What::Row, cycle, u64::MAX, bank, Some(row)));
            }
            Pre => self.close(open, at, cycle),
            PreAll => {
                let banks = device.organisation.banks_per_rank() as usize;
                (rank * banks..(rank + 1) * banks).for_each(|bank| self.close(open, bank, cycle));
            }
            _ => {}
        }
        let row =
            if kind == Act { Some(row) } else { open[at].and_then(|slice| self.banks[at].slices[slice].shows.row) };
        let track = match kind {
            PreAll | RefAll | RefBank | RfmAll | RfmBank => &mut self.refresh[rank],
            _ => &mut self.banks[at],
        };
        push(track, slice(What::Command(kind), cycle, end, bank, row));
        if matches!(kind, Rd | RdA | Wr | WrA) {
            let latency = if matches!(kind, Rd | RdA) { t.n_cl } else { t.n_cwl };
            let start = cycle + u64::from(latency);
            let bus = if device.pseudo_channels { rank } else { 0 };
            let burst = start + u64::from(t.n_bl);
            push(&mut self.data[bus], slice(What::Data(kind), start, burst, bank, row));
            self.end = self.end.max(burst);
        }
        if matches!(kind, RdA | WrA) {
            self.close(open, at, end);
        }
        self.end = self.end.max(end);
    }

    fn close(&mut self, open: &mut [Option<usize>], bank: usize, cycle: u64) {
        if let Some(slice) = open[bank].take() {
            let slices = &mut self.banks[bank].slices;
            slices[slice].end = cycle;
            // The last command of the row may have been meant to last longer.
            if let Some(last) = slices.last_mut() {
                last.end = last.end.min(cycle);
            }
        }
    }

    /// Rows that are still open are so to the end.
    fn finish(&mut self, open: &[Option<usize>]) {
        for (track, open) in self.banks.iter_mut().zip(open) {
            if let Some(slice) = *open {
                track.slices[slice].end = self.end;
            }
        }
    }

    /// Every track: banks, refresh, data.
    pub fn tracks(&self) -> impl Iterator<Item = &Track> {
        self.banks.iter().chain(&self.refresh).chain(&self.data)
    }
}

const fn slice(what: What, start: u64, end: u64, bank: u16, row: Option<u32>) -> Slice {
    Slice { shows: Shown { what, bank, row }, start, end }
}

/// Adds a slice; a command before it ends where it starts.
fn push(track: &mut Track, slice: Slice) {
    if let Some(last) = track.slices.last_mut()
        && last.shows.what != What::Row
    {
        last.end = last.end.min(slice.start);
    }
    track.slices.push(slice);
}

/// Levels above the bank only where there is more than one of them.
fn bank_name(device: &Device, bank: u32) -> String {
    let o = &device.organisation;
    let (group, stack) = (bank / o.banks % o.groups, bank / o.banks / o.groups % o.stacks);
    let levels = [("rank", o.ranks, bank / o.banks_per_rank()), ("stack", o.stacks, stack), ("group", o.groups, group)];
    let above = levels.iter().filter(|(_, count, _)| *count > 1).map(|(name, _, index)| format!("{name} {index} "));
    above.collect::<String>() + &format!("bank {}", bank % o.banks)
}

/// Recordings for the tests of this folder.
#[cfg(test)]
pub(super) mod tests {
    use cptr_hw_model::dram::{Config, MappingKind, PagePolicy, Refresh, StreamKind, Until, presets};

    use super::*;
    use crate::dram::run::{Plan, Source};

    /// Device and first cycles of a run.
    pub(in crate::dram) fn record(device: &Device, refresh: Refresh, closed: bool, kind: StreamKind) -> Recording {
        let page_policy = if closed { PagePolicy::Closed } else { PagePolicy::Open };
        let config = Config { page_policy, ..Config::new(MappingKind::Mop4ClXor, refresh) };
        let plan = Plan { device, config, source: Source::Generated(kind, 6000), until: Until::Served };
        let mut recording = Recording::new(20_000);
        plan.exact(|cycle: u64, command: Command| recording.see(cycle, command)).unwrap();
        recording
    }

    #[test]
    fn slices_are_nested_and_nothing_is_lost() {
        for device in presets::all() {
            for (refresh, closed) in [(Refresh::AllBank, false), (Refresh::AllBank, true), (Refresh::SameBank, false)] {
                if refresh == Refresh::SameBank && device.bank_refresh.is_none() {
                    continue;
                }
                let recording = record(&device, refresh, closed, StreamKind::Random);
                let timeline = Timeline::new(&device, &recording);
                let mut commands = 0;
                for track in timeline.tracks() {
                    let (mut row_end, mut last_end) = (0, 0);
                    for slice in &track.slices {
                        let at = format!("{} {} {slice:?}", device.name, track.name);
                        assert!(slice.start < slice.end && slice.end <= timeline.end, "{at}");
                        assert!(slice.start >= last_end, "{at}");
                        if slice.shows.what == What::Row {
                            assert!(slice.start >= row_end, "{at}");
                            row_end = slice.end;
                            continue;
                        }
                        assert!(slice.end <= row_end || slice.start >= row_end, "{at}");
                        last_end = slice.end;
                        commands += usize::from(matches!(slice.shows.what, What::Command(_)));
                    }
                }
                assert_eq!(commands, recording.commands.len());
                assert!(timeline.refresh.iter().all(|track| !track.slices.is_empty()));
            }
        }
    }

    #[test]
    fn banks_are_named_by_the_levels_there_are() {
        let name = |device: &Device, bank| bank_name(device, bank);
        assert_eq!(name(&presets::ddr5_4800(), 13), "group 3 bank 1");
        assert_eq!(name(&presets::hbm3_6400(), 63), "rank 1 stack 1 group 3 bank 3");
    }
}
