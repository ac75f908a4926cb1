//! Requests a second through the embedded interface: `cargo run --release --example dram_engine -- [DEVICE
//! [REQUESTS]]`. Each stream is made before and served one request at a time, every completion taken.
use cptr_hw_model::dram::{Config, Engine, EngineConfig, MappingKind, NotTaken, Refresh, Request, StreamKind, presets};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let device = words.next().unwrap_or_else(|| "DDR5-4800".into());
    let requests: u64 = words.next().map_or(Ok(2_000_000), |word| word.parse())?;
    let device = presets::by_name(&device).ok_or("no such device")?;
    for kind in StreamKind::ALL {
        let stream: Vec<Request> = kind.requests(requests, device.organisation.access_bytes()).collect();
        let config = Config::new(MappingKind::Mop4ClXor, Refresh::AllBank);
        let mut engine = Engine::new(&device, EngineConfig::new(config))?;
        let (start, mut taken, mut offered) = (Instant::now(), 0, stream.iter());
        let mut next = offered.next();
        while taken < requests {
            let mut until = u64::MAX;
            while let Some(&request) = next {
                match engine.offer(request) {
                    Ok(_) => next = offered.next(),
                    Err(NotTaken::NextCycle) => {
                        until = engine.now() + 1;
                        break;
                    }
                    Err(_) => break,
                }
            }
            let event = engine.next_command().unwrap_or(u64::MAX).min(until);
            engine.advance(event)?;
            while engine.pop().is_some() {
                taken += 1;
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{:6} {:8.2} million requests/s, {} cycles",
            kind.name(),
            requests as f64 / seconds / 1e6,
            engine.now()
        );
    }
    Ok(())
}
