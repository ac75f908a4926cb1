//! State of one channel: open rows and, per bank, group and rank, the first cycle in which each command is legal.
//!
//! The channel owns no clock. [`Channel::probe`] tells when a command becomes legal and changes nothing; [`Channel::issue`]
//! takes the cycle as an argument and refuses an illegal command.
use super::command::{Command, CommandKind};
use super::device::{Device, RefreshSet};
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

/// First legal cycle of each command to one bank, as far as the bank itself is concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bank {
    pub(super) act: u64,
    pub(super) rd: u64,
    pub(super) wr: u64,
    pub(super) pre: u64,
    pub(super) refresh: u64,
    pub(super) row: u32,
    pub(super) group: u16,
    pub(super) rank: u16,
}

/// The same for a bank group.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Group {
    pub(super) act: u64,
    pub(super) rd: u64,
    pub(super) wr: u64,
}

/// The same for a rank.
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
    pub(super) banks: Vec<Bank>,
    pub(super) groups: Vec<Group>,
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
    banks_per_group: u32,
    groups_per_stack: u32,
    stacks: u32,
}

fn raise(earliest: &mut u64, cycle: u64) {
    *earliest = (*earliest).max(cycle);
}

impl Channel {
    /// An idle channel with all banks closed.
    pub fn new(device: &Device) -> Result<Self, ConfigError> {
        device.validate()?;
        let o = &device.organisation;
        let bank = |flat: u32| Bank {
            act: 0,
            rd: 0,
            wr: 0,
            pre: 0,
            refresh: 0,
            row: 0,
            group: (flat / o.banks) as u16,
            rank: (flat / o.banks_per_rank()) as u16,
        };
        Ok(Self {
            lat: Latencies::of(device),
            banks: (0..o.total_banks()).map(bank).collect(),
            groups: vec![Group::default(); o.total_groups() as usize],
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
            banks_per_group: o.banks,
            groups_per_stack: o.groups,
            stacks: o.stacks,
        })
    }

    /// State of a bank; `None` if there is no such bank.
    pub fn bank_state(&self, bank: u16) -> Option<BankState> {
        (usize::from(bank) < self.banks.len()).then(|| self.state(bank))
    }

    /// The open row of a bank.
    pub fn open_row(&self, bank: u16) -> Option<u32> {
        (self.bank_state(bank) == Some(BankState::Open)).then(|| self.banks[usize::from(bank)].row)
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

    /// Banks of `rank`, one bit each.
    pub(super) fn rank_mask(&self, rank: usize) -> u64 {
        (u64::MAX >> (64 - self.banks_per_rank)) << (rank as u32 * self.banks_per_rank)
    }

    /// Banks that a bank-wise refresh starting at `bank` covers.
    pub(super) fn refresh_mask(&self, bank: u16) -> u64 {
        let rank = usize::from(self.banks[usize::from(bank)].rank);
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
                for flat in (within..self.banks.len() as u32).step_by(self.banks_per_group as usize) {
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
        let bank = self.bank_state(command.bank).map(|_| &self.banks[usize::from(command.bank)]);
        let bank = bank.ok_or(CommandError::NoSuchBank)?;
        let rank = &self.ranks[usize::from(bank.rank)];
        let state = self.state(command.bank);
        let rank_banks = self.rank_mask(usize::from(bank.rank));
        let closed = |mask: u64| (self.open | self.activating) & mask == 0;
        let require = |holds: bool, otherwise: CommandError| if holds { Ok(()) } else { Err(otherwise) };
        let bus = self.bus[if command.kind.is_column() { self.column_bus } else { 0 }];
        let earliest = match command.kind {
            CommandKind::Act => {
                require(state == BankState::Closed, CommandError::BankNotClosed)?;
                bank.act.max(self.groups[usize::from(bank.group)].act).max(rank.act)
            }
            CommandKind::Act2 => {
                require(self.n_aad.is_some(), CommandError::NotSupported)?;
                require(state == BankState::Activating, CommandError::RowNotOpen)?;
                0
            }
            CommandKind::Pre => {
                require(state != BankState::Activating, CommandError::BankNotClosed)?;
                bank.pre.max(rank.pre)
            }
            CommandKind::PreAll => {
                require(self.activating & rank_banks == 0, CommandError::BankNotClosed)?;
                rank.pre_all
            }
            CommandKind::Rd | CommandKind::RdA => {
                require(state == BankState::Open, CommandError::RowNotOpen)?;
                bank.rd.max(self.groups[usize::from(bank.group)].rd).max(rank.rd)
            }
            CommandKind::Wr | CommandKind::WrA => {
                require(state == BankState::Open, CommandError::RowNotOpen)?;
                bank.wr.max(self.groups[usize::from(bank.group)].wr).max(rank.wr)
            }
            CommandKind::RefAll => {
                require(closed(rank_banks), CommandError::BankNotClosed)?;
                rank.ref_all
            }
            CommandKind::RefBank => {
                require(self.refresh_set.is_some(), CommandError::NotSupported)?;
                let set = self.refresh_mask(command.bank);
                require(closed(set), CommandError::BankNotClosed)?;
                bits(set).map(|b| self.banks[b].refresh).fold(rank.ref_bank, u64::max)
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

    /// As [`Self::issue`], for a caller that has made sure that the command is legal.
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
                let rank = &mut self.ranks[usize::from(self.banks[usize::from(command.bank)].rank)];
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
        let lat = &self.lat;
        let bank = &mut self.banks[usize::from(command.bank)];
        bank.row = command.row;
        raise(&mut bank.act, now + lat.act_act);
        raise(&mut bank.rd, now + lat.act_rd);
        raise(&mut bank.wr, now + lat.act_wr);
        raise(&mut bank.pre, now + lat.act_pre);
        raise(&mut bank.refresh, now + lat.act_ref);
        raise(&mut self.groups[usize::from(bank.group)].act, now + lat.group_act_act);
        let rank = &mut self.ranks[usize::from(bank.rank)];
        rank.window[usize::from(rank.oldest)] = now + lat.rank_four_acts;
        rank.oldest = (rank.oldest + 1) % 4;
        let window = rank.window[usize::from(rank.oldest)];
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
        let bank = &mut self.banks[usize::from(flat)];
        raise(&mut bank.act, now + self.lat.pre_act);
        raise(&mut bank.refresh, now + self.lat.pre_ref);
        let rank = &mut self.ranks[usize::from(bank.rank)];
        raise(&mut rank.ref_all, now + self.lat.pre_ref);
        raise(&mut rank.pre, now + self.lat.pre_pre);
        raise(&mut rank.pre_all, now + self.lat.pre_pre);
        self.open &= !(1 << flat);
    }

    fn precharge_all(&mut self, flat: u16, now: u64) {
        let index = usize::from(self.banks[usize::from(flat)].rank);
        let rank = &mut self.ranks[index];
        raise(&mut rank.act, now + self.lat.preab_act);
        raise(&mut rank.ref_all, now + self.lat.preab_ref);
        raise(&mut rank.ref_bank, now + self.lat.preab_refpb);
        raise(&mut rank.pre, now + self.lat.pre_pre);
        raise(&mut rank.pre_all, now + self.lat.pre_pre);
        self.open &= !self.rank_mask(index);
    }

    fn read(&mut self, command: Command, now: u64) {
        let lat = &self.lat;
        let bank = &mut self.banks[usize::from(command.bank)];
        let (rank_index, group_index) = (usize::from(bank.rank), usize::from(bank.group));
        raise(&mut bank.pre, now + lat.rd_pre);
        let rank = &mut self.ranks[rank_index];
        if command.kind == CommandKind::RdA {
            raise(&mut bank.act, now + lat.rda_act);
            raise(&mut bank.refresh, now + lat.rda_ref);
            raise(&mut rank.ref_all, now + lat.rda_ref);
            self.open &= !(1 << command.bank);
        } else {
            raise(&mut rank.pre_all, now + lat.rd_preab);
        }
        raise(&mut rank.rd, now + lat.rank_rd_rd);
        raise(&mut rank.wr, now + lat.rank_rd_wr);
        let group = &mut self.groups[group_index];
        raise(&mut group.rd, now + lat.group_rd_rd);
        raise(&mut group.wr, now + lat.group_rd_wr);
        raise(&mut self.wck_until, now + lat.wck_after_rd);
        let (other_rd, other_wr) = (lat.other_rd_column, lat.other_rd_column);
        self.delay_others(rank_index, group_index, now, other_rd, other_wr, true);
    }

    fn write(&mut self, command: Command, now: u64) {
        let lat = &self.lat;
        let bank = &mut self.banks[usize::from(command.bank)];
        let (rank_index, group_index) = (usize::from(bank.rank), usize::from(bank.group));
        raise(&mut bank.pre, now + lat.wr_pre);
        let rank = &mut self.ranks[rank_index];
        if command.kind == CommandKind::WrA {
            raise(&mut bank.act, now + lat.wra_act);
            raise(&mut bank.refresh, now + lat.wra_ref);
            raise(&mut rank.ref_all, now + lat.wra_ref);
            self.open &= !(1 << command.bank);
        } else {
            raise(&mut rank.pre_all, now + lat.wr_preab);
        }
        raise(&mut rank.wr, now + lat.rank_wr_wr);
        raise(&mut rank.rd, now + lat.rank_wr_rd);
        let group = &mut self.groups[group_index];
        raise(&mut group.wr, now + lat.group_wr_wr);
        raise(&mut group.rd, now + lat.group_wr_rd);
        raise(&mut self.wck_until, now + lat.wck_after_wr);
        let (other_rd, other_wr) = (lat.other_wr_rd, lat.other_wr_wr);
        self.delay_others(rank_index, group_index, now, other_rd, other_wr, false);
    }

    /// What a burst means for the other ranks of the channel and the other stacks of the rank.
    fn delay_others(&mut self, rank: usize, group: usize, now: u64, other_rd: u64, other_wr: u64, is_read: bool) {
        if self.ranks.len() > 1 {
            for other in (0..self.ranks.len()).filter(|&other| other != rank) {
                raise(&mut self.ranks[other].rd, now + other_rd);
                raise(&mut self.ranks[other].wr, now + other_wr);
            }
        }
        if self.stacks > 1 {
            let per_stack = self.groups_per_stack as usize;
            let (first, stack) = (rank * self.stacks as usize * per_stack, group / per_stack);
            for other in (first..first + self.stacks as usize * per_stack).filter(|other| other / per_stack != stack) {
                let group = &mut self.groups[other];
                let earliest = if is_read { &mut group.rd } else { &mut group.wr };
                raise(earliest, now + self.lat.stack_column);
            }
        }
    }

    fn refresh_banks(&mut self, flat: u16, now: u64) {
        for bank in bits(self.refresh_mask(flat)) {
            raise(&mut self.banks[bank].act, now + self.lat.refpb_act);
            raise(&mut self.banks[bank].refresh, now + self.lat.refpb_refab);
        }
        let rank = &mut self.ranks[usize::from(self.banks[usize::from(flat)].rank)];
        raise(&mut rank.act, now + self.lat.refpb_other_act);
        raise(&mut rank.ref_bank, now + self.lat.refpb_refpb);
        raise(&mut rank.ref_all, now + self.lat.refpb_refab);
    }
}

/// Indices of the set bits, lowest first.
pub(super) fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let index = mask.trailing_zeros() as usize;
        (mask != 0).then(|| {
            mask &= mask - 1;
            index
        })
    })
}
