//! Arguments that several commands share.

use std::path::PathBuf;

use cptr_hw_model::System;
use cptr_sim::replay::Budget;
use cptr_sim::strategy::Strategy;

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
