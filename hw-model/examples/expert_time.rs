//! Prints what the time and energy of one expert are made of, on every system:
//! `cargo run --release -p cptr-hw-model --example expert_time [MODEL]`.
use cptr_hw_model::link::LINE_BYTES;
use cptr_hw_model::{Cold, LayerWork, Model, System};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "Mixtral-8x7B".into());
    let model = Model::find(&name).ok_or_else(|| format!("unknown model \"{name}\""))?;
    println!("{}: {} parameters an expert\n", model.name, model.expert_parameters());
    for system in System::all() {
        println!("{}: {}", system.name, system.summary);
        gpu(system, model);
        match system.cold {
            Cold::Gpu => copy(system, model),
            Cold::Ndp => near_data(system, model)?,
        }
        println!();
    }
    Ok(())
}

fn gpu(system: &System, model: &Model) {
    let bytes = model.expert_bytes(system.gpu_bits);
    let us = system.gpu().kernel_ps(bytes, model.expert_parameters() as f64) / 1e6;
    println!("  resident run {us:.2} us ({}, {} bits)", system.gpu().name, system.gpu_bits);
}

fn copy(system: &System, model: &Model) {
    let time = system.layer_time(model, LayerWork { cold_runs: 1, ..LayerWork::default() });
    let (link, copy_us) = (system.link(), time.link_ps as f64 / 1e6);
    println!("  copy {copy_us:.2} us ({:.2} GB/s and {} ns)", link.copy_gb_s(), link.copy_launch_ns);
    println!("  layer with one cold expert {:.2} us, {:.3} mJ", time.total_ps as f64 / 1e6, millijoules(&time));
}

fn near_data(system: &System, model: &Model) -> Result<(), Box<dyn std::error::Error>> {
    let (link, peak) = (system.link(), system.ndp().ok_or("no device")?.memory.peak_gb_s()?);
    println!("  memory {peak:.1} GB/s peak; link {:.2} GB/s, copies {:.2} GB/s", link.coded_gb_s(), link.copy_gb_s());
    println!(
        "  lone read {:.1} ns beyond the memory; 8 KiB in {} flits, {:.1} ns",
        link.lone_read_ps() as f64 / 1e3,
        link.send(128 * LINE_BYTES).flits,
        link.send(128 * LINE_BYTES).serial_ps as f64 / 1e3
    );
    let bits = [16.0, 4.0, 3.0, 2.0];
    let mut columns = Vec::new();
    for bits in bits {
        let mut at = system.clone();
        at.ndp_bits = bits;
        let time = at.layer_time(model, LayerWork { cold_runs: 1, ..LayerWork::default() });
        columns.push((at.expert_breakdown(model).ok_or("no device")?, millijoules(&time)));
    }
    let header = bits.map(|bits| format!("{bits:>9} bits"));
    println!("  {:<9}{}   (us)", "", header.concat());
    for part in 0..columns[0].0.parts().len() {
        let parts: Vec<_> = columns.iter().map(|(breakdown, _)| breakdown.parts()[part]).collect();
        let values: String = parts.iter().map(|part| format!("{:14.3}", part.ps as f64 / 1e6)).collect();
        println!("  {:<9}{values}   {}", parts[0].name, parts[0].why);
    }
    let totals: String =
        columns.iter().map(|(breakdown, _)| format!("{:14.3}", breakdown.total_ps() as f64 / 1e6)).collect();
    println!("  {:<9}{totals}", "total");
    let energies: String = columns.iter().map(|(_, millijoules)| format!("{millijoules:14.3}")).collect();
    println!("  {:<9}{energies}   mJ of a layer with this expert, dense part included", "energy");
    Ok(())
}

fn millijoules(time: &cptr_hw_model::LayerTime) -> f64 {
    time.energy.total_pj() as f64 / 1e9
}
