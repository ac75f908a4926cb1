//! What a layer has to do: which experts run where, at how many bits and for how many tokens, and what is copied.

/// One expert at work.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ExpertRun {
    /// Bits per weight.
    pub bits: f64,
    /// Tokens that it works on: 1, or as many sequences of the batch as chose it.
    pub tokens: u32,
}

impl ExpertRun {
    /// One token, as in decoding for one user.
    #[must_use]
    pub const fn at(bits: f64) -> Self {
        Self { bits, tokens: 1 }
    }
}

/// An expert that runs on the GPU when its copy has arrived there.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CopiedRun {
    /// The run.
    pub run: ExpertRun,
    /// Bits per weight on the link: fewer than the run's where only what is missing of an expert is copied.
    pub bits: f64,
}

impl CopiedRun {
    /// One token, by an expert that is copied as it runs.
    #[must_use]
    pub const fn at(bits: f64) -> Self {
        Self { run: ExpertRun::at(bits), bits }
    }
}

/// What one layer has to do for one step: one token of each sequence of a batch.
///
/// Each list is worked through in its order: the GPU runs `gpu` and then `copied`, the link takes `copies_bits` and
/// then `copied`, the device runs `near_data`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LayerWork<'a> {
    /// Sequences of the batch; 0 counts as 1.
    pub tokens: u32,
    /// Tokens whose keys and values the attention reads, of all sequences together; 0: attention's weights alone.
    pub attended: u64,
    /// Experts that run on the GPU from its memory.
    pub gpu: &'a [ExpertRun],
    /// Experts that run on the GPU after a copy that the layer waits for.
    pub copied: &'a [CopiedRun],
    /// Experts that run on the device where they lie; none on a machine without a device.
    pub near_data: &'a [ExpertRun],
    /// Bits per weight of experts that are copied into GPU memory and that no run waits for; the layer ends when they
    /// are there.
    pub copies_bits: &'a [f64],
    /// Whether a migration takes what the layer leaves of the link.
    pub migrating: bool,
    /// Experts whose scores the controller goes through before dispatch; 0 where the router's choice is taken as it is.
    pub scored: u32,
    /// Experts whose levels it updates behind dispatch; 0 where nothing is tracked.
    pub tracked: u32,
}

impl LayerWork<'_> {
    /// Sequences of the batch.
    pub(crate) fn sequences(&self) -> u32 {
        self.tokens.max(1)
    }

    /// Bits per weight of all copies together: a copy of so many bits takes as many bytes as they do.
    pub(crate) fn copied_bits(&self) -> f64 {
        self.copies_bits.iter().sum::<f64>() + self.copied.iter().map(|copied| copied.bits).sum::<f64>()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::system::{Cold, System};

    /// Lists of a layer's work that own their experts.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Lists {
        pub(crate) tokens: u32,
        pub(crate) gpu: Vec<ExpertRun>,
        pub(crate) copied: Vec<CopiedRun>,
        pub(crate) near_data: Vec<ExpertRun>,
        pub(crate) copies_bits: Vec<f64>,
    }

    impl Lists {
        /// One token with `resident` and `cold` experts, and `loads` copies to stay, at the bits of the system and
        /// where it runs them.
        pub(crate) fn counts(system: &System, resident: usize, cold: usize, loads: usize) -> Self {
            let gpu = vec![ExpertRun::at(system.gpu_bits); resident];
            let copies = |count| vec![system.gpu_bits; count];
            match system.cold {
                Cold::Gpu => Self {
                    gpu,
                    copied: vec![CopiedRun::at(system.gpu_bits); cold],
                    copies_bits: copies(loads.saturating_sub(cold)),
                    ..Self::default()
                },
                Cold::Ndp | Cold::Host => Self {
                    gpu,
                    near_data: vec![ExpertRun::at(system.ndp_bits); cold],
                    copies_bits: copies(loads),
                    ..Self::default()
                },
            }
        }

        pub(crate) fn work(&self) -> LayerWork<'_> {
            LayerWork {
                tokens: self.tokens,
                gpu: &self.gpu,
                copied: &self.copied,
                near_data: &self.near_data,
                copies_bits: &self.copies_bits,
                ..LayerWork::default()
            }
        }

        /// Without what a machine without a device cannot do.
        pub(crate) fn on(mut self, system: &System) -> Self {
            if !system.runs_near_data() {
                self.near_data.clear();
            }
            self
        }
    }

    /// Experts at all bits for up to `tokens` sequences.
    pub(crate) fn lists(tokens: u32) -> impl Strategy<Value = Lists> {
        let bits = || prop::sample::select(vec![1.0, 2.0, 3.0, 4.0, 16.0]);
        let runs = || vec((bits(), 1..=tokens).prop_map(|(bits, tokens)| ExpertRun { bits, tokens }), 0..6);
        let copied = vec((bits(), bits()), 0..4);
        (runs(), copied, runs(), vec(bits(), 0..3)).prop_map(move |(gpu, copied, near_data, copies_bits)| Lists {
            tokens,
            gpu,
            copied: copied.iter().map(|&(run, bits)| CopiedRun { run: ExpertRun::at(run), bits }).collect(),
            near_data,
            copies_bits,
        })
    }
}
