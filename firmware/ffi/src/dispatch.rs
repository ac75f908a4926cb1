//! Where the chosen experts run, and a queue to the execution units near the data, in the caller's memory.

use core::ffi::c_void;
use core::mem::{align_of, offset_of, size_of};
use core::ptr;

use cptr_core::Gate;
use cptr_core::dispatch::{Busy, Dispatch, ExecutionUnits, Job, MOST_BITS, NearRun, Queue, dispatch_in_place};

use crate::memory::{Header, aligned, clear, header, list, output, outputs, status};
use crate::router::experts;
use crate::{
    CPTR_ALIGN, CPTR_ERROR_FULL, CPTR_ERROR_NULL, CPTR_ERROR_RANGE, CPTR_ERROR_SIZE, CPTR_MAX_EXPERTS, CPTR_MAX_JOBS,
    CPTR_MAX_WANTED, CPTR_OK, CPTR_QUEUE_BASE, CptrStatus,
};

/// An expert that runs near the data.
#[repr(C)]
pub struct CptrNearRun {
    /// Its id in the layer.
    pub expert: u16,
    /// Its index in the list of chosen experts, which the mixing weights follow.
    pub rank: u16,
    /// Bits per weight of the replica to run, 1 to 16.
    pub bits: u8,
}

/// One expert to run near the data for one token.
#[repr(C)]
pub struct CptrJob {
    /// Your number of the token.
    pub token: u32,
    /// Layer.
    pub layer: u16,
    /// Expert of the layer.
    pub expert: u16,
    /// Bits per weight of the replica to run, 1 to 16.
    pub bits: u8,
    /// Index of the expert among the token's chosen: yours to use.
    pub rank: u8,
    /// What the result is multiplied with, in steps of 2^-31, at most 1 (2^31).
    pub weight: u32,
    /// Where the activation lies: yours to use.
    pub activation: u32,
    /// Where results go: yours to use.
    pub result: u32,
}

/// Your driver of the execution units. Its functions return at once and do not use the queue.
#[repr(C)]
pub struct CptrUnits {
    /// Handed to both functions; may be null.
    pub context: *mut c_void,
    /// Starts a job on a unit that is free: 1 if one has taken it, 0 if none is free. `job` is there for the call only.
    pub submit: Option<unsafe extern "C" fn(context: *mut c_void, job: *const CptrJob) -> i32>,
    /// 1 if a job has finished that was not reported before, 0 if there is none yet.
    pub poll: Option<unsafe extern "C" fn(context: *mut c_void) -> i32>,
}

const _: () = assert!(size_of::<CptrNearRun>() == size_of::<NearRun>());
const _: () = assert!(align_of::<CptrNearRun>() == align_of::<NearRun>());
const _: () = assert!(offset_of!(CptrNearRun, expert) == offset_of!(NearRun, expert));
const _: () = assert!(offset_of!(CptrNearRun, rank) == offset_of!(NearRun, rank));
const _: () = assert!(offset_of!(CptrNearRun, bits) == offset_of!(NearRun, bits));
const _: () = assert!(size_of::<CptrJob>() == size_of::<Job>() && align_of::<CptrJob>() == align_of::<Job>());
const _: () = assert!(offset_of!(CptrJob, token) == offset_of!(Job, token));
const _: () = assert!(offset_of!(CptrJob, layer) == offset_of!(Job, layer));
const _: () = assert!(offset_of!(CptrJob, expert) == offset_of!(Job, expert));
const _: () = assert!(offset_of!(CptrJob, bits) == offset_of!(Job, bits));
const _: () = assert!(offset_of!(CptrJob, rank) == offset_of!(Job, rank));
const _: () = assert!(offset_of!(CptrJob, weight) == offset_of!(Job, weight));
const _: () = assert!(offset_of!(CptrJob, activation) == offset_of!(Job, activation));
const _: () = assert!(offset_of!(CptrJob, result) == offset_of!(Job, result));

/// Splits the chosen experts of a token by residency: those in fast memory run there, the others near the data.
///
/// `chosen`: `chosen_count` distinct ids, as `cptr_select` writes them. `resident`: as `cptr_select` takes it. `bits`:
/// bits per weight of each expert's replica near the data, `experts` entries, 1 to 16 for those that are not resident.
/// Writes the residents to `gpu` in the order of `chosen`, the others to `near_data`, most bits first (they take
/// longest), of equals in the order of `chosen`, and how many they are to `gpu_count` and `near_count`; both lists have
/// room for `chosen_count` entries.
///
/// Errors: `NULL`, `ALIGN`, `RANGE` (counts, ids, an id twice, bits).
///
/// # Safety
/// The pointers that are neither null nor misaligned point to as many entries as their counts say. The four outputs
/// overlap nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_dispatch(
    chosen: *const u16,
    chosen_count: usize,
    resident: *const u32,
    resident_words: usize,
    bits: *const u8,
    experts: usize,
    gpu: *mut u16,
    gpu_count: *mut u32,
    near_data: *mut CptrNearRun,
    near_count: *mut u32,
) -> CptrStatus {
    let run = || {
        if chosen_count > CPTR_MAX_WANTED || experts > CPTR_MAX_EXPERTS || resident_words > CPTR_MAX_EXPERTS / 32 {
            return Err(CPTR_ERROR_RANGE);
        }
        // SAFETY: this function's contract; `NearRun` has the layout of `CptrNearRun`.
        let (chosen, resident, bits, gpu, gpu_count, near, near_count) = unsafe {
            (
                list(chosen, chosen_count)?,
                self::experts(resident, resident_words)?,
                list(bits, experts)?,
                outputs(gpu, chosen_count)?,
                output(gpu_count)?,
                outputs(near_data.cast::<NearRun>(), chosen_count)?,
                output(near_count)?,
            )
        };
        let mut found = Dispatch::<CPTR_MAX_WANTED>::default();
        dispatch_in_place(chosen, resident, bits, &mut found).map_err(|_| CPTR_ERROR_RANGE)?;
        gpu.write(&found.gpu);
        gpu_count.write(&[found.gpu.len() as u32]);
        near.write(&found.near);
        near_count.write(&[found.near.len() as u32]);
        Ok(CPTR_OK)
    };
    status(run())
}

const QUEUE_MAGIC: u32 = u32::from_be_bytes(*b"cptQ");

/// A queue of any number of jobs. Every content of its memory is valid.
#[repr(C)]
struct State<Q: ?Sized = Queue> {
    header: Header,
    queue: Q,
}

const _: () = assert!(size_of::<State<Queue<[Job; 2]>>>() <= CPTR_QUEUE_BASE + 2 * size_of::<Job>());
const _: () = assert!(align_of::<State<Queue<[Job; 1]>>>() <= CPTR_ALIGN);

/// # Safety
/// `pointer` is null, misaligned, or points to readable bytes, as many as it was initialised with if it was.
unsafe fn state(pointer: *const u8) -> Result<*mut State, CptrStatus> {
    // SAFETY: the caller's contract.
    let header = unsafe { header(pointer, QUEUE_MAGIC) }?;
    Ok(ptr::slice_from_raw_parts_mut(pointer.cast_mut().cast::<Job>(), header.count as usize) as *mut State)
}

/// Makes an empty queue in the caller's memory: `CPTR_QUEUE_SIZE(jobs)` bytes, aligned to `CPTR_ALIGN`, for at most
/// `jobs` jobs that wait. Any number may run. Also starts it anew.
///
/// Errors: `NULL`, `ALIGN`, `SIZE`, `RANGE` (jobs 1 to `CPTR_MAX_JOBS`).
///
/// # Safety
/// `size` bytes may be written at `memory`. Nobody uses the queue meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_queue_init(memory: *mut u8, size: usize, jobs: usize) -> CptrStatus {
    let run = || {
        aligned(memory)?;
        if jobs == 0 || jobs > CPTR_MAX_JOBS {
            return Err(CPTR_ERROR_RANGE);
        }
        let bytes = CPTR_QUEUE_BASE + jobs * size_of::<Job>();
        if size < bytes {
            return Err(CPTR_ERROR_SIZE);
        }
        // SAFETY: aligned and long enough; zero bytes are an empty queue.
        unsafe {
            clear(memory.cast(), bytes / 4);
            memory.cast::<Header>().write(Header::new(QUEUE_MAGIC, jobs as u32));
        }
        Ok(CPTR_OK)
    };
    status(run())
}

/// Adds jobs behind those that wait, all or none.
///
/// Errors: `NULL`, `ALIGN`, `STATE`, `FULL`, `RANGE` (bits, weight).
///
/// # Safety
/// `queue` is null, misaligned, or points to the memory that its `init` was given (or would be). `jobs` points to
/// `count` entries, or to as many as fit if those are fewer, unless it is null or misaligned. Nothing overlaps; nobody
/// else uses the queue meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_queue_push(queue: *mut u8, jobs: *const CptrJob, count: usize) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract; `state` has checked the header, which only `cptr_queue_init` writes.
        let queue = unsafe { &mut (*state(queue)?).queue };
        if count > queue.room() {
            return Err(CPTR_ERROR_FULL);
        }
        // SAFETY: this function's contract; `Job` has the layout of `CptrJob`.
        let jobs = unsafe { list(jobs.cast::<Job>(), count) }?;
        let can_run = |job: &Job| (1..=MOST_BITS).contains(&job.bits) && job.weight <= Gate::ONE;
        if !jobs.iter().all(can_run) {
            return Err(CPTR_ERROR_RANGE);
        }
        queue.push(jobs).map_err(|_| CPTR_ERROR_FULL)?;
        Ok(CPTR_OK)
    };
    status(run())
}

/// A driver in C.
struct Units {
    context: *mut c_void,
    submit: unsafe extern "C" fn(*mut c_void, *const CptrJob) -> i32,
    poll: unsafe extern "C" fn(*mut c_void) -> i32,
}

impl ExecutionUnits for Units {
    fn submit(&mut self, job: &Job) -> Result<(), Busy> {
        // SAFETY: the contract of `cptr_queue_advance`; `CptrJob` has the layout of `Job`.
        let taken = unsafe { (self.submit)(self.context, ptr::from_ref(job).cast()) };
        if taken == 0 { Err(Busy) } else { Ok(()) }
    }

    fn poll(&mut self) -> Option<Job> {
        // SAFETY: the contract of `cptr_queue_advance`.
        let finished = unsafe { (self.poll)(self.context) };
        // The queue counts the finished and does not ask which they are.
        (finished != 0).then_some(Job::NONE)
    }
}

/// Asks the driver what has finished, and hands it the jobs that wait, in their order, until it has no unit free. Waits
/// for nothing: call it when there is time. Writes how many jobs have finished to `finished`; more than were started
/// here are not believed.
///
/// Errors: `NULL` (also one of the driver's functions), `ALIGN`, `STATE`; then no function of the driver was called.
///
/// # Safety
/// As `cptr_queue_push`. The driver's functions may be called with its context, and do not touch the queue.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_queue_advance(
    queue: *mut u8,
    units: *const CptrUnits,
    finished: *mut usize,
) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract; `state` has checked the header.
        let (state, units, finished) = unsafe { (state(queue)?, list(units, 1)?, output(finished)?) };
        let [CptrUnits { context, submit: Some(submit), poll: Some(poll) }] = *units else {
            return Err(CPTR_ERROR_NULL);
        };
        // SAFETY: as above.
        let queue = unsafe { &mut (*state).queue };
        finished.write(&[queue.advance(&mut Units { context, submit, poll })]);
        Ok(CPTR_OK)
    };
    status(run())
}

/// Jobs that wait or run: those that have not been reported as finished.
///
/// Errors: `NULL`, `ALIGN`, `STATE`.
///
/// # Safety
/// As `cptr_queue_push`; others may read the queue meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_queue_outstanding(queue: *const u8, outstanding: *mut usize) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract; `state` has checked the header.
        let (state, outstanding) = unsafe { (state(queue)?, output(outstanding)?) };
        // SAFETY: as above; nobody writes the queue meanwhile.
        outstanding.write(&[unsafe { &(*state).queue }.outstanding()]);
        Ok(CPTR_OK)
    };
    status(run())
}

/// Forgets the jobs that wait; those that run are still counted when they finish.
///
/// Errors: `NULL`, `ALIGN`, `STATE`.
///
/// # Safety
/// As `cptr_queue_push`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_queue_clear(queue: *mut u8) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract; `state` has checked the header.
        unsafe { &mut (*state(queue)?).queue }.clear();
        Ok(CPTR_OK)
    };
    status(run())
}
