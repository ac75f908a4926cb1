//! Every function as C calls it, from Rust, so that Miri sees each access (`cargo xtask miri`).

use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};

use super::*;

/// Requests of the conversation: interpreted, each takes long.
const REQUESTS: u64 = if cfg!(miri) { 24 } else { 2000 };

fn open(options: &CStr) -> *mut CptrMemory {
    let mut memory = MaybeUninit::uninit();
    // SAFETY: texts that end, and a place for the handle.
    unsafe {
        let status = cptr_memory_open(c"DDR5-4800".as_ptr(), options.as_ptr(), memory.as_mut_ptr(), null_mut(), 0);
        assert_eq!(status, CPTR_MEMORY_OK);
        memory.assume_init()
    }
}

#[test]
fn a_conversation_from_open_to_close() {
    let memory = open(c"channels=2");
    // SAFETY: an open handle, and places for the results.
    unsafe {
        let [mut capacity, mut access, mut clock] = [const { MaybeUninit::<u64>::uninit() }; 3];
        let status = cptr_memory_geometry(memory, capacity.as_mut_ptr(), access.as_mut_ptr(), clock.as_mut_ptr());
        assert_eq!(status, CPTR_MEMORY_OK);
        let (capacity, access) = (capacity.assume_init(), access.assume_init());
        assert!(capacity % access == 0 && clock.assume_init() > 0);
        let mut cycles = MaybeUninit::uninit();
        assert_eq!(cptr_memory_cycles_per_clock(memory, cycles.as_mut_ptr()), CPTR_MEMORY_OK);
        assert!(cycles.assume_init() > 0);
        let (mut offered, mut taken, mut cycle) = (0, 0, 0);
        while taken < REQUESTS {
            let mut id = MaybeUninit::uninit();
            let address = offered * 7919 % (capacity / access) * access;
            let is_write = i32::from(offered % 4 == 0);
            if offered < REQUESTS && cptr_memory_offer(memory, address, is_write, 0, id.as_mut_ptr()) == CPTR_MEMORY_OK
            {
                offered += 1;
                let mut at = MaybeUninit::<u64>::uninit();
                assert!(cptr_memory_completes(memory, id.assume_init(), at.as_mut_ptr()) >= 0);
                continue;
            }
            let mut next = MaybeUninit::uninit();
            assert!(cptr_memory_next_command(memory, next.as_mut_ptr()) >= 0);
            match cptr_memory_next_event(memory, next.as_mut_ptr()) {
                CPTR_MEMORY_OK => cycle = next.assume_init(),
                _ => cycle += 1,
            }
            assert_eq!(cptr_memory_advance(memory, cycle), CPTR_MEMORY_OK);
            let mut now = MaybeUninit::uninit();
            assert_eq!((cptr_memory_now(memory, now.as_mut_ptr()), now.assume_init()), (CPTR_MEMORY_OK, cycle));
            let [mut id, mut at, mut latency] = [const { MaybeUninit::<u64>::uninit() }; 3];
            let (mut source, mut is_write) = (MaybeUninit::<u32>::uninit(), MaybeUninit::<i32>::uninit());
            let (id, at, latency) = (id.as_mut_ptr(), at.as_mut_ptr(), latency.as_mut_ptr());
            while cptr_memory_pop(memory, id, at, latency, source.as_mut_ptr(), is_write.as_mut_ptr()) == CPTR_MEMORY_OK
            {
                assert!(*at <= cycle && source.assume_init() == 0 && is_write.assume_init() < 2);
                taken += 1;
            }
        }
        let mut totals = MaybeUninit::<CptrMemoryTotals>::uninit();
        assert_eq!(cptr_memory_counts(memory, totals.as_mut_ptr()), CPTR_MEMORY_OK);
        let all = totals.assume_init();
        assert!(all.reads_served + all.reads_forwarded + all.writes_served + all.writes_merged > 0);
        for part in [cptr_memory_channel_counts, cptr_memory_source_counts] {
            assert_eq!(part(memory, 0, totals.as_mut_ptr()), CPTR_MEMORY_OK);
            assert_eq!(part(memory, 99, totals.as_mut_ptr()), CPTR_MEMORY_ERROR_INDEX);
        }
        let mut energy = MaybeUninit::<CptrMemoryEnergy>::uninit();
        assert_eq!(cptr_memory_energy(memory, energy.as_mut_ptr()), CPTR_MEMORY_OK);
        assert!(energy.assume_init().standby_pj > 0.0);
        cptr_memory_close(memory);
    }
}

#[test]
fn snapshots_go_into_a_buffer_and_come_back() {
    let (memory, other) = (open(c""), open(c"queue=16"));
    // SAFETY: open handles, and buffers as long as said.
    unsafe {
        let mut length = 0;
        assert_eq!(cptr_memory_snapshot(memory, null_mut(), 0, &mut length), CPTR_MEMORY_ERROR_SIZE);
        let mut bytes = Vec::<u8>::with_capacity(length);
        let buffer = bytes.as_mut_ptr();
        assert_eq!(cptr_memory_snapshot(memory, buffer, length - 1, &mut length), CPTR_MEMORY_ERROR_SIZE);
        assert_eq!(cptr_memory_snapshot(memory, buffer, length, &mut length), CPTR_MEMORY_OK);
        assert_eq!(cptr_memory_advance(memory, 500), CPTR_MEMORY_OK);
        assert_eq!(cptr_memory_restore(memory, buffer, length), CPTR_MEMORY_OK);
        let mut now = 7;
        assert_eq!((cptr_memory_now(memory, &mut now), now), (CPTR_MEMORY_OK, 0));
        for (handle, size) in [(memory, 0), (memory, length - 1), (other, length)] {
            assert_eq!(cptr_memory_restore(handle, buffer, size), CPTR_MEMORY_ERROR_SNAPSHOT);
        }
        cptr_memory_close(memory);
        cptr_memory_close(other);
    }
}

#[test]
fn what_is_null_or_no_text_is_refused() {
    let mut memory = null_mut();
    let mut message = [MaybeUninit::<c_char>::uninit(); 12];
    let text = message.as_mut_ptr().cast::<c_char>();
    // SAFETY: pointers are null, or lead to texts and places that are there.
    unsafe {
        let open = |device: *const c_char, options: *const c_char, memory, size| {
            cptr_memory_open(device, options, memory, if size == 0 { null_mut() } else { text }, size)
        };
        assert_eq!(open(null(), null(), &mut memory, 12), CPTR_MEMORY_ERROR_NULL);
        assert_eq!(open(c"DDR5-4800".as_ptr(), null(), null_mut(), 12), CPTR_MEMORY_ERROR_NULL);
        for size in [0, 1, 12] {
            assert_eq!(open(c"no such device".as_ptr(), null(), &mut memory, size), CPTR_MEMORY_ERROR_OPTIONS);
            assert!(size == 0 || CStr::from_ptr(text).to_bytes().len() == size - 1);
        }
        assert_eq!(open(c"\xff".as_ptr(), null(), &mut memory, 12), CPTR_MEMORY_ERROR_OPTIONS);
        assert!(memory.is_null());
        assert_eq!(cptr_memory_offer(null_mut(), 0, 0, 0, null_mut()), CPTR_MEMORY_ERROR_NULL);
        assert_eq!(cptr_memory_restore(null_mut(), null(), 0), CPTR_MEMORY_ERROR_NULL);
        cptr_memory_close(null_mut());
    }
}

/// Each function of the header is called above.
#[test]
#[cfg_attr(miri, ignore = "calls nothing")]
fn no_function_is_left_out() {
    let (header, own) = (include_str!("../include/cptr_memory.h"), include_str!("tests.rs"));
    let names = header
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("cptr_memory_") && header.contains(&format!(" {word}(")));
    let missing: Vec<&str> = names.filter(|name| !own.contains(*name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
