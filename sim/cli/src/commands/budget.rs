//! `cptr budget`.

use cptr_hw_model::controller::{Controller, Kernel, MOST_TOKENS, cores};
use cptr_hw_model::ndp::Ndp;
use cptr_hw_model::{Model, System};
use serde::Serialize;

use super::about::About;
use super::machine::system_name;
use crate::columns::Format::{Flag, Microseconds, Number, Percent, Plain, Ratio, Text};
use crate::columns::{Column, Page, Section, Table, column, format};
use crate::report::strips::{Look, Strip, Strips};
use cptr_trace::error::{Error, Result};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Processor whose cycles were counted on its RTL
    #[arg(long, value_name = "CORE", default_value = "ibex-fast")]
    controller: String,
    /// Its clock
    #[arg(long, value_name = "MHZ", default_value_t = 1000.0)]
    clock_mhz: f64,
    /// System with the device and the link, by its name or its TOML file
    #[arg(long, value_name = "NAME|FILE.toml", value_parser = system_name, default_value = "ndp")]
    system: System,
    /// Bits per weight of the experts, separated by commas
    #[arg(long, value_name = "BITS", value_delimiter = ',', default_value = "2,3,4")]
    bits: Vec<f64>,
    /// Tokens of a layer in one request, 1 to 16; each brings jobs of its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: u32,
    /// A DMA engine fetches requests, at no cycles of the processor
    #[arg(long)]
    dma: bool,
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
    /// Tokens of a request; all of them in what follows.
    batch: u32,
    /// The device's time for the k experts of each token in one layer, all cold: simulated.
    device_us: f64,
    /// The same if memory gave its greatest rate and nothing else took time.
    at_peak_us: f64,
    /// The whole turn with every expert cold; the choice alone on the processor; and a turn that also finds the best
    /// logits.
    turn_cycles: f64,
    select_cold_cycles: f64,
    turn_top_k_cycles: Option<f64>,
    /// A turn whose request and answer have a checksum.
    turn_checksum_cycles: Option<f64>,
    turn_share: f64,
    allowed: f64,
    /// How many times the allowed share a turn takes. It fits up to 1.
    times_allowed: f64,
    fits: bool,
    /// Cycles of a turn that a unit would have to take over to fit.
    excess_cycles: f64,
    /// Share that is left if a unit chooses, and if a unit carries the descriptors; `None` where one does both.
    share_without_select: Option<f64>,
    share_without_transport: Option<f64>,
    /// Behind the answer; with a unit all that the firmware does for a token it has answered.
    update_cycles: f64,
    update_share: f64,
    /// From the GPU to the controller and back, without payload.
    trip_us: f64,
}

impl Row {
    fn new(layer: &Layer, bits: f64, device: &Device<'_>, controller: &Controller, batch: u32) -> Result<Self> {
        let model = Model::find(layer.model)
            .ok_or_else(|| Error::new(format!("expected a model of the table, found {}", layer.model)))?;
        let ndp = device.ndp;
        let expert = ndp.expert(model, bits, 1).map_err(|error| Error::new(error.to_string()))?;
        let peak = ndp.memory.peak_gb_s().map_err(|error| Error::new(error.to_string()))?;
        let device_us = expert.queue_ps(layer.k * batch) as f64 / 1e6;
        let at_peak_us = model.expert_bytes(bits) * f64::from(layer.k * batch) / peak / 1e3;
        let tokens = f64::from(batch);
        let cycles = |kernel| tokens * controller.cycles(kernel, layer.experts, layer.k);
        let turn_of = |kernel| controller.turn_cycles(kernel, layer.experts, layer.k, batch);
        let [turn, select] = if layer.sigmoid {
            [Kernel::TurnSigmoid, Kernel::SelectSigmoidCold]
        } else {
            [Kernel::Turn, Kernel::SelectCold]
        };
        // What the copy takes does not depend on the router.
        let copied = if device.dma { turn_of(Kernel::Turn) - turn_of(Kernel::TurnDma) } else { 0.0 };
        // A unit fetches itself.
        let by_unit = controller.has_unit();
        let turn_cycles = turn_of(turn) - if by_unit { 0.0 } else { copied };
        let update_cycles = controller.behind_cycles(turn, layer.experts, layer.k, batch);
        let select_cold_cycles = cycles(select);
        let measured = !layer.sigmoid && batch == 1 && !device.dma && !by_unit;
        let share = |cycles: f64| cycles / controller.clock_mhz / device_us;
        let allowed_cycles = layer.allowed * device_us * controller.clock_mhz;
        Ok(Self {
            model: layer.model,
            experts: layer.experts,
            k: layer.k,
            bits,
            batch,
            device_us,
            at_peak_us,
            turn_cycles,
            select_cold_cycles,
            turn_top_k_cycles: measured.then(|| cycles(Kernel::TurnTopK)),
            turn_checksum_cycles: measured.then(|| cycles(Kernel::TurnChecksum)),
            turn_share: share(turn_cycles),
            allowed: layer.allowed,
            times_allowed: turn_cycles / allowed_cycles,
            fits: turn_cycles <= allowed_cycles,
            excess_cycles: (turn_cycles - allowed_cycles).max(0.0),
            share_without_select: (!by_unit).then(|| share(turn_cycles - select_cold_cycles)),
            share_without_transport: (!by_unit).then(|| share(select_cold_cycles)),
            update_cycles,
            update_share: share(update_cycles),
            trip_us: device.trip_us,
        })
    }
}

static COLUMNS: [Column; 21] = [
    column("model", "model", Text, ""),
    column("experts", "E", Plain, ""),
    column("k", "k", Plain, ""),
    column("bits", "bits", Plain, "per weight"),
    column("batch", "batch", Plain, "tokens of a request").detail(),
    column("at_peak_us", "at peak", Microseconds, "time of the experts at the memory's greatest rate").detail(),
    column(
        "device_us",
        "device",
        Microseconds,
        "time of the device for the k experts of each token of a layer, all near the data: simulated",
    ),
    column("turn_cycles", "turn", Number(0), "cycles from the doorbell to the published answer, every expert cold"),
    column("turn_share", "share", Percent, "of the device's time"),
    column("allowed", "allowed", Percent, "share that a turn may take"),
    column("times_allowed", "of allowed", Ratio, "the turn over what it may take"),
    column("fits", "fits", Flag, "whether it is no more"),
    column("excess_cycles", "too many", Number(0), "cycles of the turn that a unit would have to take over to fit"),
    column("share_without_select", "unit selects", Percent, "share of the device's time if a unit chooses"),
    column(
        "share_without_transport",
        "unit carries",
        Percent,
        "share of the device's time if a unit fetches, checks, lists and publishes, and the processor only chooses",
    ),
    column("select_cold_cycles", "select", Number(0), "cycles of the choice alone, every expert cold").detail(),
    column(
        "turn_top_k_cycles",
        "with top-k",
        Number(0),
        "cycles of a turn in which the controller finds the best logits",
    )
    .detail(),
    column(
        "turn_checksum_cycles",
        "with checksum",
        Number(0),
        "cycles of a turn over a link without checks of its own",
    )
    .detail(),
    column(
        "update_cycles",
        "behind",
        Number(0),
        "cycles behind the answer: the filter's step; with a hardware unit all that the firmware does for the token",
    ),
    column("update_share", "share", Percent, "of the device's time"),
    column(
        "trip_us",
        "trip",
        Microseconds,
        "from the GPU to the controller and back, beside the turn: not in the share",
    ),
];

/// The device of a system, and its way there and back.
struct Device<'a> {
    ndp: &'a Ndp,
    trip_us: f64,
    /// Whether a DMA engine fetches requests.
    dma: bool,
}

pub(super) static ABOUT: About = About {
    rows: &[&COLUMNS],
    examples: &[("cptr budget --bits 2,4", "whether the controller keeps up with its device, model by model")],
};

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
    if !(1..=MOST_TOKENS).contains(&args.batch) {
        return Err(Error::new(format!("--batch: expected 1 to {MOST_TOKENS}, found {}", args.batch)));
    }
    let ndp = args.system.ndp().ok_or_else(|| {
        Error::new(format!("--system: expected one with a near-data device, found {}", args.system.name))
    })?;
    let device = Device { ndp, trip_us: 2.0 * args.system.link().one_way_ps() as f64 / 1e6, dma: args.dma };
    let rows = LAYERS
        .iter()
        .flat_map(|layer| args.bits.iter().map(|&bits| Row::new(layer, bits, &device, &controller, args.batch)))
        .collect::<Result<Vec<Row>>>()?;
    let tokens = match args.batch {
        1 => "a token and layer".to_owned(),
        batch => format!("{batch} tokens of a layer, which come in one request, a job for each expert of each"),
    };
    let fetched = if args.dma { ", a DMA engine fetches the request" } else { "" };
    let fact = format!(
        "{} at {} MHz, {}: cycles of a turn, the GPU lists what it wants and all of it is cold{fetched}, as shares of \
         the time in which the device runs the k experts of {tokens}",
        controller.core, controller.clock_mhz, args.system.name
    );
    let table = Table::new(&COLUMNS, &rows);
    let section = Section { figures: vec![figure(&rows)], ..Section::of([fact], table.clone()) };
    let answer = answer(&rows, &controller);
    Ok(Page::new(table).section(section).answered(answer))
}

/// Of how many models a turn fits, and the one that it fits worst.
fn answer(rows: &[Row], controller: &Controller) -> Option<String> {
    let worst = rows.iter().max_by(|a, b| a.times_allowed.total_cmp(&b.times_allowed))?;
    let fits = rows.iter().filter(|row| row.fits).count();
    Some(format!(
        "{} at {} MHz takes no more than it may in {fits} of {} cases; the worst is {} at {} bits: {} of the device's \
         time, {} of what is allowed.",
        controller.core,
        controller.clock_mhz,
        rows.len(),
        worst.model,
        worst.bits,
        format::percent(worst.turn_share),
        format::ratio(worst.times_allowed)
    ))
}

/// The share of a turn beside the share that it may have.
fn figure(rows: &[Row]) -> String {
    let strip = |row: &Row| Strip {
        name: format!("{}, {} bits", row.model, row.bits),
        values: vec![row.turn_share, row.allowed, row.update_share],
        label: format!("{} of allowed", format::ratio(row.times_allowed)),
        strong: row.fits,
    };
    Strips {
        title: "Share of the device's time",
        caption: "A turn fits where the circle is left of the triangle: those rows are in bold. The update comes behind \
                  the answer.",
        series: &["turn", "allowed", "update"],
        look: Look::Marks,
        tick: format::percent,
        rows: rows.iter().map(strip).collect(),
    }
    .figure()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_cycles_over_the_devices_time() {
        let ndp = System::find("ndp").unwrap().ndp().unwrap();
        let device = Device { ndp, trip_us: 0.5, dma: false };
        let controller = Controller { core: "ibex-fast".into(), clock_mhz: 500.0 };
        let rows: Vec<Row> =
            LAYERS.iter().map(|layer| Row::new(layer, 2.0, &device, &controller, 1).unwrap()).collect();
        for row in &rows {
            // Refresh and page changes keep the device below the peak of its memory.
            assert!((1.0..1.3).contains(&(row.device_us / row.at_peak_us)), "{row:?}");
            assert!((row.turn_share * row.device_us * 500.0 / row.turn_cycles - 1.0).abs() < 1e-9, "{row:?}");
            // The choice is a part of the turn, and the two units share it.
            assert!(row.select_cold_cycles > 0.0 && row.turn_cycles > row.select_cold_cycles, "{row:?}");
            let parts = row.share_without_select.unwrap() + row.share_without_transport.unwrap();
            assert!((parts / row.turn_share - 1.0).abs() < 1e-9, "{row:?}");
            for more in [row.turn_top_k_cycles, row.turn_checksum_cycles] {
                assert!(more.is_none_or(|cycles| cycles > row.turn_cycles), "{row:?}");
            }
            // Without what is too many it fits.
            let left = (row.turn_cycles - row.excess_cycles) / 500.0 / row.device_us;
            assert!(left <= row.allowed * (1.0 + 1e-9), "{row:?}");
            assert_eq!((row.fits, row.excess_cycles > 0.0), (row.times_allowed <= 1.0, !row.fits), "{row:?}");
        }
        // Two experts of 176,160,768 weights of 2 bits at 512 GB/s.
        assert!((rows[0].at_peak_us - 2.0 * 176_160_768.0 / 4.0 / 512e3).abs() < 1e-9);
        // Sigmoids cost more.
        let softmax = controller.cycles(Kernel::Turn, 256, 8);
        assert!(rows.iter().any(|row| row.model == "DeepSeek-V3" && row.turn_cycles > softmax));
    }

    fn device(dma: bool) -> Device<'static> {
        Device { ndp: System::find("ndp").unwrap().ndp().unwrap(), trip_us: 0.5, dma }
    }

    fn fast() -> Controller {
        Controller { core: "ibex-fast".into(), clock_mhz: 1000.0 }
    }

    #[test]
    fn tokens_of_a_request_share_its_costs() {
        for layer in &LAYERS {
            let row = |batch, dma| Row::new(layer, 2.0, &device(dma), &fast(), batch).unwrap();
            let (one, many) = (row(1, false), row(16, false));
            // Jobs are one for each token, so that the device works as long for each.
            assert!((many.device_us / one.device_us / 16.0 - 1.0).abs() < 0.03, "{many:?}");
            assert!((many.update_share / one.update_share - 1.0).abs() < 0.03, "{many:?}");
            assert!(
                many.turn_share < one.turn_share && many.share_without_transport < Some(many.turn_share),
                "{many:?}"
            );
            for (with, without) in [(row(1, true), &one), (row(16, true), &many)] {
                assert!(with.turn_cycles < without.turn_cycles && with.update_cycles == without.update_cycles);
                assert_eq!(with.turn_top_k_cycles, None);
            }
        }
    }

    const DOCUMENT: &str = include_str!("../../../../docs/budgets.md");

    /// Three digits, two behind the point at most.
    fn percent(share: f64) -> String {
        let percent = 100.0 * share;
        format!("{percent:.*} %", if percent < 9.995 { 2 } else { 1 })
    }

    fn thousands(number: f64) -> String {
        let number = format!("{number:.0}");
        let groups: Vec<&str> = number.as_bytes().rchunks(3).rev().map(|b| std::str::from_utf8(b).unwrap()).collect();
        groups.join(",")
    }

    fn documented(lines: &[String]) {
        let all = lines.join("\n");
        assert!(lines.iter().all(|line| DOCUMENT.lines().any(|other| other == line)), "docs/budgets.md has not\n{all}");
    }

    #[test]
    fn shares_are_documented() {
        let rows = LAYERS
            .iter()
            .flat_map(|layer| [2.0, 3.0, 4.0].map(|bits| Row::new(layer, bits, &device(false), &fast(), 1)));
        let lines: Vec<String> = rows
            .map(|row| {
                let row = row.unwrap();
                let excess = if row.fits { "–".into() } else { thousands(row.excess_cycles) };
                let [select, transport] =
                    [row.share_without_select, row.share_without_transport].map(|share| percent(share.unwrap()));
                let [turn, update] = [row.turn_share, row.update_share].map(percent);
                let (allowed, of) = (100.0 * row.allowed, row.times_allowed);
                let (us, cycles) = (row.device_us, thousands(row.turn_cycles));
                format!(
                    "| {} | {} | {us:.1} | {cycles} | {turn} | {allowed} % | {of:.2} | {excess} | {select} | {transport} | \
                     {update} |",
                    row.model, row.bits
                )
            })
            .collect();
        documented(&lines);
    }

    fn with_unit() -> Controller {
        Controller { core: "ibex-fast+unit".into(), clock_mhz: 1000.0 }
    }

    #[test]
    fn a_unit_takes_over_the_turns() {
        for layer in &LAYERS {
            let [alone, unit] =
                [fast(), with_unit()].map(|core| Row::new(layer, 2.0, &device(false), &core, 1).unwrap());
            assert_eq!((unit.device_us, unit.select_cold_cycles), (alone.device_us, alone.select_cold_cycles));
            assert!(unit.turn_cycles < alone.turn_cycles / 10.0 && unit.update_cycles > alone.update_cycles);
            assert_eq!((unit.share_without_select, unit.share_without_transport), (None, None));
            // The engine fetches itself.
            let dma = Row::new(layer, 2.0, &device(true), &with_unit(), 1).unwrap();
            assert_eq!(dma.turn_cycles, unit.turn_cycles);
        }
    }

    #[test]
    fn shares_with_a_unit_are_documented() {
        let rows = LAYERS
            .iter()
            .flat_map(|layer| [2.0, 3.0, 4.0].map(|bits| Row::new(layer, bits, &device(false), &with_unit(), 1)));
        let lines: Vec<String> = rows
            .map(|row| {
                let row = row.unwrap();
                let (allowed, us, cycles) = (100.0 * row.allowed, row.device_us, thousands(row.turn_cycles));
                let (fits, behind) = (if row.fits { "yes" } else { "no" }, thousands(row.update_cycles));
                let [turn, update] = [row.turn_share, row.update_share].map(percent);
                format!(
                    "| {} | {} | {us:.1} | {cycles} | {turn} | {allowed} % | {fits} | {behind} | {update} |",
                    row.model, row.bits
                )
            })
            .collect();
        documented(&lines);
    }

    #[test]
    fn shares_by_batch_are_documented() {
        let mut lines = Vec::new();
        for (layer, bits) in LAYERS.iter().flat_map(|layer| [(layer, 2.0), (layer, 4.0)]) {
            let row = |batch, dma| Row::new(layer, bits, &device(dma), &fast(), batch).unwrap();
            let ways = [1, 2, 4, 8, 16].map(|batch| row(batch, false)).into_iter().chain([row(1, true), row(16, true)]);
            let shares: Vec<String> = ways.map(|row| percent(row.turn_share)).collect();
            lines.push(format!("| {} | {bits} | {} % | {} |", layer.model, 100.0 * layer.allowed, shares.join(" | ")));
        }
        documented(&lines);
    }
}
