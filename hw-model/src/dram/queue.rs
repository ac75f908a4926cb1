//! The request queue of a controller: a fixed pool of entries, one list per bank in order of priority and age.
//!
//! Per bank it knows the oldest entry that hits the open row and the oldest that does not, so the scheduler looks at
//! two entries a bank and never at the whole queue. Nothing is allocated after the start.

use super::channel::{Masks, spot};
use super::device::MAX_BANKS;

/// No entry.
const NONE: u16 = u16::MAX;
/// Room for the banks of the greatest channel.
const BANKS: usize = MAX_BANKS as usize;

/// Cycles and running numbers have so many bits; the priority of a source lies above them, so that one comparison goes
/// by priority and then by age.
pub(super) const PRIORITY_SHIFT: u32 = 56;
/// The bits below.
pub(super) const BELOW_PRIORITY: u64 = (1 << PRIORITY_SHIFT) - 1;

/// A request that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Byte address.
    pub(super) address: u64,
    /// Cycle of acceptance; the priority of the source stands above it, see [`PRIORITY_SHIFT`].
    pub(super) arrive: u64,
    /// Running number, the order of acceptance, below the priority as well: less goes first.
    pub(super) sequence: u64,
    pub(super) row: u32,
    pub(super) bank: u16,
    /// Who asked.
    pub(super) source: u8,
    /// Whether it writes, and whether row hit, miss or conflict was counted already: a byte for both, so that an entry
    /// has 32.
    pub(super) flags: u8,
}

impl Entry {
    /// Of a free place.
    pub(super) const EMPTY: Self = Self { address: 0, arrive: 0, sequence: 0, row: 0, bank: 0, source: 0, flags: 0 };

    /// The same of another kind.
    #[inline(always)]
    pub(super) const fn of_kind(self, is_write: bool, counted: bool) -> Self {
        Self { flags: is_write as u8 | (counted as u8) << 1, ..self }
    }

    #[inline(always)]
    pub(super) const fn is_write(&self) -> bool {
        self.flags & 1 != 0
    }

    /// Row hit, miss or conflict was counted already.
    #[inline(always)]
    pub(super) const fn is_counted(&self) -> bool {
        self.flags & 2 != 0
    }

    #[inline(always)]
    pub(super) const fn set_counted(&mut self) {
        self.flags |= 2;
    }
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    entry: Entry,
    /// Next younger entry of the bank; for a free slot the next free one.
    next: u16,
    previous: u16,
    /// Next younger entry of all, next older one.
    younger: u16,
    older: u16,
}

/// List of one bank and its oldest entries.
#[derive(Debug, Clone, Copy)]
struct BankList {
    head: u16,
    tail: u16,
    hit: u16,
    miss: u16,
}

const EMPTY: BankList = BankList { head: NONE, tail: NONE, hit: NONE, miss: NONE };

#[derive(Debug, Clone)]
pub(super) struct Queue {
    slots: Vec<Slot>,
    free: u16,
    oldest: u16,
    youngest: u16,
    len: u32,
    lists: [BankList; BANKS],
    /// Banks with an entry that hits the open row.
    pub(super) hits: Masks,
    /// Banks with an entry that does not hit the open row, or whose bank is closed.
    pub(super) misses: Masks,
    /// Per bank, running number of the oldest hit; `u64::MAX` if there is none.
    pub(super) hit_age: [u64; BANKS],
    /// Per bank, running number of the oldest miss.
    pub(super) miss_age: [u64; BANKS],
}

impl Queue {
    pub(super) fn new(depth: u16) -> Self {
        let next = |slot: u16| if slot + 1 < depth { slot + 1 } else { NONE };
        let slots = (0..depth)
            .map(|slot| Slot { entry: Entry::EMPTY, next: next(slot), previous: NONE, younger: NONE, older: NONE })
            .collect();
        Self {
            slots,
            free: 0,
            oldest: NONE,
            youngest: NONE,
            len: 0,
            lists: [EMPTY; BANKS],
            hits: [0; 4],
            misses: [0; 4],
            hit_age: [u64::MAX; BANKS],
            miss_age: [u64::MAX; BANKS],
        }
    }

    /// Removes all entries.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.slots.len() as u16);
    }

    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) const fn is_full(&self) -> bool {
        self.free == NONE
    }

    /// Adds an entry; `open` is the open row of its bank. The queue must not be full.
    #[inline(always)]
    pub(super) fn push(&mut self, entry: Entry, open: Option<u32>) {
        let at = self.free;
        self.free = self.slots[usize::from(at)].next;
        let bank = usize::from(entry.bank);
        let (mut older, mut previous) = (self.youngest, self.lists[bank % BANKS].tail);
        // Nearly always behind all others: only who has priority goes before somebody.
        if older != NONE && self.slots[usize::from(older)].entry.sequence > entry.sequence {
            older = self.before(older, entry.sequence, |slot| slot.older);
            previous = self.before(previous, entry.sequence, |slot| slot.previous);
        }
        let younger = match older {
            NONE => std::mem::replace(&mut self.oldest, at),
            _ => std::mem::replace(&mut self.slots[usize::from(older)].younger, at),
        };
        match younger {
            NONE => self.youngest = at,
            _ => self.slots[usize::from(younger)].older = at,
        }
        let next = match previous {
            NONE => std::mem::replace(&mut self.lists[bank % BANKS].head, at),
            _ => std::mem::replace(&mut self.slots[usize::from(previous)].next, at),
        };
        match next {
            NONE => self.lists[bank % BANKS].tail = at,
            _ => self.slots[usize::from(next)].previous = at,
        }
        self.slots[usize::from(at)] = Slot { entry, next, previous, younger, older };
        self.len += 1;
        let (word, bit) = spot(entry.bank);
        let list = &mut self.lists[bank % BANKS];
        if open == Some(entry.row) {
            if entry.sequence < self.hit_age[bank % BANKS] {
                list.hit = at;
                self.hit_age[bank % BANKS] = entry.sequence;
                self.hits[word] |= bit;
            }
        } else if entry.sequence < self.miss_age[bank % BANKS] {
            list.miss = at;
            self.miss_age[bank % BANKS] = entry.sequence;
            self.misses[word] |= bit;
        }
    }

    /// The last entry from `at` on towards the older ones that goes before `sequence`.
    #[cold]
    fn before(&self, mut at: u16, sequence: u64, older: impl Fn(&Slot) -> u16) -> u16 {
        while at != NONE && self.slots[usize::from(at)].entry.sequence > sequence {
            at = older(&self.slots[usize::from(at)]);
        }
        at
    }

    /// Oldest entry of `bank` that does not hit the open row.
    pub(super) fn miss(&mut self, bank: u16) -> &mut Entry {
        &mut self.slots[usize::from(self.lists[usize::from(bank) % BANKS].miss)].entry
    }

    /// True if a request that came no later than the oldest other-row one hits the open row: the row stays open.
    pub(super) fn hit_guards_row(&self, bank: usize) -> bool {
        let list = &self.lists[bank % BANKS];
        list.hit != NONE
            && self.slots[usize::from(list.hit)].entry.arrive <= self.slots[usize::from(list.miss)].entry.arrive
    }

    /// Removes the oldest hit of `bank`, whose open row is `open`.
    #[inline(always)]
    pub(super) fn remove_hit(&mut self, bank: u16, open: u32) -> Entry {
        let at = self.lists[usize::from(bank) % BANKS].hit;
        let next = self.slots[usize::from(at)].next;
        let entry = self.unlink(at);
        self.find_hit(bank, next, open);
        entry
    }

    /// Removes the oldest miss of `bank`. The caller must call [`Self::row_changed`] afterwards.
    pub(super) fn remove_miss(&mut self, bank: u16) -> Entry {
        self.unlink(self.lists[usize::from(bank) % BANKS].miss)
    }

    #[inline(always)]
    fn unlink(&mut self, at: u16) -> Entry {
        let Slot { entry, next, previous, younger, older } = self.slots[usize::from(at)];
        let list = &mut self.lists[usize::from(entry.bank) % BANKS];
        match previous {
            NONE => list.head = next,
            _ => self.slots[usize::from(previous)].next = next,
        }
        match next {
            NONE => list.tail = previous,
            _ => self.slots[usize::from(next)].previous = previous,
        }
        match older {
            NONE => self.oldest = younger,
            _ => self.slots[usize::from(older)].younger = younger,
        }
        match younger {
            NONE => self.youngest = older,
            _ => self.slots[usize::from(younger)].older = older,
        }
        self.slots[usize::from(at)].next = self.free;
        self.free = at;
        self.len -= 1;
        entry
    }

    /// Sorts the entries of `bank` anew after its row was opened (`Some`) or closed (`None`).
    #[inline(always)]
    pub(super) fn row_changed(&mut self, bank: u16, open: Option<u32>) {
        let (word, bit) = spot(bank);
        if (self.hits[word] | self.misses[word]) & bit != 0 {
            self.sort(bank, open);
        }
    }

    /// Sorts the entries of `bank`, of which there are some.
    fn sort(&mut self, bank: u16, open: Option<u32>) {
        let (word, bit) = spot(bank);
        let list = &mut self.lists[usize::from(bank) % BANKS];
        let head = list.head;
        let Some(row) = open else {
            list.hit = NONE;
            self.hit_age[usize::from(bank) % BANKS] = u64::MAX;
            self.hits[word] &= !bit;
            self.set_miss(bank, head);
            return;
        };
        self.find_hit(bank, head, row);
        let mut at = head;
        while at != NONE && self.slots[usize::from(at)].entry.row == row {
            at = self.slots[usize::from(at)].next;
        }
        self.set_miss(bank, at);
    }

    /// Makes the first entry with `row` from `at` on the oldest hit.
    fn find_hit(&mut self, bank: u16, mut at: u16, row: u32) {
        while at != NONE && self.slots[usize::from(at)].entry.row != row {
            at = self.slots[usize::from(at)].next;
        }
        let (word, bit) = spot(bank);
        let list = &mut self.lists[usize::from(bank) % BANKS];
        list.hit = at;
        if at == NONE {
            self.hit_age[usize::from(bank) % BANKS] = u64::MAX;
            self.hits[word] &= !bit;
        } else {
            self.hit_age[usize::from(bank) % BANKS] = self.slots[usize::from(at)].entry.sequence;
            self.hits[word] |= bit;
        }
    }

    fn set_miss(&mut self, bank: u16, at: u16) {
        let (word, bit) = spot(bank);
        let list = &mut self.lists[usize::from(bank) % BANKS];
        list.miss = at;
        if at == NONE {
            self.miss_age[usize::from(bank) % BANKS] = u64::MAX;
            self.misses[word] &= !bit;
        } else {
            self.miss_age[usize::from(bank) % BANKS] = self.slots[usize::from(at)].entry.sequence;
            self.misses[word] |= bit;
        }
    }

    /// True if an entry has this address.
    pub(super) fn contains(&self, bank: u16, address: u64) -> bool {
        self.of_bank(bank).any(|entry| entry.address == address)
    }

    /// All entries of one bank, oldest first.
    fn of_bank(&self, bank: u16) -> impl Iterator<Item = &Entry> {
        self.entries(self.lists[usize::from(bank) % BANKS].head, |slot| slot.next)
    }

    /// All entries, oldest first.
    pub(super) fn by_age(&self) -> impl Iterator<Item = &Entry> {
        self.entries(self.oldest, |slot| slot.younger)
    }

    fn entries(&self, mut at: u16, next: impl Fn(&Slot) -> u16) -> impl Iterator<Item = &Entry> {
        std::iter::from_fn(move || {
            (at != NONE).then(|| {
                let slot = &self.slots[usize::from(at)];
                at = next(slot);
                &slot.entry
            })
        })
    }
}
