//! Low-bit replicas of experts: quantisers, the loss table, and the replicas as a model runs them.
//!
//! Matrices are packed in the format of [`cptr_core::expert`], which says where every bit lies.

mod grid;
mod hessian;
mod loss;
mod matrix;

pub use hessian::Hessian;
pub use loss::LossTable;
pub use matrix::{Format, Inputs, Weights, dequantise, gptq, output_error, round_to_nearest};

#[cfg(test)]
pub(crate) mod testing {
    //! Random numbers that are the same everywhere.

    pub(crate) struct Numbers(u64);

    impl Numbers {
        pub(crate) fn new(seed: u64) -> Self {
            Self(seed)
        }

        /// Uniform in 0 to 1, 1 excluded.
        pub(crate) fn uniform(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 11) as f64 / (1_u64 << 53) as f64
        }

        /// Close to a standard normal: the sum of twelve.
        pub(crate) fn normal(&mut self) -> f64 {
            (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
        }
    }
}
