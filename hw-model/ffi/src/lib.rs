//! The memory engine of `cptr-hw-model` for C, C++ and SystemVerilog (DPI). `include/cptr_memory.h` declares what is
//! here; a test compares the two. Guide: `docs/dram.md`.
//!
//! A handle is for one thread at a time; different handles know nothing of each other. Null pointers, texts that are
//! not UTF-8, unknown ids and calls out of order are errors that change nothing. No panic crosses the border: a handle
//! in which one happened answers every later call with [`CPTR_MEMORY_ERROR_INTERNAL`].

pub mod options;
#[cfg(test)]
mod tests;

use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use cptr_hw_model::dram::{CallError, Engine, Id, NotTaken, Request, Statistics};

/// What a function returns: 0 if it was done, more if there is nothing or not now, negative for an error.
pub type CptrMemoryStatus = i32;

/// Done.
pub const CPTR_MEMORY_OK: CptrMemoryStatus = 0;
/// There is none: no completion, no event, no cycle that is known yet.
pub const CPTR_MEMORY_NONE: CptrMemoryStatus = 1;
/// Not taken, because the queue is full: offer again after the next command.
pub const CPTR_MEMORY_FULL: CptrMemoryStatus = 2;
/// Not taken, because this cycle takes no more: offer again in the next one.
pub const CPTR_MEMORY_NEXT_CYCLE: CptrMemoryStatus = 3;
/// Not taken, because 65,536 completions of the channel wait to be taken.
pub const CPTR_MEMORY_UNREAD: CptrMemoryStatus = 4;
/// A pointer is null.
pub const CPTR_MEMORY_ERROR_NULL: CptrMemoryStatus = -1;
/// The device or an option is not what was expected; the message says why.
pub const CPTR_MEMORY_ERROR_OPTIONS: CptrMemoryStatus = -2;
/// An address that is no whole access inside the memory.
pub const CPTR_MEMORY_ERROR_ADDRESS: CptrMemoryStatus = -3;
/// There is no such source or channel.
pub const CPTR_MEMORY_ERROR_INDEX: CptrMemoryStatus = -4;
/// A cycle that is past, or beyond 2^48.
pub const CPTR_MEMORY_ERROR_CYCLE: CptrMemoryStatus = -5;
/// No request that waits, or whose completion was not taken, has this id.
pub const CPTR_MEMORY_ERROR_ID: CptrMemoryStatus = -6;
/// The buffer is too short.
pub const CPTR_MEMORY_ERROR_SIZE: CptrMemoryStatus = -7;
/// The snapshot is damaged, or of another device, configuration or version.
pub const CPTR_MEMORY_ERROR_SNAPSHOT: CptrMemoryStatus = -8;
/// A fault of this library; the handle can only be closed.
pub const CPTR_MEMORY_ERROR_INTERNAL: CptrMemoryStatus = -9;

/// An engine. C sees a pointer only.
#[derive(Debug)]
pub struct CptrMemory {
    engine: Engine,
    broken: bool,
}

/// Counts since the start. Latencies are cycles from acceptance to the end of the data, of reads.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct CptrMemoryTotals {
    /// Reads whose data command went out.
    pub reads_served: u64,
    /// Writes whose data command went out.
    pub writes_served: u64,
    /// Reads answered from the write queue.
    pub reads_forwarded: u64,
    /// Writes swallowed by a waiting write to the same address.
    pub writes_merged: u64,
    /// Requests that found their row open.
    pub row_hits: u64,
    /// Requests that found the bank closed.
    pub row_misses: u64,
    /// Requests that found another row open.
    pub row_conflicts: u64,
    /// Those of them whose bank had been opened for another source; of a source only, else 0.
    pub conflicts_with_others: u64,
    /// Mean latency.
    pub mean_latency: f64,
    /// Latency that half of the reads do not exceed.
    pub p50_latency: u64,
    /// Latency that 99 % of the reads do not exceed.
    pub p99_latency: u64,
    /// Greatest latency.
    pub max_latency: u64,
}

/// Where the energy went since the start, in picojoules; without data wires, physical layer and controller.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct CptrMemoryEnergy {
    /// Rows opened and closed.
    pub activate_pj: f64,
    /// Reads beyond standby.
    pub read_pj: f64,
    /// Writes beyond standby.
    pub write_pj: f64,
    /// Refreshes beyond standby.
    pub refresh_pj: f64,
    /// Standby, with open rows and without.
    pub standby_pj: f64,
}

/// Calls `body` with the engine; a panic stays inside and breaks the handle.
///
/// # Safety
/// `memory` is null or a handle that is not closed and not in use elsewhere.
unsafe fn with(memory: *mut CptrMemory, body: impl FnOnce(&mut Engine) -> CptrMemoryStatus) -> CptrMemoryStatus {
    // SAFETY: the caller's contract.
    let Some(memory) = (unsafe { memory.as_mut() }) else { return CPTR_MEMORY_ERROR_NULL };
    if memory.broken {
        return CPTR_MEMORY_ERROR_INTERNAL;
    }
    let engine = &mut memory.engine;
    catch_unwind(AssertUnwindSafe(|| body(engine))).unwrap_or_else(|_| {
        memory.broken = true;
        CPTR_MEMORY_ERROR_INTERNAL
    })
}

/// Writes `value` where `to` points; null is left alone.
///
/// # Safety
/// `to` is null or can be written.
unsafe fn put<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: the caller's contract.
        unsafe { to.write(value) };
    }
}

/// # Safety
/// `text` is null or ends with a zero byte.
unsafe fn text<'a>(text: *const c_char) -> Option<&'a str> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller's contract.
    unsafe { CStr::from_ptr(text) }.to_str().ok()
}

/// Opens an idle memory at cycle 0 and writes its handle to `memory`.
///
/// `device` is the name of a built-in device, the path of a device file (it ends in .toml), or the text of one (it has
/// more than one line). `options` is null or NAME=VALUE separated by white space: mapping, refresh (none, ab, sb), page
/// (open, closed), queue, offers, channels, stripe (bytes), priorities (0,1,… for each source; 0 goes first). Where
/// something is wrong, a sentence goes to `message`, cut to `size` bytes with the zero that ends it; null if it is not
/// wanted.
///
/// # Safety
/// The texts are null or end with a zero byte; `memory` is null or can be written; `message` is null or has room for
/// `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_memory_open(
    device: *const c_char,
    options: *const c_char,
    memory: *mut *mut CptrMemory,
    message: *mut c_char,
    size: usize,
) -> CptrMemoryStatus {
    if device.is_null() || memory.is_null() {
        return CPTR_MEMORY_ERROR_NULL;
    }
    // SAFETY: the caller's contract.
    let (device, options) = unsafe { (text(device), if options.is_null() { Some("") } else { text(options) }) };
    let opened = catch_unwind(|| match (device, options) {
        (Some(device), Some(options)) => options::engine(device, options),
        _ => Err("expected text, found bytes that are not UTF-8".into()),
    });
    match opened {
        Ok(Ok(engine)) => {
            // SAFETY: the caller's contract; not null.
            unsafe { memory.write(Box::into_raw(Box::new(CptrMemory { engine, broken: false }))) };
            CPTR_MEMORY_OK
        }
        Ok(Err(sentence)) => {
            if !message.is_null() && size > 0 {
                let cut = sentence.len().min(size - 1);
                // SAFETY: the caller's contract: `size` bytes, of which `cut + 1` are written.
                unsafe {
                    message.cast::<u8>().copy_from_nonoverlapping(sentence.as_ptr(), cut);
                    message.add(cut).write(0);
                }
            }
            CPTR_MEMORY_ERROR_OPTIONS
        }
        Err(_) => CPTR_MEMORY_ERROR_INTERNAL,
    }
}

/// Closes a memory; null is left alone.
///
/// # Safety
/// `memory` is null or a handle of `cptr_memory_open` that was not closed; it is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_memory_close(memory: *mut CptrMemory) {
    if !memory.is_null() {
        // SAFETY: the caller's contract: the pointer came from a box.
        drop(unsafe { Box::from_raw(memory) });
    }
}

/// Offers a read (`is_write` 0) or write of one access in the current cycle; its id goes to `id`, if that is not null.
///
/// # Safety
/// `memory` is null or an open handle; `id` is null or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_memory_offer(
    memory: *mut CptrMemory,
    address: u64,
    is_write: i32,
    source: u32,
    id: *mut u64,
) -> CptrMemoryStatus {
    let offer = |engine: &mut Engine| {
        let Ok(source) = u8::try_from(source) else { return CPTR_MEMORY_ERROR_INDEX };
        let request = if is_write == 0 { Request::read(address) } else { Request::write(address) };
        match engine.offer(request.from_source(source)) {
            Ok(given) => {
                // SAFETY: the caller's contract.
                unsafe { put(id, given.raw()) };
                CPTR_MEMORY_OK
            }
            Err(NotTaken::QueueFull) => CPTR_MEMORY_FULL,
            Err(NotTaken::NextCycle) => CPTR_MEMORY_NEXT_CYCLE,
            Err(NotTaken::Unread) => CPTR_MEMORY_UNREAD,
            Err(NotTaken::Address(_)) => CPTR_MEMORY_ERROR_ADDRESS,
            Err(NotTaken::NoSuchSource { .. }) => CPTR_MEMORY_ERROR_INDEX,
        }
    };
    // SAFETY: the caller's contract.
    unsafe { with(memory, offer) }
}

/// Goes to `cycle` and lets happen what happens up to then, that cycle included.
///
/// # Safety
/// `memory` is null or an open handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_memory_advance(memory: *mut CptrMemory, cycle: u64) -> CptrMemoryStatus {
    let advance = |engine: &mut Engine| match engine.advance(cycle) {
        Ok(()) => CPTR_MEMORY_OK,
        Err(CallError::UnknownId) => CPTR_MEMORY_ERROR_ID,
        Err(CallError::Backwards { .. } | CallError::TooFar { .. }) => CPTR_MEMORY_ERROR_CYCLE,
    };
    // SAFETY: the caller's contract.
    unsafe { with(memory, advance) }
}

/// Writes the current cycle to `cycle`.
///
/// # Safety
/// `memory` is null or an open handle; `cycle` is null or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_memory_now(memory: *mut CptrMemory, cycle: *mut u64) -> CptrMemoryStatus {
    // SAFETY: the caller's contract.
    unsafe { with(memory, |engine| found(Some(engine.now()), cycle)) }
}

/// Writes `value` to `to`, if there is one.
///
/// # Safety
/// `to` is null or can be written.
unsafe fn found(value: Option<u64>, to: *mut u64) -> CptrMemoryStatus {
    let Some(value) = value else { return CPTR_MEMORY_NONE };
    // SAFETY: the caller's contract.
    unsafe { put(to, value) };
    CPTR_MEMORY_OK
}

/// Writes the first cycle to `cycle` in which something can happen: a completion, or a command, after which there may
/// be room again. CPTR_MEMORY_NONE if nothing ever will.
///
/// # Safety
/// `memory` is null or an open handle; `cycle` is null or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_memory_next_event(memory: *mut CptrMemory, cycle: *mut u64) -> CptrMemoryStatus {
    // SAFETY: the caller's contract.
    unsafe { with(memory, |engine| found(engine.next_event(), cycle)) }
}

/// As `cptr_memory_next_event`, commands only: who was refused with CPTR_MEMORY_FULL need not ask before that.
///
/// # Safety
/// `memory` is null or an open handle; `cycle` is null or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_memory_next_command(memory: *mut CptrMemory, cycle: *mut u64) -> CptrMemoryStatus {
    // SAFETY: the caller's contract.
    unsafe { with(memory, |engine| found(engine.next_command(), cycle)) }
}

/// Takes the first completion whose cycle has come; CPTR_MEMORY_NONE if there is none. Id, cycle, latency from
/// acceptance, source and kind go where the pointers point that are not null.
///
/// # Safety
/// `memory` is null or an open handle; each of the others is null or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_memory_pop(
    memory: *mut CptrMemory,
    id: *mut u64,
    cycle: *mut u64,
    latency: *mut u64,
    source: *mut u32,
    is_write: *mut i32,
) -> CptrMemoryStatus {
    let pop = |engine: &mut Engine| {
        let Some(completion) = engine.pop() else { return CPTR_MEMORY_NONE };
        let kind = i32::from(completion.kind == cptr_hw_model::dram::RequestKind::Write);
        // SAFETY: the caller's contract.
        unsafe {
            put(id, completion.id.raw());
            put(cycle, completion.cycle);
            put(latency, completion.latency);
            put(source, u32::from(completion.source));
            put(is_write, kind);
        }
        CPTR_MEMORY_OK
    };
    // SAFETY: the caller's contract.
    unsafe { with(memory, pop) }
}

/// Writes to `cycle` when the request completes or did; CPTR_MEMORY_NONE if that is not known yet.
///
/// # Safety
/// `memory` is null or an open handle; `cycle` is null or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_memory_completes(memory: *mut CptrMemory, id: u64, cycle: *mut u64) -> CptrMemoryStatus {
    let completes = |engine: &mut Engine| match engine.completes(Id::from_raw(id)) {
        // SAFETY: the caller's contract.
        Ok(known) => unsafe { found(known, cycle) },
        Err(_) => CPTR_MEMORY_ERROR_ID,
    };
    // SAFETY: the caller's contract.
    unsafe { with(memory, completes) }
}

/// Writes how many cycles a clock has: 2 where commands use both edges (HBM3), else 1.
///
/// # Safety
/// `memory` is null or an open handle; `cycles` is null or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_memory_cycles_per_clock(memory: *mut CptrMemory, cycles: *mut u64) -> CptrMemoryStatus {
    // SAFETY: the caller's contract.
    unsafe { with(memory, |engine| found(Some(engine.cycles_per_clock()), cycles)) }
}

/// Writes what the memory is: bytes of all channels, bytes of an access, picoseconds of a clock.
///
/// # Safety
/// `memory` is null or an open handle; each of the others is null or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_memory_geometry(
    memory: *mut CptrMemory,
    capacity: *mut u64,
    access_bytes: *mut u64,
    clock_ps: *mut u64,
) -> CptrMemoryStatus {
    let geometry = |engine: &mut Engine| {
        // SAFETY: the caller's contract.
        unsafe {
            put(capacity, engine.capacity());
            put(access_bytes, engine.access_bytes());
            put(clock_ps, engine.clock_ps());
        }
        CPTR_MEMORY_OK
    };
    // SAFETY: the caller's contract.
    unsafe { with(memory, geometry) }
}

fn counts(s: &Statistics) -> CptrMemoryTotals {
    CptrMemoryTotals {
        reads_served: s.reads_served,
        writes_served: s.writes_served,
        reads_forwarded: s.reads_forwarded,
        writes_merged: s.writes_merged,
        row_hits: s.row_hits,
        row_misses: s.row_misses,
        row_conflicts: s.row_conflicts,
        conflicts_with_others: 0,
        mean_latency: s.read_latency.mean(),
        p50_latency: s.read_latency.quantile(0.5),
        p99_latency: s.read_latency.quantile(0.99),
        max_latency: s.read_latency.max(),
    }
}

/// Writes the counts of all channels together.
///
/// # Safety
/// `memory` is null or an open handle; `all` is null or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_memory_counts(memory: *mut CptrMemory, all: *mut CptrMemoryTotals) -> CptrMemoryStatus {
    let write = |engine: &mut Engine| {
        // SAFETY: the caller's contract.
        unsafe { put(all, counts(&engine.statistics())) };
        CPTR_MEMORY_OK
    };
    // SAFETY: the caller's contract.
    unsafe { with(memory, write) }
}

/// Writes the counts of one channel.
///
/// # Safety
/// `memory` is null or an open handle; `of_channel` is null or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_memory_channel_counts(
    memory: *mut CptrMemory,
    channel: u32,
    of_channel: *mut CptrMemoryTotals,
) -> CptrMemoryStatus {
    let write = |engine: &mut Engine| {
        let Some(statistics) = engine.channel_statistics(channel as usize) else { return CPTR_MEMORY_ERROR_INDEX };
        // SAFETY: the caller's contract.
        unsafe { put(of_channel, counts(&statistics)) };
        CPTR_MEMORY_OK
    };
    // SAFETY: the caller's contract.
    unsafe { with(memory, write) }
}

/// Writes the counts of one source over all channels.
///
/// # Safety
/// `memory` is null or an open handle; `of_source` is null or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_memory_source_counts(
    memory: *mut CptrMemory,
    source: u32,
    of_source: *mut CptrMemoryTotals,
) -> CptrMemoryStatus {
    let write = |engine: &mut Engine| {
        let Some(s) = engine.source_statistics(source as usize) else { return CPTR_MEMORY_ERROR_INDEX };
        let found = CptrMemoryTotals {
            reads_served: s.reads_served,
            writes_served: s.writes_served,
            reads_forwarded: s.reads_forwarded,
            writes_merged: s.writes_merged,
            row_hits: s.row_hits,
            row_misses: s.row_misses,
            row_conflicts: s.row_conflicts,
            conflicts_with_others: s.conflicts_with_others,
            mean_latency: s.read_latency.mean(),
            p50_latency: s.read_latency.quantile(0.5),
            p99_latency: s.read_latency.quantile(0.99),
            max_latency: s.read_latency.max(),
        };
        // SAFETY: the caller's contract.
        unsafe { put(of_source, found) };
        CPTR_MEMORY_OK
    };
    // SAFETY: the caller's contract.
    unsafe { with(memory, write) }
}

/// Writes the energy of all channels up to now; CPTR_MEMORY_NONE if the device's currents are not known.
///
/// # Safety
/// `memory` is null or an open handle; `all` is null or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_memory_energy(memory: *mut CptrMemory, all: *mut CptrMemoryEnergy) -> CptrMemoryStatus {
    let energy = |engine: &mut Engine| {
        let found = engine.energy().map(|energy| CptrMemoryEnergy {
            activate_pj: energy.activate_pj,
            read_pj: energy.read_pj,
            write_pj: energy.write_pj,
            refresh_pj: energy.refresh_pj,
            standby_pj: energy.standby_pj,
        });
        // SAFETY: the caller's contract.
        unsafe {
            found.map_or(CPTR_MEMORY_NONE, |found| {
                put(all, found);
                CPTR_MEMORY_OK
            })
        }
    };
    // SAFETY: the caller's contract.
    unsafe { with(memory, energy) }
}

/// Writes the state to `bytes` and its length to `length`. CPTR_MEMORY_ERROR_SIZE if `size` is less; ask with a null
/// pointer and 0 for the length.
///
/// # Safety
/// `memory` is null or an open handle; `bytes` is null or has room for `size` bytes; `length` is null or can be
/// written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_memory_snapshot(
    memory: *mut CptrMemory,
    bytes: *mut u8,
    size: usize,
    length: *mut usize,
) -> CptrMemoryStatus {
    let write = |engine: &mut Engine| {
        let snapshot = engine.snapshot();
        // SAFETY: the caller's contract.
        unsafe { put(length, snapshot.len()) };
        if bytes.is_null() || size < snapshot.len() {
            return CPTR_MEMORY_ERROR_SIZE;
        }
        // SAFETY: the caller's contract: `size` bytes, which are enough.
        unsafe { bytes.copy_from_nonoverlapping(snapshot.as_ptr(), snapshot.len()) };
        CPTR_MEMORY_OK
    };
    // SAFETY: the caller's contract.
    unsafe { with(memory, write) }
}

/// Puts the memory where it, or another one of the same device and options, was at a snapshot.
///
/// # Safety
/// `memory` is null or an open handle; `bytes` is null or `size` bytes can be read there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_memory_restore(
    memory: *mut CptrMemory,
    bytes: *const u8,
    size: usize,
) -> CptrMemoryStatus {
    if bytes.is_null() {
        return CPTR_MEMORY_ERROR_NULL;
    }
    let restore = |engine: &mut Engine| {
        // SAFETY: the caller's contract.
        let bytes = unsafe { std::slice::from_raw_parts(bytes, size) };
        engine.restore(bytes).map_or(CPTR_MEMORY_ERROR_SNAPSHOT, |()| CPTR_MEMORY_OK)
    };
    // SAFETY: the caller's contract.
    unsafe { with(memory, restore) }
}
