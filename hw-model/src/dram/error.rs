//! What can be wrong with a device description, an address or a command.
use super::command::Command;
use std::fmt;

/// A configuration that no memory can have: which field, which value, which rule it breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Name of the field as it stands in the structure, e.g. `timing.n_rrd_l`.
    pub field: &'static str,
    /// The value found there.
    pub value: String,
    /// The rule it breaks, as the end of a sentence: "must …".
    pub rule: String,
}

impl ConfigError {
    /// `field` is `value`, but `rule`.
    pub fn new(field: &'static str, value: impl fmt::Display, rule: impl Into<String>) -> Self {
        Self { field, value: value.to_string(), rule: rule.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, but it {}", self.field, self.value, self.rule)
    }
}

impl std::error::Error for ConfigError {}

/// A device file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceFileError {
    /// Not the text that was expected: no TOML, an unknown field, a missing field, a value of another type.
    Text {
        /// Line of the file, from 1, where it is known.
        line: Option<usize>,
        /// What is wrong there.
        message: String,
    },
    /// A device that cannot be.
    Config(ConfigError),
}

impl From<ConfigError> for DeviceFileError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl fmt::Display for DeviceFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text { line: Some(line), message } => write!(f, "line {line}: {message}"),
            Self::Text { line: None, message } => f.write_str(message),
            Self::Config(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DeviceFileError {}

/// Why the device refuses a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandError {
    /// The command names a rank or bank that the channel does not have.
    NoSuchBank,
    /// Activate or refresh of a bank that still has a row open.
    BankNotClosed,
    /// Read or write to a bank without an open row, or second activate without the first.
    RowNotOpen,
    /// The device has no such command (CAS and ACT2 outside LPDDR5 and LPDDR6, per-bank refresh where there is none).
    NotSupported,
    /// A read or write while the data clock (WCK) of LPDDR5 or LPDDR6 is stopped: a CAS must come right before.
    DataClockStopped,
    /// The second half of a split activate came later than nAAD after the first.
    ActivateExpired,
    /// The bank was activated RAAMMT times: refresh management or a refresh must come first.
    ManagementDue,
    /// A timing constraint: legal from cycle `earliest`.
    TooEarly {
        /// First cycle in which the command is legal.
        earliest: u64,
    },
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchBank => write!(f, "the channel has no such rank or bank"),
            Self::BankNotClosed => write!(f, "the bank must be precharged first"),
            Self::RowNotOpen => write!(f, "no row is open in the bank"),
            Self::NotSupported => write!(f, "the device does not know this command"),
            Self::DataClockStopped => write!(f, "the data clock is stopped: a CAS must come one cycle before"),
            Self::ActivateExpired => write!(f, "ACT2 came later than nAAD after ACT1"),
            Self::ManagementDue => write!(f, "the bank was activated RAAMMT times and must be managed first"),
            Self::TooEarly { earliest } => write!(f, "legal from cycle {earliest}"),
        }
    }
}

impl std::error::Error for CommandError {}

/// A command that was refused, with the command and the cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The command.
    pub command: Command,
    /// The cycle in which it was offered.
    pub cycle: u64,
    /// Why.
    pub reason: CommandError,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} refused in cycle {}: {}", self.command, self.cycle, self.reason)
    }
}

impl std::error::Error for Refused {}

/// An address that does not name a line of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressError {
    /// Not a multiple of the bytes that one access moves.
    Unaligned {
        /// The address.
        address: u64,
        /// Bytes of one access.
        access_bytes: u64,
    },
    /// At or beyond the capacity.
    OutOfRange {
        /// The address.
        address: u64,
        /// Bytes of the memory.
        capacity: u64,
    },
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unaligned { address, access_bytes } => {
                write!(f, "address {address:#x} is not a multiple of the {access_bytes} bytes of one access")
            }
            Self::OutOfRange { address, capacity } => {
                write!(f, "address {address:#x} lies outside the memory of {capacity:#x} bytes")
            }
        }
    }
}

impl std::error::Error for AddressError {}
