//! What a machine must do so that two ends of shared memory see the same, and how they call each other.

use crate::sync::{AtomicU32, Ordering, fence};

/// A machine with memory that it shares with the other end. On one whose caches are coherent with the other end only
/// [`publish`](Self::publish) has work to do, and [`notify`](Self::notify) and [`wait`](Self::wait) unless it polls.
pub trait Platform {
    /// Everything that was stored or loaded before, in memory and in devices, is over for the other end before anything
    /// after it begins: between an index and the doorbell, and between an index and a load of what the other end
    /// stores. A barrier of the memory alone does not do: on Arm a store to a device may overtake a `dmb`.
    ///
    /// Arm `dsb sy`, RISC-V `fence iorw, iorw`.
    fn publish(&self);

    /// Writes the lines of a cache that hold `memory` back, and returns when that is done. Nothing to do where caches
    /// are coherent, or where the memory is not cached.
    fn clean(&self, memory: &[AtomicU32]) {
        let _ = memory;
    }

    /// Forgets the lines of a cache that hold `memory`, so that the next load sees what the other end has stored. The
    /// other end stores nothing into lines that this end stores into, so that nothing is lost.
    fn invalidate(&self, memory: &[AtomicU32]) {
        let _ = memory;
    }

    /// Copies words of a frame out of shared memory, little-endian, and returns when they are there: with the
    /// processor, which loads one after the other. A machine with a DMA engine has that do it: it takes as many
    /// instructions as the engine has registers, whatever the length.
    fn fetch(&self, from: &[AtomicU32], to: &mut [u32]) {
        let (to, rest_to) = to.as_chunks_mut::<4>();
        let (from, rest_from) = from.as_chunks::<4>();
        let load = |word: &AtomicU32| word.load(Ordering::Relaxed).to_le();
        for (to, [a, b, c, d]) in to.iter_mut().zip(from) {
            *to = [load(a), load(b), load(c), load(d)];
        }
        rest_to.iter_mut().zip(rest_from).for_each(|(to, from)| *to = load(from));
    }

    /// Calls the other end for a queue: an interrupt, a message, a pin.
    fn notify(&mut self, queue: usize);

    /// Returns when the other end may have called, a byte may have come, or a timer says that it is time to look
    /// (whoever feeds a watchdog has one), and at any time before. A call that came before this was asked for must end
    /// it at once: on Arm and RISC-V `wfi` with interrupts enabled at their source and masked in the processor.
    fn wait(&mut self);
}

/// Both ends on processors that share caches; they look instead of being called.
#[derive(Debug, Clone, Copy, Default)]
pub struct Coherent;

impl Platform for Coherent {
    fn publish(&self) {
        fence(Ordering::SeqCst);
    }

    fn notify(&mut self, _: usize) {}

    fn wait(&mut self) {
        core::hint::spin_loop();
    }
}
