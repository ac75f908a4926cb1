//! Times and energies of layers against two tables: figures of the models that stood here before one schedule gave them
//! all.
//!
//! `layer_counts.tsv` is of a model that knew numbers of experts at one number of bits, and is met to the picosecond.
//! The controller has no part in its rows: its cycles are measured anew whenever its code changes. `layer_bits.tsv` is
//! of one that knew lists of experts at different bits and migrations, but rounded sums of kernels where each kernel is
//! rounded now.
use cptr_hw_model::{Cold, CopiedRun, Energy, ExpertRun, LayerTimes, LayerWork, Model, System};

/// The rows of a table, cell by cell.
fn rows(table: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    table.lines().skip(1).map(|line| line.split('\t').collect())
}

/// Without what those models left out: launches, the GPU's notice of results, and reads of a drive, which took as long
/// as a copy behind the drive's latency.
fn machine(row: &[&str]) -> (System, &'static Model) {
    let without = System::find(row[0]).unwrap().changed(|parts| {
        parts.gpu.kernel_launch_ns = 0.0;
        parts.link.poll_ns = 0.0;
        if let Some(drive) = parts.store.as_mut().and_then(|store| store.drive.take()) {
            parts.link.copy_launch_ns = drive.latency_ns;
        }
    });
    (without.unwrap(), Model::find(row[1]).unwrap())
}

fn numbers(cells: &[&str]) -> Vec<u64> {
    cells.iter().map(|cell| cell.parse().unwrap()).collect()
}

fn picojoules(energy: &Energy) -> [u64; 5] {
    [energy.gpu_memory_pj, energy.gpu_compute_pj, energy.link_pj, energy.far_memory_pj, energy.ndp_compute_pj]
}

#[test]
fn layers_of_so_many_experts() {
    for row in rows(include_str!("layer_counts.tsv")) {
        let (system, model) = machine(&row);
        let counts: Vec<usize> = row[2..7].iter().map(|cell| cell.parse().unwrap()).collect();
        let (resident, cold, loads) = (counts[0], counts[1], counts[2]);
        let gpu = vec![ExpertRun::at(system.gpu_bits); resident];
        // Where a cold expert runs on the GPU, its copy is one of the loads.
        let (copied, near, loads) = match system.cold {
            Cold::Gpu => (cold, 0, loads.max(cold) - cold),
            Cold::Ndp | Cold::Host => (0, cold, loads),
        };
        let copied = vec![CopiedRun::at(system.gpu_bits); copied];
        let near_data = vec![ExpertRun::at(system.ndp_bits); near];
        let copies_bits = vec![system.gpu_bits; loads];
        let work = LayerWork {
            tokens: 1,
            attended: 0,
            gpu: &gpu,
            copied: &copied,
            near_data: &near_data,
            copies_bits: &copies_bits,
            migrating: false,
            scored: counts[3] as u32,
            tracked: counts[4] as u32,
        };
        let time = LayerTimes::new(&system, model).get(&work);
        let mut found = vec![time.total_ps, time.gpu_ps, time.link_ps, time.ndp_ps, time.controller_ps];
        found.extend(picojoules(&time.energy));
        assert_eq!(found, numbers(&row[7..]), "{row:?}");
    }
}

#[test]
fn layers_of_experts_at_different_bits() {
    for row in rows(include_str!("layer_bits.tsv")) {
        let (system, model) = machine(&row);
        let bits = |cell: &str| -> Vec<f64> { cell.split_terminator(',').map(|bits| bits.parse().unwrap()).collect() };
        let runs = |cell: &str| -> Vec<ExpertRun> { bits(cell).into_iter().map(ExpertRun::at).collect() };
        let (gpu, near_data) = (runs(row[2]), runs(row[4]));
        let copied: Vec<CopiedRun> = bits(row[3]).into_iter().map(CopiedRun::at).collect();
        let migrating = row[5] == "true";
        let work = LayerWork {
            tokens: 1,
            gpu: &gpu,
            copied: &copied,
            near_data: &near_data,
            migrating,
            ..LayerWork::default()
        };
        let time = system.layer_time(model, &work);
        let expected = numbers(&row[6..]);
        let found = [time.total_ps, time.gpu_ps, time.ndp_ps, time.migrated_bytes.round() as u64];
        // Half a picosecond a kernel; bytes by the picosecond are fewer.
        let most = (gpu.len() + copied.len()).div_ceil(2) as u64;
        for (found, expected) in found.iter().zip(&expected) {
            assert!(found.abs_diff(*expected) <= most, "{row:?} {time:?}");
        }
        assert_eq!(picojoules(&time.energy)[..], expected[4..], "{row:?}");
    }
}
