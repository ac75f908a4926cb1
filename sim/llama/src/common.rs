//! Arguments that several commands share.

use std::path::PathBuf;

use cptr_hw_model::System;
use cptr_sim::replay::Budget;
use cptr_sim::strategy::Strategy;
use cptr_trace::error::{Error, Result};

use crate::steer;

/// A model, and what runs it.
#[derive(Debug, clap::Args)]
pub(crate) struct ModelArgs {
    /// GGUF file of a mixture of experts
    #[arg(value_name = "MODEL.gguf")]
    pub(crate) model: PathBuf,
    /// Threads that compute (default: all cores)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    threads: Option<u16>,
}

impl ModelArgs {
    /// Threads that compute.
    pub(crate) fn threads(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.threads.map_or_else(all, usize::from)
    }
}

/// Threads that read where nobody says how many: one prepares a read while the drive is at the other's. More make the
/// pieces that something waits for come later, with those behind them, and take more of the processor.
const READERS: u16 = 2;

/// Experts in bounded memory.
#[derive(Debug, clap::Args)]
pub(crate) struct OffloadArgs {
    /// Memory for experts, which are read from the drive for real (Linux): experts per layer (32), or bytes for all
    /// layers together (2GB)
    #[arg(long, value_name = "MEMORY")]
    offload: Option<Budget>,
    /// The same one level up: all experts in host memory, and so much memory of a GPU for those that run; emulated by
    /// copies within this machine's memory (Linux)
    #[arg(long, value_name = "MEMORY")]
    gpu_memory: Option<Budget>,
    /// Bandwidth of the link between the two, such as 25 for PCIe 4.0 with 16 lanes (default: as this machine copies)
    #[arg(long, value_name = "GB/s", value_parser = gb_s)]
    link: Option<f64>,
    /// Threads that read or copy
    #[arg(long, value_name = "N", default_value_t = READERS, value_parser = clap::value_parser!(u16).range(1..=64))]
    readers: u16,
}

/// A bandwidth in GB/s, as bytes per second.
fn gb_s(text: &str) -> std::result::Result<f64, String> {
    let number = text.parse().ok().filter(|number| (1e-3..=1e4).contains(number));
    number.map(|number: f64| number * 1e9).ok_or_else(|| "expected GB/s from 0.001 to 10000".into())
}

impl OffloadArgs {
    /// Memory for experts that run.
    ///
    /// # Errors
    /// A link that leads nowhere.
    // Said here: of arguments that exclude each other clap does not ask for the one that a third requires.
    pub(crate) fn memory(&self) -> Result<Option<Budget>> {
        if self.link.is_some() && self.gpu_memory.is_none() {
            return Err(Error::usage("--link: expected --gpu-memory with it, found none"));
        }
        Ok(self.offload.or(self.gpu_memory))
    }

    /// Whether the others are in host memory.
    pub(crate) fn host(&self) -> bool {
        self.gpu_memory.is_some()
    }

    /// Bytes per second that loads take at most.
    pub(crate) fn link(&self) -> Option<f64> {
        self.link
    }

    /// Threads that read or copy.
    pub(crate) fn readers(&self) -> usize {
        self.readers.into()
    }
}

/// Strategies and their memory.
#[derive(Debug, clap::Args)]
pub(crate) struct StrategyArgs {
    /// Strategies of cptr, such as raw,bounded:eps=0.04 (`cptr run --help` has them all)
    #[arg(long, value_name = "NAME[:PARAMETER=VALUE]…[+…]", value_delimiter = ',', value_parser = Strategy::parse,
          default_value = "raw")]
    pub(crate) strategy: Vec<Strategy>,
    /// Fast memory: experts per layer (16), or bytes for all layers together (8GB) (default: twice the active experts)
    #[arg(long, value_name = "N|BYTES")]
    resident: Option<Budget>,
    /// System that modelled times are for: by its name, or a TOML file
    #[arg(long, value_name = "NAME|FILE.toml", value_parser = steer::system, default_value = "offload")]
    pub(crate) system: System,
}

impl StrategyArgs {
    /// Fast memory, where none is asked for twice the `k` active of `experts`.
    pub(crate) fn resident(&self, k: usize, experts: usize) -> Budget {
        self.resident.unwrap_or(Budget::Experts((2 * k).min(experts)))
    }
}
