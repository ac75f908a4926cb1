//! Refresh management: rows that are opened too often would disturb their neighbours, so the device wants time to
//! refresh those (JESD79-5, 4.41, Refresh Management (RFM); LPDDR5, HBM3 and HBM4 have the same).
//!
//! Each bank has a rolling count of activates (RAA). From RAAIMT on it asks for a management command, at RAAMMT it
//! takes no further activate. RFMab takes RAAIMT off the counts of all banks of the rank, RFMsb (RFMpb) off those of
//! its set; a refresh of the bank takes some off too.
use serde::{Deserialize, Serialize};

use super::channel::{Channel, Masks, banks_of, spot};
use super::command::{Command, CommandKind};
use super::device::MAX_BANKS;

/// Room for the banks of the greatest channel.
const BANKS: usize = MAX_BANKS as usize;

/// Which command a controller manages with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ManagementCommand {
    /// RFMab: all banks of the rank.
    AllBank,
    /// RFMsb, RFMpb: the banks of one bank-wise refresh.
    BankWise,
}

/// What a device asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RefreshManagement {
    /// The command in use.
    pub command: ManagementCommand,
    /// RAAIMT: activates of a bank from which on it asks; the command takes as many off.
    pub raaimt: u32,
    /// RAAMMT: at so many activates the bank takes no further one.
    pub raammt: u32,
    /// Activates that a refresh of the bank takes off: RAAIMT or half of it, as the mode register says.
    pub refresh_decrement: u32,
    /// The managed banks stay busy for so many clocks.
    pub n_rfm: u32,
}

/// The counts of a channel.
#[derive(Debug, Clone)]
pub(super) struct Activates {
    needs: RefreshManagement,
    counts: [u32; BANKS],
    /// Banks at RAAIMT and above.
    asking: Masks,
    /// Banks at RAAMMT.
    exhausted: Masks,
}

impl Activates {
    pub(super) fn new(needs: RefreshManagement) -> Self {
        Self { needs, counts: [0; BANKS], asking: Masks::default(), exhausted: Masks::default() }
    }

    /// The command in use.
    pub(super) const fn command(&self) -> ManagementCommand {
        self.needs.command
    }

    /// Counts an activate; whether the bank asks for management.
    pub(super) fn count(&mut self, bank: u16) -> bool {
        self.set(usize::from(bank), self.counts[usize::from(bank)] + 1);
        self.counts[usize::from(bank)] >= self.needs.raaimt
    }

    /// A management command goes out to the banks of `mask` in this word.
    pub(super) fn managed(&mut self, word: usize, mask: u64) {
        self.take_off(word, mask, self.needs.raaimt);
    }

    /// A refresh goes out to the banks of `mask` in this word.
    pub(super) fn refreshed(&mut self, word: usize, mask: u64) {
        self.take_off(word, mask, self.needs.refresh_decrement);
    }

    fn take_off(&mut self, word: usize, mask: u64, activates: u32) {
        banks_of(word, mask).for_each(|bank| self.set(bank, self.counts[bank].saturating_sub(activates)));
    }

    fn set(&mut self, bank: usize, count: u32) {
        self.counts[bank] = count;
        let (word, bit) = spot(bank as u16);
        for (mask, from) in [(&mut self.asking, self.needs.raaimt), (&mut self.exhausted, self.needs.raammt)] {
            mask[word] = if count >= from { mask[word] | bit } else { mask[word] & !bit };
        }
    }

    /// The counts of the first so many banks.
    pub(super) fn counts(&self, banks: usize) -> &[u32] {
        &self.counts[..banks]
    }

    /// Replaces a count, which is at most the second number.
    pub(super) fn replace(&mut self, bank: usize, other: impl FnOnce(u32, u32) -> u32) {
        self.set(bank, other(self.counts[bank], self.needs.raammt));
    }

    /// The bank that asks most urgently: the most activates, the lowest of equal ones.
    pub(super) fn most_urgent(&self) -> Option<u16> {
        let asking = (0..self.asking.len()).flat_map(|word| banks_of(word, self.asking[word]));
        asking.min_by_key(|&bank| (std::cmp::Reverse(self.counts[bank]), bank)).map(|bank| bank as u16)
    }

    /// Banks of a word that take no further activate.
    pub(super) const fn exhausted(&self, word: usize) -> u64 {
        self.exhausted[word]
    }
}

impl Channel {
    /// Whether the device wants management with this command.
    pub(super) fn manages_with(&self, command: ManagementCommand) -> bool {
        self.management.as_ref().is_some_and(|management| management.command() == command)
    }

    /// Banks of a word that take no further activate before management.
    #[inline(always)]
    pub(super) fn exhausted_banks(&self, word: usize) -> u64 {
        self.management.as_ref().map_or(0, |management| management.exhausted(word))
    }

    #[cold]
    pub(super) fn count_activate(&mut self, bank: u16) {
        let Some(management) = &mut self.management else { return };
        let asks = management.count(bank);
        self.asking = self.asking.or(asks.then_some(bank));
    }

    /// Replaces the counts of activates, and the bank whose management is next, where there are any. Each number comes
    /// with the greatest that it can be.
    pub(super) fn replace_activates(&mut self, mut other: impl FnMut(u32, u32) -> u32) {
        let banks = self.bank_count();
        let Some(management) = &mut self.management else { return };
        for bank in 0..banks as usize {
            management.replace(bank, &mut other);
        }
        let asking = other(self.asking.map_or(0, |bank| u32::from(bank) + 1), banks);
        self.asking = asking.checked_sub(1).map(|bank| bank as u16);
    }

    /// Takes off what a refresh or a management command takes off the counts of activates.
    #[inline(never)]
    pub(super) fn take_off_activates(&mut self, command: Command) {
        let (word, of_rank) = self.set_of(self.rank_of(command.bank));
        let banks = if command.kind.is_bank_wise() { self.refresh_mask(command.bank) } else { of_rank };
        let Some(management) = &mut self.management else { return };
        if matches!(command.kind, CommandKind::RfmAll | CommandKind::RfmBank) {
            management.managed(word, banks);
        } else {
            management.refreshed(word, banks);
        }
        self.asking = management.most_urgent();
    }
}
