//! Writes GGUF files: a header with keys and tensors, then the tensors' data, each where the header says.
//!
//! The format is that of llama.cpp's `gguf.h`, version 3, little-endian.

use std::io::Write;

/// The value of a key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
}

/// Type of a tensor's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    F32,
    /// 32 values of 4 bits with a scale of 16: 18 bytes.
    Q4_0,
    /// 32 values of 8 bits with a scale of 16: 34 bytes.
    Q8_0,
}

impl Type {
    /// Number of the type in llama.cpp.
    const fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::Q4_0 => 2,
            Self::Q8_0 => 8,
        }
    }

    /// Bytes of so many values, which are whole blocks.
    pub(crate) const fn bytes(self, values: u64) -> u64 {
        match self {
            Self::F32 => 4 * values,
            Self::Q4_0 => values / 32 * 18,
            Self::Q8_0 => values / 32 * 34,
        }
    }
}

/// What the header says.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    /// Tensors begin at multiples of this many bytes.
    alignment: u64,
    keys: Vec<(String, Value)>,
    tensors: Vec<(String, Vec<u64>, Type)>,
}

impl Header {
    /// A header without tensors of a model of this architecture.
    pub(crate) fn new(architecture: &str, alignment: u32) -> Self {
        let keys = vec![
            ("general.architecture".into(), Value::Text(architecture.into())),
            ("general.alignment".into(), Value::U32(alignment)),
        ];
        Self { alignment: alignment.into(), keys, tensors: Vec::new() }
    }

    /// Adds a key.
    pub(crate) fn key(&mut self, key: &str, value: Value) {
        self.keys.push((key.into(), value));
    }

    /// Adds a tensor; `sizes` the fastest first.
    pub(crate) fn tensor(&mut self, name: impl Into<String>, sizes: &[u64], kind: Type) {
        self.tensors.push((name.into(), sizes.into(), kind));
    }

    /// Bytes of each tensor, in their order.
    pub(crate) fn lengths(&self) -> Vec<u64> {
        self.tensors.iter().map(|(_, sizes, kind)| kind.bytes(sizes.iter().product())).collect()
    }

    /// Writes header and data; `data` writes the bytes of the tensor with this index, all of them.
    pub(crate) fn write(
        &self,
        out: &mut dyn Write,
        mut data: impl FnMut(usize, &mut dyn Write) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let mut head = Vec::new();
        head.extend_from_slice(b"GGUF");
        head.extend_from_slice(&3_u32.to_le_bytes());
        head.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        head.extend_from_slice(&(self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            text(&mut head, key);
            value.write(&mut head);
        }
        let mut offset = 0_u64;
        for ((name, sizes, kind), length) in self.tensors.iter().zip(self.lengths()) {
            text(&mut head, name);
            head.extend_from_slice(&(sizes.len() as u32).to_le_bytes());
            sizes.iter().for_each(|size| head.extend_from_slice(&size.to_le_bytes()));
            head.extend_from_slice(&kind.number().to_le_bytes());
            head.extend_from_slice(&offset.to_le_bytes());
            offset += length.next_multiple_of(self.alignment);
        }
        out.write_all(&head)?;
        self.pad(out, head.len() as u64)?;
        for (index, length) in self.lengths().into_iter().enumerate() {
            data(index, out)?;
            self.pad(out, length)?;
        }
        Ok(())
    }

    /// Zeros up to the next multiple of the alignment.
    fn pad(&self, out: &mut dyn Write, written: u64) -> std::io::Result<()> {
        let zeros = written.next_multiple_of(self.alignment) - written;
        out.write_all(&vec![0; zeros as usize])
    }
}

impl Value {
    fn write(&self, head: &mut Vec<u8>) {
        let mut kind = |number: u32| head.extend_from_slice(&number.to_le_bytes());
        match self {
            Self::U32(value) => {
                kind(4);
                head.extend_from_slice(&value.to_le_bytes());
            }
            Self::F32(value) => {
                kind(6);
                head.extend_from_slice(&value.to_le_bytes());
            }
            Self::Bool(value) => {
                kind(7);
                head.push((*value).into());
            }
            Self::Text(value) => {
                kind(8);
                text(head, value);
            }
            Self::Texts(values) => {
                kind(9);
                kind(8);
                head.extend_from_slice(&(values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| text(head, value));
            }
            Self::I32s(values) => {
                kind(9);
                kind(5);
                head.extend_from_slice(&(values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| head.extend_from_slice(&value.to_le_bytes()));
            }
        }
    }
}

fn text(head: &mut Vec<u8>, text: &str) {
    head.extend_from_slice(&(text.len() as u64).to_le_bytes());
    head.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::Gguf;

    /// llama.cpp reads back what was written, and where.
    #[test]
    fn llama_cpp_reads_it() {
        let mut header = Header::new("olmoe", 4096);
        header.key("olmoe.block_count", Value::U32(7));
        header.key("a.float", Value::F32(1.5));
        header.key("a.flag", Value::Bool(true));
        header.key("a.list", Value::Texts(vec!["x".into(), "yz".into()]));
        header.key("a.numbers", Value::I32s(vec![-1, 2]));
        header.tensor("one", &[3], Type::F32);
        header.tensor("two", &[64, 2], Type::Q4_0);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        cptr_trace::file::replace(&path, |out| {
            header.write(out, |index, out| match index {
                0 => out.write_all(&[7; 12]),
                _ => out.write_all(&[9; 72]),
            })
        })
        .unwrap();
        let gguf = Gguf::open(&path).unwrap();
        assert_eq!(gguf.text("general.architecture").as_deref(), Some("olmoe"));
        assert_eq!((gguf.number("olmoe.block_count"), gguf.number("a.float")), (Some(7), None));
        assert_eq!((gguf.float("a.float"), gguf.flag("a.flag")), (Some(1.5), Some(true)));
        let tensors = gguf.tensors();
        assert_eq!(tensors[1].kind, "q4_0");
        assert_eq!((tensors[1].bytes, tensors[1].sizes), (72, [64, 2, 1, 1]));
        assert_eq!(tensors[1].offset, tensors[0].offset + 4096);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes[tensors[1].offset as usize..][..72], [9; 72]);
        // Cut inside the last tensor.
        std::fs::write(&path, &bytes[..tensors[1].offset as usize + 71]).unwrap();
        assert!(Gguf::open(&path).unwrap_err().to_string().contains("truncated"));
        std::fs::write(&path, b"GGUX").unwrap();
        assert!(Gguf::open(&path).is_err());
    }
}
