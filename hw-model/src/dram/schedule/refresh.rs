//! The turn of refresh and of refresh management, and what waits for it.
use super::super::command::{Command, CommandKind};
use super::super::config::Refresh;
use super::super::management::ManagementCommand;
use super::{Held, State};

/// A refresh, and what it needs.
pub(super) struct RefreshTurn {
    pub(super) rank: usize,
    /// Banks that must be closed, in the word of their rank.
    pub(super) banks: u64,
    pub(super) refresh: Command,
    /// What closes them.
    pub(super) precharge: CommandKind,
}

/// Where a waiting refresh stands.
pub(super) enum RefreshStep {
    /// This command can go out: a precharge or the refresh itself.
    Ready(Command),
    /// The next command can go out in this cycle.
    At(u64),
    /// A row was opened for a request, which must be served first.
    AfterBursts,
}

impl State {
    /// Refreshes after which the turn comes back to the first rank and bank.
    pub(in super::super) fn refresh_round(&self) -> u64 {
        let sets = if self.config.refresh == Refresh::SameBank { self.refresh_banks.len() } else { 1 };
        (self.channel.rank_count * sets) as u64
    }

    /// Whether a refresh waits, or a bank asks for management.
    #[inline(always)]
    pub(super) const fn is_refresh_wanted(&self) -> bool {
        self.refreshes_waiting > 0 || self.channel.asking.is_some()
    }

    /// What fell due first: the waiting refresh whose turn it is, or the management that is asked for. Whichever always
    /// went first could keep the other off for ever: management of all banks waits until no bank is refreshed, and HBM3
    /// refreshes one sooner than the last is through.
    #[cold]
    pub(super) fn refresh_turn(&self) -> Option<RefreshTurn> {
        if self.refreshes_waiting == 0 || self.refreshes_ahead == 0 && self.channel.asking.is_some() {
            return self.channel.asking.and_then(|bank| self.management_turn(bank));
        }
        let ranks = self.channel.rank_count as u64;
        let rank = (self.refresh_turn % ranks) as usize;
        let first = self.channel.first_of(rank) as u16;
        if self.config.refresh != Refresh::SameBank {
            let refresh = Command::new(CommandKind::RefAll, first);
            let banks = self.channel.set_of(rank).1;
            return Some(RefreshTurn { rank, banks, refresh, precharge: CommandKind::PreAll });
        }
        let round = self.refresh_turn / ranks % self.refresh_banks.len() as u64;
        let bank = first + self.refresh_banks[round as usize];
        let refresh = Command::new(CommandKind::RefBank, bank);
        Some(RefreshTurn { rank, banks: self.channel.refresh_mask(bank), refresh, precharge: CommandKind::Pre })
    }

    /// The management that `bank` asks for.
    #[cold]
    fn management_turn(&self, bank: u16) -> Option<RefreshTurn> {
        let rank = self.channel.rank_of(bank);
        let turn = match self.channel.management.as_ref()?.command() {
            ManagementCommand::AllBank => RefreshTurn {
                rank,
                banks: self.channel.set_of(rank).1,
                refresh: Command::new(CommandKind::RfmAll, self.channel.first_of(rank) as u16),
                precharge: CommandKind::PreAll,
            },
            ManagementCommand::BankWise => RefreshTurn {
                rank,
                banks: self.channel.refresh_mask(bank),
                refresh: Command::new(CommandKind::RfmBank, bank),
                precharge: CommandKind::Pre,
            },
        };
        Some(turn)
    }

    pub(super) fn refresh_step(&self, turn: &RefreshTurn) -> RefreshStep {
        let (word, _) = self.channel.set_of(turn.rank);
        if (self.channel.activating[word] | self.active_banks[word]) & turn.banks != 0 {
            return RefreshStep::AfterBursts;
        }
        let open = self.channel.open[word] & turn.banks;
        let command = match open {
            0 => turn.refresh,
            _ => Command::new(turn.precharge, word as u16 * 64 + open.trailing_zeros() as u16),
        };
        match self.channel.probe(command) {
            Ok(earliest) if earliest > self.now => RefreshStep::At(earliest),
            Ok(_) if !command.kind.is_precharge() && !self.channel.is_rising(self.now) => RefreshStep::At(self.now + 1),
            Ok(_) => RefreshStep::Ready(command),
            Err(_) => RefreshStep::AfterBursts,
        }
    }

    /// What the queue must leave alone for a bank-wise refresh. An activate of another bank of the rank delays the
    /// refresh by nRRD; where that would be beyond its time the activate waits, or a stream of them could hold the
    /// refresh off for ever.
    pub(super) fn held_for(&self, turn: &RefreshTurn) -> Held {
        let (word, _) = self.channel.set_of(turn.rank);
        let closed = (self.channel.open[word] | self.channel.activating[word]) & turn.banks == 0;
        let ready = if closed { self.channel.probe(turn.refresh).unwrap_or(u64::MAX) } else { u64::MAX };
        let delays = self.now + self.channel.lat.act_other_refpb > ready;
        Held { rank: turn.rank, banks: turn.banks, activates: delays }
    }
}
