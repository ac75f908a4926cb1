//! A sketch of wide vectors: dot products with fixed random signs (Achlioptas, JCSS 66(4), 2003), which keep lengths
//! and angles on average.

/// Seed of the signs: sketches of one model can be compared, whoever made them.
const SEED: u64 = 0x6370_7472;

/// A projection from D to d dimensions.
pub(super) struct Sketch {
    dims: usize,
    /// ± 1/√d, `[D, d]`.
    signs: Vec<f32>,
}

impl Sketch {
    pub(super) fn new(hidden: usize, dims: usize) -> Self {
        let size = (dims as f32).sqrt().recip();
        let sign = |i: u64| if mix(SEED.wrapping_add(i)) >> 63 == 0 { size } else { -size };
        Self { dims, signs: (0..(hidden * dims) as u64).map(sign).collect() }
    }

    /// Appends the sketches of `hidden` `[T, D]` to `out`.
    pub(super) fn extend(&self, hidden: &[f32], out: &mut Vec<f32>) {
        for vector in hidden.chunks_exact(self.signs.len() / self.dims) {
            let first = out.len();
            out.resize(first + self.dims, 0.0);
            for (value, signs) in vector.iter().zip(self.signs.chunks_exact(self.dims)) {
                out[first..].iter_mut().zip(signs).for_each(|(out, sign)| *out += value * sign);
            }
        }
    }
}

/// What a reader of the trace should know.
pub(super) fn note(dims: usize, hidden: usize) -> String {
    format!("hidden is a sketch: the router's input of {hidden} dimensions, projected to {dims} by fixed random signs.")
}

/// The mixing function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
fn mix(counter: u64) -> u64 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_lengths_and_angles_roughly() {
        let (hidden, dims) = (256, 128);
        let sketch = Sketch::new(hidden, dims);
        let vector = |seed: u64| (0..hidden as u64).map(move |i| (mix(seed + i) as i64 as f32) / i64::MAX as f32);
        let both: Vec<f32> = vector(1).chain(vector(10_000)).collect();
        let mut out = Vec::new();
        sketch.extend(&both, &mut out);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let (x, y) = both.split_at(hidden);
        let (u, v) = out.split_at(dims);
        let ratio = dot(u, u) / dot(x, x);
        assert!((0.7..1.3).contains(&ratio), "{ratio}");
        let cosine = dot(u, v) / (dot(u, u) * dot(v, v)).sqrt() - dot(x, y) / (dot(x, x) * dot(y, y)).sqrt();
        assert!(cosine.abs() < 0.3, "{cosine}");
    }
}
