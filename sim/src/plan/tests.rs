use cptr_hw_model::Model;

use super::*;

fn question(model: &str) -> Question<'static> {
    Question { context: 4096, ..Question::new(Model::find(model).unwrap(), Misses::typical()) }
}

#[test]
fn every_model_has_ways_on_every_machine() {
    for model in Model::all() {
        for system in System::all() {
            let ways = question(&model.name).ways(system).unwrap();
            assert!((3..=12).contains(&ways.len()), "{} {}", model.name, system.name);
            for way in &ways {
                assert!(way.low_tokens_per_s <= way.tokens_per_s && way.tokens_per_s <= way.high_tokens_per_s);
                assert!(way.tokens_per_s.is_finite() && way.tokens_per_s > 0.0, "{way:?}");
                assert!((0.0..=1.0).contains(&way.miss_rate) && way.gpu_gb > RESERVED_GB);
                assert!(way.busy.gpu_us <= way.token_us * 1.000_001 && way.busy.link_us <= way.token_us * 1.000_001);
            }
            assert!(ways.is_sorted_by(|a, b| {
                (a.fits, a.tokens_per_s).partial_cmp(&(b.fits, b.tokens_per_s)).is_some_and(std::cmp::Ordering::is_ge)
            }));
        }
    }
}

#[test]
fn what_fits_is_memory() {
    let ways = |model| question(model).ways(System::find("offload").unwrap()).unwrap();
    let all = |model, bits| ways(model).into_iter().find(|way| way.place == Place::Gpu && way.bits == bits).unwrap();
    // 30.5 B weights: 61 GB at 16 bits, 15.3 at 4.
    assert!(all("Qwen3-30B-A3B", 16.0).fits && (61.0..64.5).contains(&all("Qwen3-30B-A3B", 16.0).gpu_gb));
    assert!((15.0..19.0).contains(&all("Qwen3-30B-A3B", 4.0).gpu_gb));
    let large = all("DeepSeek-V3", 4.0);
    assert!(!large.fits && large.short_of.unwrap().contains("H100"));
    // More memory, fewer misses.
    let copied: Vec<Way> = ways("DeepSeek-V3").into_iter().filter(|way| way.place == Place::Copied).collect();
    assert!(copied.iter().all(|way| {
        copied.iter().all(|other| way.resident_share <= other.resident_share || way.miss_rate <= other.miss_rate)
    }));
}

#[test]
fn what_is_not_known_is_refused() {
    let little = Model::new("little", 512, 128);
    let error = Question::new(&little, Misses::typical()).ways(System::find("ndp").unwrap()).unwrap_err();
    assert!(error.to_string().contains("layers, experts and head are known, found little"), "{error}");
    let odd = Question { bits: vec![0.0], ..question("OLMoE") };
    assert!(odd.ways(System::find("ndp").unwrap()).unwrap_err().to_string().contains("gpu_bits is 0"));
}

#[test]
fn a_wider_device_is_never_slower_and_a_map_needs_one() {
    let question = Question { bits: vec![4.0], ..question("Qwen3-30B-A3B") };
    let cells = map::cells(&question, System::find("ndp").unwrap()).unwrap();
    assert_eq!(cells.len(), map::GPU_GB.len() * map::CHANNELS.len());
    let rate = |cell: &map::Cell| cell.best.as_ref().map_or(0.0, |way| way.tokens_per_s);
    for one in &cells {
        for other in cells.iter().filter(|other| other.gpu_gb == one.gpu_gb && other.device_gb_s > one.device_gb_s) {
            assert!(rate(other) >= rate(one) * 0.98, "{one:?} {other:?}");
        }
        assert!(one.without_device.as_ref().map_or(0.0, |way| way.tokens_per_s) <= rate(one));
    }
    assert!(map::cells(&question, System::find("offload").unwrap()).is_err());
    // What holds all experts at 4 bits is not bettered by a device at 4 bits.
    assert!(cells.iter().all(|cell| cell.all_at_4_bits_tokens_per_s.is_none_or(|all| rate(cell) == all)));
}

#[test]
fn what_would_help_is_what_bounds() {
    let question = Question { bits: vec![4.0], ..question("gpt-oss-120b") };
    let changes = |system| question.changes(System::find(system).unwrap()).unwrap();
    // 62 GB of experts: an H100 holds them, a card of 24 GB leaves most to its host.
    assert_eq!(changes("offload")[0].twice, "bandwidth of its memory");
    let workstation = changes("workstation");
    assert!(workstation.iter().any(|change| change.twice == "bandwidth of the host"), "{workstation:?}");
    assert!(workstation.iter().any(|change| change.twice == "memory of the GPU"), "{workstation:?}");
}
