//! A link of a bandwidth: what is copied in its place takes as long as it would there.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A link that carries one transfer after the other.
#[derive(Debug)]
pub(crate) struct Link {
    bytes_per_s: f64,
    /// When what it carries has arrived.
    free: Mutex<Option<Instant>>,
}

impl Link {
    /// Nothing is under way; bytes per second, above zero.
    pub(crate) const fn new(bytes_per_s: f64) -> Self {
        Self { bytes_per_s, free: Mutex::new(None) }
    }

    /// A transfer that is asked for now: when it has arrived.
    pub(crate) fn arrival(&self, now: Instant, bytes: usize) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let start = free.map_or(now, |free| free.max(now));
        let arrival = start + Duration::from_secs_f64(bytes as f64 / self.bytes_per_s);
        *free = Some(arrival);
        arrival
    }
}

/// Waits for a time. The last of it without falling asleep, since the system wakes late by about that much.
pub(crate) fn wait_until(time: Instant) {
    const LATE: Duration = Duration::from_micros(80);
    loop {
        match time.checked_duration_since(Instant::now()) {
            None | Some(Duration::ZERO) => return,
            Some(left) if left > LATE => std::thread::sleep(left - LATE),
            Some(_) => std::thread::yield_now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_follow_each_other() {
        let link = Link::new(1e6);
        let (start, ms) = (Instant::now(), Duration::from_millis);
        assert_eq!(link.arrival(start, 2000), start + ms(2));
        assert_eq!(link.arrival(start + ms(1), 3000), start + ms(5));
        // It has had nothing to do meanwhile.
        assert_eq!(link.arrival(start + ms(9), 1000), start + ms(10));
    }
}
