//! The machine and the model that times are for, shared by all commands that have times.

use std::path::{Path, PathBuf};

use cptr_hw_model::{Model, System};

use cptr_sim::machine;
use cptr_sim::replay::Counted;
use cptr_trace::error::{Error, Result};

/// The machine and the model that times are for.
#[derive(Debug, clap::Args)]
pub(super) struct Machine {
    /// System by its name, or the TOML file of one, and what is changed in it, such as ndp:link.gt_s=32 (default:
    /// offload; of devices: ndp)
    #[arg(long, value_name = "NAME|FILE.toml[:FIELD=VALUE]…", value_parser = system_name, help_heading = "Machine")]
    system: Option<System>,
    /// Bits per weight of experts that run near the data, where a strategy does not say (default: the strategy's, or
    /// the system's)
    #[arg(long, value_name = "BITS", help_heading = "Machine")]
    bits: Option<f64>,
    /// Sizes of the model, as its config.json has them
    #[arg(long, value_name = "FILE.json", conflicts_with = "hidden", help_heading = "Machine")]
    config: Option<PathBuf>,
    /// Width of the model's residual stream, where its sizes are not known
    #[arg(long, value_name = "N", requires = "expert_inner", help_heading = "Machine")]
    hidden: Option<u64>,
    /// Width inside an expert, where the model's sizes are not known
    #[arg(long, value_name = "N", requires = "hidden", help_heading = "Machine")]
    expert_inner: Option<u64>,
}

impl Machine {
    /// The system asked for, or the one called `default`.
    pub(super) fn system_or(&self, default: &str) -> Result<System> {
        let found = self.system.as_ref().or_else(|| System::find(default)).cloned();
        let mut system = found.ok_or_else(|| Error::new(format!("--system: expected a name, found {default}")))?;
        if let Some(bits) = self.bits {
            if !(1.0..=16.0).contains(&bits) {
                return Err(Error::new(format!("--bits: expected 1 to 16, found {bits}")));
            }
            system.ndp_bits = bits;
        }
        Ok(system)
    }

    /// Bits near the data, where they were asked for.
    pub(super) const fn bits(&self) -> Option<f64> {
        self.bits
    }

    /// The sizes given, or those of the model called `name`; `None` if it is not known.
    pub(super) fn model(&self, name: &str) -> Result<Option<Model>> {
        if let Some(path) = &self.config {
            return config(name, path).map(Some);
        }
        let size = 1..=1 << 20;
        match (self.hidden, self.expert_inner) {
            (Some(hidden), Some(inner)) if size.contains(&hidden) && size.contains(&inner) => {
                Ok(Some(Model::new(name, hidden, inner)))
            }
            (Some(hidden), Some(inner)) => Err(Error::new(format!(
                "--hidden and --expert-inner: expected 1 to {}, found {hidden} and {inner}",
                1 << 20
            ))),
            _ => Ok(Model::find(name).cloned()),
        }
    }

    /// As [`Self::model`], for what cannot do without.
    pub(super) fn known_model(&self, name: &str) -> Result<Model> {
        self.model(name)?.ok_or_else(|| {
            let known = Model::all().iter().map(|model| &*model.name).collect::<Vec<_>>().join(", ");
            let found = if name.is_empty() { "no name in the source".into() } else { format!("\"{name}\"") };
            Error::new(format!(
                "--model: expected one whose sizes are known ({known}), or --config, or --hidden and --expert-inner, \
                 found {found}"
            ))
        })
    }
}

/// The sizes in a config.json, for a model called `name`.
pub(super) fn config(name: &str, path: &Path) -> Result<Model> {
    let text = cptr_trace::file::text(path, 16 << 20)?;
    Model::from_config(name, &text).map_err(|error| Error::in_file(path, error.to_string()))
}

/// What of a token is counted, of commands whose times are those of tokens.
#[derive(Debug, clap::Args)]
pub(super) struct Counting {
    /// Tokens of each text before the source begins, which attention reads too
    #[arg(long, value_name = "TOKENS", default_value_t = 0, help_heading = "Machine")]
    context: u64,
    /// Count layers with routed experts alone: no attention over the tokens before, no other layers, no output head
    #[arg(long, conflicts_with = "context", help_heading = "Machine")]
    layers_only: bool,
}

impl Counting {
    pub(super) const fn counted(&self) -> Counted {
        if self.layers_only { Counted::Layers } else { Counted::Token { context: self.context } }
    }
}

/// A system by its name, or the TOML file of one, and what is changed in it.
pub(super) fn system_name(text: &str) -> std::result::Result<System, String> {
    machine::named(text).map_err(|error| error.to_string())
}

/// Whole bits per weight near the data.
pub(super) fn whole_bits(system: &System) -> Result<u8> {
    match system.ndp_bits {
        bits if bits.fract() == 0.0 && (1.0..=16.0).contains(&bits) => Ok(bits as u8),
        bits => Err(Error::new(format!("--bits: expected 1 to 4, or 16, found {bits}"))),
    }
}

/// The systems, for help.
pub(super) fn systems_help() -> String {
    let line = |system: &System| format!("  {:<12} {}\n", system.name, system.summary);
    System::all().iter().map(line).collect()
}
