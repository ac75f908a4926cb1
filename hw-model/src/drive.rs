//! A drive that experts are read from: how fast it gives them depends on how many reads are under way.
//!
//! Each read takes the drive's latency, which reads that are under way share, and its bytes' time on the way out, which
//! they do not. So by Little's law a drive gives reads in flight x bytes of a read / time of a read, up to its
//! bandwidth:
//!
//! ```
//! use cptr_hw_model::Drive;
//!
//! let alone = Drive { latency_ns: 80_000.0, read_kib: 128.0, reads_in_flight: 1, gb_s: 7.0 };
//! // 131,072 bytes in 80 us and 18.7 on the way out.
//! assert!((alone.rate_gb_s(7.0) - 131_072.0 / 98_725.0).abs() < 1e-3);
//! let four = Drive { reads_in_flight: 4, ..alone.clone() };
//! assert!((four.rate_gb_s(7.0) - 4.0 * alone.rate_gb_s(7.0)).abs() < 1e-9);
//! // Six hide the latency.
//! assert_eq!(Drive { reads_in_flight: 6, ..alone }.rate_gb_s(7.0), 7.0);
//! ```

use serde::Deserialize;

use crate::dram::ConfigError;
use crate::validate::within;

/// A drive, and how it is read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drive {
    /// From the start of a read to its first byte, with nothing else under way, in nanoseconds.
    pub latency_ns: f64,
    /// Size of a read in KiB; the last of an expert is what is left.
    pub read_kib: f64,
    /// Reads under way at a time: the depth of the queue that the engine keeps filled.
    pub reads_in_flight: u32,
    /// Bandwidth in GB/s (10^9 bytes), which reads in flight share.
    pub gb_s: f64,
}

impl Drive {
    /// The drive that gives `deep_gb_s` to as many reads as one likes, and `shallow.1` GB/s to `shallow.0` reads in
    /// flight: what these wait for beyond their bytes' time is its latency, and nothing where they already have all.
    ///
    /// ```
    /// use cptr_hw_model::Drive;
    ///
    /// let drive = Drive::fitted(128.0, (1, 131_072.0 / 98_725.0), 7.0);
    /// assert!((drive.latency_ns - 80_000.0).abs() < 1.0 && drive.gb_s == 7.0);
    /// assert_eq!(Drive::fitted(128.0, (1, 3.0), 2.0).latency_ns, 0.0);
    /// ```
    #[must_use]
    pub fn fitted(read_kib: f64, shallow: (u32, f64), deep_gb_s: f64) -> Self {
        let (reads_in_flight, rate_gb_s) = shallow;
        let (bytes, gb_s) = (read_kib * 1024.0, deep_gb_s.max(rate_gb_s));
        let latency_ns = f64::from(reads_in_flight) * bytes / rate_gb_s - bytes / gb_s;
        Self { latency_ns: latency_ns.max(0.0), read_kib, reads_in_flight, gb_s }
    }

    /// Refuses impossible values; fields are named below `store.drive`.
    pub fn validate(&self) -> Result<(), ConfigError> {
        within("store.drive.latency_ns", self.latency_ns, 0.0, 1e12)?;
        within("store.drive.read_kib", self.read_kib, 0.5, 1e9)?;
        within("store.drive.reads_in_flight", f64::from(self.reads_in_flight), 1.0, 1e6)?;
        within("store.drive.gb_s", self.gb_s, 1e-6, 1e6)
    }

    /// Bytes per nanosecond over a link that takes `link_gb_s`, and those of a read.
    fn way_out(&self, link_gb_s: f64) -> (f64, f64) {
        (self.gb_s.min(link_gb_s), self.read_kib * 1024.0)
    }

    /// Rate in the long run over a link that takes `link_gb_s`, in GB/s.
    #[must_use]
    pub fn rate_gb_s(&self, link_gb_s: f64) -> f64 {
        let (rate, read) = self.way_out(link_gb_s);
        (f64::from(self.reads_in_flight) * read / (self.latency_ns + read / rate)).min(rate)
    }

    /// Time of `bytes` bytes over a link that takes `link_gb_s`, from the start of the first read to the last byte, in
    /// nanoseconds. A read starts when there is one fewer in flight than there may be.
    #[must_use]
    pub fn read_ns(&self, bytes: f64, link_gb_s: f64) -> f64 {
        let (rate, read) = self.way_out(link_gb_s);
        if bytes <= 0.0 {
            return 0.0;
        }
        let (depth, out_ns) = (f64::from(self.reads_in_flight), read / rate);
        let before = (bytes / read).ceil() - 1.0;
        // Reads in flight fill the way out while one waits for its first byte, or each waits for that many before it.
        let last_ns = if depth * out_ns >= self.latency_ns + out_ns {
            before * out_ns
        } else {
            (before / depth).floor() * (self.latency_ns + out_ns) + before % depth * out_ns
        };
        last_ns + self.latency_ns + (bytes - before * read) / rate
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The closed form is reads that start one by one, and the rate is theirs in the long run.
        #[test]
        fn time_is_that_of_reads_one_by_one(
            latency_ns in 0.0f64..200_000.0, read_kib in 4.0f64..600.0, reads_in_flight in 1u32..40,
            gb_s in 0.5f64..14.0, link_gb_s in 0.5f64..14.0, bytes in 1.0f64..3e7,
        ) {
            let drive = Drive { latency_ns, read_kib, reads_in_flight, gb_s };
            let one_by_one = |bytes: f64| {
                let (mut ends, mut left) = (Vec::<f64>::new(), bytes);
                while left > 0.0 {
                    let start = ends.len().checked_sub(reads_in_flight as usize).map_or(0.0, |before| ends[before]);
                    let free = ends.last().copied().unwrap_or(0.0);
                    let size = left.min(read_kib * 1024.0);
                    ends.push((start + latency_ns).max(free) + size / gb_s.min(link_gb_s));
                    left -= size;
                }
                ends.last().copied().unwrap_or(0.0)
            };
            let (found, expected) = (drive.read_ns(bytes, link_gb_s), one_by_one(bytes));
            prop_assert!((found / expected - 1.0).abs() < 1e-6, "{} {}", found, expected);
            // Many of them.
            let (many, rate) = (3000.0 * read_kib * 1024.0, drive.rate_gb_s(link_gb_s));
            prop_assert!((many / drive.read_ns(many, link_gb_s) / rate - 1.0).abs() < 0.03);
            // More in flight are never slower.
            let deeper = Drive { reads_in_flight: reads_in_flight + 1, ..drive.clone() };
            prop_assert!(deeper.rate_gb_s(link_gb_s) >= rate);
            prop_assert!(deeper.read_ns(bytes, link_gb_s) <= found * (1.0 + 1e-9));
        }
    }

    #[test]
    fn impossible_drives_are_refused() {
        let good = Drive { latency_ns: 80_000.0, read_kib: 128.0, reads_in_flight: 32, gb_s: 7.0 };
        assert_eq!(good.validate(), Ok(()));
        for (bad, field) in [
            (Drive { latency_ns: f64::NAN, ..good.clone() }, "store.drive.latency_ns"),
            (Drive { read_kib: 0.0, ..good.clone() }, "store.drive.read_kib"),
            (Drive { reads_in_flight: 0, ..good.clone() }, "store.drive.reads_in_flight"),
            (Drive { gb_s: -1.0, ..good.clone() }, "store.drive.gb_s"),
        ] {
            assert_eq!(bad.validate().unwrap_err().field, field);
        }
        assert_eq!(good.read_ns(0.0, 7.0), 0.0);
    }
}
