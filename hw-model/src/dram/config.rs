//! How a controller is set up.
use super::device::{Device, RefreshSet};
use super::error::ConfigError;
use super::mapping::MappingKind;

/// What happens to a row after a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PagePolicy {
    /// The row stays open until another row of the bank is wanted.
    Open,
    /// The row is closed with the burst (auto-precharge) unless a waiting request hits it.
    Closed,
}

impl PagePolicy {
    /// Name in configurations: `open` or `closed`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }

    /// The inverse of [`Self::name`].
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::Open, Self::Closed].into_iter().find(|policy| policy.name() == name)
    }
}

/// Which refresh commands are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refresh {
    /// None: for comparisons; real data would be lost.
    None,
    /// All banks of a rank every nREFI.
    AllBank,
    /// Bank by bank: DDR5 same-bank, LPDDR5 and HBM per-bank.
    SameBank,
}

impl Refresh {
    /// Name in configurations: `none`, `ab` or `sb`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::AllBank => "ab",
            Self::SameBank => "sb",
        }
    }

    /// The inverse of [`Self::name`].
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::None, Self::AllBank, Self::SameBank].into_iter().find(|refresh| refresh.name() == name)
    }
}

/// Most requests that a queue may hold.
pub const MAX_QUEUE_DEPTH: u16 = 4096;

/// Parameters of a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// Order of the address bits.
    pub mapping: MappingKind,
    /// Refresh commands.
    pub refresh: Refresh,
    /// Open or closed page.
    pub page_policy: PagePolicy,
    /// Places in the read queue, and as many in the write queue.
    pub queue_depth: u16,
    /// Requests that may be accepted in one cycle.
    pub offers_per_cycle: u32,
}

impl Config {
    /// Open page, queues of 32, four offers a cycle: the set-up of the reference runs.
    pub const fn new(mapping: MappingKind, refresh: Refresh) -> Self {
        Self { mapping, refresh, page_policy: PagePolicy::Open, queue_depth: 32, offers_per_cycle: 4 }
    }

    /// Writes are served in batches: from more than 80 % of the queue down to less than 20 %. More waiting writes than
    /// the first number begin a batch, more than the second continue it.
    pub(super) fn write_marks(&self) -> [u32; 2] {
        let depth = u32::from(self.queue_depth);
        [depth * 8 / 10, (depth * 2).div_ceil(10) - 1]
    }

    /// Refuses what cannot be built for `device`.
    pub fn validate(&self, device: &Device) -> Result<(), ConfigError> {
        if self.queue_depth == 0 || self.queue_depth > MAX_QUEUE_DEPTH {
            let rule = format!("must lie between 1 and {MAX_QUEUE_DEPTH}");
            return Err(ConfigError::new("queue_depth", self.queue_depth, rule));
        }
        if self.offers_per_cycle == 0 {
            return Err(ConfigError::new("offers_per_cycle", 0, "must be at least 1"));
        }
        if self.refresh == Refresh::SameBank && device.bank_refresh.is_none() {
            let rule = format!("needs a device with bank-wise refresh, which {} is not", device.name);
            return Err(ConfigError::new("refresh", "sb", rule));
        }
        Ok(())
    }
}

/// Cycles from one refresh of a rank to the next, and, bank by bank, the banks of a rank in their order.
pub(super) fn refresh_plan(device: &Device, refresh: Refresh) -> (u64, Vec<u16>) {
    let o = &device.organisation;
    let banks = match device.bank_refresh.map(|refresh| refresh.set) {
        Some(RefreshSet::SameBank) => o.banks,
        Some(RefreshSet::Pair) => o.banks_per_rank() / 2,
        Some(RefreshSet::Bank) | None => o.banks_per_rank(),
    };
    let interval = match (refresh, device.bank_refresh) {
        (Refresh::None, _) | (Refresh::SameBank, None) => u64::MAX,
        (Refresh::AllBank, _) => u64::from(device.timing.n_refi),
        (Refresh::SameBank, Some(bank_refresh)) => u64::from(bank_refresh.n_refi),
    };
    (interval, (0..banks as u16).collect())
}
