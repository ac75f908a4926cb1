//! Files of `torch.save`: a zip archive with a pickle and the bytes of its tensors.
//!
//! A pickle is a program. This reads only what numbers, text, lists, dictionaries and tensors are made of; whatever
//! else it would build, call or import is refused by name, and nothing is ever executed.

use std::io::{Cursor, Read};

use zip::ZipArchive;

use crate::error::{Error, Result};

/// Objects that a pickle may make.
const MAX_OBJECTS: usize = 1 << 24;

/// An object, by its number in [`File`].
pub(super) type Id = usize;

/// What a pickle may hold.
#[derive(Debug, Clone, PartialEq)]
enum Object {
    None,
    Number(f64),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dictionary(Vec<(Id, Id)>),
    /// A storage type by its name, or one of the two functions that are understood.
    Class(&'static str),
    Storage {
        class: &'static str,
        key: String,
    },
    Tensor {
        storage: Id,
        offset: usize,
        shape: Vec<usize>,
        strides: Vec<usize>,
    },
}

/// Classes and functions by module and name; all else is refused.
const KNOWN: [&str; 13] = [
    "torch._utils _rebuild_tensor_v2",
    "collections OrderedDict",
    "torch Size",
    "torch LongStorage",
    "torch IntStorage",
    "torch ShortStorage",
    "torch CharStorage",
    "torch ByteStorage",
    "torch BoolStorage",
    "torch FloatStorage",
    "torch DoubleStorage",
    "torch HalfStorage",
    "torch BFloat16Storage",
];

/// Numbers with a shape.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f64>,
}

/// A file that was read: its objects, and the bytes of its tensors.
pub(super) struct File<'a> {
    objects: Vec<Object>,
    root: Id,
    archive: ZipArchive<Cursor<&'a [u8]>>,
    /// Folder in the archive that all is in.
    folder: String,
}

/// Whether a file looks like one of `torch.save`.
pub(super) fn detect(head: &[u8]) -> bool {
    head.starts_with(b"PK\x03\x04")
        && head.get(30..).is_some_and(|rest| rest[..rest.len().min(256)].windows(9).any(|part| part == b"/data.pkl"))
}

fn broken(error: impl std::fmt::Display) -> Error {
    Error::new(format!("expected a whole file of torch.save: {error}"))
}

impl<'a> File<'a> {
    /// Reads the pickle; `budget` is what arrays may become in bytes.
    pub(super) fn open(bytes: &'a [u8], budget: &mut u64) -> Result<Self> {
        let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(broken)?;
        let names = archive.file_names().filter_map(std::result::Result::ok);
        let name = names.into_iter().find(|name| name.ends_with("/data.pkl")).map(std::borrow::Cow::into_owned);
        let name = name.ok_or_else(|| broken("found no data.pkl"))?;
        let folder = name.trim_end_matches("data.pkl").to_owned();
        let pickle = entry(&mut archive, &name, budget)?;
        if entry(&mut archive, &format!("{folder}byteorder"), budget).is_ok_and(|order| order != b"little") {
            return Err(Error::unsupported("expected numbers in little-endian order, found others"));
        }
        let mut machine = Machine {
            bytes: &pickle,
            at: 0,
            objects: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Vec::new(),
        };
        let root = machine.run().map_err(|error| error.at(format!("data.pkl, byte {}", machine.at)))?;
        Ok(Self { objects: machine.objects, root, archive, folder })
    }

    /// The object that was saved.
    pub(super) fn root(&self) -> Id {
        self.root
    }

    /// An entry of a dictionary.
    pub(super) fn get(&self, of: Id, key: &str) -> Option<Id> {
        let Object::Dictionary(entries) = &self.objects[of] else { return None };
        let is_key = |id: Id| matches!(&self.objects[id], Object::Text(text) if text == key);
        let found = entries.iter().rev().find(|(k, _)| is_key(*k)).map(|(_, value)| *value)?;
        (self.objects[found] != Object::None).then_some(found)
    }

    /// The items of a list or a tuple.
    pub(super) fn items(&self, of: Id) -> Option<&[Id]> {
        match &self.objects[of] {
            Object::List(items) | Object::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// A number.
    pub(super) fn number(&self, of: Id) -> Option<f64> {
        if let Object::Number(value) = self.objects[of] { Some(value) } else { None }
    }

    /// A tensor, or nested lists of numbers, in C order.
    pub(super) fn tensor(&mut self, of: Id, budget: &mut u64) -> Result<Tensor> {
        let Object::Tensor { storage, offset, shape, strides } = self.objects[of].clone() else {
            return Err(Error::new("expected a tensor, found something else"));
        };
        let Object::Storage { class, key } = self.objects[storage].clone() else {
            return Err(broken("a tensor has no storage"));
        };
        if shape.contains(&0) {
            return Err(Error::new(format!("expected at least one value along every axis, found shape {shape:?}")));
        }
        let count = shape.iter().try_fold(1_usize, |product, &n| product.checked_mul(n));
        let last = shape
            .iter()
            .zip(&strides)
            .try_fold(offset, |at, (&n, &stride)| at.checked_add((n - 1).checked_mul(stride)?));
        let (Some(count), Some(last)) = (count, last) else { return Err(broken("a tensor is too large")) };
        charge(budget, count.saturating_mul(8) as u64)?;
        let bytes = entry(&mut self.archive, &format!("{}data/{key}", self.folder), budget)?;
        let (width, convert) = number_type(class)?;
        if last >= bytes.len() / width {
            return Err(broken(format!("a tensor of {shape:?} goes beyond its {} bytes", bytes.len())));
        }
        let mut values = Vec::with_capacity(count);
        let mut index = vec![0; shape.len()];
        for _ in 0..count {
            let at = offset + index.iter().zip(&strides).map(|(i, stride)| i * stride).sum::<usize>();
            values.push(convert(&bytes[at * width..(at + 1) * width]));
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                if index[axis] < shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Ok(Tensor { shape, values })
    }
}

fn charge(budget: &mut u64, bytes: u64) -> Result<()> {
    *budget = budget
        .checked_sub(bytes)
        .ok_or_else(|| Error::new(format!("expected arrays that become at most {budget} bytes, found {bytes}")))?;
    Ok(())
}

fn entry(archive: &mut ZipArchive<Cursor<&[u8]>>, name: &str, budget: &mut u64) -> Result<Vec<u8>> {
    let file = archive.by_name(name).map_err(broken)?;
    charge(budget, file.size())?;
    let mut bytes = Vec::new();
    // The size is a claim; more than it is not read.
    let size = file.size();
    file.take(size).read_to_end(&mut bytes).map_err(broken)?;
    Ok(bytes)
}

/// Bytes of a number, and what they mean.
type NumberType = (usize, fn(&[u8]) -> f64);

fn number_type(class: &str) -> Result<NumberType> {
    fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
        bytes.first_chunk().copied().unwrap_or([0; N])
    }
    Ok(match class.trim_start_matches("torch ") {
        "LongStorage" => (8, |b| i64::from_le_bytes(array(b)) as f64),
        "IntStorage" => (4, |b| i32::from_le_bytes(array(b)).into()),
        "ShortStorage" => (2, |b| i16::from_le_bytes(array(b)).into()),
        "CharStorage" => (1, |b| i8::from_le_bytes(array(b)).into()),
        "ByteStorage" | "BoolStorage" => (1, |b| b[0].into()),
        "FloatStorage" => (4, |b| f32::from_le_bytes(array(b)).into()),
        "DoubleStorage" => (8, |b| f64::from_le_bytes(array(b))),
        "HalfStorage" => (2, |b| half::f16::from_le_bytes(array(b)).into()),
        "BFloat16Storage" => (2, |b| half::bf16::from_le_bytes(array(b)).into()),
        other => return Err(Error::unsupported(format!("expected a tensor of numbers, found {other}"))),
    })
}

/// The stack machine that a pickle is written for, without any of its calls.
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    objects: Vec<Object>,
    stack: Vec<Id>,
    /// Heights of the stack at open marks.
    marks: Vec<usize>,
    memo: Vec<Option<Id>>,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Id> {
        loop {
            match self.byte()? {
                // Protocol, frame.
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                b'}' => self.push(Object::Dictionary(Vec::new()))?,
                b']' => self.push(Object::List(Vec::new()))?,
                b')' => self.push(Object::Tuple(Vec::new()))?,
                b'N' => self.push(Object::None)?,
                0x88 => self.push(Object::Number(1.0))?,
                0x89 => self.push(Object::Number(0.0))?,
                b'K' => self.integer(1, false)?,
                b'M' => self.integer(2, false)?,
                b'J' => self.integer(4, true)?,
                0x8a => {
                    let length = usize::from(self.byte()?);
                    self.integer(length, true)?;
                }
                b'G' => {
                    let bytes = self.take(8)?.first_chunk().copied().unwrap_or_default();
                    self.push(Object::Number(f64::from_be_bytes(bytes)))?;
                }
                0x8c => {
                    let length = usize::from(self.byte()?);
                    self.text(length)?;
                }
                b'X' => {
                    let length = self.length(4)?;
                    self.text(length)?;
                }
                b'q' => {
                    let slot = usize::from(self.byte()?);
                    self.remember(slot)?;
                }
                b'r' => {
                    let slot = self.length(4)?;
                    self.remember(slot)?;
                }
                0x94 => self.remember(self.memo.len())?,
                b'h' => {
                    let slot = usize::from(self.byte()?);
                    self.recall(slot)?;
                }
                b'j' => {
                    let slot = self.length(4)?;
                    self.recall(slot)?;
                }
                b'0' => drop(self.pop()?),
                b't' => {
                    let items = self.marked()?;
                    self.push(Object::Tuple(items))?;
                }
                code @ 0x85..=0x87 => {
                    let items = self.top(usize::from(code - 0x84))?;
                    self.push(Object::Tuple(items))?;
                }
                b'a' => {
                    let items = self.top(1)?;
                    self.extend(items)?;
                }
                b'e' => {
                    let items = self.marked()?;
                    self.extend(items)?;
                }
                b's' => {
                    let items = self.top(2)?;
                    self.set(&items)?;
                }
                b'u' => {
                    let items = self.marked()?;
                    self.set(&items)?;
                }
                b'c' => {
                    let module = self.line()?;
                    let name = self.line()?;
                    self.class(&module, &name)?;
                }
                0x93 => {
                    let names = self.top(2)?;
                    let [module, name] = [names[0], names[1]].map(|id| match &self.objects[id] {
                        Object::Text(text) => text.clone(),
                        _ => String::new(),
                    });
                    self.class(&module, &name)?;
                }
                b'Q' => self.storage()?,
                b'R' => self.build()?,
                other => {
                    return Err(Error::unsupported(format!(
                        "expected a pickle of numbers, text, lists, dictionaries and tensors, found the instruction 0x{other:02x}: not run"
                    )));
                }
            }
        }
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn take(&mut self, count: usize) -> Result<&[u8]> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| Error::new("expected a whole pickle, found its end"))?;
        let start = std::mem::replace(&mut self.at, end);
        Ok(&self.bytes[start..end])
    }

    fn length(&mut self, bytes: usize) -> Result<usize> {
        let raw = self.take(bytes)?;
        Ok(raw.iter().rev().fold(0, |value, &byte| value << 8 | usize::from(byte)))
    }

    fn integer(&mut self, bytes: usize, signed: bool) -> Result<()> {
        if bytes > 8 {
            return Err(Error::new("expected numbers of at most 64 bits, found a larger one"));
        }
        let raw = self.take(bytes)?;
        let negative = signed && raw.last().is_some_and(|byte| byte & 0x80 != 0);
        let fill = if negative { -1_i64 } else { 0 };
        let value = raw.iter().rev().fold(fill, |value, &byte| value << 8 | i64::from(byte));
        self.push(Object::Number(value as f64))
    }

    fn text(&mut self, length: usize) -> Result<()> {
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.push(Object::Text(text))
    }

    fn line(&mut self) -> Result<String> {
        let rest = &self.bytes[self.at..];
        let end =
            rest.iter().position(|&b| b == b'\n').ok_or_else(|| Error::new("expected a name, found no end of line"))?;
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        self.at += end + 1;
        Ok(line)
    }

    fn push(&mut self, object: Object) -> Result<()> {
        if self.objects.len() == MAX_OBJECTS {
            return Err(Error::new(format!("expected at most {MAX_OBJECTS} objects, found more")));
        }
        self.stack.push(self.objects.len());
        self.objects.push(object);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id> {
        self.stack.pop().ok_or_else(|| Error::new("expected an object on the stack, found none"))
    }

    fn top(&mut self, count: usize) -> Result<Vec<Id>> {
        let start = self.stack.len().checked_sub(count);
        let start = start.ok_or_else(|| Error::new(format!("expected {count} objects on the stack, found fewer")))?;
        Ok(self.stack.split_off(start))
    }

    fn marked(&mut self) -> Result<Vec<Id>> {
        let start = self.marks.pop().filter(|&start| start <= self.stack.len());
        start.map(|start| self.stack.split_off(start)).ok_or_else(|| Error::new("expected a mark, found none"))
    }

    fn remember(&mut self, slot: usize) -> Result<()> {
        let id = *self.stack.last().ok_or_else(|| Error::new("expected an object on the stack, found none"))?;
        if slot > self.memo.len().saturating_add(1 << 16) {
            return Err(Error::new("expected slots in order, found a gap"));
        }
        if slot >= self.memo.len() {
            self.memo.resize(slot + 1, None);
        }
        self.memo[slot] = Some(id);
        Ok(())
    }

    fn recall(&mut self, slot: usize) -> Result<()> {
        let id = self.memo.get(slot).copied().flatten();
        self.stack.push(id.ok_or_else(|| Error::new(format!("expected something in slot {slot}, found nothing")))?);
        Ok(())
    }

    fn last(&mut self) -> Result<&mut Object> {
        let id = *self.stack.last().ok_or_else(|| Error::new("expected an object on the stack, found none"))?;
        Ok(&mut self.objects[id])
    }

    fn extend(&mut self, items: Vec<Id>) -> Result<()> {
        let Object::List(list) = self.last()? else { return Err(Error::new("expected a list, found something else")) };
        list.extend(items);
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Result<()> {
        let Object::Dictionary(entries) = self.last()? else {
            return Err(Error::new("expected a dictionary, found something else"));
        };
        entries.extend(items.as_chunks().0.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }

    fn class(&mut self, module: &str, name: &str) -> Result<()> {
        let full = format!("{module} {name}");
        let Some(known) = KNOWN.iter().find(|known| **known == full) else {
            return Err(Error::unsupported(format!(
                "expected a pickle of numbers, text, lists, dictionaries and tensors, found {module}.{name}: not run"
            )));
        };
        self.push(Object::Class(known))
    }

    /// `('storage', class, key, device, length)`.
    fn storage(&mut self) -> Result<()> {
        let id = self.pop()?;
        let Object::Tuple(items) = &self.objects[id] else {
            return Err(Error::new("expected a storage, found something else"));
        };
        match items.iter().map(|&id| &self.objects[id]).collect::<Vec<_>>()[..] {
            [Object::Text(kind), Object::Class(class), Object::Text(key), ..] if kind == "storage" => {
                let storage = Object::Storage { class, key: key.clone() };
                self.push(storage)
            }
            _ => Err(Error::new("expected a storage with type and name, found something else")),
        }
    }

    /// What a call of one of the known functions would return.
    fn build(&mut self) -> Result<()> {
        let [function, arguments] = self.top(2)?[..] else { return Err(Error::new("expected a call, found none")) };
        let (Object::Class(class), Object::Tuple(arguments)) = (&self.objects[function], &self.objects[arguments])
        else {
            return Err(Error::unsupported("expected a call of a known function, found another: not run"));
        };
        let wrong = || Error::new(format!("expected other arguments of {class}"));
        let object = match *class {
            "collections OrderedDict" => Object::Dictionary(Vec::new()),
            "torch Size" => {
                Object::Tuple(arguments.first().and_then(|&id| self.sequence(id)).ok_or_else(wrong)?.to_vec())
            }
            "torch._utils _rebuild_tensor_v2" => {
                let [storage, offset, shape, strides] = *arguments.first_chunk().ok_or_else(wrong)?;
                let sizes = |id| self.sequence(id)?.iter().map(|&id| self.size(id)).collect::<Option<Vec<usize>>>();
                let (shape, strides) = sizes(shape).zip(sizes(strides)).ok_or_else(wrong)?;
                if shape.len() != strides.len() {
                    return Err(wrong());
                }
                Object::Tensor { storage, offset: self.size(offset).ok_or_else(wrong)?, shape, strides }
            }
            other => return Err(Error::unsupported(format!("expected no call of {other}, found one: not run"))),
        };
        self.push(object)
    }

    fn sequence(&self, id: Id) -> Option<&[Id]> {
        if let Object::Tuple(items) | Object::List(items) = &self.objects[id] { Some(items) } else { None }
    }

    fn size(&self, id: Id) -> Option<usize> {
        match self.objects[id] {
            Object::Number(value) if (0.0..9e15).contains(&value) && value.fract() == 0.0 => Some(value as usize),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn zip(pickle: &[u8], data: &[u8]) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        let mut zip = zip::ZipWriter::new(&mut bytes);
        for (name, content) in [("x/data.pkl", pickle), ("x/byteorder", b"little"), ("x/data/0", data)] {
            zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(content).unwrap();
        }
        zip.finish().unwrap();
        bytes.into_inner()
    }

    fn refusal(pickle: &[u8]) -> String {
        File::open(&zip(pickle, &[]), &mut { 1 << 20 }).err().expect("a refusal").to_string()
    }

    #[test]
    fn runs_nothing() {
        let system = refusal(b"\x80\x02cposix\nsystem\nX\x02\0\0\0ls\x85R.");
        assert!(system.contains("found posix.system: not run"), "{system}");
        assert!(refusal(b"\x80\x02c__builtin__\neval\n.").contains("__builtin__.eval: not run"));
        assert!(refusal(b"\x80\x04\x8c\x02os\x8c\x05popen\x93.").contains("os.popen: not run"));
        // Building an instance, and an old-style one.
        assert!(refusal(b"\x80\x02}}b.").contains("instruction 0x62: not run"));
        assert!(refusal(b"(i__main__\nX\n.").contains("instruction 0x69: not run"));
        assert!(refusal(b"\x80\x02ctorch\nLongStorage\n)R.").contains("no call of torch LongStorage"));
    }

    #[test]
    fn strides_and_types_are_kept() {
        // A transposed view of [[1, 2, 3], [4, 5, 6]] as int16, saved under "a".
        let pickle = b"\x80\x02}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nShortStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQK\0K\x03K\x02\x86K\x01K\x03\x86\x89ccollections\nOrderedDict\n)RtRs.";
        let data: Vec<u8> = (1..=6_i16).flat_map(i16::to_le_bytes).collect();
        let archive = zip(pickle, &data);
        let mut budget = 1 << 20;
        let mut file = File::open(&archive, &mut budget).unwrap();
        let id = file.get(file.root(), "a").unwrap();
        let tensor = file.tensor(id, &mut budget).unwrap();
        assert_eq!(tensor, Tensor { shape: vec![3, 2], values: vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0] });
        assert!(file.tensor(id, &mut 10).unwrap_err().to_string().contains("at most 10 bytes"));
        let short = zip(pickle, &data[..10]);
        let mut file = File::open(&short, &mut budget).unwrap();
        let id = file.get(file.root(), "a").unwrap();
        assert!(file.tensor(id, &mut budget).unwrap_err().to_string().contains("goes beyond its 10 bytes"));
    }

    proptest! {
        #[test]
        fn no_pickle_brings_it_down(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = File::open(&zip(&bytes, &[0; 8]), &mut { 1 << 20 });
            let starts = [b"\x80\x02}(]X\x01\0\0\0aK\x05", &bytes[..]].concat();
            let _ = File::open(&zip(&starts, &[0; 8]), &mut { 1 << 20 });
        }
    }
}
