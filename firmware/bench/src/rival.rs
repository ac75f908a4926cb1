//! What the rival costs: minikalman, the only other Kalman filter in fixed point for Rust. One state, one observation,
//! as one expert would need.

use core::hint::black_box;

use minikalman::buffers::types::{
    DirectProcessNoiseCovarianceMatrixBuffer, EstimateCovarianceMatrixBuffer, InnovationCovarianceMatrixBuffer,
    InnovationVectorBuffer, KalmanGainMatrixBuffer, MeasurementNoiseCovarianceMatrixBuffer, MeasurementVectorBuffer,
    ObservationMatrixMutBuffer, PredictedStateEstimateVectorBuffer, StateTransitionMatrixMutBuffer, StateVectorBuffer,
    TemporaryHPMatrixBuffer, TemporaryKHPMatrixBuffer, TemporaryPHTMatrixBuffer,
    TemporaryResidualCovarianceInvertedMatrixBuffer, TemporaryStateMatrixBuffer,
};
use minikalman::matrix::{Scalar, ScalarMut};
use minikalman::prelude::I16F16;
use minikalman::regular::{RegularKalmanBuilder, RegularObservationBuilder};

use crate::kernels::{COUNTED, Cost, counts};
use crate::random::Random;

/// Prints the cost of a token's step of one expert: prediction, observation of 0 or 1, correction. E and k are 1.
#[inline(never)]
pub(crate) fn report() {
    if !counts() {
        return;
    }
    let number = I16F16::from_bits;
    let one = || [I16F16::ONE];
    // Variances as of the steady gain 1/64: an unlikely change of the level, a noisy observation.
    let (mut a, mut x, mut p, mut q) = (one(), [I16F16::ZERO], one(), [number(16)]);
    let (mut h, mut r, mut z) = (one(), one(), [I16F16::ZERO]);
    let [mut px, mut tp, mut y, mut s, mut k, mut s_inv, mut hp, mut pht, mut khp] = [[I16F16::ZERO]; 9];
    let mut filter = RegularKalmanBuilder::new::<1, I16F16>(
        StateTransitionMatrixMutBuffer::from(&mut a[..]),
        StateVectorBuffer::from(&mut x[..]),
        EstimateCovarianceMatrixBuffer::from(&mut p[..]),
        DirectProcessNoiseCovarianceMatrixBuffer::from(&mut q[..]),
        PredictedStateEstimateVectorBuffer::from(&mut px[..]),
        TemporaryStateMatrixBuffer::from(&mut tp[..]),
    );
    let mut measurement = RegularObservationBuilder::new::<1, 1, I16F16>(
        ObservationMatrixMutBuffer::from(&mut h[..]),
        MeasurementVectorBuffer::from(&mut z[..]),
        MeasurementNoiseCovarianceMatrixBuffer::from(&mut r[..]),
        InnovationVectorBuffer::from(&mut y[..]),
        InnovationCovarianceMatrixBuffer::from(&mut s[..]),
        KalmanGainMatrixBuffer::from(&mut k[..]),
        TemporaryResidualCovarianceInvertedMatrixBuffer::from(&mut s_inv[..]),
        TemporaryHPMatrixBuffer::from(&mut hp[..]),
        TemporaryPHTMatrixBuffer::from(&mut pht[..]),
        TemporaryKHPMatrixBuffer::from(&mut khp[..]),
    );
    let (mut cost, mut random) = (Cost::default(), Random(9));
    for token in 0..2 * COUNTED {
        if token == COUNTED {
            cost = Cost::default();
        }
        let observed = if random.bits() % 8 == 0 { I16F16::ONE } else { I16F16::ZERO };
        cost.add(|| {
            filter.predict();
            measurement.measurement_vector_mut().set_value(black_box(observed));
            filter.correct(black_box(&mut measurement));
        });
    }
    // One of eight observations is a one: a level anywhere else was not filtered, and nothing is printed.
    let level = filter.state_vector().get_value();
    if level > 0 && level < I16F16::ONE / 2 {
        cost.print("minikalman", 1, 1, Cost::empty());
    }
}
