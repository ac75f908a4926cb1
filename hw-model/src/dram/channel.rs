//! State of one channel: open rows and, per bank, group and rank, the first cycle in which each command is legal.
//!
//! The channel owns no clock. [`Channel::probe`] tells when a command becomes legal and changes nothing;
//! [`Channel::issue`] takes the cycle as an argument and refuses an illegal command.
use super::command::{Command, CommandKind};
use super::constraints::Latencies;
use super::device::{Device, MAX_BANKS, MAX_RANKS, RefreshSet};
use super::error::{CommandError, ConfigError, Refused};
use super::management::{Activates, ManagementCommand};

/// What a bank is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BankState {
    /// No row open.
    Closed,
    /// LPDDR5, LPDDR6: between ACT1 and ACT2.
    Activating,
    /// A row is open.
    Open,
}

/// Room for the greatest channel, so that a bank number masked to it needs no further check.
const BANKS: usize = MAX_BANKS as usize;

/// A set of banks, one bit each. The banks of a rank lie in one word.
pub(super) type Masks = [u64; WORDS];

/// Words of [`Masks`].
const WORDS: usize = BANKS / 64;

/// One number a bank, or a group.
pub(super) type PerBank = [u64; BANKS];

/// First legal cycles of commands at one level, and all of them as a list.
macro_rules! earliest {
    ($(#[$about:meta])* $name:ident of $of:ty: $($field:ident)+ $(, $other:ident: $type:ty)*) => {
        $(#[$about])*
        pub(super) struct $name {
            $(pub(super) $field: $of,)+
            $(pub(super) $other: $type,)*
        }

        impl $name {
            /// Every first legal cycle, in the order above.
            pub(super) fn all(&self) -> impl Iterator<Item = &$of> {
                [$(&self.$field),+].into_iter()
            }

            /// As [`Self::all`], to be changed.
            pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut $of> {
                [$(&mut self.$field),+].into_iter()
            }
        }
    };
}

earliest! {
    /// Per bank, as far as the bank is concerned, with the row that is open.
    #[derive(Debug, Clone)]
    Banks of PerBank: act rd wr pre refresh, row: [u32; BANKS]
}

earliest! {
    /// Per bank group of the channel, as far as the group is concerned, and the stack.
    #[derive(Debug, Clone)]
    Groups of PerBank: act rd wr
}

earliest! {
    /// As far as the rank is concerned. The window: when each of the last four activates leaves nFAW, and the index of
    /// the first to leave.
    #[derive(Debug, Clone, Copy, Default)]
    Rank of u64: act rd wr pre pre_all ref_all ref_bank, window: [u64; 4], oldest: u8
}

/// One channel of a device.
#[derive(Debug, Clone)]
pub struct Channel {
    pub(super) lat: Latencies,
    pub(super) banks: Banks,
    pub(super) groups: Groups,
    total_banks: u32,
    pub(super) ranks: [Rank; MAX_RANKS],
    pub(super) rank_count: usize,
    /// First free cycle of the command bus (row bus), and of the column bus of HBM.
    pub(super) bus: [u64; 2],
    /// Banks with an open row.
    pub(super) open: Masks,
    /// Banks between ACT1 and ACT2.
    pub(super) activating: Masks,
    /// Cycles in which rows were closed less cycles in which they were opened, modulo 2^64.
    pub(super) open_balance: u64,
    /// Activates of each bank, where the device wants management.
    pub(super) management: Option<Box<Activates>>,
    /// The bank whose management is next. It stays that until a refresh or management goes out.
    pub(super) asking: Option<u16>,
    /// ACT2 must go out by this cycle.
    pub(super) act2_deadline: u64,
    /// The data clock of LPDDR5 and LPDDR6 runs up to this cycle.
    pub(super) wck_until: u64,
    n_aad: Option<u64>,
    refresh_set: Option<RefreshSet>,
    column_bus: usize,
    banks_per_rank: u32,
    /// Binary logarithm of `banks_per_rank`.
    rank_shift: u32,
    sets: [(usize, u64); MAX_RANKS],
    banks_per_group: u32,
    /// Binary logarithm of `banks_per_group`.
    group_shift: u32,
    groups_per_stack: usize,
    groups_per_rank: usize,
    /// Whether ranks have several stacks.
    pub(super) stacked: bool,
    pub(super) ranks_share_wires: bool,
    /// Cycles of ACT on the command bus, of RD and WR.
    act_cycles: u64,
    column_cycles: u64,
    /// Of every other command.
    pub(super) other_cycles: u64,
    /// 1 where commands but PRE go out in odd cycles only: those of the rising edges, where a cycle is half a clock.
    pub(super) edge: u64,
    /// How long that data clock runs after a read and a write.
    wck_after_rd: u64,
    wck_after_wr: u64,
}

impl Channel {
    /// An idle channel with all banks closed.
    pub fn new(device: &Device) -> Result<Self, ConfigError> {
        device.validate()?;
        let device = &device.in_cycles();
        let (o, t) = (&device.organisation, &device.timing);
        let per_rank = o.banks_per_rank();
        let sets = std::array::from_fn(|rank| {
            let first = rank * per_rank as usize;
            (first / 64, u64::MAX >> (64 - per_rank) << (first % 64))
        });
        let wck_post = device.split_activate.map_or(0, |split| split.n_wck_pst);
        Ok(Self {
            lat: Latencies::of(device),
            banks: Banks {
                act: [0; BANKS],
                rd: [0; BANKS],
                wr: [0; BANKS],
                pre: [0; BANKS],
                refresh: [0; BANKS],
                row: [0; BANKS],
            },
            groups: Groups { act: [0; BANKS], rd: [0; BANKS], wr: [0; BANKS] },
            total_banks: o.total_banks(),
            ranks: [Rank::default(); MAX_RANKS],
            rank_count: o.ranks as usize,
            bus: [0; 2],
            open: [0; WORDS],
            activating: [0; WORDS],
            open_balance: 0,
            management: device.refresh_management.map(|needs| Box::new(Activates::new(needs))),
            asking: None,
            act2_deadline: 0,
            wck_until: 0,
            n_aad: device.split_activate.map(|split| u64::from(split.n_aad)),
            refresh_set: device.bank_refresh.map(|refresh| refresh.set),
            column_bus: usize::from(device.dual_command_bus),
            banks_per_rank: per_rank,
            rank_shift: per_rank.ilog2(),
            sets,
            banks_per_group: o.banks,
            group_shift: o.banks.ilog2(),
            groups_per_stack: o.groups as usize,
            groups_per_rank: (o.groups * o.stacks) as usize,
            stacked: o.stacks > 1,
            ranks_share_wires: o.ranks > 1 && !device.pseudo_channels,
            act_cycles: u64::from(t.act_cycles),
            column_cycles: u64::from(t.column_cycles),
            other_cycles: u64::from(t.other_cycles),
            edge: u64::from(device.half_clocks),
            wck_after_rd: u64::from(t.n_cl + t.n_bl + wck_post),
            wck_after_wr: u64::from(t.n_cwl + t.n_bl + wck_post),
        })
    }

    /// State of a bank; `None` if there is no such bank.
    pub fn bank_state(&self, bank: u16) -> Option<BankState> {
        (u32::from(bank) < self.total_banks).then(|| self.state(bank))
    }

    /// The open row of a bank.
    pub fn open_row(&self, bank: u16) -> Option<u32> {
        (self.bank_state(bank) == Some(BankState::Open)).then(|| self.banks.row[usize::from(bank)])
    }

    fn state(&self, bank: u16) -> BankState {
        let (word, bit) = spot(bank);
        if self.open[word] & bit != 0 {
            BankState::Open
        } else if self.activating[word] & bit != 0 {
            BankState::Activating
        } else {
            BankState::Closed
        }
    }

    /// Whether the row of a bank is open.
    #[inline(always)]
    pub(super) const fn is_open(&self, bank: u16) -> bool {
        let (word, bit) = spot(bank);
        self.open[word] & bit != 0
    }

    /// First bank of a rank.
    #[inline(always)]
    pub(super) const fn first_of(&self, rank: usize) -> usize {
        rank << self.rank_shift
    }

    /// The banks of a rank in [`Masks`]: word and bits.
    #[inline(always)]
    pub(super) const fn set_of(&self, rank: usize) -> (usize, u64) {
        let (word, banks) = self.sets[rank % MAX_RANKS];
        (word % WORDS, banks)
    }

    pub(super) const fn bank_count(&self) -> u32 {
        self.total_banks
    }

    /// Bank groups of the channel.
    pub(super) const fn group_count(&self) -> u32 {
        self.total_banks >> self.group_shift
    }

    /// Bank group of a bank, counted over the channel.
    pub(super) const fn group_of(&self, bank: usize) -> usize {
        bank >> self.group_shift
    }

    /// First cycle of an ACT as far as bank and group are concerned.
    #[inline(always)]
    pub(super) fn act_ready(&self, bank: usize) -> u64 {
        self.banks.act[bank].max(self.groups.act[self.group_of(bank)])
    }

    /// First cycle of a burst as far as bank and group are concerned.
    #[inline(always)]
    pub(super) fn column_ready(&self, bank: usize, is_write: bool) -> u64 {
        let (banks, groups) =
            if is_write { (&self.banks.wr, &self.groups.wr) } else { (&self.banks.rd, &self.groups.rd) };
        banks[bank].max(groups[self.group_of(bank)])
    }

    /// Rank of a bank.
    pub(super) const fn rank_of(&self, bank: u16) -> usize {
        (bank >> self.rank_shift) as usize
    }

    /// Banks that a bank-wise refresh starting at `bank` covers, in its word of [`Masks`].
    pub(super) fn refresh_mask(&self, bank: u16) -> u64 {
        let (_, bit) = spot(bank);
        match self.refresh_set {
            None | Some(RefreshSet::Bank) => bit,
            Some(RefreshSet::Pair) => {
                let half = self.banks_per_rank / 2;
                bit | if u32::from(bank) & half == 0 { bit << half } else { bit >> half }
            }
            Some(RefreshSet::SameBank) => {
                let first = (self.first_of(self.rank_of(bank)) % 64) as u32;
                let within = u32::from(bank) % self.banks_per_group;
                let of_rank = first + within..first + self.banks_per_rank;
                of_rank.step_by(self.banks_per_group as usize).fold(0, |all, at| all | 1 << at)
            }
        }
    }

    /// First cycle in which `command` is legal if nothing else is issued before. Changes nothing.
    ///
    /// # Errors
    /// If no waiting helps: the bank is in the wrong state, or the device does not know the command.
    pub fn probe(&self, command: Command) -> Result<u64, CommandError> {
        let state = self.bank_state(command.bank).ok_or(CommandError::NoSuchBank)?;
        let (banks, bank) = (&self.banks, usize::from(command.bank));
        let rank = &self.ranks[self.rank_of(command.bank) % MAX_RANKS];
        let (word, of_rank) = self.set_of(self.rank_of(command.bank));
        let (_, bit) = spot(command.bank);
        let closed = |mask: u64| (self.open[word] | self.activating[word]) & mask == 0;
        let require = |holds: bool, otherwise: CommandError| if holds { Ok(()) } else { Err(otherwise) };
        let bus = self.bus[if command.kind.is_column() { self.column_bus } else { 0 }];
        let earliest = match command.kind {
            CommandKind::Act => {
                require(state == BankState::Closed, CommandError::BankNotClosed)?;
                require(self.exhausted_banks(word) & bit == 0, CommandError::ManagementDue)?;
                self.act_ready(bank).max(rank.act)
            }
            CommandKind::Act2 => {
                require(self.n_aad.is_some(), CommandError::NotSupported)?;
                require(state == BankState::Activating, CommandError::RowNotOpen)?;
                0
            }
            CommandKind::Pre => {
                require(state != BankState::Activating, CommandError::BankNotClosed)?;
                banks.pre[bank].max(rank.pre)
            }
            CommandKind::PreAll => {
                require(self.activating[word] & of_rank == 0, CommandError::BankNotClosed)?;
                rank.pre_all
            }
            CommandKind::Rd | CommandKind::RdA => {
                require(state == BankState::Open, CommandError::RowNotOpen)?;
                self.column_ready(bank, false).max(rank.rd)
            }
            CommandKind::Wr | CommandKind::WrA => {
                require(state == BankState::Open, CommandError::RowNotOpen)?;
                self.column_ready(bank, true).max(rank.wr)
            }
            CommandKind::RefAll => {
                require(closed(of_rank), CommandError::BankNotClosed)?;
                rank.ref_all
            }
            CommandKind::RfmAll => {
                require(self.manages_with(ManagementCommand::AllBank), CommandError::NotSupported)?;
                require(closed(of_rank), CommandError::BankNotClosed)?;
                rank.ref_all
            }
            CommandKind::RefBank | CommandKind::RfmBank => {
                let managed = command.kind == CommandKind::RefBank || self.manages_with(ManagementCommand::BankWise);
                require(self.refresh_set.is_some() && managed, CommandError::NotSupported)?;
                let set = self.refresh_mask(command.bank);
                require(closed(set), CommandError::BankNotClosed)?;
                banks_of(word, set).map(|bank| banks.refresh[bank % BANKS]).fold(rank.ref_bank, u64::max)
            }
            CommandKind::Cas => {
                require(self.n_aad.is_some(), CommandError::NotSupported)?;
                0
            }
        };
        let earliest = earliest.max(bus);
        Ok(if command.kind.is_precharge() { earliest } else { earliest | self.edge })
    }

    /// Whether commands other than PRE may go out in cycle `now`.
    #[inline(always)]
    pub(super) const fn is_rising(&self, now: u64) -> bool {
        now & self.edge == self.edge
    }

    /// Issues `command` in cycle `now`.
    ///
    /// # Errors
    /// If the command is illegal then; the state is unchanged.
    pub fn issue(&mut self, command: Command, now: u64) -> Result<(), Refused> {
        let refuse = |reason| Refused { command, cycle: now, reason };
        let earliest = self.probe(command).map_err(refuse)?;
        if now < earliest {
            return Err(refuse(CommandError::TooEarly { earliest }));
        }
        if !command.kind.is_precharge() && !self.is_rising(now) {
            return Err(refuse(CommandError::TooEarly { earliest: now + 1 }));
        }
        if self.n_aad.is_some() {
            let access = command.kind.is_column() && command.kind != CommandKind::Cas;
            if access && now >= self.wck_until {
                return Err(refuse(CommandError::DataClockStopped));
            }
            if command.kind == CommandKind::Act2 && now > self.act2_deadline {
                return Err(refuse(CommandError::ActivateExpired));
            }
        }
        self.apply(command, now);
        Ok(())
    }

    /// As [`Self::issue`], for a caller that has made sure that the command is legal. Inlined, because callers know the
    /// kind.
    #[inline(always)]
    pub(super) fn apply(&mut self, command: Command, now: u64) {
        let bus = if command.kind.is_column() { self.column_bus } else { 0 };
        let cycles = match command.kind {
            CommandKind::Act => self.act_cycles,
            CommandKind::Rd | CommandKind::RdA | CommandKind::Wr | CommandKind::WrA => self.column_cycles,
            _ => self.other_cycles,
        };
        self.bus[bus] = now + cycles;
        let bank = command.bank;
        let (word, bit) = spot(bank);
        match command.kind {
            CommandKind::Act => {
                self.constrain(CommandKind::Act, bank, now);
                self.open_balance = self.open_balance.wrapping_sub(now);
                self.banks.row[usize::from(bank) % BANKS] = command.row;
                if self.management.is_some() {
                    self.count_activate(bank);
                }
                match self.n_aad {
                    Some(n_aad) => {
                        self.activating[word] |= bit;
                        self.act2_deadline = now + n_aad;
                    }
                    None => self.open[word] |= bit,
                }
            }
            CommandKind::Act2 => {
                self.activating[word] &= !bit;
                self.open[word] |= bit;
            }
            CommandKind::Pre => {
                self.constrain(CommandKind::Pre, bank, now);
                self.close(bank, now);
            }
            CommandKind::PreAll => {
                self.constrain(CommandKind::PreAll, bank, now);
                let (_, of_rank) = self.set_of(self.rank_of(bank));
                banks_of(word, self.open[word] & of_rank).for_each(|bank| self.close(bank as u16, now));
            }
            CommandKind::Rd => {
                self.constrain(CommandKind::Rd, bank, now);
                self.run_data_clock(now + self.wck_after_rd);
            }
            CommandKind::RdA => {
                self.constrain(CommandKind::RdA, bank, now);
                self.run_data_clock(now + self.wck_after_rd);
                self.close(bank, now);
            }
            CommandKind::Wr => {
                self.constrain(CommandKind::Wr, bank, now);
                self.run_data_clock(now + self.wck_after_wr);
            }
            CommandKind::WrA => {
                self.constrain(CommandKind::WrA, bank, now);
                self.run_data_clock(now + self.wck_after_wr);
                self.close(bank, now);
            }
            CommandKind::RefAll => {
                self.constrain(CommandKind::RefAll, bank, now);
                self.take_off_activates(command);
            }
            CommandKind::RefBank => {
                self.constrain(CommandKind::RefBank, bank, now);
                self.take_off_activates(command);
            }
            CommandKind::RfmAll => {
                self.constrain(CommandKind::RfmAll, bank, now);
                self.take_off_activates(command);
            }
            CommandKind::RfmBank => {
                self.constrain(CommandKind::RfmBank, bank, now);
                self.take_off_activates(command);
            }
            CommandKind::Cas => self.run_data_clock(now + self.other_cycles + 1),
        }
    }

    /// Closes the row of a bank.
    #[inline(always)]
    fn close(&mut self, bank: u16, now: u64) {
        let (word, bit) = spot(bank);
        if self.open[word] & bit != 0 {
            self.open[word] &= !bit;
            self.open_balance = self.open_balance.wrapping_add(now);
        }
    }

    /// Banks with a row that is open or being opened, times `now`.
    fn open_times(&self, now: u64) -> u64 {
        let banks = self.open.iter().chain(&self.activating).map(|banks| banks.count_ones()).sum::<u32>();
        now * u64::from(banks)
    }

    /// Cycles that rows were open, of all banks together, since the last [`Self::start_count`].
    pub(super) fn open_cycles(&self, now: u64) -> u64 {
        self.open_balance.wrapping_add(self.open_times(now))
    }

    /// Counts open rows from `now` on.
    pub(super) fn start_count(&mut self, now: u64) {
        self.open_balance = 0u64.wrapping_sub(self.open_times(now));
    }

    #[inline(always)]
    fn run_data_clock(&mut self, until: u64) {
        self.wck_until = self.wck_until.max(until);
    }

    /// Groups of the other stacks of the rank of `group`.
    #[inline(always)]
    pub(super) fn other_stacks(&self, group: usize) -> impl Iterator<Item = usize> + use<> {
        let (in_stack, in_rank) = (self.groups_per_stack, self.groups_per_rank);
        let first = group & !(in_rank - 1);
        (first..first + in_rank).filter(move |other| (other ^ group) >= in_stack)
    }
}

/// Where a bank stands in [`Masks`]: word and bit.
#[inline(always)]
pub(super) const fn spot(bank: u16) -> (usize, u64) {
    (bank as usize / 64 % WORDS, 1 << (bank % 64))
}

/// The banks of `mask`, in this word of [`Masks`].
#[inline(always)]
pub(super) fn banks_of(word: usize, mask: u64) -> impl Iterator<Item = usize> {
    bits(mask).map(move |bank| word * 64 + bank)
}

/// Indices of the set bits, lowest first.
#[inline(always)]
pub(super) fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let index = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        Some(index)
    })
}
