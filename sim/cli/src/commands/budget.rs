//! `cptr budget`.

use cptr_hw_model::controller::{Controller, Kernel, cores};
use cptr_hw_model::ndp::Ndp;
use cptr_hw_model::{Model, System};
use serde::Serialize;

use crate::columns::Format::{Microseconds, Number, Percent, Plain, Ratio, Text};
use crate::columns::{self, Column, Page, Table, column};
use cptr_trace::error::{Error, Result};

#[derive(Debug, clap::Args)]
#[command(after_long_help = columns::help(&COLUMNS))]
pub(super) struct Args {
    /// Processor whose cycles were counted on its RTL
    #[arg(long, value_name = "CORE", default_value = "ibex-fast")]
    controller: String,
    /// Its clock
    #[arg(long, value_name = "MHZ", default_value_t = 1000.0)]
    clock_mhz: f64,
    /// Bits per weight of the experts, separated by commas
    #[arg(long, value_name = "BITS", value_delimiter = ',', default_value = "2,3,4")]
    bits: Vec<f64>,
}

/// A model's routing, and the share of the device's time that selection may take.
struct Layer {
    model: &'static str,
    experts: u32,
    k: u32,
    sigmoid: bool,
    allowed: f64,
}

const fn layer(model: &'static str, experts: u32, k: u32, allowed: f64) -> Layer {
    Layer { model, experts, k, sigmoid: false, allowed }
}

/// Experts and experts per token: the models' config.json. Models of few large experts are held to 1 %, those of many
/// small ones to 5 %.
const LAYERS: [Layer; 7] = [
    layer("Mixtral-8x7B", 8, 2, 0.01),
    layer("Mixtral-8x22B", 8, 2, 0.01),
    layer("gpt-oss-20b", 32, 4, 0.01),
    Layer { sigmoid: true, ..layer("DeepSeek-V3", 256, 8, 0.01) },
    layer("DeepSeek-V2-Lite", 64, 6, 0.05),
    layer("OLMoE", 64, 8, 0.05),
    layer("Qwen3-30B-A3B", 128, 8, 0.05),
];

/// One model at some bits.
#[derive(Debug, Serialize)]
struct Row {
    model: &'static str,
    experts: u32,
    k: u32,
    bits: f64,
    /// The device's time for the k experts of one token in one layer, all cold: simulated.
    device_us: f64,
    /// The same if memory gave its greatest rate and nothing else took time.
    at_peak_us: f64,
    /// Mean over tokens that mostly find their experts, and with all of them missing.
    select_cycles: f64,
    select_cold_cycles: f64,
    /// `select`, `update` and the device's own top-k.
    all_cycles: f64,
    select_share: f64,
    select_share_at_peak: f64,
    select_cold_share: f64,
    all_share: f64,
    allowed: f64,
    /// How many times the allowed share selection takes: the mean, and with all experts missing. It fits up to 1.
    times_allowed: f64,
    cold_times_allowed: f64,
}

impl Row {
    fn new(layer: &Layer, bits: f64, ndp: &Ndp, controller: &Controller) -> Result<Self> {
        let model = Model::find(layer.model)
            .ok_or_else(|| Error::new(format!("expected a model of the table, found {}", layer.model)))?;
        let expert = ndp.expert(model, bits, 1).map_err(|error| Error::new(error.to_string()))?;
        let peak = ndp.memory.peak_gb_s().map_err(|error| Error::new(error.to_string()))?;
        let device_us = expert.queue_ps(layer.k) as f64 / 1e6;
        let at_peak_us = model.expert_bytes(bits) * f64::from(layer.k) / peak / 1e3;
        let cycles = |kernel| controller.cycles(kernel, layer.experts, layer.k);
        let [select_cycles, select_cold_cycles, top_k] = if layer.sigmoid {
            [Kernel::SelectSigmoid, Kernel::SelectSigmoidCold, Kernel::TopKGrouped].map(cycles)
        } else {
            [Kernel::Select, Kernel::SelectCold, Kernel::TopK].map(cycles)
        };
        let all_cycles = select_cycles + top_k + cycles(Kernel::Update);
        let share = |cycles: f64| cycles / controller.clock_mhz / device_us;
        Ok(Self {
            model: layer.model,
            experts: layer.experts,
            k: layer.k,
            bits,
            device_us,
            at_peak_us,
            select_cycles,
            select_cold_cycles,
            all_cycles,
            select_share: share(select_cycles),
            select_share_at_peak: share(select_cycles) * device_us / at_peak_us,
            select_cold_share: share(select_cold_cycles),
            all_share: share(all_cycles),
            allowed: layer.allowed,
            times_allowed: share(select_cycles) / layer.allowed,
            cold_times_allowed: share(select_cold_cycles) / layer.allowed,
        })
    }
}

static COLUMNS: [Column; 16] = [
    column("model", "model", Text, ""),
    column("experts", "E", Plain, ""),
    column("k", "k", Plain, ""),
    column("bits", "bits", Plain, "per weight"),
    column("at_peak_us", "at peak", Microseconds, "time of the k experts at the memory's greatest rate"),
    column(
        "device_us",
        "device",
        Microseconds,
        "time of the device for the k experts of a token and layer, all near the data: simulated",
    ),
    column("select_cycles", "select", Number(0), "cycles, mean"),
    column("select_share", "share", Percent, "of the device's time"),
    column("select_share_at_peak", "of the time at peak", Percent, "").detail(),
    column("select_cold_cycles", "all missing", Number(0), "cycles of selection where all experts are missing"),
    column("select_cold_share", "share", Percent, "of the device's time"),
    column("all_cycles", "all", Number(0), "cycles of selection, update and the device's own top-k"),
    column("all_share", "share", Percent, "of the device's time"),
    column("allowed", "allowed", Percent, "share that selection may take"),
    column("times_allowed", "of allowed", Ratio, "selection over what it may take: it fits up to 1"),
    column("cold_times_allowed", "all missing", Ratio, "the same where all experts are missing"),
];

pub(super) fn main(args: &Args) -> Result<Page> {
    let controller = Controller { core: args.controller.clone(), clock_mhz: args.clock_mhz };
    if !cores().contains(&controller.core.as_str()) {
        return Err(Error::new(format!(
            "--controller: expected one of {}, found {}",
            cores().join(", "),
            controller.core
        )));
    }
    controller.validate().map_err(|error| Error::new(format!("--clock-mhz: {error}")))?;
    if let Some(bits) = args.bits.iter().find(|bits| !(1.0..=16.0).contains(*bits)) {
        return Err(Error::new(format!("--bits: expected 1 to 16, found {bits}")));
    }
    let ndp =
        System::find("ndp").and_then(System::ndp).ok_or_else(|| Error::new("expected the system ndp, found none"))?;
    let rows = LAYERS
        .iter()
        .flat_map(|layer| args.bits.iter().map(|&bits| Row::new(layer, bits, ndp, &controller)))
        .collect::<Result<Vec<Row>>>()?;
    let fact = format!(
        "cycles of {} at {} MHz, as shares of the time in which the device runs the k experts of a token and layer",
        controller.core, controller.clock_mhz
    );
    Ok(Page::new(Table::new(&COLUMNS, &rows)).with_facts([fact]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_cycles_over_the_devices_time() {
        let ndp = System::find("ndp").unwrap().ndp().unwrap();
        let controller = Controller { core: "ibex-fast".into(), clock_mhz: 500.0 };
        let rows: Vec<Row> = LAYERS.iter().map(|layer| Row::new(layer, 2.0, ndp, &controller).unwrap()).collect();
        for row in &rows {
            // Refresh and page changes keep the device below the peak of its memory.
            assert!((1.0..1.3).contains(&(row.device_us / row.at_peak_us)), "{row:?}");
            assert!((row.select_share * row.device_us * 500.0 / row.select_cycles - 1.0).abs() < 1e-9, "{row:?}");
            assert!(row.select_cycles > 0.0 && row.select_cold_cycles > row.select_cycles, "{row:?}");
            assert!(row.all_cycles > row.select_cycles && row.cold_times_allowed > row.times_allowed, "{row:?}");
        }
        // Two experts of 176,160,768 weights of 2 bits at 512 GB/s.
        assert!((rows[0].at_peak_us - 2.0 * 176_160_768.0 / 4.0 / 512e3).abs() < 1e-9);
        // Sigmoids cost more.
        let softmax = controller.cycles(Kernel::Select, 256, 8);
        assert!(rows.iter().any(|row| row.model == "DeepSeek-V3" && row.select_cycles > softmax));
    }
}
