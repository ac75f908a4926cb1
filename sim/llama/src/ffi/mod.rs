//! The boundary to C: llama.cpp's functions, and the pages of its weights. The only place with `unsafe` code; each
//! block says what it relies on.
#![allow(unsafe_code)]

mod context;
mod gguf;
mod model;
#[cfg(target_os = "linux")]
pub(crate) mod pages;
mod products;

use std::ffi::{CStr, c_char, c_void};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

pub(crate) use context::{Context, Node, Options, Tap, Token, Untapped, Weights};
pub(crate) use gguf::{Gguf, Info};
pub(crate) use llama_cpp_sys_2 as sys;
pub(crate) use model::Model;
pub(crate) use products::{Products, Rows};

/// What llama.cpp last said was wrong.
static COMPLAINT: Mutex<String> = Mutex::new(String::new());

/// Starts llama.cpp once: its own messages are kept for errors instead of being printed.
fn start() {
    static START: Once = Once::new();
    START.call_once(|| {
        // SAFETY: `listen` has the signature that both functions ask for, needs no data, and lives as long as the
        // process; `llama_backend_init` is called once, before any other function.
        unsafe {
            sys::llama_log_set(Some(listen), std::ptr::null_mut());
            sys::llama_backend_init();
        }
    });
}

/// Keeps the last complaint.
unsafe extern "C" fn listen(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if level != sys::GGML_LOG_LEVEL_ERROR || text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a string that ends in zero and lives during the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let text = text.trim();
    if !text.is_empty() {
        let mut complaint = COMPLAINT.lock().unwrap_or_else(PoisonError::into_inner);
        // The first one says what is wrong, those behind it who gave up because of it.
        if complaint.is_empty() {
            complaint.push_str(text);
        }
    }
}

/// Forgets what was wrong before.
fn forget() {
    COMPLAINT.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// What llama.cpp said since [`forget`], or `otherwise`.
fn complaint(otherwise: &str) -> String {
    let complaint = COMPLAINT.lock().unwrap_or_else(PoisonError::into_inner);
    match complaint.as_str() {
        "" => otherwise.into(),
        text => {
            // `function: what`; who said it is of no use to a user.
            let text = text.split_once(": ").map_or(text, |(_, rest)| rest);
            format!("{otherwise}: {text}")
        }
    }
}

/// Processor time of the calling thread; `None` where the system does not count it.
pub(crate) fn processor_time() -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is there to be written.
    let code = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?);
    (code == 0).then(|| Duration::new(seconds, nanoseconds))
}
