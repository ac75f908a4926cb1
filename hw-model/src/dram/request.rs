//! What a controller is asked for: single accesses, and up to when.
use super::error::AddressError;

/// Read or write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// Read one access.
    Read,
    /// Write one access.
    Write,
}

/// One access of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Byte address within the channel, a multiple of the bytes of one access.
    pub address: u64,
    /// Read or write.
    pub kind: RequestKind,
    /// Not offered before this cycle; 0 for as soon as there is room. Only a stream has it: who calls
    /// [`super::Engine::offer`] offers now.
    pub not_before: u64,
    /// Who asks: index of a source, 0 where there is one.
    pub source: u8,
}

impl Request {
    /// A read, as soon as there is room.
    pub const fn read(address: u64) -> Self {
        Self { address, kind: RequestKind::Read, not_before: 0, source: 0 }
    }

    /// A write, as soon as there is room.
    pub const fn write(address: u64) -> Self {
        Self { address, kind: RequestKind::Write, not_before: 0, source: 0 }
    }

    /// The same request of another source.
    pub const fn from_source(self, source: u8) -> Self {
        Self { source, ..self }
    }
}

/// A stream with an address that the channel does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamError {
    /// Number of the request in the stream, from 0.
    pub index: u64,
    /// What is wrong with it.
    pub error: AddressError,
}

impl std::fmt::Display for StreamError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "request {}: {}", self.index, self.error)
    }
}

impl std::error::Error for StreamError {}

/// When [`super::Controller::run`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The last request was accepted; some may still wait (the way Ramulator counts).
    Accepted,
    /// The last data went over the bus.
    Served,
}

impl Until {
    /// Name in configurations: `accepted` or `served`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Served => "served",
        }
    }

    /// The inverse of [`Self::name`].
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::Accepted, Self::Served].into_iter().find(|until| until.name() == name)
    }
}
