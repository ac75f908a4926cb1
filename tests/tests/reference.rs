//! The controller's fixed-point code against the same algorithm in 64-bit floating point, over whole traces.
//!
//! Both sides run a cache of twice the active experts: bounded-loss selection, tracked eviction, each on its own
//! residents, so that one differing decision may lead to others. `CPTR_TRACES=FOLDER` adds every trace of a folder to
//! the bundled ones.

use std::path::{Path, PathBuf};

use cptr_core::testing::oracle;
use cptr_core::{Eps, ExpertSet, Logit, Router, Tracker, TrackerConfig, select, words_for};
use cptr_trace::import::{self, Options, Recording};
use cptr_trace::{MAX_TOP_K, Shape, Trace};

const EPS: f64 = 0.04;
/// Share of the token-layers whose selection may differ.
const ALLOWED: f64 = 0.001;
/// Most experts of any trace here.
const MAX_EXPERTS: usize = 256;

/// Bounded-loss selection as its documentation says it: stand-ins best first for the missing experts of least mass.
fn reference_select(logits: &[f32], wanted: &[u16], resident: &[bool]) -> Vec<u16> {
    let logit = |e: u16| f64::from(logits[usize::from(e)]);
    let mut stand_ins: Vec<u16> =
        (0..logits.len() as u16).filter(|&e| resident[usize::from(e)] && !wanted.contains(&e)).collect();
    stand_ins.sort_by(|&a, &b| logit(b).total_cmp(&logit(a)));
    let mut missing: Vec<usize> = (1..wanted.len()).filter(|&rank| !resident[usize::from(wanted[rank])]).collect();
    missing.reverse();
    missing.sort_by(|&a, &b| logit(wanted[a]).total_cmp(&logit(wanted[b])));
    let largest = wanted.iter().map(|&e| logit(e)).fold(f64::MIN, f64::max);
    let mass = |e: u16| (logit(e) - largest).exp();
    let mut budget = EPS * wanted.iter().map(|&e| mass(e)).sum::<f64>();
    let mut chosen = wanted.to_vec();
    for (rank, stand_in) in missing.into_iter().zip(stand_ins) {
        let loss = (mass(wanted[rank]) - mass(stand_in)).max(0.0);
        if loss > budget {
            break;
        }
        budget -= loss;
        chosen[rank] = stand_in;
    }
    chosen
}

/// The two sides of one layer.
struct Pair {
    capacity: usize,
    tracker: Tracker<[cptr_core::ScaledLevels; MAX_EXPERTS]>,
    resident: ExpertSet<{ words_for(MAX_EXPERTS) }>,
    reference: oracle::Tracker,
    reference_resident: Vec<bool>,
}

impl Pair {
    fn load(&mut self, chosen: &[u16]) {
        for &expert in chosen {
            if !self.resident.contains(expert) {
                if self.resident.len() == self.capacity {
                    let victim = self.tracker.victim(&self.resident, chosen).expect("capacity is above k");
                    self.resident.remove(victim);
                }
                self.resident.insert(expert);
            }
        }
    }

    fn load_reference(&mut self, chosen: &[u16]) {
        for &expert in chosen {
            if !self.reference_resident[usize::from(expert)] {
                if self.reference_resident.iter().filter(|&&r| r).count() == self.capacity {
                    let experts = 0..self.reference_resident.len();
                    let free = experts.filter(|&e| self.reference_resident[e] && !chosen.contains(&(e as u16)));
                    let score = |e: usize| self.reference.score(e);
                    let victim = free.min_by(|&a, &b| score(a).total_cmp(&score(b))).expect("capacity is above k");
                    self.reference_resident[victim] = false;
                }
                self.reference_resident[usize::from(expert)] = true;
            }
        }
    }
}

/// Token-layers, those whose selections differ, and those after which the residents differ.
fn compare(trace: &Trace, layer: usize) -> [usize; 3] {
    let Shape { tokens, experts, k, .. } = trace.shape;
    let (config, router) = (TrackerConfig::default(), Router::softmax_selected(k));
    let mut pair = Pair {
        capacity: 2 * k,
        tracker: Tracker::new(),
        resident: ExpertSet::new(),
        reference: oracle::Tracker::new(experts),
        reference_resident: vec![false; experts],
    };
    let mut logits = vec![0.0f32; experts];
    let mut counts = [tokens, 0, 0];
    for token in 0..tokens {
        let wanted = trace.chosen(token, layer);
        let (mut chosen, mut reference_chosen) = (wanted.to_vec(), wanted.to_vec());
        if let Some(all) = &trace.logits {
            all.read_row(token, layer, &mut logits);
            let fixed: Vec<Logit> = logits.iter().map(|&z| Logit::saturating_from_num(z)).collect();
            let eps = Eps::from_num(EPS);
            chosen = select::<MAX_TOP_K>(&router, eps, 1, &fixed, wanted, &pair.resident).unwrap().experts.to_vec();
            reference_chosen = reference_select(&logits, wanted, &pair.reference_resident);
        }
        pair.load(&chosen);
        pair.load_reference(&reference_chosen);
        pair.tracker.update(&config, wanted);
        pair.reference.update(wanted);
        counts[1] += usize::from(chosen != reference_chosen);
        let differs = |e: usize| pair.resident.contains(e as u16) != pair.reference_resident[e];
        counts[2] += usize::from((0..experts).any(differs));
    }
    counts
}

fn traces() -> Vec<(String, Trace)> {
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/data");
    let entries = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let is_file = |path: &PathBuf| path.extension().is_some_and(|end| end == "safetensors");
    // The folders beside the bundled traces hold a model and texts.
    let mut paths: Vec<PathBuf> = entries(&bundled).into_iter().filter(is_file).collect();
    if let Some(folder) = std::env::var_os("CPTR_TRACES") {
        paths.extend(entries(Path::new(&folder)).into_iter().filter(|path| path.is_dir() || is_file(path)));
    }
    paths.sort();
    let read = |path: PathBuf| match import::read(&path, &Options::default()) {
        Ok(Recording::Tokens(trace)) => Some((path.file_name().unwrap().to_string_lossy().into_owned(), trace)),
        Ok(Recording::Counts(_)) => None,
        Err(error) => panic!("{error}"),
    };
    paths.into_iter().filter_map(read).collect()
}

#[test]
fn selections_equal_those_in_floating_point() {
    let traces = traces();
    assert!(traces.len() >= 2, "the bundled traces are there");
    for (name, trace) in traces {
        let layers = (0..trace.shape.layers).map(|layer| compare(&trace, layer));
        let [all, selections, residents] = layers.fold([0; 3], |a, b| [a[0] + b[0], a[1] + b[1], a[2] + b[2]]);
        let share = |part: usize| part as f64 / all as f64;
        println!(
            "{name}: {all} token-layers; selections differ in {selections} ({:.4} %), residents in {residents} ({:.4} %)",
            share(selections) * 100.0,
            share(residents) * 100.0
        );
        assert!(share(selections) <= ALLOWED, "{name}: selections");
        assert!(share(residents) <= 10.0 * ALLOWED, "{name}: residents");
    }
}
