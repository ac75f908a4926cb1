//! Random configurations against Ramulator 2.1 (commit c5b1c3a): every row of `random.tsv` is a configuration, a stream
//! and what Ramulator counted. The streams are made here from the row's seed; the counts come from a run of Ramulator
//! with the same requests, four offers a memory cycle, until the last is accepted (`random_rows.py`).
use cptr_hw_model::dram::{
    CommandKind, Config, Controller, Device, ManagementCommand, MappingKind, Refresh, RefreshManagement, Request,
    RequestKind, Until, presets,
};
use std::collections::HashMap;

const ROWS: &str = include_str!("random.tsv");
/// Those rows that Ramulator counts otherwise with its tables as they are published.
const PUBLISHED_ROWS: &str = include_str!("random_published.tsv");

/// The devices as published, where they differ from ours.
const PUBLISHED_DEVICES: [(&str, &str); 7] = [
    ("DDR4-3200", include_str!("../data/devices/ramulator-2.1/ddr4-3200.toml")),
    ("DDR5-3200", include_str!("../data/devices/ramulator-2.1/ddr5-3200.toml")),
    ("DDR5-4800", include_str!("../data/devices/ramulator-2.1/ddr5-4800.toml")),
    ("DDR5-5600", include_str!("../data/devices/ramulator-2.1/ddr5-5600.toml")),
    ("DDR5-6400", include_str!("../data/devices/ramulator-2.1/ddr5-6400.toml")),
    ("LPDDR5-6400", include_str!("../data/devices/ramulator-2.1/lpddr5-6400.toml")),
    ("LPDDR6-10667", include_str!("../data/devices/ramulator-2.1/lpddr6-10667.toml")),
];

fn published(name: &str) -> Device {
    let found = PUBLISHED_DEVICES.iter().find(|(of, _)| *of == name);
    found.map_or_else(|| presets::by_name(name).unwrap(), |(_, text)| Device::from_toml(text).unwrap())
}

/// SplitMix64.
struct Draw(u64);

impl Draw {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ z >> 31) % most
    }
}

/// A configuration and its stream.
struct Row<'a> {
    device: Device,
    config: Config,
    kind: &'a str,
    parameter: u64,
    writes: u64,
    seed: u64,
    requests: u64,
    /// Cycles, reads served, writes served, reads forwarded, writes merged, hits, misses, conflicts, refreshes and
    /// their management.
    counts: [u64; 9],
}

/// RFMab after so many activates of a bank, as long as REFab; refresh takes nothing off.
fn managed(device: &Device, raaimt: u32) -> RefreshManagement {
    let command = ManagementCommand::AllBank;
    RefreshManagement { command, raaimt, raammt: 3 * raaimt, refresh_decrement: 0, n_rfm: device.timing.n_rfc }
}

impl<'a> Row<'a> {
    fn parse(row: &'a str, device: impl Fn(&str) -> Device) -> Self {
        let field: Vec<&str> = row.split('\t').collect();
        let number = |at: usize| field[at].parse::<u64>().unwrap();
        let mut device = device(field[0]);
        if !device.pseudo_channels {
            device.organisation.ranks = number(1) as u32;
            device.organisation.capacity_bytes *= number(1);
        }
        let mapping = MappingKind::by_name(field[2]).unwrap();
        let refresh = field[3].strip_prefix("rfm").map_or_else(
            || Refresh::by_name(field[3]).unwrap(),
            |raaimt| {
                device.refresh_management = Some(managed(&device, raaimt.parse().unwrap()));
                Refresh::None
            },
        );
        let config = Config { queue_depth: number(4) as u16, ..Config::new(mapping, refresh) };
        let counts = std::array::from_fn(|at| number(10 + at));
        let (kind, parameter, writes, seed) = (field[5], number(6), number(7), number(8));
        Self { device, config, kind, parameter, writes, seed, requests: number(9), counts }
    }

    fn stream(&self) -> Vec<Request> {
        let bytes = self.device.organisation.access_bytes();
        let lines = self.device.organisation.capacity_bytes / bytes;
        let (mut draw, mut writes) = (Draw(self.seed), Draw(self.seed ^ 0x5555));
        let base = draw.below(lines);
        let (mut at, mut left) = (0, 0);
        (0..self.requests)
            .map(|index| {
                let line = match self.kind {
                    "seq" | "stride" => base + index * self.parameter,
                    "rand" => draw.below(lines),
                    "runs" => {
                        if left == 0 {
                            (at, left) = (draw.below(lines), draw.below(self.parameter) + 1);
                        }
                        left -= 1;
                        at += 1;
                        at - 1
                    }
                    "hammer" => base + index % self.parameter * 131_072,
                    _ => panic!("{}", self.kind),
                };
                let kind = if writes.below(100) < self.writes { RequestKind::Write } else { RequestKind::Read };
                Request { address: line % lines * bytes, kind, not_before: 0, source: 0 }
            })
            .collect()
    }

    fn run(&self) -> [u64; 9] {
        let mut controller = Controller::new(&self.device, self.config).unwrap();
        controller.run(self.stream(), Until::Accepted).unwrap();
        let s = controller.statistics();
        [
            controller.cycle(),
            s.reads_served,
            s.writes_served,
            s.reads_forwarded,
            s.writes_merged,
            s.row_hits,
            s.row_misses,
            s.row_conflicts,
            s.commands.get(CommandKind::RefAll) + s.commands.get(CommandKind::RfmAll),
        ]
    }
}

/// Runs the rows; how many there are and how many are equal in every count, and how far the cycles are off at most.
fn compare<'a>(rows: impl Iterator<Item = &'a str>, device: impl Fn(&str) -> Device) -> (u32, u32, f64) {
    let (mut count, mut equal, mut furthest) = (0, 0, 0.0f64);
    for text in rows {
        let row = Row::parse(text, &device);
        let found = row.run();
        count += 1;
        equal += u32::from(found == row.counts);
        let off = (found[0] as f64 / row.counts[0].max(1) as f64 - 1.0).abs();
        furthest = furthest.max(off);
        if found != row.counts {
            println!("{text}\n    ours {found:?}, cycles off by {:.3} %", 100.0 * off);
        }
    }
    println!("{equal} of {count} rows equal in every count; cycles at most {:.3} % off", 100.0 * furthest);
    (count, equal, furthest)
}

fn rows(file: &str) -> impl Iterator<Item = &str> {
    file.lines().filter(|row| !row.starts_with('#'))
}

#[test]
fn as_ramulator_counts() {
    let (count, equal, furthest) = compare(rows(ROWS), |name| presets::by_name(name).unwrap());
    assert!(count >= 500 && equal * 100 >= count * 95 && furthest <= 0.005);
}

/// Nothing changed in Ramulator: its devices as files of our own instead.
#[test]
fn as_ramulator_counts_with_its_tables_as_published() {
    let configuration = |row: &str| row.split('\t').take(10).map(String::from).collect::<Vec<_>>();
    let others: HashMap<_, _> = rows(PUBLISHED_ROWS).map(|row| (configuration(row), row)).collect();
    assert_eq!(others.len(), rows(PUBLISHED_ROWS).count(), "a row is there twice");
    let all = rows(ROWS).map(|row| others.get(&configuration(row)).copied().unwrap_or(row));
    let (count, equal, furthest) = compare(all, published);
    assert!(count >= 500 && equal * 100 >= count * 95 && furthest <= 0.005);
}
