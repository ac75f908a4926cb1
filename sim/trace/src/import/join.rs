//! Several recordings of one model become one: a trace with a domain each, or one list of count tables.

use super::{Part, Recording};
use crate::array::FloatArray;
use crate::counts::Counts;
use crate::error::{Error, Result};
use crate::{Evidence, Meta, Router, Shape, Trace};

/// Joins the parts of one source.
///
/// # Errors
/// If traces and counts are mixed, traces differ in shape or model, or domains exceed 256.
pub(super) fn join(parts: Vec<Part>) -> Result<Recording> {
    let (mut traces, mut counts) = (Vec::new(), Vec::new());
    for Part { path, recording, experts_known, .. } in parts {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match recording {
            Recording::Tokens(trace) => traces.push((name, trace, experts_known)),
            Recording::Counts(table) => counts.push((name, table)),
        }
    }
    match (traces.is_empty(), counts.is_empty()) {
        (false, true) => join_traces(traces).map(Recording::Tokens),
        (true, false) => Ok(Recording::Counts(join_counts(counts))),
        (true, true) => Err(Error::new("expected a routing trace, found files without any token")),
        (false, false) => Err(Error::new("expected traces or counts, found both: name one of the files")),
    }
}

fn join_counts(parts: Vec<(String, Counts)>) -> Counts {
    let several = parts.len() > 1;
    let mut all = Counts::default();
    for (file, mut part) in parts {
        if several {
            part.tables
                .iter_mut()
                .map(|table| &mut table.name)
                .chain(part.pairs.iter_mut().map(|pair| &mut pair.name))
                .for_each(|name| *name = if name.is_empty() { file.clone() } else { format!("{file}/{name}") });
        }
        if all.source.is_empty() {
            all.source = part.source;
        }
        all.tables.append(&mut part.tables);
        all.pairs.append(&mut part.pairs);
        for note in part.notes {
            if !all.notes.contains(&note) {
                all.notes.push(note);
            }
        }
    }
    all
}

fn join_traces(mut parts: Vec<(String, Trace, bool)>) -> Result<Trace> {
    let highest = parts.iter().map(|(_, trace, _)| trace.shape.experts).max().unwrap_or(0);
    let mut guessed = false;
    for (_, trace, known) in &mut parts {
        if !*known {
            guessed = true;
            trace.shape.experts = highest;
        }
    }
    check_equal(&parts)?;
    let several = parts.len() > 1;
    let notes = join_notes(&parts);
    let traces: Vec<Trace> = parts.into_iter().map(|(_, trace, _)| trace).collect();
    let mut joined = if several { concatenate(&traces)? } else { traces.into_iter().next().expect("one part") };
    let lost = std::mem::replace(&mut joined.notes, notes);
    joined.notes.extend(lost.into_iter().filter(|_| several));
    if guessed {
        joined
            .notes
            .push(format!("The number of experts is not recorded: taken as {highest}, one more than the highest id."));
    }
    Ok(joined)
}

fn check_equal(parts: &[(String, Trace, bool)]) -> Result<()> {
    let [(_, first, _), rest @ ..] = parts else { return Ok(()) };
    let shape = |trace: &Trace| Shape { tokens: 0, ..trace.shape };
    if rest.iter().any(|(_, trace, _)| shape(trace) != shape(first) || trace.meta.layer_ids != first.meta.layer_ids) {
        let describe = |(name, trace, _): &(String, Trace, bool)| {
            let Shape { layers, experts, k, .. } = trace.shape;
            format!("{name} ({layers} layers x {experts} experts, top-{k})")
        };
        let shapes: Vec<_> = parts.iter().take(8).map(describe).collect();
        return Err(Error::new(format!(
            "expected traces of one shape, found {}: name one of the files",
            shapes.join(", ")
        )));
    }
    let models: Vec<&str> =
        parts.iter().map(|(_, trace, _)| trace.meta.model.as_str()).filter(|m| !m.is_empty()).collect();
    if let Some(other) = models.iter().find(|&&model| model != models[0]) {
        return Err(Error::new(format!(
            "expected traces of one model, found {} and {other}: name one of the files",
            models[0]
        )));
    }
    Ok(())
}

/// Notes that all parts share once, others with the name of their part.
fn join_notes(parts: &[(String, Trace, bool)]) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for (name, trace, _) in parts {
        for note in &trace.notes {
            let shared = parts.iter().all(|(_, other, _)| other.notes.contains(note));
            let note = if shared { note.clone() } else { format!("{name}: {note}") };
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
    }
    notes
}

/// The tokens of several traces of one shape, in order; the sequences are numbered anew. Notes are left to the caller.
pub fn concatenate(traces: &[Trace]) -> Result<Trace> {
    let first = &traces[0];
    let mut notes = Vec::new();
    let mut floats = |name: &str, get: fn(&Trace) -> &Option<FloatArray>| {
        let arrays: Vec<&FloatArray> = traces.iter().filter_map(|trace| get(trace).as_ref()).collect();
        let joined = FloatArray::concatenate(&arrays).filter(|_| arrays.len() == traces.len());
        if joined.is_none() && !arrays.is_empty() {
            notes.push(format!("Not all files have {name} of one shape: left out."));
        }
        joined
    };
    let (logits, weights, hidden) = (
        floats("logits", |trace| &trace.logits),
        floats("weights", |trace| &trace.weights),
        floats("hidden values", |trace| &trace.hidden),
    );
    let same = |differs: &dyn Fn(&Trace) -> bool| !traces.iter().any(differs);
    let mut joined = Trace {
        shape: Shape { tokens: traces.iter().map(|trace| trace.shape.tokens).sum(), ..first.shape },
        meta: Meta {
            model: traces
                .iter()
                .map(|trace| &trace.meta.model)
                .find(|model| !model.is_empty())
                .cloned()
                .unwrap_or_default(),
            router: if same(&|trace| trace.meta.router != first.meta.router) {
                first.meta.router
            } else {
                Router::UNKNOWN
            },
            source: first.meta.source.clone(),
            domains: Vec::new(),
            layer_ids: first.meta.layer_ids.clone(),
        },
        ids: traces.iter().flat_map(|trace| &trace.ids).copied().collect(),
        weights,
        logits,
        bias: first.bias.clone().filter(|_| same(&|trace| trace.bias != first.bias)),
        expert_scale: first.expert_scale.clone().filter(|_| same(&|trace| trace.expert_scale != first.expert_scale)),
        hidden,
        sequence: Vec::new(),
        position: traces.iter().flat_map(|trace| &trace.position).copied().collect(),
        phase: traces.iter().flat_map(|trace| &trace.phase).copied().collect(),
        token: traces
            .iter()
            .map(|trace| trace.token.as_deref())
            .collect::<Option<Vec<_>>>()
            .map(|parts| parts.concat()),
        domain: Vec::new(),
        notes,
        evidence: join_evidence(traces),
    };
    for trace in traces {
        append_sequences(&mut joined, trace)?;
    }
    Ok(joined)
}

/// The evidence of all parts together, if it is about one router.
fn join_evidence(traces: &[Trace]) -> Option<Evidence> {
    let mut parts = traces.iter().map(|trace| trace.evidence);
    let first = parts.next()??;
    parts.try_fold(first, |sum, part| {
        let part = part.filter(|part| (part.router, part.derived) == (sum.router, sum.derived))?;
        Some(Evidence {
            inferred: sum.inferred || part.inferred,
            explained: sum.explained + part.explained,
            total: sum.total + part.total,
            sets: sum.sets + part.sets,
            ..sum
        })
    })
}

fn append_sequences(joined: &mut Trace, part: &Trace) -> Result<()> {
    let mut domains = Vec::with_capacity(part.meta.domains.len());
    for name in &part.meta.domains {
        let index = joined.meta.domains.iter().position(|other| other == name).unwrap_or_else(|| {
            joined.meta.domains.push(name.clone());
            joined.meta.domains.len() - 1
        });
        domains.push(u8::try_from(index).map_err(|_| Error::new("expected at most 256 domains (files), found more"))?);
    }
    joined.domain.extend(part.domain.iter().map(|&domain| domains[usize::from(domain)]));
    let mut number = joined.sequence.last().map_or(0, |last| last + 1);
    for token in 0..part.shape.tokens {
        number += u32::from(token > 0 && part.starts_sequence(token));
        joined.sequence.push(number);
    }
    Ok(())
}
