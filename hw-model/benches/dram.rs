//! Speed of the exact path (requests a second on the three streams) and of the fast path (experts a second).
use cptr_hw_model::dram::{
    Config, Controller, Device, Engine, EngineConfig, FastChannel, FastChannels, MappingKind, NotTaken, Refresh,
    Request, StreamKind, Until, presets, stream,
};
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

/// One request at a time through the embedded interface, every completion taken.
fn engine(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine");
    group.throughput(Throughput::Elements(LINES)).sample_size(10);
    let (device, config) = (presets::ddr5_4800(), Config::new(MappingKind::Mop4ClXor, Refresh::AllBank));
    let serve = |requests: &[Request]| {
        let mut engine = Engine::new(&device, EngineConfig::new(config)).expect("a shipped device");
        let (mut left, mut taken) = (requests, 0);
        while taken < requests.len() {
            let mut again = u64::MAX;
            while let [request, rest @ ..] = left {
                match engine.offer(*request) {
                    Ok(_) => left = rest,
                    Err(refused) => {
                        again = if refused == NotTaken::NextCycle { engine.now() + 1 } else { again };
                        break;
                    }
                }
            }
            let next = engine.next_command().unwrap_or(u64::MAX).min(again);
            engine.advance(next).expect("a later cycle");
            taken += std::iter::from_fn(|| engine.pop()).count();
        }
        black_box(engine.now())
    };
    for kind in StreamKind::ALL {
        let requests: Vec<Request> = kind.requests(LINES, 64).collect();
        group.bench_function(format!("{}/{}", device.name, kind.name()), |b| b.iter(|| serve(&requests)));
    }
    group.finish();
}

/// One expert of Mixtral-8x7B at 4 bits, 84 MiB, drawn at random, one right after the other from one channel.
fn fast(criterion: &mut Criterion) {
    const EXPERT: u64 = 3 * 4096 * 14336 / 2;
    let mut group = criterion.benchmark_group("fast");
    group.throughput(Throughput::Elements(1)).sample_size(10);
    for device in [presets::ddr4_3200(), presets::ddr5_6400(), presets::lpddr5_6400()] {
        let config = Config::new(MappingKind::Mop4ClXor, Refresh::AllBank);
        let mut channel = FastChannel::new(&device, config).expect("a shipped device");
        let experts = device.organisation.capacity_bytes / EXPERT;
        let mut state = 1u64;
        group.bench_function(format!("{}/expert", device.name), |b| {
            b.iter(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                channel.read((state >> 33) % experts * EXPERT, EXPERT).expect("inside the device");
                black_box(channel.cycle())
            });
        });
    }
    // Ten 64-bit channels: 512 GB/s. Experts begin where the pattern of banks begins in every channel.
    let config = Config::new(MappingKind::Mop4ClXor, Refresh::AllBank);
    let mut channels = FastChannels::new(&presets::ddr5_6400(), config, 20, 64).expect("a shipped device");
    let stride = EXPERT.next_multiple_of(channels.alignment().expect("a repeating pattern"));
    let experts = channels.capacity() / stride;
    let mut state = 1u64;
    group.bench_function("20 x DDR5-6400/expert", |b| {
        b.iter(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            channels.read((state >> 33) % experts * stride, EXPERT).expect("inside the device");
            black_box(channels.cycle())
        });
    });
    group.finish();
}

criterion_group!(benches, exact, engine, fast);
criterion_main!(benches);
