//! What a GGUF file says about itself, without its tensors' data.

use std::ffi::{CStr, CString};
use std::path::Path;
use std::ptr::NonNull;

use cptr_trace::error::{Error, Result};

use super::sys;

/// The header of a GGUF file.
#[derive(Debug)]
pub(crate) struct Gguf {
    raw: NonNull<sys::gguf_context>,
}

/// Where a tensor lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Info {
    /// Its name.
    pub(crate) name: String,
    /// Bytes from the beginning of the file.
    pub(crate) offset: u64,
    /// Bytes of it.
    pub(crate) bytes: u64,
    /// Sizes, the fastest first; 1 behind the last.
    pub(crate) sizes: [i64; 4],
    /// Name of its type, such as `q4_0`.
    pub(crate) kind: String,
}

impl Gguf {
    /// Reads the header.
    ///
    /// # Errors
    /// If the file cannot be read or is no GGUF file; if a tensor ends behind the end of the file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        super::start();
        // `gguf_init_from_file` says only in its log why a file cannot be opened.
        let length = std::fs::metadata(path).map_err(|error| Error::io(path, &error))?.len();
        let name = c_path(path)?;
        super::forget();
        let parameters = sys::gguf_init_params { no_alloc: true, ctx: std::ptr::null_mut() };
        // SAFETY: the name ends in zero, and with `no_alloc` and without a context only the header is read.
        let raw = NonNull::new(unsafe { sys::gguf_init_from_file(name.as_ptr(), parameters) });
        let raw =
            raw.ok_or_else(|| Error::in_file(path, super::complaint("expected a GGUF file, found something else")))?;
        let gguf = Self { raw };
        match gguf.tensors().into_iter().find(|tensor| tensor.offset.saturating_add(tensor.bytes) > length) {
            Some(tensor) => Err(Error::in_file(
                path,
                format!(
                    "expected {} bytes, as tensor {} ends there, found {length}: the file is truncated",
                    tensor.offset.saturating_add(tensor.bytes),
                    tensor.name
                ),
            )),
            None => Ok(gguf),
        }
    }

    /// All tensors.
    pub(crate) fn tensors(&self) -> Vec<Info> {
        let raw = self.raw.as_ptr();
        // SAFETY: `raw` is a context of `gguf_init_from_file` until it is dropped; ids are those below the count, names
        // end in zero, sizes are four numbers, and both live as long as the context.
        unsafe {
            let data = sys::gguf_get_data_offset(raw) as u64;
            let of = |id: i64| {
                let sizes = std::slice::from_raw_parts(sys::gguf_get_tensor_ne(raw, id), 4);
                let kind = sys::ggml_type_name(sys::gguf_get_tensor_type(raw, id));
                Info {
                    name: CStr::from_ptr(sys::gguf_get_tensor_name(raw, id)).to_string_lossy().into_owned(),
                    offset: data.saturating_add(sys::gguf_get_tensor_offset(raw, id) as u64),
                    bytes: sys::gguf_get_tensor_size(raw, id) as u64,
                    sizes: [sizes[0], sizes[1], sizes[2], sizes[3]],
                    kind: if kind.is_null() {
                        "unknown".into()
                    } else {
                        CStr::from_ptr(kind).to_string_lossy().into_owned()
                    },
                }
            };
            (0..sys::gguf_get_n_tensors(raw)).map(of).collect()
        }
    }

    /// A text, such as the name of the architecture.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        let id = self.find(key, sys::GGUF_TYPE_STRING)?;
        // SAFETY: the key is there and its value a string, which ends in zero and lives as long as the context.
        let text = unsafe { CStr::from_ptr(sys::gguf_get_val_str(self.raw.as_ptr(), id)) };
        Some(text.to_string_lossy().into_owned())
    }

    /// A whole number of 32 bits.
    pub(crate) fn number(&self, key: &str) -> Option<u32> {
        let id = self.find(key, sys::GGUF_TYPE_UINT32)?;
        // SAFETY: the key is there and its value is of this type.
        Some(unsafe { sys::gguf_get_val_u32(self.raw.as_ptr(), id) })
    }

    /// A number.
    pub(crate) fn float(&self, key: &str) -> Option<f32> {
        let id = self.find(key, sys::GGUF_TYPE_FLOAT32)?;
        // SAFETY: the key is there and its value is of this type.
        Some(unsafe { sys::gguf_get_val_f32(self.raw.as_ptr(), id) })
    }

    /// Yes or no.
    pub(crate) fn flag(&self, key: &str) -> Option<bool> {
        let id = self.find(key, sys::GGUF_TYPE_BOOL)?;
        // SAFETY: the key is there and its value is of this type.
        Some(unsafe { sys::gguf_get_val_bool(self.raw.as_ptr(), id) })
    }

    fn find(&self, key: &str, kind: sys::gguf_type) -> Option<i64> {
        let key = CString::new(key).ok()?;
        // SAFETY: the key ends in zero; the id is asked about only if it is one.
        unsafe {
            let id = sys::gguf_find_key(self.raw.as_ptr(), key.as_ptr());
            (id >= 0 && sys::gguf_get_kv_type(self.raw.as_ptr(), id) == kind).then_some(id)
        }
    }
}

impl Drop for Gguf {
    fn drop(&mut self) {
        // SAFETY: made by `gguf_init_from_file`, and dropped once.
        unsafe { sys::gguf_free(self.raw.as_ptr()) };
    }
}

/// A path as C takes it.
pub(super) fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|_| Error::new("expected a file name without a zero byte, found one"))
}
