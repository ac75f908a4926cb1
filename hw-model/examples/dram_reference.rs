//! Runs every Ramulator row of `tests/reference.tsv` and prints ours beside it: `cargo run --release --example dram_reference`.
//! With words behind `--`, only the rows that contain all of them: `-- DDR5-4800 rand`.
use cptr_hw_model::dram::{CommandKind, Config, Controller, MappingKind, Refresh, Request, Until, presets, stream};
use std::time::Instant;

const REFERENCE: &str = include_str!("../tests/reference.tsv");
const LINES: u64 = 1_000_000;

fn requests(name: &str, access_bytes: u64) -> Option<Box<dyn Iterator<Item = Request>>> {
    let whole = access_bytes == 64;
    let lines = if whole { LINES } else { LINES / 2 };
    Some(match (name, whole) {
        ("seq", true) => Box::new(stream::sequential(lines)),
        ("rand", true) => Box::new(stream::random(lines)),
        ("expert", true) => Box::new(stream::experts(lines)),
        ("seq", false) => Box::new(stream::halves(stream::sequential(lines))),
        ("rand", false) => Box::new(stream::halves(stream::random(lines))),
        ("expert", false) => Box::new(stream::halves(stream::experts(lines))),
        _ => return None,
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!(
        "device       mapping     stream ref.     cycles   reference   ratio  latency   (ref.)     hits/misses/conflicts  Mreq/s"
    );
    let words: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |row: &str| words.iter().all(|word| row.contains(word));
    for row in REFERENCE.lines().filter(|row| row.starts_with("ramulator") && wanted(row)) {
        let field: Vec<&str> = row.split('\t').collect();
        let device = presets::by_name(field[1]).ok_or("unknown device")?;
        let mapping = MappingKind::by_name(field[2]).ok_or("unknown mapping")?;
        let refresh = Refresh::by_name(field[4]).ok_or("unknown refresh")?;
        let mut controller = Controller::new(&device, Config::new(mapping, refresh))?;
        let requests = requests(field[3], device.organisation.access_bytes()).ok_or("unknown stream")?;
        let start = Instant::now();
        controller.run(requests, Until::Accepted)?;
        let rate = LINES as f64 / start.elapsed().as_secs_f64() / 1e6;
        let statistics = controller.statistics();
        let reference: u64 = field[8].parse()?;
        let counts = [statistics.row_hits, statistics.row_misses, statistics.row_conflicts];
        let expected = [field[11], field[12], field[13]].map(|count| count.parse::<u64>().unwrap_or(0));
        let refreshes = statistics.commands.get(CommandKind::RefAll);
        println!(
            "{:12} {:11} {:6} {:4} {:10} {reference:11} {:.5} {:8.1} ({:>6}) {} {} {rate:7.2}",
            device.name,
            mapping.name(),
            field[3],
            field[4],
            controller.cycle(),
            controller.cycle() as f64 / reference as f64,
            statistics.read_latency.mean(),
            field[10],
            if counts == expected { "counts equal".to_string() } else { format!("{counts:?} for {expected:?}") },
            if refreshes.to_string() == field[15] { "" } else { "REFRESHES DIFFER" },
        );
    }
    Ok(())
}
