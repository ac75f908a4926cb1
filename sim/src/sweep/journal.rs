//! What has been done of a sweep: a file that only grows, a line for each point.
//!
//! The first line says which sweep and which part of it the others belong to. A line that a kill has cut off is not
//! there; any other line that is wrong is an error.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cptr_trace::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{MOST_POINTS, Objective, Shard};

/// The format of the first line.
const FORMAT: &str = "cptr.sweep/1";

/// Bytes that a line may have.
const MOST_LINE: u64 = 1 << 20;

/// How long points may wait until the disk has them for sure: what a power failure costs at most.
const SYNC: Duration = Duration::from_secs(1);

/// A number, a text, true, false, or null.
pub type Cell = Value;

/// What the cells of a column are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Texts.
    Text,
    /// Numbers.
    Number,
    /// `true` and `false`.
    Flag,
}

/// A column of the rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What its cells are; any may be null.
    pub kind: Kind,
}

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    journal: String,
    /// Program that ran the points.
    pub version: String,
    /// Digest of all points of the sweep and of all that they read.
    pub sweep: String,
    /// Which part of it.
    pub shard: Shard,
    /// Points of the whole sweep.
    pub points: usize,
    /// Columns of the rows.
    pub columns: Vec<Column>,
    /// What the front is of.
    pub objectives: Vec<Objective>,
}

impl Header {
    /// The header of a part of a sweep.
    #[must_use]
    pub fn new(
        version: String,
        sweep: String,
        shard: Shard,
        points: usize,
        columns: Vec<Column>,
        objectives: Vec<Objective>,
    ) -> Self {
        Self { journal: FORMAT.into(), version, sweep, shard, points, columns, objectives }
    }

    fn check(self) -> std::result::Result<Self, String> {
        let Shard { number, of } = self.shard;
        match () {
            () if self.journal != FORMAT => Err(format!("expected the format {FORMAT}, found {}", self.journal)),
            () if !(1..=of).contains(&number) => Err(format!("expected a part of all, found {}", self.shard)),
            () if self.points > MOST_POINTS => Err(format!("expected at most {MOST_POINTS} points")),
            () => Ok(self),
        }
    }

    /// Why points of `other`, which `path` has, do not belong to this sweep.
    fn refuses(&self, other: &Self, path: &Path) -> Result<()> {
        let wrong = |what: String| Err(Error::in_file(path, what));
        if other.version != self.version {
            return wrong(format!(
                "expected points of cptr {}, found some of cptr {}: they may differ",
                self.version, other.version
            ));
        }
        let same = (&self.sweep, self.points, &self.columns, &self.objectives);
        if (&other.sweep, other.points, &other.columns, &other.objectives) != same {
            return wrong("another sweep: its file or something that its points read is not the same".into());
        }
        Ok(())
    }
}

/// A line of a point.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// Where in the sweep.
    index: usize,
    /// Digest of the point.
    point: String,
    cells: Vec<Cell>,
}

/// A journal that is written.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    synced: Instant,
    /// Points that are in it already.
    pub done: HashSet<usize>,
}

impl Journal {
    /// Opens the journal of a part, or makes one; what a kill has cut off is taken away. Whoever calls holds a lock.
    ///
    /// # Errors
    /// A journal of another sweep, program or part; damage; a failed file operation.
    pub fn open(path: &Path, header: &Header) -> Result<Self> {
        let failed = |error: std::io::Error| Error::io(path, &error);
        let scan = Scan::of(path)?;
        let (end, done) = match &scan {
            Some(Scan { header: found, .. }) if found.shard != header.shard => {
                return Err(Error::in_file(path, format!("expected part {}, found {}", header.shard, found.shard)));
            }
            Some(scan) => {
                header.refuses(&scan.header, path)?;
                (scan.end, scan.points.iter().map(|(index, _)| *index).collect())
            }
            None => (0, HashSet::new()),
        };
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        file.set_len(end).map_err(failed)?;
        let mut journal = Self { path: path.into(), file, synced: Instant::now(), done };
        if end == 0 {
            journal.line(header)?;
            journal.sync()?;
        }
        Ok(journal)
    }

    /// Adds a point: in one write, so that a kill of this process leaves all of it or a line without end.
    ///
    /// # Errors
    /// A failed write.
    pub fn add(&mut self, index: usize, point: &str, cells: Vec<Cell>) -> Result<()> {
        self.line(&Line { index, point: point.into(), cells })?;
        self.done.insert(index);
        if self.synced.elapsed() >= SYNC { self.sync() } else { Ok(()) }
    }

    /// Waits until the disk has all points.
    ///
    /// # Errors
    /// A failed file operation.
    pub fn sync(&mut self) -> Result<()> {
        self.synced = Instant::now();
        self.file.sync_data().map_err(|error| Error::io(&self.path, &error))
    }

    fn line(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec(line).map_err(|error| Error::in_file(&self.path, error.to_string()))?;
        text.push(b'\n');
        self.file.write_all(&text).map_err(|error| Error::io(&self.path, &error))
    }
}

/// A journal that is read.
#[derive(Debug)]
struct Scan {
    header: Header,
    /// Where the line of each point begins.
    points: Vec<(usize, u64)>,
    /// Where the last whole line ends.
    end: u64,
}

impl Scan {
    /// `None` where there is no file, or no whole line in it.
    fn of(path: &Path) -> Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(path, &error)),
        };
        let mut lines = Lines { reader: BufReader::with_capacity(1 << 16, file), at: 0, number: 0 };
        let Some(first) = lines.next(path)? else { return Ok(None) };
        let header = serde_json::from_slice::<Header>(&first).map_err(|error| error.to_string());
        let header = header.and_then(Header::check);
        let header =
            header.map_err(|error| Error::in_file(path, format!("no journal of a sweep: {error}")).at("line 1"))?;
        let mut scan = Self { header, points: Vec::new(), end: lines.at };
        let mut seen = HashSet::new();
        while let Some(line) = lines.next(path)? {
            let (place, start) = (format!("line {}", lines.number), scan.end);
            let wrong = |what: String| Error::in_file(path, what).at(place);
            let line: Line = match serde_json::from_slice(&line) {
                Ok(line) => line,
                // Where the power failed, the last line may be of the right length and empty.
                Err(_) if lines.next(path)?.is_none() => break,
                Err(error) => return Err(wrong(format!("damaged: {error}"))),
            };
            let Header { shard, points, columns, .. } = &scan.header;
            match () {
                () if line.index >= *points || !shard.has(line.index) => {
                    return Err(wrong(format!("damaged: point {} is not of part {shard}", line.index)));
                }
                () if line.cells.len() != columns.len() => {
                    return Err(wrong(format!("damaged: {} cells of {}", line.cells.len(), columns.len())));
                }
                () if !seen.insert(line.index) => {
                    return Err(wrong(format!("damaged: point {} is there twice", line.index)));
                }
                () => scan.points.push((line.index, start)),
            }
            scan.end = lines.at;
        }
        Ok(Some(scan))
    }
}

/// Whole lines of a file.
struct Lines {
    reader: BufReader<File>,
    /// Bytes before the next line.
    at: u64,
    number: usize,
}

impl Lines {
    /// The next line without its end; `None` at the end, or where a line has none.
    fn next(&mut self, path: &Path) -> Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let read = self.reader.by_ref().take(MOST_LINE).read_until(b'\n', &mut line);
        read.map_err(|error| Error::io(path, &error))?;
        self.number += 1;
        if line.pop() != Some(b'\n') {
            let long = line.len() as u64 + 1 >= MOST_LINE;
            let wrong = || Error::in_file(path, format!("expected a line of at most {MOST_LINE} bytes"));
            return if long { Err(wrong().at(format!("line {}", self.number))) } else { Ok(None) };
        }
        self.at += line.len() as u64 + 1;
        Ok(Some(line))
    }
}

/// All points of a sweep, from the journals of its parts.
#[derive(Debug)]
pub struct Joined {
    /// Of the sweep.
    pub header: Header,
    files: Vec<(PathBuf, BufReader<File>)>,
    /// File and place of each point's line.
    places: Vec<(u32, u64)>,
}

impl Joined {
    /// Opens journals, in any order.
    ///
    /// # Errors
    /// Journals of different sweeps or programs, parts or points that are missing or there twice; damage.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut parts: Vec<(&PathBuf, Scan)> = Vec::new();
        for path in paths {
            let missing = || Error::in_file(path, "expected the journal of a sweep, found none");
            parts.push((path, Scan::of(path)?.ok_or_else(missing)?));
        }
        let Some((first, Scan { header, .. })) = parts.first() else {
            return Err(Error::new("expected a journal at least, found none"));
        };
        let (header, of) = (header.clone(), header.shard.of);
        let mut held: Vec<Option<&PathBuf>> = vec![None; of.min(MOST_POINTS)];
        for (path, scan) in &parts {
            header.refuses(&scan.header, path)?;
            let shard = scan.header.shard;
            if shard.of != of {
                let (first, other) = (first.display(), header.shard);
                return Err(Error::in_file(
                    path,
                    format!("expected one of {of} parts, as {first} is {other}, found {shard}"),
                ));
            }
            if let Some(other) = held.get_mut(shard.number - 1).and_then(|held| held.replace(path)) {
                return Err(Error::in_file(
                    path,
                    format!("part {shard} is there twice: {} has it too", other.display()),
                ));
            }
        }
        let missing: Vec<String> =
            (1..).zip(&held).filter(|(_, held)| held.is_none()).map(|(n, _)| n.to_string()).collect();
        if !missing.is_empty() {
            let (some, more) = (missing[..missing.len().min(8)].join(", "), if missing.len() > 8 { ", …" } else { "" });
            return Err(Error::new(format!("expected all {of} parts of the sweep, missing {some}{more}")));
        }
        let mut places = vec![(0, 0); header.points];
        for (number, (path, scan)) in (0..).zip(&parts) {
            let (found, expected) = (scan.points.len(), scan.header.shard.share(header.points));
            if found != expected {
                let shard = scan.header.shard;
                let what = format!("{found} of {expected} points: run part {shard} of the sweep again, and it goes on");
                return Err(Error::in_file(path, what));
            }
            scan.points.iter().for_each(|&(index, at)| places[index] = (number, at));
        }
        let open = |(path, _): &(&PathBuf, Scan)| {
            let file = File::open(path).map_err(|error| Error::io(path, &error))?;
            Ok(((*path).clone(), BufReader::new(file)))
        };
        let files = parts.iter().map(open).collect::<Result<_>>()?;
        Ok(Self { header, files, places })
    }

    /// Points.
    #[must_use]
    pub fn points(&self) -> usize {
        self.places.len()
    }

    /// The cells of a point below [`Self::points`].
    ///
    /// # Errors
    /// A failed file operation; a file that has changed since it was opened.
    pub fn cells(&mut self, point: usize) -> Result<Vec<Cell>> {
        let (file, at) = self.places[point];
        let (path, reader) = &mut self.files[file as usize];
        let failed = |error: std::io::Error| Error::io(path, &error);
        // Points that follow each other are mostly near each other: what has been read ahead is kept.
        let here = reader.stream_position().map_err(failed)?;
        reader.seek_relative(at as i64 - here as i64).map_err(failed)?;
        let mut line = Vec::new();
        reader.by_ref().take(MOST_LINE).read_until(b'\n', &mut line).map_err(failed)?;
        let changed = || Error::in_file(path, "changed while it was read");
        let line: Line = serde_json::from_slice(&line).map_err(|_| changed())?;
        if line.index == point && line.cells.len() == self.header.columns.len() {
            Ok(line.cells)
        } else {
            Err(changed())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn header(number: usize, of: usize, points: usize) -> Header {
        let columns =
            vec![Column { name: "a".into(), kind: Kind::Number }, Column { name: "b".into(), kind: Kind::Text }];
        Header::new("1".into(), "s".into(), Shard { number, of }, points, columns, Vec::new())
    }

    fn cells(point: usize) -> Vec<Cell> {
        vec![json!(point as f64 / 3.0), json!(format!("point\n{point}"))]
    }

    /// Journals of all parts, points in falling order.
    fn parts(folder: &Path, of: usize, points: usize) -> Vec<PathBuf> {
        let part = |number: usize| {
            let path = folder.join(format!("{number}.journal"));
            let header = header(number, of, points);
            let mut journal = Journal::open(&path, &header).unwrap();
            for point in (0..points).rev().filter(|point| header.shard.has(*point)) {
                journal.add(point, "", cells(point)).unwrap();
            }
            path
        };
        (1..=of).map(part).collect()
    }

    #[test]
    fn parts_are_joined_to_the_last_bit() {
        let folder = tempfile::tempdir().unwrap();
        for (of, points) in [(1, 1), (1, 7), (3, 7), (8, 3)] {
            let mut paths = parts(folder.path(), of, points);
            paths.reverse();
            let mut joined = Joined::open(&paths).unwrap();
            assert_eq!(joined.points(), points);
            for point in 0..points {
                assert_eq!(joined.cells(point).unwrap(), cells(point));
            }
            assert_eq!(joined.cells(0).unwrap(), cells(0));
            paths.iter().for_each(|path| std::fs::remove_file(path).unwrap());
        }
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let paths = parts(folder.path(), 3, 7);
        let refusal = |paths: &[&PathBuf]| {
            let paths: Vec<PathBuf> = paths.iter().map(|path| (*path).clone()).collect();
            Joined::open(&paths).unwrap_err().to_string()
        };
        let [a, b, c] = &paths[..] else { panic!() };
        assert_eq!(refusal(&[]), "expected a journal at least, found none");
        assert_eq!(refusal(&[a, c]), "expected all 3 parts of the sweep, missing 2");
        assert!(refusal(&[a, b, a]).contains("part 1/3 is there twice"));
        let text = std::fs::read_to_string(b).unwrap();
        let edited = |from: &str, to: &str| {
            std::fs::write(b, text.replacen(from, to, 1)).unwrap();
            refusal(&[a, b, c])
        };
        for (from, to, expected) in [
            ("\"version\":\"1\"", "\"version\":\"2\"", "expected points of cptr 1, found some of cptr 2"),
            ("\"sweep\":\"s\"", "\"sweep\":\"t\"", "another sweep"),
            ("\"of\":3", "\"of\":4", "line 2: damaged: point 4 is not of part 2/4"),
            ("\"number\":2", "\"number\":9", "line 1: no journal of a sweep: expected a part of all, found 9/3"),
            ("cptr.sweep/1", "cptr.sweep/2", "expected the format cptr.sweep/1"),
            ("\"index\":4", "\"index\":1", "line 3: damaged: point 1 is there twice"),
            ("\"index\":4", "\"index\":3", "line 2: damaged: point 3 is not of part 2/3"),
            ("\"index\":4", "\"index\":700", "line 2: damaged: point 700 is not of part 2/3"),
            ("\"cells\":[", "\"cells\":[0,", "line 2: damaged: 3 cells of 2"),
            ("\"cells\":[", "\"cells\":", "line 2: damaged"),
            ("{", "", "line 1: no journal of a sweep"),
        ] {
            let found = edited(from, to);
            assert!(found.contains(expected), "{expected}: {found}");
        }
        let shorter: String = text.split_inclusive('\n').take(2).collect();
        std::fs::write(b, shorter).unwrap();
        assert!(refusal(&[a, b, c]).ends_with("1 of 2 points: run part 2/3 of the sweep again, and it goes on"));
        assert!(refusal(&[a, &folder.path().join("none")]).contains("expected the journal of a sweep, found none"));
    }

    /// Wherever a kill cuts a journal off, it goes on with what was whole.
    #[test]
    fn goes_on_after_any_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = parts(folder.path(), 1, 4).remove(0);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            for junk in [&b""[..], b"\0\0\0\n"] {
                std::fs::write(&path, [&whole[..cut], junk].concat()).unwrap();
                let lines = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
                // Zeros behind half of the first line are no kill's.
                if lines == 0 && !junk.is_empty() {
                    assert!(Journal::open(&path, &header(1, 1, 4)).is_err());
                    continue;
                }
                let mut journal = Journal::open(&path, &header(1, 1, 4)).unwrap();
                assert_eq!(journal.done.len(), lines.saturating_sub(1), "{cut}");
                for point in (0..4).rev().filter(|point| !journal.done.contains(point)).collect::<Vec<_>>() {
                    journal.add(point, "", cells(point)).unwrap();
                }
                assert_eq!(std::fs::read(&path).unwrap(), whole, "{cut}");
            }
        }
        for other in [header(1, 2, 4), Header { version: "2".into(), ..header(1, 1, 4) }, header(1, 1, 5)] {
            assert!(Journal::open(&path, &other).is_err());
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
    }
}
