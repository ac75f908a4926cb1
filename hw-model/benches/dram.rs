//! Speed of the exact path: requests a second on the three streams.
use cptr_hw_model::dram::{Config, Controller, Device, MappingKind, Refresh, Request, Until, presets, stream};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const LINES: u64 = 200_000;

fn exact(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("exact");
    group.throughput(Throughput::Elements(LINES)).sample_size(10);
    let devices: [fn() -> Device; 2] = [presets::ddr4_3200, presets::ddr5_4800];
    for device in devices.map(|device| device()) {
        let config = Config::new(MappingKind::Mop4ClXor, Refresh::AllBank);
        let run = |requests: &mut dyn Iterator<Item = Request>| {
            let mut controller = Controller::new(&device, config).expect("a shipped device");
            controller.run(requests, Until::Served).expect("addresses inside the device");
            black_box(controller.cycle())
        };
        group.bench_function(format!("{}/seq", device.name), |b| {
            b.iter_batched(|| stream::sequential(LINES), |mut s| run(&mut s), BatchSize::SmallInput);
        });
        group.bench_function(format!("{}/expert", device.name), |b| {
            b.iter_batched(|| stream::experts(LINES), |mut s| run(&mut s), BatchSize::SmallInput);
        });
        group.bench_function(format!("{}/rand", device.name), |b| {
            b.iter_batched(|| stream::random(LINES), |mut s| run(&mut s), BatchSize::SmallInput);
        });
    }
    group.finish();
}

criterion_group!(benches, exact);
criterion_main!(benches);
