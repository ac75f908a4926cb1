//! Streams Mixtral-8x7B experts of 4 bits (84 MiB) through the fast path and prints how fast that goes and what they
//! cost: `cargo run --release --example dram_experts [EXPERTS]`.
use cptr_hw_model::dram::{Config, FastChannel, MappingKind, Refresh, presets};
use std::time::Instant;

const EXPERT: u64 = 3 * 4096 * 14336 / 2;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let most: u64 = std::env::args().nth(1).map_or(Ok(100_000), |word| word.parse())?;
    for name in ["DDR4-3200", "DDR5-4800", "DDR5-6400", "LPDDR5-6400", "HBM3-6400"] {
        let device = presets::by_name(name).ok_or("unknown device")?;
        let experts = device.organisation.capacity_bytes / EXPERT;
        let mut channel = FastChannel::new(&device, Config::new(MappingKind::Mop4ClXor, Refresh::AllBank))?;
        let (mut read, mut state) = (0u64, 1u64);
        for target in (0..).map(|power| 10u64.pow(power)).take_while(|&target| target <= most) {
            let (start, before) = (Instant::now(), read);
            while read < target {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                channel.read((state >> 33) % experts * EXPERT, EXPERT)?;
                read += 1;
            }
            let seconds = start.elapsed().as_secs_f64();
            println!(
                "{name:12} expert {before:7} to {read:7}: {:12.0} experts/s, {:8.1} us each on the device, {} lines simulated",
                (read - before) as f64 / seconds,
                channel.time_ps() as f64 / read as f64 / 1e6,
                channel.simulated_lines()
            );
        }
    }
    Ok(())
}
