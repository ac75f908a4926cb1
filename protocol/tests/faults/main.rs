//! Faults on the way between host and device: whatever is lost, doubled, late, cut off, held up or changed, and
//! whenever the device or the host starts anew, every token is decided once, and as it is without faults.
//!
//! A fault is one of these; several may meet one request. A turn is one attempt of the host: send, wait, look. Behind
//! the last fault a request is answered within two turns.
#![cfg(not(loom))]

mod conversation;
mod line;
mod memory;

use conversation::Conversation;

/// What goes wrong in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// A bit is changed: of a frame on the line, anywhere in shared memory.
    Flip,
    /// A frame is lost, or some bytes.
    Loss,
    /// A frame comes twice.
    Repeat,
    /// A frame comes after the next one.
    Reorder,
    /// A frame is cut off.
    Truncate,
    /// Nothing moves for some turns; then all comes at once.
    Stall,
    /// The device starts anew: it has forgotten everything.
    DeviceReset,
    /// The host starts anew, and knows what it has kept.
    HostReset,
}

const FAULTS: [Fault; 8] = [
    Fault::Flip,
    Fault::Loss,
    Fault::Repeat,
    Fault::Reorder,
    Fault::Truncate,
    Fault::Stall,
    Fault::DeviceReset,
    Fault::HostReset,
];

/// Numbers that are the same each time (xorshift, Marsaglia 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `most`.
    fn below(&mut self, most: usize) -> usize {
        (self.next() >> 11) as usize % most.max(1)
    }
}

/// A way to the device and back, and the device.
trait Way {
    /// Whether a stall goes on: the turn is still one with a fault.
    fn stalls(&self) -> bool;

    /// One turn: sends a request of a queue if there is one, lets the device work, and gives the frames that come back.
    /// `again` if the turn before has brought no answer.
    fn turn(
        &mut self,
        queue: usize,
        request: &[u8],
        again: bool,
        fault: Option<Fault>,
        random: &mut Random,
    ) -> Vec<Vec<u8>>;
}

/// Tokens until so many faults have been met; the decisions must be those of a run without.
fn run(make: fn() -> Box<dyn Way>, faults: usize, seed: u64) {
    let mut met = Conversation::new(make(), faults, seed);
    let decisions = met.tokens_until_faults();
    let mut well = Conversation::new(make(), 0, seed);
    let expected = well.tokens(decisions.len());
    let wrong = decisions.iter().zip(&expected).filter(|(a, b)| a != b).count();
    assert_eq!((wrong, decisions.len()), (0, expected.len()), "decisions that are not those of the run without faults");
    assert_eq!(met.counted(), well.counted(), "what is counted, every token once");
    let sum: usize = met.faults().iter().map(|(_, count)| count).sum();
    println!(
        "{} tokens, {sum} faults {:?}, most turns behind a fault: {}",
        decisions.len(),
        met.faults(),
        met.slowest()
    );
    assert!(sum >= faults && met.faults().iter().all(|(_, count)| *count * 200 > faults), "of every kind");
    assert!(met.slowest() <= 2, "recovery takes {} turns", met.slowest());
}

#[test]
fn ten_thousand_faults_on_a_line() {
    run(line::new, 10_000, 1);
}

#[test]
fn ten_thousand_faults_in_shared_memory() {
    run(memory::new, 10_000, 2);
}

#[test]
#[ignore = "half a minute; cargo xtask test --full runs it"]
fn a_million_faults() {
    std::thread::scope(|scope| {
        scope.spawn(|| run(line::new, 500_000, 3));
        scope.spawn(|| run(memory::new, 500_000, 4));
    });
}
