//! State of one channel: open rows and, per bank, group and rank, the first cycle in which each command is legal.
//!
//! The channel owns no clock. [`Channel::probe`] tells when a command becomes legal and changes nothing;
//! [`Channel::issue`] takes the cycle as an argument and refuses an illegal command.
use super::command::{Command, CommandKind};
use super::device::{Device, MAX_BANKS, RefreshSet};
use super::error::{CommandError, ConfigError, Refused};
use super::latencies::Latencies;

/// What a bank is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BankState {
    /// No row open.
    Closed,
    /// LPDDR5: between ACT1 and ACT2.
    Activating,
    /// A row is open.
    Open,
}

/// Room for the greatest channel, so that a bank number masked to it needs no further check.
const BANKS: usize = MAX_BANKS as usize;

/// First legal cycle of each command, per bank, as far as the bank is concerned.
#[derive(Debug, Clone)]
pub(super) struct Banks {
    pub(super) act: [u64; BANKS],
    pub(super) rd: [u64; BANKS],
    pub(super) wr: [u64; BANKS],
    pub(super) pre: [u64; BANKS],
    pub(super) refresh: [u64; BANKS],
    pub(super) row: [u32; BANKS],
}

/// First legal cycle of each command, per bank group of the channel, as far as the group is concerned, and the stack.
#[derive(Debug, Clone)]
pub(super) struct Groups {
    pub(super) act: [u64; BANKS],
    pub(super) rd: [u64; BANKS],
    pub(super) wr: [u64; BANKS],
}

/// First legal cycle of each command, as far as the rank is concerned.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rank {
    pub(super) act: u64,
    pub(super) rd: u64,
    pub(super) wr: u64,
    pub(super) pre: u64,
    pub(super) pre_all: u64,
    pub(super) ref_all: u64,
    pub(super) ref_bank: u64,
    /// When each of the last four activates leaves the nFAW window; `oldest` is the index of the first to leave.
    pub(super) window: [u64; 4],
    pub(super) oldest: u8,
}

/// One channel of a device.
#[derive(Debug, Clone)]
pub struct Channel {
    pub(super) lat: Latencies,
    pub(super) banks: Banks,
    pub(super) groups: Groups,
    total_banks: u32,
    pub(super) ranks: Vec<Rank>,
    /// First free cycle of the command bus (row bus), and of the column bus of HBM.
    pub(super) bus: [u64; 2],
    /// Banks with an open row, one bit each.
    pub(super) open: u64,
    /// Banks between ACT1 and ACT2.
    pub(super) activating: u64,
    /// ACT2 must go out by this cycle.
    pub(super) act2_deadline: u64,
    /// The data clock of LPDDR5 runs up to this cycle.
    pub(super) wck_until: u64,
    n_aad: Option<u64>,
    refresh_set: Option<RefreshSet>,
    column_bus: usize,
    banks_per_rank: u32,
    /// Binary logarithm of `banks_per_rank`.
    rank_shift: u32,
    banks_per_group: u32,
    /// Binary logarithm of `banks_per_group`.
    group_shift: u32,
    groups_per_stack: usize,
    groups_per_rank: usize,
    ranks_share_wires: bool,
}

fn raise(earliest: &mut u64, cycle: u64) {
    if *earliest < cycle {
        *earliest = cycle;
    }
}

impl Channel {
    /// An idle channel with all banks closed.
    pub fn new(device: &Device) -> Result<Self, ConfigError> {
        device.validate()?;
        let o = &device.organisation;
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
            ranks: vec![Rank::default(); o.ranks as usize],
            bus: [0; 2],
            open: 0,
            activating: 0,
            act2_deadline: 0,
            wck_until: 0,
            n_aad: device.split_activate.map(|split| u64::from(split.n_aad)),
            refresh_set: device.bank_refresh.map(|refresh| refresh.set),
            column_bus: usize::from(device.dual_command_bus),
            banks_per_rank: o.banks_per_rank(),
            rank_shift: o.banks_per_rank().ilog2(),
            banks_per_group: o.banks,
            group_shift: o.banks.ilog2(),
            groups_per_stack: o.groups as usize,
            groups_per_rank: (o.groups * o.stacks) as usize,
            ranks_share_wires: o.ranks > 1 && !device.pseudo_channels,
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
        if self.open >> bank & 1 == 1 {
            BankState::Open
        } else if self.activating >> bank & 1 == 1 {
            BankState::Activating
        } else {
            BankState::Closed
        }
    }

    pub(super) const fn bank_count(&self) -> u32 {
        self.total_banks
    }

    /// Bank groups of the channel.
    pub(super) const fn group_count(&self) -> u32 {
        self.total_banks >> self.group_shift
    }

    /// Bank group of a bank, counted over the channel.
    const fn group_of(&self, bank: usize) -> usize {
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

    /// Banks of the channel, one bit each.
    pub(super) const fn all_banks(&self) -> u64 {
        block(self.total_banks, 0)
    }

    /// Banks of `rank`, one bit each.
    pub(super) const fn rank_mask(&self, rank: usize) -> u64 {
        block(self.banks_per_rank, rank as u32 * self.banks_per_rank)
    }

    /// Banks that a bank-wise refresh starting at `bank` covers.
    pub(super) fn refresh_mask(&self, bank: u16) -> u64 {
        let rank = self.rank_of(bank);
        match self.refresh_set {
            None | Some(RefreshSet::Bank) => 1 << bank,
            Some(RefreshSet::Pair) => {
                let base = rank as u32 * self.banks_per_rank;
                let half = self.banks_per_rank / 2;
                let partner = base + (u32::from(bank) - base + half) % self.banks_per_rank;
                1 << bank | 1 << partner
            }
            Some(RefreshSet::SameBank) => {
                let within = u32::from(bank) % self.banks_per_group;
                let all = self.rank_mask(rank);
                let mut every = 0u64;
                for flat in (within..self.total_banks).step_by(self.banks_per_group as usize) {
                    every |= 1 << flat;
                }
                every & all
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
        let rank = &self.ranks[self.rank_of(command.bank)];
        let rank_banks = self.rank_mask(self.rank_of(command.bank));
        let closed = |mask: u64| (self.open | self.activating) & mask == 0;
        let require = |holds: bool, otherwise: CommandError| if holds { Ok(()) } else { Err(otherwise) };
        let bus = self.bus[if command.kind.is_column() { self.column_bus } else { 0 }];
        let earliest = match command.kind {
            CommandKind::Act => {
                require(state == BankState::Closed, CommandError::BankNotClosed)?;
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
                require(self.activating & rank_banks == 0, CommandError::BankNotClosed)?;
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
                require(closed(rank_banks), CommandError::BankNotClosed)?;
                rank.ref_all
            }
            CommandKind::RefBank => {
                require(self.refresh_set.is_some(), CommandError::NotSupported)?;
                let set = self.refresh_mask(command.bank);
                require(closed(set), CommandError::BankNotClosed)?;
                bits(set).map(|b| banks.refresh[b]).fold(rank.ref_bank, u64::max)
            }
            CommandKind::Cas => {
                require(self.n_aad.is_some(), CommandError::NotSupported)?;
                0
            }
        };
        Ok(earliest.max(bus))
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
            CommandKind::Act => self.lat.act_cycles,
            CommandKind::Rd | CommandKind::RdA | CommandKind::Wr | CommandKind::WrA => self.lat.column_cycles,
            _ => 1,
        };
        self.bus[bus] = now + cycles;
        match command.kind {
            CommandKind::Act => self.activate(command, now),
            CommandKind::Act2 => {
                self.activating &= !(1 << command.bank);
                self.open |= 1 << command.bank;
            }
            CommandKind::Pre => self.precharge(command.bank, now),
            CommandKind::PreAll => self.precharge_all(command.bank, now),
            CommandKind::Rd | CommandKind::RdA => self.read(command, now),
            CommandKind::Wr | CommandKind::WrA => self.write(command, now),
            CommandKind::RefAll => {
                let rank_index = self.rank_of(command.bank);
                let rank = &mut self.ranks[rank_index];
                raise(&mut rank.act, now + self.lat.refab_act);
                for earliest in [&mut rank.pre_all, &mut rank.ref_all, &mut rank.ref_bank] {
                    raise(earliest, now + self.lat.refab_other);
                }
            }
            CommandKind::RefBank => self.refresh_banks(command.bank, now),
            CommandKind::Cas => raise(&mut self.wck_until, now + 2),
        }
    }

    fn activate(&mut self, command: Command, now: u64) {
        let (lat, bank) = (&self.lat, usize::from(command.bank));
        let (rank_index, group) = (self.rank_of(command.bank), self.group_of(bank));
        let banks = &mut self.banks;
        banks.row[bank] = command.row;
        raise(&mut self.groups.act[group], now + lat.group_act_act);
        raise(&mut banks.act[bank], now + lat.act_act);
        raise(&mut banks.rd[bank], now + lat.act_rd);
        raise(&mut banks.wr[bank], now + lat.act_wr);
        raise(&mut banks.pre[bank], now + lat.act_pre);
        raise(&mut banks.refresh[bank], now + lat.act_ref);
        let rank = &mut self.ranks[rank_index];
        rank.window[usize::from(rank.oldest % 4)] = now + lat.rank_four_acts;
        rank.oldest = (rank.oldest + 1) % 4;
        let window = rank.window[usize::from(rank.oldest % 4)];
        raise(&mut rank.act, (now + lat.rank_act_act).max(window));
        raise(&mut rank.pre_all, now + lat.act_preab);
        raise(&mut rank.ref_all, now + lat.act_ref);
        raise(&mut rank.ref_bank, now + lat.act_other_refpb);
        match self.n_aad {
            Some(n_aad) => {
                self.activating |= 1 << command.bank;
                self.act2_deadline = now + n_aad;
            }
            None => self.open |= 1 << command.bank,
        }
    }

    fn precharge(&mut self, flat: u16, now: u64) {
        let bank = usize::from(flat);
        raise(&mut self.banks.act[bank], now + self.lat.pre_act);
        raise(&mut self.banks.refresh[bank], now + self.lat.pre_ref);
        let rank_index = self.rank_of(flat);
        let rank = &mut self.ranks[rank_index];
        raise(&mut rank.ref_all, now + self.lat.pre_ref);
        raise(&mut rank.pre, now + self.lat.pre_pre);
        raise(&mut rank.pre_all, now + self.lat.pre_pre);
        self.open &= !(1 << flat);
    }

    fn precharge_all(&mut self, flat: u16, now: u64) {
        let rank_index = self.rank_of(flat);
        let rank = &mut self.ranks[rank_index];
        raise(&mut rank.act, now + self.lat.preab_act);
        raise(&mut rank.ref_all, now + self.lat.preab_ref);
        raise(&mut rank.ref_bank, now + self.lat.preab_refpb);
        raise(&mut rank.pre, now + self.lat.pre_pre);
        raise(&mut rank.pre_all, now + self.lat.pre_pre);
        self.open &= !self.rank_mask(rank_index);
    }

    fn read(&mut self, command: Command, now: u64) {
        let (lat, bank) = (&self.lat, usize::from(command.bank));
        let (rank_index, group) = (self.rank_of(command.bank), self.group_of(bank));
        let (banks, rank) = (&mut self.banks, &mut self.ranks[rank_index]);
        raise(&mut banks.pre[bank], now + lat.rd_pre);
        if command.kind == CommandKind::RdA {
            raise(&mut banks.act[bank], now + lat.rda_act);
            raise(&mut banks.refresh[bank], now + lat.rda_ref);
            raise(&mut rank.ref_all, now + lat.rda_ref);
            self.open &= !(1 << command.bank);
        } else {
            raise(&mut rank.pre_all, now + lat.rd_preab);
        }
        raise(&mut rank.rd, now + lat.rank_rd_rd);
        raise(&mut rank.wr, now + lat.rank_rd_wr);
        raise(&mut self.groups.rd[group], now + lat.group_rd_rd);
        raise(&mut self.groups.wr[group], now + lat.group_rd_wr);
        raise(&mut self.wck_until, now + lat.wck_after_rd);
        for other in self.other_stacks(group) {
            raise(&mut self.groups.rd[other], now + self.lat.stack_column);
        }
        self.delay_other_ranks(rank_index, now + self.lat.other_rd_rd, now + self.lat.other_rd_wr);
    }

    fn write(&mut self, command: Command, now: u64) {
        let (lat, bank) = (&self.lat, usize::from(command.bank));
        let (rank_index, group) = (self.rank_of(command.bank), self.group_of(bank));
        let (banks, rank) = (&mut self.banks, &mut self.ranks[rank_index]);
        raise(&mut banks.pre[bank], now + lat.wr_pre);
        if command.kind == CommandKind::WrA {
            raise(&mut banks.act[bank], now + lat.wra_act);
            raise(&mut banks.refresh[bank], now + lat.wra_ref);
            raise(&mut rank.ref_all, now + lat.wra_ref);
            self.open &= !(1 << command.bank);
        } else {
            raise(&mut rank.pre_all, now + lat.wr_preab);
        }
        raise(&mut rank.wr, now + lat.rank_wr_wr);
        raise(&mut rank.rd, now + lat.rank_wr_rd);
        raise(&mut self.groups.wr[group], now + lat.group_wr_wr);
        raise(&mut self.groups.rd[group], now + lat.group_wr_rd);
        raise(&mut self.wck_until, now + lat.wck_after_wr);
        for other in self.other_stacks(group) {
            raise(&mut self.groups.wr[other], now + self.lat.stack_column);
        }
        self.delay_other_ranks(rank_index, now + self.lat.other_wr_rd, now + self.lat.other_wr_wr);
    }

    /// Groups of the other stacks of the rank of `group`.
    #[inline(always)]
    fn other_stacks(&self, group: usize) -> impl Iterator<Item = usize> + use<> {
        let (in_stack, in_rank) = (self.groups_per_stack, self.groups_per_rank);
        let first = group & !(in_rank - 1);
        let end = if in_stack < in_rank { first + in_rank } else { first };
        (first..end).filter(move |other| (other ^ group) >= in_stack)
    }

    /// What a burst means for the other ranks of the channel, whose data go over the same wires.
    fn delay_other_ranks(&mut self, rank: usize, rd: u64, wr: u64) {
        if !self.ranks_share_wires {
            return;
        }
        for (_, other) in self.ranks.iter_mut().enumerate().filter(|&(index, _)| index != rank) {
            raise(&mut other.rd, rd);
            raise(&mut other.wr, wr);
        }
    }

    fn refresh_banks(&mut self, flat: u16, now: u64) {
        let set = self.refresh_mask(flat);
        for bank in bits(set) {
            raise(&mut self.banks.act[bank], now + self.lat.refpb_act);
            raise(&mut self.banks.refresh[bank], now + self.lat.refpb_refab);
        }
        let rank_index = self.rank_of(flat);
        let rank = &mut self.ranks[rank_index];
        raise(&mut rank.act, now + self.lat.refpb_other_act);
        raise(&mut rank.ref_bank, now + self.lat.refpb_refpb);
        raise(&mut rank.ref_all, now + self.lat.refpb_refab);
    }
}

/// `width` bits from `shift` on.
const fn block(width: u32, shift: u32) -> u64 {
    (u64::MAX >> (64 - width)) << shift
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
