//! Progress of long work, for people: shown on a terminal once two seconds have passed, never in a pipe. Work inside
//! other work shows nothing: the outer one says how far it all is.
//!
//! ```
//! let progress = cptr_trace::progress::Progress::new(2, "reading");
//! progress.advance(1);
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How long a command may take before it shows that it is at work.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether there is progress to show already.
static SHOWN: AtomicBool = AtomicBool::new(false);

/// Shows no progress from here on.
pub fn hide() {
    SHOWN.store(true, Ordering::Relaxed);
}

/// Progress of a piece of work; gone from the screen when dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    /// Dropped with the progress, which ends the wait of the thread that shows it; none inside other work.
    done: Option<Sender<()>>,
}

impl Progress {
    /// A bar for `steps` of something, named by a verb such as `running`.
    pub fn new(steps: u64, verb: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::hidden());
        Self::start(bar.with_message(verb), "{msg} {wide_bar} {percent:>3} %  {eta} left")
    }

    /// A sign of life for work of unknown length.
    pub fn unknown(verb: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Self::start(bar.with_message(verb), "{spinner} {msg} {elapsed}")
    }

    fn start(bar: ProgressBar, template: &str) -> Self {
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        if SHOWN.swap(true, Ordering::Relaxed) {
            return Self { bar, done: None };
        }
        let (done, waiting) = channel::<()>();
        let shown = bar.clone();
        std::thread::spawn(move || {
            if waiting.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                shown.set_draw_target(ProgressDrawTarget::stderr());
                shown.enable_steady_tick(Duration::from_millis(100));
            }
        });
        Self { bar, done: Some(done) }
    }

    /// Counts `steps` more as done.
    pub fn advance(&self, steps: u64) {
        self.bar.inc(steps);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        if self.done.is_some() {
            SHOWN.store(false, Ordering::Relaxed);
        }
    }
}
