//! A stream of requests through one channel, exactly or in jumps.
//!
//! ```
//! use cptr_hw_model::dram::{Config, MappingKind, Refresh, StreamKind, Until, presets};
//! use cptr_sim::dram::run::{Plan, Source};
//!
//! let device = presets::ddr5_3200();
//! let config = Config::new(MappingKind::Mop4ClXor, Refresh::AllBank);
//! let source = Source::Generated(StreamKind::Sequential, 10_000);
//! let plan = Plan { device: &device, config, source, until: Until::Served };
//! assert_eq!(plan.fast()?.cycles, plan.exact(())?.cycles);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::path::Path;
use std::time::{Duration, Instant};

use cptr_hw_model::dram::{
    AddressMap, Config, ConfigError, Controller, Device, FastChannel, Observer, Request, RequestKind, Statistics,
    StreamKind, Until, stream,
};

use super::stream_file::Requests;
use cptr_trace::error::{Error, Result};
use cptr_trace::progress::Progress;

/// Requests from one report of progress to the next.
const PER_REPORT: u64 = 1 << 16;

/// Where requests come from.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// So many requests of a generated stream.
    Generated(StreamKind, u64),
    /// The lines of a file.
    File {
        /// Which.
        path: &'a Path,
        /// At most so many, if given.
        most: Option<u64>,
        /// Whether addresses are rounded down to an access and taken modulo the capacity.
        wrap: bool,
    },
}

/// What was run: one channel, its controller, a stream, and when the run ends.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// The memory.
    pub device: &'a Device,
    /// Its controller.
    pub config: Config,
    /// The requests.
    pub source: Source<'a>,
    /// When the run ends.
    pub until: Until,
}

/// What came out.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Cycles of the command clock.
    pub cycles: u64,
    /// All counts.
    pub statistics: Statistics,
    /// Requests of the stream.
    pub requests: u64,
    /// Requests that were simulated one by one; the fast path jumps over the others.
    pub simulated: u64,
    /// Time that the computer took.
    pub wall: Duration,
}

impl Plan<'_> {
    /// Every request through the controller; `observer` sees every command.
    ///
    /// # Errors
    /// An impossible device or configuration; a stream that has no requests, cannot be read or does not fit the
    /// channel.
    pub fn exact(&self, observer: impl Observer) -> Result<Outcome> {
        let mut controller = Controller::with_observer(self.device, self.config, observer).map_err(impossible)?;
        let (mut failure, mut count) = (None, 0);
        let requests = self.requests()?;
        let start = Instant::now();
        let good = requests.map_while(|request| request.map_err(|error| failure = Some(error)).ok());
        controller.run(good.inspect(|_| count += 1), self.until).map_err(|error| Error::new(error.to_string()))?;
        let wall = start.elapsed();
        match failure {
            Some(error) => Err(error),
            None if count == 0 => Err(self.no_requests()),
            None => {
                let statistics = controller.statistics().clone();
                Ok(Outcome { cycles: controller.cycle(), statistics, requests: count, simulated: count, wall })
            }
        }
    }

    /// Contiguous stretches of the stream through the fast path: the same figures, sooner where the stream has long
    /// ones.
    ///
    /// # Errors
    /// As [`Self::exact`]; and a stream with writes or with cycles, which the fast path does not serve.
    pub fn fast(&self) -> Result<Outcome> {
        let mut channel = FastChannel::new(self.device, self.config).map_err(impossible)?;
        let mut ranges = self.ranges()?;
        let following = |ranges: &mut dyn Iterator<Item = Result<Range>>| {
            ranges.next().transpose().map_err(|error| self.named(error))
        };
        let start = Instant::now();
        let mut next = following(&mut ranges)?.ok_or_else(|| self.no_requests())?;
        let mut bytes = 0;
        loop {
            bytes += next.bytes;
            let after = following(&mut ranges)?;
            let until = if after.is_some() { Until::Accepted } else { self.until };
            channel.read_until(next.start, next.bytes, until).map_err(|error| Error::new(error.to_string()))?;
            let Some(after) = after else { break };
            next = after;
        }
        let wall = start.elapsed();
        let statistics = channel.statistics().clone();
        let requests = bytes / channel.access_bytes();
        Ok(Outcome { cycles: channel.cycle(), statistics, requests, simulated: channel.simulated_lines(), wall })
    }

    fn no_requests(&self) -> Error {
        self.named(Error::new("expected at least one request, found none"))
    }

    /// The error with the name of the file, if the requests come from one.
    fn named(&self, error: Error) -> Error {
        if let Source::File { path, .. } = self.source { error.or_file(path) } else { error }
    }

    fn requests(&self) -> Result<Box<dyn Iterator<Item = Result<Request>>>> {
        match self.source {
            Source::Generated(kind, count) => {
                self.check_generated()?;
                let requests = kind.requests(count, self.device.organisation.access_bytes());
                let (progress, mut taken) = (Progress::new(count, "serving"), 0u64);
                Ok(Box::new(requests.map(move |request| {
                    taken += 1;
                    if taken.is_multiple_of(PER_REPORT) {
                        progress.advance(PER_REPORT);
                    }
                    Ok(request)
                })))
            }
            Source::File { path, most, wrap } => {
                let map = AddressMap::new(self.config.mapping, self.device).map_err(impossible)?;
                let most = most.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
                Ok(Box::new(Requests::open(path, map, self.device, wrap)?.take(most)))
            }
        }
    }

    /// The generated streams are lines in a window.
    fn check_generated(&self) -> Result<()> {
        let o = &self.device.organisation;
        if o.capacity_bytes < stream::WINDOW || o.access_bytes() > stream::LINE {
            return Err(Error::new(format!(
                "expected a channel of at least {} bytes and at most {} bytes an access for a generated stream, found {} of {} bytes and {} bytes; give a file of addresses",
                stream::WINDOW,
                stream::LINE,
                self.device.name,
                o.capacity_bytes,
                o.access_bytes()
            )));
        }
        Ok(())
    }

    fn ranges(&self) -> Result<Box<dyn Iterator<Item = Result<Range>>>> {
        let access = self.device.organisation.access_bytes();
        if let Source::Generated(StreamKind::Sequential, count) = self.source {
            self.check_generated()?;
            let window = stream::WINDOW / access;
            let progress = Progress::new(count, "serving");
            return Ok(Box::new((0..count.div_ceil(window)).map(move |lap| {
                let requests = window.min(count - lap * window);
                progress.advance(requests);
                Ok(Range { start: 0, bytes: requests * access })
            })));
        }
        Ok(Box::new(Ranges { requests: self.requests()?, index: 0, next: None, access }))
    }
}

fn impossible(error: ConfigError) -> Error {
    Error::new(error.to_string())
}

/// Bytes in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: u64,
    bytes: u64,
}

/// Joins reads that follow each other into ranges, as long as they go.
struct Ranges {
    requests: Box<dyn Iterator<Item = Result<Request>>>,
    index: u64,
    next: Option<Range>,
    access: u64,
}

impl Ranges {
    fn request(&mut self) -> Option<Result<Range>> {
        let request = match self.requests.next()? {
            Ok(request) => request,
            Err(error) => return Some(Err(error)),
        };
        self.index += 1;
        if request.kind == RequestKind::Write || request.not_before > 0 {
            let found = if request.kind == RequestKind::Write { "a write" } else { "a cycle" };
            return Some(Err(Error::new(format!(
                "request {}: expected reads without a cycle, which is what the fast path serves, found {found}",
                self.index
            ))));
        }
        Some(Ok(Range { start: request.address, bytes: self.access }))
    }
}

impl Iterator for Ranges {
    type Item = Result<Range>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut range = match self.next.take() {
            Some(range) => range,
            None => match self.request()? {
                Ok(range) => range,
                Err(error) => return Some(Err(error)),
            },
        };
        while self.next.is_none() {
            match self.request() {
                Some(Ok(next)) if next.start == range.start + range.bytes => range.bytes += next.bytes,
                Some(Ok(next)) => self.next = Some(next),
                Some(Err(error)) => return Some(Err(error)),
                None => break,
            }
        }
        Some(Ok(range))
    }
}

#[cfg(test)]
mod tests {
    use cptr_hw_model::dram::{MappingKind, Refresh, presets};

    use super::*;

    fn both(device: &Device, source: Source<'_>, until: Until) -> [Outcome; 2] {
        let config = Config::new(MappingKind::Mop4ClXor, Refresh::AllBank);
        let plan = Plan { device, config, source, until };
        [plan.exact(()).unwrap(), plan.fast().unwrap()]
    }

    #[test]
    fn both_paths_agree_on_every_stream() {
        for device in presets::all() {
            for kind in StreamKind::ALL {
                for until in [Until::Accepted, Until::Served] {
                    let [exact, fast] = both(&device, Source::Generated(kind, 30_001), until);
                    assert_eq!(exact.cycles, fast.cycles, "{} {}", device.name, kind.name());
                    assert_eq!(exact.statistics, fast.statistics, "{} {}", device.name, kind.name());
                    assert_eq!((exact.requests, exact.simulated, fast.requests), (30_001, 30_001, 30_001));
                }
            }
        }
    }

    #[test]
    fn ranges_are_as_long_as_they_go() {
        let requests = [0u64, 64, 128, 64, 128, 512].map(|address| Ok(Request::read(address)));
        let ranges = Ranges { requests: Box::new(requests.into_iter()), index: 0, next: None, access: 64 };
        let ranges: Vec<_> = ranges.map(|range| range.map(|range| (range.start, range.bytes)).unwrap()).collect();
        assert_eq!(ranges, [(0, 192), (64, 128), (512, 64)]);
    }

    #[test]
    fn the_fast_path_serves_reads_only() {
        for (request, found) in
            [(Request::write(64), "a write"), (Request { not_before: 9, ..Request::read(64) }, "a cycle")]
        {
            let requests = [Ok(Request::read(0)), Ok(request)];
            let mut ranges = Ranges { requests: Box::new(requests.into_iter()), index: 0, next: None, access: 64 };
            let sentence = ranges.next().unwrap().unwrap_err().to_string();
            assert!(sentence.starts_with("request 2: ") && sentence.ends_with(found), "{sentence}");
        }
    }
}
