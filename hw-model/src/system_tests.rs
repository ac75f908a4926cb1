//! Tests of [`super::System`]: what holds for every machine, and figures of single ones.
use proptest::prelude::*;

use super::*;
use crate::controller::Kernel;
use crate::layer::LayerTime;
use crate::work::tests::{Lists, lists};
use crate::work::{CopiedRun, LayerWork};

fn mixtral() -> &'static Model {
    Model::find("Mixtral-8x7B").unwrap()
}

fn system(name: &str) -> System {
    System::find(name).unwrap().clone()
}

/// One layer of Mixtral with so many resident experts, cold experts, and copies to stay.
fn layer(system: &System, resident: usize, cold: usize, loads: usize) -> LayerTime {
    system.layer_time(mixtral(), &Lists::counts(system, resident, cold, loads).work())
}

#[test]
fn names_are_unique_and_parts_with_one_name_are_equal() {
    let all = System::all();
    assert_eq!(all.len(), FILES.len());
    for (i, one) in all.iter().enumerate() {
        for other in &all[..i] {
            assert_ne!(one.name, other.name);
            if one.gpu().name == other.gpu().name {
                assert_eq!(one.gpu(), other.gpu());
            }
            if one.link().name == other.link().name && one.cold == other.cold {
                assert_eq!(one.link(), other.link(), "{} {}", one.name, other.name);
            }
        }
        assert!(!one.source.is_empty() && !one.summary.is_empty());
    }
}

#[test]
fn one_mixtral_expert_at_2_bits() {
    let near_data = layer(&system("ndp"), 0, 1, 0);
    // 44.04 MB at 512 GB/s are 86.016 us; refresh, rows and the last chunk add 8 to 10 %.
    assert!((1.08..1.10).contains(&(near_data.ndp_ps as f64 / 86_016_000.0)), "{near_data:?}");
    let offload = layer(&system("offload"), 0, 1, 1);
    // 352.3 MB at 24.8 GB/s and the launch.
    assert!((offload.link_ps as f64 / 1e9 - 14.209).abs() < 0.001, "{offload:?}");
}

#[test]
fn one_mixtral_expert_at_16_bits_is_0_688_ms_and_overheads() {
    let mut paper = system("ndp");
    paper.ndp_bits = 16.0;
    let parts = paper.expert_breakdown(mixtral()).unwrap();
    assert_eq!(parts.ideal_ps, 688_128_000);
    let share = |ps: i64| ps as f64 / parts.ideal_ps as f64;
    assert!((0.0..0.01).contains(&share(parts.rows_ps)), "{parts:?}");
    // F = 1 - (nRTP + nRP + nRFC + nRCD) / nREFI of DDR5-6400: 24 + 46 + 946 + 46 of 12,500 cycles.
    let closed_form = 1.0 / (1.0 - 1062.0 / 12_500.0) - 1.0;
    assert!((share(parts.refresh_ps) / closed_form - 1.0).abs() < 0.02, "{parts:?} {closed_form}");
    assert!((0.0..0.002).contains(&share(parts.pipeline_ps)), "{parts:?}");
    assert!(parts.link_ps > 180_000 && parts.launch_ps == 50_000, "{parts:?}");
    assert_eq!(parts.parts().map(|part| part.ps).iter().sum::<i64>(), parts.total_ps());
    let dense = layer(&paper, 0, 0, 0).total_ps;
    let layer = layer(&paper, 0, 1, 0).total_ps;
    assert_eq!(parts.total_ps() as u64, layer - dense);
}

#[test]
fn all_resident_is_gpu_time_only() {
    for system in System::all() {
        let time = layer(system, 2, 0, 0);
        assert_eq!((time.total_ps, time.link_ps, time.ndp_ps), (time.gpu_ps, 0, 0), "{}", system.name);
        assert_eq!(time.energy.total_pj(), time.energy.gpu_memory_pj + time.energy.gpu_compute_pj);
    }
}

#[test]
fn the_device_is_faster_at_fewer_bits_if_its_arrays_are() {
    let time = |name: &str, bits: f64| {
        let mut system = system(name);
        system.ndp_bits = bits;
        layer(&system, 0, 2, 0).ndp_ps as f64
    };
    assert!((time("ndp", 16.0) / time("ndp", 3.0) / (16.0 / 3.0) - 1.0).abs() < 0.02);
    assert!((time("ndp", 16.0) / time("ndp", 2.0) / 8.0 - 1.0).abs() < 0.02);
    assert!(time("ndp-fixed", 16.0) / time("ndp-fixed", 2.0) < 1.1);
}

/// The baseline of arXiv 2512.04476: 8x22B, two FP16 runs near the data take 2.36 ms a layer before overheads, one copy
/// 19.2 ms or more.
#[test]
fn mixtral_8x22b_near_the_data_against_a_copy() {
    let model = Model::find("Mixtral-8x22B").unwrap();
    let of = |system: System, cold| system.layer_time(model, &Lists::counts(&system, 0, cold, 0).work());
    let runs = of(system("monde"), 2);
    assert!((2.36 * 1.05..2.36 * 1.12).contains(&(runs.ndp_ps as f64 / 1e9)), "{runs:?}");
    let copy = of(system("offload"), 1);
    assert!((copy.link_ps as f64 / 1e9 - 604.0 / 24.8).abs() < 0.05, "{copy:?}");
}

/// One FP16 expert from GPU memory and over a link: bits times picojoules.
#[test]
fn energy_is_bits_times_picojoules() {
    let offload = layer(&system("offload"), 0, 1, 0).energy;
    let bits = 176_160_768.0 * 16.0;
    let dense_bits = 41_943_040.0 * 16.0;
    assert_eq!(offload.link_pj, (bits * 4.4_f64).round() as u64);
    assert_eq!(offload.far_memory_pj, (bits * 14.0) as u64);
    assert!((offload.gpu_memory_pj as f64 / ((bits + dense_bits) * 3.59) - 1.0).abs() < 1e-9);
    let near_data = layer(&system("ndp"), 0, 1, 0).energy;
    assert_eq!(near_data.ndp_compute_pj, (176_160_768.0 * 3.2_f64).round() as u64);
    let ratio = near_data.far_memory_pj as f64 / (bits / 8.0 * 14.0);
    assert!((1.0..1.001).contains(&ratio), "{ratio}");
    assert!(near_data.link_pj < offload.link_pj / 10_000);
}

#[test]
fn the_controller_stands_between_router_and_dispatch() {
    let system = system("ndp");
    let lists = Lists::counts(&system, 0, 1, 0);
    let controller = system.controller().unwrap();
    for (model, turn) in [(mixtral(), Kernel::Turn), (Model::find("DeepSeek-V3").unwrap(), Kernel::TurnSigmoid)] {
        let time = |scored, tracked| system.layer_time(model, &LayerWork { scored, tracked, ..lists.work() });
        let (without, with) = (time(0, 0), time(8, 8));
        let (turn_ps, update_ps) = (controller.turn_ps(turn, 8, 1, 1), controller.update_ps(turn, 8, 1, 1));
        assert_eq!(with.total_ps - without.total_ps, turn_ps + system.link().ask_ps());
        assert_eq!(with.controller_ps, turn_ps + update_ps);
        // The raw router with a tracked placement: an update beside the experts' runs.
        let tracked = time(0, 8);
        assert_eq!((tracked.total_ps, tracked.controller_ps), (without.total_ps, update_ps));
    }
}

#[test]
fn copies_slow_the_device_by_their_share_of_its_memory() {
    let system = system("ndp");
    let alone = layer(&system, 0, 2, 0).ndp_ps as f64;
    let beside = layer(&system, 0, 2, 1).ndp_ps as f64;
    let device_gb_s = 2.0 * 44_040_192.0 / alone * 1e3;
    assert!((beside / alone - 1.0 / (1.0 - 24.8 / device_gb_s)).abs() < 1e-3, "{}", beside / alone);
}

#[test]
fn clones_share_what_is_known_and_bits_are_told_apart() {
    let (one, at) = (system("m2ndp"), ExpertRun::at);
    let two = one.clone();
    let at_2 = one.expert(mixtral(), at(2.0));
    assert!(!two.known.0.lock().unwrap().is_empty());
    assert_ne!(one.expert(mixtral(), at(3.0)), at_2);
    assert_eq!(two.expert(mixtral(), at(2.0)), at_2);
    assert_eq!(one.expert(&Model::new("other", 64, 64), at(2.0)).unwrap().bytes % (32 * 256), 0);
}

#[test]
fn a_machine_may_name_a_memory_of_its_own() {
    let own = FILES[5].replacen("device = \"DDR5-6400\"", "device = \"own.toml\"", 1);
    let read = |name: &str, text: &str| {
        let (name, text) = (name.to_string(), text.to_string());
        System::from_toml_with(&own, |asked| if asked == name { Ok(text.clone()) } else { Err("no such file".into()) })
    };
    let time = |system: &System| {
        let near_data = [ExpertRun::at(2.0); 6];
        let layer = LayerWork { tokens: 1, near_data: &near_data, ..LayerWork::default() };
        system.layer_time(Model::find("Qwen3-30B-A3B").unwrap(), &layer).ndp_ps
    };
    let built_in = System::from_toml(FILES[5]).unwrap();
    assert_eq!(time(&read("own.toml", "base = \"DDR5-6400\"").unwrap()), time(&built_in));
    let slow = read("own.toml", "base = \"DDR5-6400\"\n[timing]\nn_rfc = 4000").unwrap();
    assert!(time(&slow) > time(&built_in));
    let refused = |name: &str, text: &str| read(name, text).unwrap_err().to_string();
    let found = refused("own.toml", "base = \"DDR5-6400\"\n[timing]\nn_rrd_l = 1");
    assert!(
        found.starts_with("ndp.memory.device is own.toml, but it must be a device: timing.n_rrd_l is 1"),
        "{found}"
    );
    assert!(refused("other.toml", "").ends_with("no such file"));
    assert!(System::from_toml(&own).unwrap_err().to_string().starts_with("ndp.memory.device is own.toml"));
}

#[test]
fn bad_files_are_refused_with_field_value_and_rule() {
    let good = FILES[5];
    let error = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        System::from_toml(&good.replacen(from, to, 1)).unwrap_err().to_string()
    };
    for (from, to, expected) in [
        ("lanes = 16", "lanes = 17", "link.lanes is 17, but it must lie between 1 and 16"),
        ("ndp_bits = 2.0", "ndp_bits = 0.5", "ndp_bits is 0.5, but it must lie between 1 and 32"),
        ("ndp_bits = 2.0", "", "cold is ndp, but it needs both ndp and ndp_bits"),
        ("cold = \"ndp\"", "cold = \"gpu\"", "cold is gpu, but it must be \"ndp\""),
        ("channels = 20", "channels = 0", "ndp.memory.channels is 0, but it must lie between 1 and 4096"),
        ("flit = \"cxl-68\"", "", "link.flit is absent"),
        ("flit = \"cxl-68\"", "flit = \"cxl-69\"", "unknown variant `cxl-69`"),
        ("capacity_gb = 512.0", "capacity_gb = 51.2", "ndp.capacity_gb is 51.2, but it must be at least 171.8"),
        ("lanes = 16", "lanes = 16\nlane = 1", "unknown field `lane`"),
        ("lanes = 16", "", "missing field `lanes`"),
        ("lanes = 16", "lanes = \"many\"", "invalid type"),
        ("[gpu]", "[gpu", "line"),
    ] {
        let found = error(from, to);
        assert!(found.contains(expected) && !found.contains('\n'), "{to}: {found}");
    }
    let few = good.replacen("channels = 20", "channels = 1", 1).replacen("gt_s = 16.0", "gt_s = 32.0", 1);
    let found = System::from_toml(&few).unwrap_err().to_string();
    assert!(found.contains("ndp.memory.channels is 1, but it must give more than the 49.6 GB/s"), "{found}");
    let line = System::from_toml(&good.replacen("lanes = 16", "lanes = \"many\"", 1)).unwrap_err();
    let expected = good.lines().position(|line| line.starts_with("lanes")).unwrap() + 1;
    assert!(matches!(line, SystemError::Syntax { line, .. } if line == expected), "{line:?}");
}

#[test]
fn huge_models_and_huge_work_have_a_time() {
    let huge = Model::new("huge", 1 << 20, 1 << 20);
    let time = |system: &System| {
        let lists = Lists::counts(system, 65_536, 300, 65_536);
        let work = LayerWork { scored: 65_536, tracked: 65_536, ..lists.work() };
        system.layer_time(&huge, &work).total_ps
    };
    assert!(System::all().iter().all(|system| time(system) > 0));
    let slow = FILES[5]
        .replacen("count = 64", "count = 1", 1)
        .replacen("columns = 4", "columns = 1", 1)
        .replacen("clock_mhz = 1000.0", "clock_mhz = 1.0", 1)
        .replacen("scales_with_16_over_bits", "fixed", 1)
        .replacen("round_trip_ns = 180.0", "round_trip_ns = 1e9", 1);
    assert_eq!(time(&System::from_toml(&slow).unwrap()), u64::MAX);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_part_is_busy_longer_than_the_layer_and_work_never_saves_time(
        lists in lists(1), controller in (0u32..256, 0u32..256), migrating: bool, model in 0..Model::all().len(),
    ) {
        let model = &Model::all()[model];
        let (scored, tracked) = controller;
        for system in System::all() {
            let lists = lists.clone().on(system);
            let work = |lists| LayerWork { scored, tracked, migrating, ..Lists::work(lists) };
            let time = system.layer_time(model, &work(&lists));
            for part in [time.gpu_ps, time.link_ps, time.ndp_ps, time.controller_ps] {
                prop_assert!(part <= time.total_ps + 1);
            }
            // Descriptors, results and copies beside a migration have the link first.
            let most = if migrating { time.total_ps as f64 * system.copy_gb_s() / 1e3 } else { 0.0 };
            prop_assert!((0.0..=most).contains(&time.migrated_bytes));
            let mut more = [lists.clone(), lists.clone(), lists.clone(), lists.clone()];
            more[0].gpu.push(ExpertRun::at(system.gpu_bits));
            more[1].copied.push(CopiedRun::at(system.gpu_bits));
            more[2].copies_bits.push(system.gpu_bits);
            if system.runs_near_data() {
                more[3].near_data.push(ExpertRun::at(system.ndp_bits));
            }
            let layers = more.iter().map(work).chain([
                LayerWork { scored: scored + 1, ..work(&more[0]) },
                LayerWork { tracked: tracked + 1, ..work(&more[0]) },
            ]);
            for more in layers {
                let slower = system.layer_time(model, &more);
                // Beside the controller's: its cycles are means over measured tokens, of which larger layers may miss
                // fewer experts.
                let saved = time.controller_ps.saturating_sub(slower.controller_ps);
                prop_assert!(slower.total_ps.saturating_add(saved) >= time.total_ps, "{} {:?}", system.name, more);
                prop_assert!(slower.energy.total_pj() >= time.energy.total_pj());
            }
        }
    }

    #[test]
    fn more_bits_never_save_time(bits in 1.0f64..16.0, more in 0.0f64..2.0, name in 0usize..5) {
        let names = ["ndp", "ndp-fixed", "ndp-lpddr5x", "monde", "m2ndp"];
        let model = Model::find("olmoe").unwrap();
        let stream = |bits: f64| {
            system(names[name]).expert(model, ExpertRun::at(bits)).unwrap().stream_ps as f64
        };
        // The mean is over a limited number of refresh phases.
        prop_assert!(stream((bits + more).min(16.0)) >= stream(bits) * 0.999);
    }
}

#[test]
fn a_file_is_that_of_its_system_and_devices_that_are_alike_are_known_once() {
    for system in System::all() {
        assert_eq!(System::from_toml(System::file(&system.name).unwrap()).unwrap(), *system);
    }
    assert!(System::file("no such machine").is_none());
    let changed = |from: &str, to: &str| {
        let text = System::file("ndp").unwrap();
        assert!(text.contains(from));
        System::from_toml(&text.replace(from, to)).unwrap()
    };
    let ndp = System::find("ndp").unwrap();
    let shared = |system: System| Arc::ptr_eq(&system.knowing(ndp).known.0, &ndp.known.0);
    assert!(shared(changed("copy_efficiency = 0.787", "copy_efficiency = 0.9")));
    assert!(!shared(changed("\"mop4clxor\"", "\"robaracoch\"")));
}
