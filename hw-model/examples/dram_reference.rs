//! Runs every row of `tests/reference.tsv` and prints ours beside it: `cargo run --release --example dram_reference`.
//! With words behind `--`, only the rows that contain all of them: `-- DDR5-4800 rand`.
//!
//! The DRAMsim3 rows are there to see how much a scheduler is worth: it has two queues (32, then 8 a bank) and goes
//! round the banks.
use cptr_hw_model::dram::{CommandKind, Config, Controller, MappingKind, Refresh, StreamKind, Until, presets};
use std::time::Instant;

const REFERENCE: &str = include_str!("../tests/reference.tsv");
const REQUESTS: u64 = 1_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    println!(
        "{:9} {:11} {:12} {:6} {:4} {:>10} {:>10} {:>7} {:>8} {:>8} {:>9}  {:>6}  counts",
        "simulator",
        "device",
        "mapping",
        "stream",
        "ref.",
        "cycles",
        "theirs",
        "ratio",
        "latency",
        "theirs",
        "refreshes",
        "Mreq/s"
    );
    for row in REFERENCE.lines().filter(|row| row.starts_with("ramulator") || row.starts_with("dramsim")) {
        let field: Vec<&str> = row.split('\t').collect();
        if !words.iter().all(|word| field.contains(&word.as_str())) {
            continue;
        }
        let mut device = presets::by_name(field[1]).ok_or("unknown device")?;
        let mapping = MappingKind::by_name(field[2]).ok_or("unknown mapping")?;
        let refresh = Refresh::by_name(field[4]).ok_or("unknown refresh")?;
        let mut config = Config::new(mapping, refresh);
        let mut reads = REQUESTS;
        if field[0] == "dramsim3" {
            (device.timing.t_ck_ps, device.timing.n_rfc, config.offers_per_cycle) = (630, 560, 1);
            reads = field[7].parse()?;
        }
        let mut controller = Controller::new(&device, config)?;
        let stream = StreamKind::by_name(field[3]).ok_or("unknown stream")?;
        let requests = stream.requests(reads.min(REQUESTS), device.organisation.access_bytes());
        let start = Instant::now();
        controller.run(requests, Until::Accepted)?;
        let rate = reads as f64 / start.elapsed().as_secs_f64() / 1e6;
        let statistics = controller.statistics();
        let reference: u64 = field[8].parse()?;
        let counts =
            [statistics.row_hits, statistics.row_misses, statistics.row_conflicts].map(|count| count.to_string());
        println!(
            "{:9} {:11} {:12} {:6} {:4} {:10} {reference:10} {:7.5} {:8.1} {:>8} {:4}/{:>4}  {rate:6.2}  {}",
            &field[0][..9.min(field[0].len())],
            device.name,
            mapping.name(),
            field[3],
            field[4],
            controller.cycle(),
            controller.cycle() as f64 / reference as f64,
            statistics.read_latency.mean(),
            field[10],
            statistics.commands.get(CommandKind::RefAll),
            field[15],
            if counts == field[11..14] { "hits, misses and conflicts equal" } else { "differ" },
        );
    }
    Ok(())
}
