//! The three address streams that the reference figures are measured on, as iterators of reads.
//!
//! All addresses lie in a window of 1 GiB, on lines of 64 bytes. A device that moves less than a line in one access
//! gets each line cut into several reads, see [`cut`]. [`StreamKind`] finds a stream by its name.
use super::request::Request;

/// Bytes of a line.
pub const LINE: u64 = 64;
/// Bytes of the window that all streams stay in.
pub const WINDOW: u64 = 1 << 30;
/// Bytes of one expert of the `expert` stream: 1.5 MiB.
const EXPERT: u64 = 3 << 19;
/// Experts laid end to end.
const EXPERTS: u64 = 512;
/// Bytes taken from one expert before the next one's turn.
const BURST: u64 = 4096;
/// Experts read at once.
const LIVE: usize = 8;

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
#[derive(Debug, Clone)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// Lines in order, modulo the window.
pub fn sequential(lines: u64) -> impl Iterator<Item = Request> + Clone {
    (0..lines).map(|line| Request::read(LINE * line % WINDOW))
}

/// Lines drawn uniformly from the window (SplitMix64, seed 1).
pub fn random(lines: u64) -> impl Iterator<Item = Request> + Clone {
    let mut draw = SplitMix64(1);
    (0..lines).map(move |_| Request::read(LINE * (draw.next() % (WINDOW / LINE))))
}

/// Eight experts of 1.5 MiB read at once, 4 KiB from each in turn; a finished one is replaced by one drawn from 512
/// laid end to end (SplitMix64, seed 2).
pub fn experts(lines: u64) -> impl Iterator<Item = Request> + Clone {
    let mut draw = SplitMix64(2);
    let mut live = [(); LIVE].map(|()| (EXPERT * (draw.next() % EXPERTS), 0));
    let (mut turn, mut within) = (0, 0);
    (0..lines).map(move |_| {
        if within == BURST {
            live[turn].1 += BURST;
            if live[turn].1 >= EXPERT {
                live[turn] = (EXPERT * (draw.next() % EXPERTS), 0);
            }
            (turn, within) = ((turn + 1) % LIVE, 0);
        }
        let (base, offset) = live[turn];
        let address = base + offset + within;
        within += LINE;
        Request::read(address)
    })
}

/// Each 64-byte line as reads of `access_bytes`, lowest address first. A device that moves a line or more in one access
/// gets one read a line.
pub fn cut(
    mut lines: impl Iterator<Item = Request> + Clone,
    access_bytes: u64,
) -> impl Iterator<Item = Request> + Clone {
    let mut next = Request::read(0);
    let mut left = 0;
    std::iter::from_fn(move || {
        if left == 0 {
            next = lines.next()?;
            left = (LINE / access_bytes).max(1);
        }
        let piece = next;
        next.address += access_bytes;
        left -= 1;
        Some(piece)
    })
}

/// `bytes` bytes from `start` in order, `access_bytes` at a time: one expert as it lies in a channel.
pub fn contiguous(start: u64, bytes: u64, access_bytes: u64) -> impl Iterator<Item = Request> + Clone {
    (0..bytes.div_ceil(access_bytes)).map(move |index| Request::read(start + index * access_bytes))
}

/// One of the three streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// [`sequential`].
    Sequential,
    /// [`random`].
    Random,
    /// [`experts`].
    Experts,
}

impl StreamKind {
    /// All streams.
    pub const ALL: [Self; 3] = [Self::Sequential, Self::Random, Self::Experts];

    /// Name in configurations: `seq`, `rand` or `expert`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sequential => "seq",
            Self::Random => "rand",
            Self::Experts => "expert",
        }
    }

    /// The inverse of [`Self::name`].
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// One line for people.
    pub const fn summary(self) -> &'static str {
        match self {
            Self::Sequential => "lines of 64 bytes in order, modulo 1 GiB",
            Self::Random => "lines drawn uniformly from 1 GiB",
            Self::Experts => "eight experts of 1.5 MiB read at once, 4 KiB from each in turn",
        }
    }

    /// The first `requests` reads of the stream for a device that moves `access_bytes` bytes in one access, at most a
    /// line.
    pub fn requests(self, requests: u64, access_bytes: u64) -> Box<dyn Iterator<Item = Request>> {
        let lines = requests.div_ceil((LINE / access_bytes).max(1));
        let taken = usize::try_from(requests).unwrap_or(usize::MAX);
        match self {
            Self::Sequential => Box::new(cut(sequential(lines), access_bytes).take(taken)),
            Self::Random => Box::new(cut(random(lines), access_bytes).take(taken)),
            Self::Experts => Box::new(cut(experts(lines), access_bytes).take(taken)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_to_accesses() {
        let addresses =
            |access| StreamKind::Sequential.requests(5, access).map(|request| request.address).collect::<Vec<_>>();
        assert_eq!(addresses(64), [0, 64, 128, 192, 256]);
        assert_eq!(addresses(32), [0, 32, 64, 96, 128]);
        assert_eq!(addresses(16), [0, 16, 32, 48, 64]);
    }

    #[test]
    fn streams_stay_in_their_window_and_are_found_by_name() {
        for kind in StreamKind::ALL {
            assert_eq!(StreamKind::by_name(kind.name()), Some(kind));
            assert!(kind.requests(100_000, 64).all(|request| request.address < WINDOW && request.address % LINE == 0));
        }
        // Beyond the window from the front again.
        assert_eq!(sequential(WINDOW / LINE + 1).last(), Some(Request::read(0)));
    }
}
