//! The commands on the command bus.
use std::fmt;

/// Kind of a command. The spelling follows the standards: `ACT` opens a row, `PRE` closes it, `REFab` refreshes all
/// banks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CommandKind {
    /// Activate: opens a row. On LPDDR5 and LPDDR6 the first of two halves (ACT1).
    Act,
    /// Second half of such an activate.
    Act2,
    /// Precharge of one bank.
    Pre,
    /// Precharge of all banks of a rank.
    PreAll,
    /// Read burst.
    Rd,
    /// Read burst with auto-precharge.
    RdA,
    /// Write burst.
    Wr,
    /// Write burst with auto-precharge.
    WrA,
    /// Refresh of all banks of a rank.
    RefAll,
    /// Refresh of some banks: DDR5 same-bank, LPDDR5 and HBM per-bank.
    RefBank,
    /// Refresh management of all banks of a rank.
    RfmAll,
    /// Refresh management of the banks of one bank-wise refresh: DDR5 same-bank, LPDDR5 and HBM per-bank.
    RfmBank,
    /// Starts the data clock (WCK) of LPDDR5 and LPDDR6 for the read or write right behind it.
    Cas,
}

impl CommandKind {
    /// All kinds, in the order of [`CommandCounts`].
    pub const ALL: [Self; 13] = [
        Self::Act,
        Self::Act2,
        Self::Pre,
        Self::PreAll,
        Self::Rd,
        Self::RdA,
        Self::Wr,
        Self::WrA,
        Self::RefAll,
        Self::RefBank,
        Self::RfmAll,
        Self::RfmBank,
        Self::Cas,
    ];

    /// Name as the standards write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Act => "ACT",
            Self::Act2 => "ACT2",
            Self::Pre => "PRE",
            Self::PreAll => "PREab",
            Self::Rd => "RD",
            Self::RdA => "RDA",
            Self::Wr => "WR",
            Self::WrA => "WRA",
            Self::RefAll => "REFab",
            Self::RefBank => "REFpb",
            Self::RfmAll => "RFMab",
            Self::RfmBank => "RFMpb",
            Self::Cas => "CAS",
        }
    }

    /// PRE and PREab.
    #[inline(always)]
    pub(super) const fn is_precharge(self) -> bool {
        matches!(self, Self::Pre | Self::PreAll)
    }

    /// True for commands of the column bus of HBM: read and write.
    pub const fn is_column(self) -> bool {
        matches!(self, Self::Rd | Self::RdA | Self::Wr | Self::WrA | Self::Cas)
    }

    /// True for refreshes of all banks or some, and for refresh management.
    pub const fn is_refresh(self) -> bool {
        matches!(self, Self::RefAll | Self::RefBank | Self::RfmAll | Self::RfmBank)
    }

    /// True for refresh and management of some banks.
    #[inline(always)]
    pub(super) const fn is_bank_wise(self) -> bool {
        matches!(self, Self::RefBank | Self::RfmBank)
    }
}

impl fmt::Display for CommandKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One command as it goes out: kind, flat bank number in the channel, row (only for ACT; otherwise 0).
///
/// For `PreAll`, `RefAll` and `RfmAll` the bank is any bank of the rank. For `RefBank` and `RfmBank` it is any bank of
/// the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Command {
    /// What.
    pub kind: CommandKind,
    /// Flat bank number, `0..banks of the channel`: rank, stack, group, bank from high to low.
    pub bank: u16,
    /// Row to open.
    pub row: u32,
}

impl Command {
    /// A command without row.
    pub const fn new(kind: CommandKind, bank: u16) -> Self {
        Self { kind, bank, row: 0 }
    }

    /// ACT of `row`.
    pub const fn act(bank: u16, row: u32) -> Self {
        Self { kind: CommandKind::Act, bank, row }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bank {}", self.kind, self.bank)?;
        if self.kind == CommandKind::Act { write!(f, " row {}", self.row) } else { Ok(()) }
    }
}

/// How often each command went out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommandCounts([u64; CommandKind::ALL.len()]);

impl CommandCounts {
    /// Counts one more of `kind`.
    pub fn count(&mut self, kind: CommandKind) {
        self.0[kind as usize] += 1;
    }

    /// Number of `kind`.
    pub fn get(&self, kind: CommandKind) -> u64 {
        self.0[kind as usize]
    }

    /// Kind and number of all kinds.
    pub fn iter(&self) -> impl Iterator<Item = (CommandKind, u64)> + '_ {
        CommandKind::ALL.into_iter().map(|kind| (kind, self.get(kind)))
    }

    /// The numbers of all kinds.
    pub(super) fn all_mut(&mut self) -> &mut [u64] {
        &mut self.0
    }

    /// Adds the counts of `other`.
    pub(super) fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine += theirs;
        }
    }
}
