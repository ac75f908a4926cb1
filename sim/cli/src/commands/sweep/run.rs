//! Runs points on all cores, each as `cptr run` does.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::super::{answer_on, read};
use super::points::{Points, by_reading};
use cptr_sim::sweep::{Journal, Shard, Sweep};
use cptr_trace::error::{Error, Kind, Result};
use cptr_trace::import::Recording;
use cptr_trace::progress::Progress;

/// Runs the points of a part that are not in its journal yet, which `open` opens once there is something to write: all
/// that can be seen to be wrong has been seen by then. Says how long it took, and how much of that were runs.
pub(super) fn run(
    sweep: &Sweep,
    points: &Points,
    shard: Shard,
    open: impl FnOnce() -> Result<Journal>,
) -> Result<Option<String>> {
    let start = Instant::now();
    let mine = (0..points.len()).filter(|index| shard.has(*index));
    let lines = mine.map(|index| Ok((index, points.get(sweep, index)?.1))).collect::<Result<Vec<_>>>()?;
    let mut groups = by_reading(lines.into_iter()).into_iter();
    let read =
        |(reading, all): (Option<Vec<String>>, Vec<usize>)| recording(reading.as_deref()).map(|given| (given, all));
    let first = groups.next().map(read).transpose()?;
    let journal = open()?;
    let done: HashSet<usize> = journal.done.clone();
    let left = shard.share(points.len()) - done.len();
    let progress = Progress::new(left as u64, "sweeping");
    let work = Work { sweep, points, progress, journal: Mutex::new(journal), busy: Mutex::default() };
    let mut workers = 1;
    if let Some((given, all)) = first {
        workers = work.group(given, all, &done)?;
    }
    for (reading, all) in groups {
        if all.iter().any(|index| !done.contains(index)) {
            let given = recording(reading.as_deref())?;
            workers = workers.max(work.group(given, all, &done)?);
        }
    }
    let Work { journal, busy, .. } = work;
    journal.into_inner().unwrap_or_else(PoisonError::into_inner).sync()?;
    let (busy, wall) = (busy.into_inner().unwrap_or_else(PoisonError::into_inner), start.elapsed());
    let share = busy.as_secs_f64() / (wall.as_secs_f64() * workers as f64);
    let seconds = wall.as_secs_f64();
    Ok((left > 0).then(|| {
        format!("{left} points in {seconds:.1} s, {workers} at a time; {:.1} % of that in their runs", 100.0 * share)
    }))
}

/// What points read, once for all of them; `None` of models, which each point reads.
fn recording(reading: Option<&[String]>) -> Result<Option<Arc<Recording>>> {
    let Some(reading) = reading else { return Ok(None) };
    match read(reading)? {
        tokens @ Recording::Tokens(_) => Ok(Some(Arc::new(tokens))),
        Recording::Counts(_) => {
            Err(Error::in_file(reading[0].as_ref(), "expected a trace of tokens for a sweep, found counts"))
        }
    }
}

/// What the threads share.
struct Work<'a> {
    sweep: &'a Sweep,
    points: &'a Points,
    progress: Progress,
    journal: Mutex<Journal>,
    /// Time of all runs.
    busy: Mutex<Duration>,
}

impl Work<'_> {
    /// Runs the points of one recording; how many at a time.
    fn group(&self, given: Option<Arc<Recording>>, mut all: Vec<usize>, done: &HashSet<usize>) -> Result<usize> {
        all.retain(|index| !done.contains(index));
        let cores = rayon::current_num_threads();
        let workers = cores.min(all.len()).max(1);
        // A point for each core, and where there are fewer points the cores that are over.
        let threads = cores / workers;
        let next = AtomicUsize::new(0);
        let worker = || {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let pool = pool.map_err(|error| Error::new(format!("threads: {error}")))?;
            while let Some(&index) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                let end = self.point(index, given.clone(), &pool);
                if end.is_err() {
                    // Nobody begins another one.
                    next.store(all.len(), Ordering::Relaxed);
                    return end;
                }
            }
            Ok(())
        };
        let ends: Vec<Result<()>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        ends.into_iter().collect::<Result<Vec<()>>>()?;
        Ok(workers)
    }

    fn point(&self, index: usize, given: Option<Arc<Recording>>, pool: &rayon::ThreadPool) -> Result<()> {
        let (point, line, digest) = self.points.get(self.sweep, index)?;
        let arguments: Vec<String> = std::iter::once("run".into()).chain(line.words.iter().cloned()).collect();
        let start = Instant::now();
        let answer = pool.install(|| answer_on(&arguments, given));
        *self.busy.lock().unwrap_or_else(PoisonError::into_inner) += start.elapsed();
        let row = match &answer {
            Ok(answer) => answer.json["rows"]
                .as_array()
                .and_then(|rows| rows.last())
                .ok_or_else(|| Error::new(format!("{}: expected a row, found none", line.command))),
            // Of the computer, not of the point.
            Err(error) if error.kind() == Kind::Io => return Err(error.clone()),
            Err(error) => Err(error.clone()),
        };
        let cells = self.points.cells(point, &line, digest, row.as_ref().copied());
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).add(index, digest, cells)?;
        self.progress.advance(1);
        Ok(())
    }
}
