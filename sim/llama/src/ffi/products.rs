//! Matrix-vector products of ggml on the CPU, on one thread.

use std::ffi::c_void;
use std::ptr;

use cptr_trace::error::{Error, Result};

use super::{complaint, forget, start, sys};

/// How ggml keeps the rows of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// As in the file.
    Plain,
    /// Several rows interleaved, as llama.cpp does where it loads weights for the CPU.
    Repacked,
}

/// Matrices in `q4_0`, all of one content in memory of their own, and their products with one vector.
pub(crate) struct Products {
    backend: sys::ggml_backend_t,
    contexts: [*mut sys::ggml_context; 2],
    buffers: [sys::ggml_backend_buffer_t; 2],
    graph: *mut sys::ggml_cgraph,
    vector: *mut sys::ggml_tensor,
    first: *mut sys::ggml_tensor,
    rows: usize,
    columns: usize,
}

impl Products {
    /// `count` matrices of these weights, `[rows, columns]`, columns a multiple of 32. `None` where ggml has no such
    /// rows on this processor.
    pub(crate) fn new(weights: &[f32], columns: usize, count: usize, rows: Rows) -> Result<Option<Self>> {
        start();
        forget();
        let failed = || Error::unsupported(complaint("expected ggml to multiply matrices, it refused"));
        let height = weights.len() / columns;
        let (wide, high) = (columns as i64, height as i64);
        // SAFETY: plain calls of C with sizes that fit; every result is checked before it is used, and what was made is
        // freed by `drop` in the reverse order.
        unsafe {
            let backend = sys::ggml_backend_cpu_init();
            if backend.is_null() {
                return Err(failed());
            }
            sys::ggml_backend_cpu_set_n_threads(backend, 1);
            let mut own = Self {
                backend,
                contexts: [ptr::null_mut(); 2],
                buffers: [ptr::null_mut(); 2],
                graph: ptr::null_mut(),
                vector: ptr::null_mut(),
                first: ptr::null_mut(),
                rows: height,
                columns,
            };
            let Some(kind) = buffer_type(rows) else { return Ok(None) };
            let nodes = 2 * count + 8;
            let mem_size = nodes * sys::ggml_tensor_overhead() + sys::ggml_graph_overhead_custom(nodes, false);
            for context in &mut own.contexts {
                *context =
                    sys::ggml_init(sys::ggml_init_params { mem_size, mem_buffer: ptr::null_mut(), no_alloc: true });
                if context.is_null() {
                    return Err(failed());
                }
            }
            let [of_weights, of_vectors] = own.contexts;
            let matrices: Vec<_> =
                (0..count).map(|_| sys::ggml_new_tensor_2d(of_weights, sys::GGML_TYPE_Q4_0, wide, high)).collect();
            own.vector = sys::ggml_new_tensor_2d(of_vectors, sys::GGML_TYPE_F32, wide, 1);
            own.graph = sys::ggml_new_graph_custom(of_vectors, nodes, false);
            for &matrix in &matrices {
                let product = sys::ggml_mul_mat(of_vectors, matrix, own.vector);
                own.first = if own.first.is_null() { product } else { own.first };
                sys::ggml_build_forward_expand(own.graph, product);
            }
            own.buffers = [
                sys::ggml_backend_alloc_ctx_tensors_from_buft(of_weights, kind),
                sys::ggml_backend_alloc_ctx_tensors_from_buft(of_vectors, sys::ggml_backend_cpu_buffer_type()),
            ];
            if own.buffers.iter().any(|buffer| buffer.is_null()) {
                return Err(failed());
            }
            let mut packed = vec![0u8; height * columns / 32 * 18];
            let to = packed.as_mut_ptr().cast::<c_void>();
            sys::ggml_quantize_chunk(sys::GGML_TYPE_Q4_0, weights.as_ptr(), to, 0, high, wide, ptr::null());
            for matrix in matrices {
                sys::ggml_backend_tensor_set(matrix, packed.as_ptr().cast(), 0, packed.len());
            }
            Ok(Some(own))
        }
    }

    /// Multiplies all matrices with a vector of as many numbers as they have columns.
    pub(crate) fn run(&mut self, vector: &[f32]) -> Result<()> {
        assert_eq!(vector.len(), self.columns);
        // SAFETY: the tensor has been allocated with so many numbers; the graph holds tensors that have been allocated.
        let status = unsafe {
            sys::ggml_backend_tensor_set(self.vector, vector.as_ptr().cast(), 0, size_of_val(vector));
            sys::ggml_backend_graph_compute(self.backend, self.graph)
        };
        if status == sys::GGML_STATUS_SUCCESS {
            Ok(())
        } else {
            Err(Error::unsupported(complaint("expected ggml to multiply matrices, it failed")))
        }
    }

    /// The product with the first matrix.
    pub(crate) fn product(&self) -> Vec<f32> {
        let mut product = vec![0.0; self.rows];
        // SAFETY: the tensor has been allocated and has so many numbers.
        unsafe {
            let size = size_of_val(&*product);
            sys::ggml_backend_tensor_get(self.first, product.as_mut_ptr().cast(), 0, size);
        }
        product
    }
}

/// Where ggml keeps such rows.
///
/// # Safety
/// llama.cpp has been started.
unsafe fn buffer_type(rows: Rows) -> Option<sys::ggml_backend_buffer_type_t> {
    // SAFETY: the function of that name has that type (ggml-backend.h); its list ends in null.
    unsafe {
        if rows == Rows::Plain {
            return Some(sys::ggml_backend_cpu_buffer_type());
        }
        let registry = sys::ggml_backend_cpu_reg();
        let address = sys::ggml_backend_reg_get_proc_address(registry, c"ggml_backend_dev_get_extra_bufts".as_ptr());
        if address.is_null() {
            return None;
        }
        let extra = std::mem::transmute::<*mut c_void, sys::ggml_backend_dev_get_extra_bufts_t>(address)?;
        let mut list = extra(sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU));
        while !list.is_null() && !(*list).is_null() {
            let name = std::ffi::CStr::from_ptr(sys::ggml_backend_buft_name(*list));
            if name.to_bytes() == b"CPU_REPACK" {
                return Some(*list);
            }
            list = list.add(1);
        }
        None
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        // SAFETY: each has been made by the function that belongs to it or is null, and is used no more.
        unsafe {
            self.buffers.iter().filter(|buffer| !buffer.is_null()).for_each(|&buffer| {
                sys::ggml_backend_buffer_free(buffer);
            });
            self.contexts.iter().filter(|context| !context.is_null()).for_each(|&context| sys::ggml_free(context));
            sys::ggml_backend_free(self.backend);
        }
    }
}
