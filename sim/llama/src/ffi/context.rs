//! A context of llama.cpp with a tap: what sees, and may alter, tensors while a batch of tokens is computed.

use std::any::Any;
use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;

use cptr_trace::error::{Error, Result};

use super::{Model, sys};

// Of the CPU back end; the crate's bindings leave its header out.
unsafe extern "C" {
    fn ggml_threadpool_new(parameters: *mut sys::ggml_threadpool_params) -> sys::ggml_threadpool_t;
    fn ggml_threadpool_free(pool: sys::ggml_threadpool_t);
}

/// What sees tensors while tokens are computed.
pub(crate) trait Tap {
    /// Whether a node is to be shown once it is computed. The graph is computed up to each node of which this is true,
    /// so that every one costs a wait.
    fn wants(&mut self, node: &Node<'_>) -> bool;

    /// A node that was asked for has been computed. `false` ends the computation; the tap knows why.
    fn see(&mut self, node: &mut Node<'_>) -> bool;
}

/// Sees nothing: llama.cpp alone.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Untapped;

impl Tap for Untapped {
    fn wants(&mut self, _: &Node<'_>) -> bool {
        false
    }

    fn see(&mut self, _: &mut Node<'_>) -> bool {
        true
    }
}

/// A tensor of the graph during a callback.
pub(crate) struct Node<'a> {
    raw: NonNull<sys::ggml_tensor>,
    during: PhantomData<&'a mut sys::ggml_tensor>,
}

/// The stacked matrices of a layer's experts, as a node that multiplies with them has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Weights {
    /// Name of the tensor, as in the file.
    pub(crate) name: String,
    /// Where its data are.
    pub(crate) address: usize,
    /// Bytes of one expert.
    pub(crate) expert_bytes: usize,
    /// Experts.
    pub(crate) experts: usize,
    /// Whether the data are in main memory.
    pub(crate) on_host: bool,
}

impl Node<'_> {
    fn tensor(&self) -> &sys::ggml_tensor {
        // SAFETY: llama.cpp passes a tensor that lives during the callback, and so during 'a.
        unsafe { self.raw.as_ref() }
    }

    /// The number of its layer, if its name is `prefix` and a number.
    pub(crate) fn layer(&self, prefix: &[u8]) -> Option<usize> {
        let name = &self.tensor().name;
        // Names are of single bytes, whatever `c_char` is.
        if !prefix.iter().zip(name).all(|(&a, &b)| a == b as u8) {
            return None;
        }
        let digits = name[prefix.len()..].iter().map(|&c| c as u8).take_while(|&c| c != 0);
        let mut layer = None;
        for digit in digits {
            if !digit.is_ascii_digit() {
                return None;
            }
            layer = Some(layer.unwrap_or(0_usize).checked_mul(10)?.checked_add(usize::from(digit - b'0'))?);
        }
        layer
    }

    /// Length of a row, and rows.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        let sizes = self.tensor().ne;
        let of = |size: i64| usize::try_from(size).unwrap_or(0);
        (of(sizes[0]), of(sizes[1]))
    }

    /// Whether a row is of floats of 32 bits.
    pub(crate) fn is_f32(&self) -> bool {
        self.tensor().type_ == sys::GGML_TYPE_F32
    }

    /// Whether it multiplies with experts' matrices.
    pub(crate) fn multiplies_experts(&self) -> bool {
        self.tensor().op == sys::GGML_OP_MUL_MAT_ID
    }

    /// Whether it multiplies with experts' matrices, and with which.
    pub(crate) fn experts(&self) -> Option<Weights> {
        let tensor = self.tensor();
        if tensor.op != sys::GGML_OP_MUL_MAT_ID {
            return None;
        }
        // SAFETY: such a node has its matrices as its first source, which lives as long as the model; its name ends in
        // zero. A tensor without a buffer of its own is not asked where it lies.
        unsafe {
            let matrices = tensor.src[0].as_ref()?;
            let buffer = matrices.buffer;
            Some(Weights {
                name: CStr::from_ptr(matrices.name.as_ptr()).to_string_lossy().into_owned(),
                address: matrices.data as usize,
                expert_bytes: matrices.nb[2],
                experts: usize::try_from(matrices.ne[2]).unwrap_or(0),
                on_host: !buffer.is_null() && sys::ggml_backend_buffer_is_host(buffer),
            })
        }
    }

    /// Appends all floats, row by row.
    ///
    /// # Panics
    /// Never: other types give nothing.
    pub(crate) fn read_f32(&self, values: &mut Vec<f32>) {
        if self.is_f32() {
            self.read(values);
        }
    }

    /// Appends all whole numbers of 32 bits, row by row.
    pub(crate) fn read_i32(&self, values: &mut Vec<i32>) {
        if self.tensor().type_ == sys::GGML_TYPE_I32 {
            self.read(values);
        }
    }

    fn read<T: Copy + Default>(&self, values: &mut Vec<T>) {
        let (width, rows) = self.sizes();
        let first = values.len();
        values.resize(first + width * rows, T::default());
        let stride = self.tensor().nb[1];
        for (row, to) in values[first..].chunks_exact_mut(width.max(1)).enumerate() {
            // SAFETY: `T` is as wide as the tensor's type, as the callers check, so that a row of `width` of them is
            // inside the tensor at its stride; the buffer is as long.
            unsafe {
                let to = to.as_mut_ptr().cast::<c_void>();
                sys::ggml_backend_tensor_get(self.raw.as_ptr(), to, row * stride, width * size_of::<T>());
            }
        }
    }

    /// Writes a row of whole numbers of 32 bits, if there is such a row of this length.
    pub(crate) fn write_i32(&mut self, row: usize, values: &[i32]) {
        let (width, rows) = self.sizes();
        if self.tensor().type_ != sys::GGML_TYPE_I32 || row >= rows || values.len() != width {
            return;
        }
        let offset = row * self.tensor().nb[1];
        // SAFETY: the row is inside the tensor and as long as the values; nothing else computes with it during the
        // callback.
        unsafe {
            sys::ggml_backend_tensor_set(self.raw.as_ptr(), values.as_ptr().cast(), offset, size_of_val(values));
        }
    }
}

/// Sizes of a context.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Tokens at most, of all sequences together.
    pub(crate) tokens: usize,
    /// Tokens of a batch at most.
    pub(crate) batch: usize,
    /// Sequences.
    pub(crate) sequences: usize,
    /// Threads that compute.
    pub(crate) threads: usize,
}

/// The tap, and a panic of it that must not unwind through C.
struct Tapped<T> {
    tap: T,
    panic: Option<Box<dyn Any + Send>>,
}

/// A token of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) id: u32,
    pub(crate) sequence: usize,
    /// Tokens of the sequence before it.
    pub(crate) position: usize,
}

/// A context: keys and values of sequences.
pub(crate) struct Context<'m, T: Tap> {
    raw: NonNull<sys::llama_context>,
    pool: sys::ggml_threadpool_t,
    batch: sys::llama_batch,
    room: usize,
    sequences: usize,
    vocabulary: usize,
    /// Owned; the callback gets it during [`Self::decode`] only.
    tapped: *mut Tapped<T>,
    model: PhantomData<&'m Model>,
}

impl<'m, T: Tap> Context<'m, T> {
    /// A context; keys and values are f32.
    ///
    /// # Errors
    /// If llama.cpp has no memory for it.
    pub(crate) fn new(model: &'m Model, options: Options, tap: T) -> Result<Self> {
        Self::with(model, options, tap, true)
    }

    /// The same without the callback: what llama.cpp is by itself.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(crate) fn untapped(model: &'m Model, options: Options, tap: T) -> Result<Self> {
        Self::with(model, options, tap, false)
    }

    fn with(model: &'m Model, options: Options, tap: T, taps: bool) -> Result<Self> {
        let count = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let small = |value: usize| i32::try_from(value).unwrap_or(i32::MAX);
        let Options { tokens, batch, sequences, threads } = options;
        super::forget();
        let tapped = Box::into_raw(Box::new(Tapped { tap, panic: None }));
        // SAFETY: default parameters are plain values; the model outlives the context by its lifetime, and what the
        // callback gets outlives it because `drop` frees the context first. The pool of threads is freed behind it.
        unsafe {
            let mut parameters = sys::llama_context_default_params();
            parameters.n_ctx = count(tokens);
            // Of every sequence it makes room for a prediction.
            parameters.n_batch = count(batch.max(sequences));
            parameters.n_ubatch = count(batch);
            parameters.n_seq_max = count(sequences);
            // In one buffer, so that the tokens of a batch run together whatever sequences they are of.
            parameters.kv_unified = sequences > 1;
            parameters.n_threads = small(threads);
            parameters.n_threads_batch = small(threads);
            parameters.type_k = sys::GGML_TYPE_F32;
            parameters.type_v = sys::GGML_TYPE_F32;
            // Which of its kernels runs would depend on the machine.
            parameters.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_DISABLED;
            parameters.no_perf = true;
            if taps {
                parameters.cb_eval = Some(callback::<T>);
                parameters.cb_eval_user_data = tapped.cast();
            }
            let raw = sys::llama_init_from_model(model.raw.as_ptr(), parameters);
            let Some(raw) = NonNull::new(raw) else {
                drop(Box::from_raw(tapped));
                return Err(Error::new(super::complaint("expected memory for a context")));
            };
            // Without a pool every part of the graph between two nodes that are asked for would start threads of its
            // own.
            let mut parameters = sys::ggml_threadpool_params_default(small(threads));
            let pool = ggml_threadpool_new(&raw mut parameters);
            sys::llama_attach_threadpool(raw.as_ptr(), pool, pool);
            Ok(Self {
                raw,
                pool,
                batch: sys::llama_batch_init(small(batch), 0, 1),
                room: batch,
                sequences,
                vocabulary: model.vocabulary(),
                tapped,
                model: PhantomData,
            })
        }
    }

    /// The tap.
    pub(crate) fn tap(&mut self) -> &mut T {
        // SAFETY: made by `Box::into_raw`; the callback, which has the only other pointer, runs inside `decode` only,
        // and that borrows `self` exclusively.
        unsafe { &mut (*self.tapped).tap }
    }

    /// Forgets all keys and values.
    pub(crate) fn clear(&mut self) {
        // SAFETY: the context is alive.
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(self.raw.as_ptr()), true) };
    }

    /// Computes tokens of the first sequence that follow those so far, the first at `position`, with predictions of all
    /// of them.
    ///
    /// # Errors
    /// As [`Self::decode_all`].
    pub(crate) fn decode(&mut self, tokens: &[u32], position: usize) -> Result<()> {
        let tokens = tokens.iter().zip(position..).map(|(&id, position)| Token { id, sequence: 0, position });
        self.decode_all(&tokens.collect::<Vec<_>>())
    }

    /// Computes tokens that follow those of their sequences so far, with predictions of all of them.
    ///
    /// # Errors
    /// More tokens than a batch takes, ids that the model does not have or sequences that the context does not; what
    /// llama.cpp refuses. Where the tap ended the computation, its own reason comes first: ask it.
    pub(crate) fn decode_all(&mut self, tokens: &[Token]) -> Result<()> {
        if tokens.is_empty() || tokens.len() > self.room {
            return Err(Error::new(format!("expected 1 to {} tokens, found {}", self.room, tokens.len())));
        }
        if let Some(token) = tokens.iter().find(|token| token.id as usize >= self.vocabulary) {
            return Err(Error::new(format!("expected token ids below {}, found {}", self.vocabulary, token.id)));
        }
        if let Some(token) = tokens.iter().find(|token| token.sequence >= self.sequences) {
            return Err(Error::new(format!("expected sequences below {}, found {}", self.sequences, token.sequence)));
        }
        super::forget();
        // SAFETY: the batch was made for `room` tokens of one sequence each, and all fields of those in use are set.
        let code = unsafe {
            for (at, token) in tokens.iter().enumerate() {
                *self.batch.token.add(at) = token.id as i32;
                *self.batch.pos.add(at) = token.position as i32;
                *self.batch.n_seq_id.add(at) = 1;
                **self.batch.seq_id.add(at) = token.sequence as i32;
                *self.batch.logits.add(at) = 1;
            }
            self.batch.n_tokens = tokens.len() as i32;
            let code = sys::llama_decode(self.raw.as_ptr(), self.batch);
            sys::llama_synchronize(self.raw.as_ptr());
            code
        };
        // SAFETY: as in `tap`; the callback has returned.
        if let Some(panic) = unsafe { (*self.tapped).panic.take() } {
            resume_unwind(panic);
        }
        match code {
            0 => Ok(()),
            1 => Err(Error::new(format!("expected room for {} more tokens in the context, found none", tokens.len()))),
            _ => Err(Error::new(super::complaint("llama.cpp could not compute the tokens"))),
        }
    }

    /// Predictions `[V]` behind a token of the last call of [`Self::decode`]; empty where there was none.
    pub(crate) fn logits(&self, token: usize) -> &[f32] {
        // SAFETY: the context is alive, and its predictions are as many as the vocabulary has ids; the next call that
        // changes them borrows `self` exclusively.
        unsafe {
            let logits = sys::llama_get_logits_ith(self.raw.as_ptr(), i32::try_from(token).unwrap_or(i32::MAX));
            if logits.is_null() { &[] } else { std::slice::from_raw_parts(logits, self.vocabulary) }
        }
    }
}

impl<T: Tap> Drop for Context<'_, T> {
    fn drop(&mut self) {
        // SAFETY: each was made by the function that belongs to it and is freed once, the context before what it uses.
        unsafe {
            sys::llama_batch_free(self.batch);
            sys::llama_free(self.raw.as_ptr());
            ggml_threadpool_free(self.pool);
            drop(Box::from_raw(self.tapped));
        }
    }
}

/// What llama.cpp calls for every node: before it is computed to ask, behind it to show.
unsafe extern "C" fn callback<T: Tap>(tensor: *mut sys::ggml_tensor, ask: bool, data: *mut c_void) -> bool {
    let Some(raw) = NonNull::new(tensor) else { return !ask };
    // SAFETY: the context passes what it was made with, and calls one at a time, inside `decode`.
    let tapped = unsafe { &mut *data.cast::<Tapped<T>>() };
    let mut node = Node { raw, during: PhantomData };
    let tap = &mut tapped.tap;
    let run = AssertUnwindSafe(|| if ask { tap.wants(&node) } else { tap.see(&mut node) });
    match catch_unwind(run) {
        Ok(answer) => answer,
        Err(panic) => {
            tapped.panic = Some(panic);
            // Ends the computation, or asks for nothing more.
            false
        }
    }
}

/// Names in bindings are arrays of `c_char`, which is signed here and unsigned there; both are one byte.
const _: () = assert!(size_of::<c_char>() == 1);
