//! The three address streams that the reference figures are measured on, as iterators of reads.
//!
//! All addresses lie in a window of 1 GiB, on lines of 64 bytes. [`halves`] cuts each line into two reads of 32 bytes for devices
//! that move 32 bytes an access.
use super::controller::Request;

/// Bytes of a line.
const LINE: u64 = 64;
/// Bytes of the window that all streams stay in.
const WINDOW: u64 = 1 << 30;
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

/// Eight experts of 1.5 MiB read at once, 4 KiB from each in turn; a finished one is replaced by one drawn from 512 laid end to
/// end (SplitMix64, seed 2).
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

/// Each 64-byte line as two reads of 32 bytes, lower half first.
pub fn halves(lines: impl Iterator<Item = Request> + Clone) -> impl Iterator<Item = Request> + Clone {
    lines.flat_map(|line| [line, Request { address: line.address + LINE / 2, ..line }])
}

/// `bytes` bytes from `start` in order, `access_bytes` at a time: one expert as it lies in a channel.
pub fn contiguous(start: u64, bytes: u64, access_bytes: u64) -> impl Iterator<Item = Request> + Clone {
    (0..bytes.div_ceil(access_bytes)).map(move |index| Request::read(start + index * access_bytes))
}
