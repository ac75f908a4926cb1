//! Layouts against closed forms on small traces.
use super::*;
use cptr_trace::Shape;
use proptest::prelude::*;

fn trace(ids: Vec<u16>, layers: usize, experts: usize, k: usize) -> Trace {
    let tokens = ids.len() / layers / k;
    Trace::of_ids(Shape { tokens, layers, experts, k }, ids)
}

fn plan(layouts: &[&str], devices: usize) -> Plan<'static> {
    Plan {
        layouts: layouts.iter().map(|name| parse(name).unwrap()).collect(),
        devices,
        prefill: 16,
        batch: 1,
        switches: 0,
        bits: 2,
        system: System::find("ndp").unwrap(),
        model: Model::find("Qwen3-30B-A3B").unwrap(),
    }
}

/// Two layers; a token wants 0 and 2, or 1 and 3: round robin puts both on one of two devices.
fn pairs() -> Trace {
    trace((0..64).flat_map(|token| [token % 2, token % 2 + 2, token % 2, token % 2 + 2]).collect(), 2, 4, 2)
}

#[test]
fn what_is_wanted_together_is_kept_apart() {
    let rows = run(&pairs(), &plan(&["round-robin", "balanced", "overflow:replicated=1"], 2)).unwrap();
    let times: Vec<f64> = rows.iter().map(|row| row.layer_us).collect();
    assert!((times[0] / times[1] - 2.0).abs() < 1e-9 && times[2] == times[1], "{times:?}");
    assert_eq!((rows[0].imbalance, rows[1].imbalance), (2.0, 1.0));
    assert_eq!((rows[0].stored, rows[2].stored), (1.0, 2.0));
}

#[test]
fn affinity_keeps_tokens_where_they_are() {
    let rows = run(&pairs(), &plan(&["affinity", "round-robin"], 2)).unwrap();
    assert_eq!((rows[0].stays, rows[1].stays), (1.0, 1.0));
    // Layer 1 wants the ids of layer 0, turned by one: round robin moves every token, affinity none.
    let turned = (0..64).flat_map(|token| [token % 2, token % 2 + 2, (token + 1) % 2, (token + 1) % 2 + 2]);
    let rows = run(&trace(turned.collect(), 2, 4, 2), &plan(&["affinity", "round-robin"], 2)).unwrap();
    assert_eq!(rows[1].stays, 0.0);
    assert_eq!(rows[0].stays, 1.0);
}

#[test]
fn one_device_does_all() {
    let all: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    let rows = run(&pairs(), &plan(&all, 1)).unwrap();
    assert!(rows.iter().all(|row| row.imbalance == 1.0 && row.stays == 1.0 && row.layer_us == rows[0].layer_us));
}

/// One token of two experts: its activations go to each device that has one, each returns one sum, each switch adds a
/// round trip.
#[test]
fn the_way_there_and_back_by_hand() {
    let away = |devices, switches, layout| {
        let row = run(&pairs(), &Plan { switches, ..plan(&[layout], devices) }).unwrap().remove(0);
        (row.away_us, row.link_bytes, row.layer_us)
    };
    let link = System::find("ndp").unwrap().link();
    let us = |ps: u64| ps as f64 / 1e6;
    // 2,048 numbers of two bytes, and a line for each of the two experts.
    let one = us(link.send(4096 + 128).serial_ps + link.send(4096).serial_ps + link.launch_ps()) + 0.18 + 0.3;
    let (found, bytes, layer) = away(1, 0, "balanced");
    assert!((found - one - layer).abs() < 1e-9, "{found} {one} {layer}");
    assert_eq!(bytes, (link.wire_bytes(4224) + link.wire_bytes(4096)) as f64);
    let (two, bytes_of_two, layer) = away(2, 0, "balanced");
    let apart = us(link.send(2 * 4096 + 128).serial_ps + link.send(4096).serial_ps + link.launch_ps()) + 0.18 + 0.3;
    assert!((two - apart - layer).abs() < 1e-9 && bytes_of_two > 1.9 * bytes);
    assert!((away(2, 3, "balanced").0 - two - 3.0 * 0.18).abs() < 1e-9);
}

#[test]
fn refuses_with_the_numbers() {
    let refusal = |plan: Plan<'_>| run(&pairs(), &plan).unwrap_err().to_string();
    assert!(refusal(plan(&[], 0)).contains("expected 1 to 4, found 0"));
    assert!(refusal(plan(&[], 5)).contains("expected 1 to 4, found 5"));
    let offload = System::find("offload").unwrap();
    assert!(refusal(Plan { system: offload, ..plan(&[], 2) }).contains("near-data device, found offload"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// Every expert has homes that exist, devices without replicas hold equally many, and no layer is faster than
    /// perfect balance.
    #[test]
    fn layouts_are_layouts(firsts in prop::collection::vec(0u16..12, 40..80), devices in 1usize..7) {
        let ids: Vec<u16> = firsts.iter().flat_map(|&first| [first, (first + 5) % 12, (first * 5 + 1) % 12, (first * 5 + 2) % 12]).collect();
        let trace = trace(ids, 2, 12, 2);
        let streams = Streams::new(trace.shape.tokens, 1, 16).unwrap();
        let setup = Setup { trace: &trace, streams: &streams, devices };
        for kind in KINDS {
            for homes in (kind.make.0)(&Values::defaults(kind.parameters), &setup) {
                prop_assert_eq!(homes.len(), 12);
                prop_assert!(homes.iter().all(|homes| !homes.is_empty() && homes.iter().all(|&home| usize::from(home) < devices)));
                if kind.name != "overflow" {
                    for device in 0..devices {
                        let held = homes.iter().filter(|homes| homes == &&vec![device as u8]).count();
                        prop_assert!(held <= setup.capacity());
                    }
                }
            }
        }
        let all: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        for row in run(&trace, &plan(&all, devices)).unwrap() {
            prop_assert!(row.imbalance >= 1.0 - 1e-9 && row.imbalance <= devices as f64 + 1e-9);
            prop_assert!((0.0..=1.0).contains(&row.stays));
        }
    }
}
