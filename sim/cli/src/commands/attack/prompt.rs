//! `cptr attack --prompt`: a model in the loop.

use std::path::Path;

use serde_json::{Value, json};

use super::{Args, MOST, PROMPT, Wanted};
use crate::columns::{Page, Section, Table, format, value};
use crate::commands::bundled;
use crate::eval::Plan;
use crate::eval::prompt::{Attack, Found, Harm, Judged, Kept};
use cptr_hw_model::Model as Sizes;
use cptr_model::{Model, text};
use cptr_sim::attack::Hurt;
use cptr_sim::replay::{Budget, Machine};
use cptr_trace::error::{Error, Result};
use cptr_trace::file;
use cptr_trace::progress::Progress;

/// Tokens of a prompt where nothing is asked for: an expert of the bundled model is wanted often enough in them.
const TOKENS: usize = 256;
/// Texts that what was found is compared with, at most.
const COMPARED: usize = 24;
/// Tokens of prompt and what follows, at most.
const LONGEST: usize = 1 << 14;

pub(super) fn main(args: &Args) -> Result<Page> {
    let harm = match args.hurt {
        Wanted::Routing(Hurt::Mass) => Harm::Mass,
        Wanted::Routing(Hurt::Silence) => Harm::Silence,
        Wanted::Divergence => Harm::Divergence,
        Wanted::Changed => Harm::Changed,
        Wanted::Routing(other) => {
            return Err(Error::usage(format!(
                "--prompt: expected --hurt mass, silence, divergence or changed, found {other}"
            )));
        }
    };
    if args.against.is_some() {
        return Err(Error::usage("--against: expected routing, found --prompt: a prompt is compared with other text"));
    }
    let (model, ordinary, held_out) = read(args)?;
    let config = &model.config;
    let (tokens, then) = (args.tokens.map_or(TOKENS, |tokens| tokens as usize), args.then);
    if tokens < 2 || tokens.saturating_add(then) > LONGEST {
        return Err(Error::usage(format!(
            "expected 2 to {LONGEST} tokens of prompt and what follows, found {tokens} + {then}"
        )));
    }
    let long = |texts: &[Vec<u32>]| texts.iter().filter(|text| text.len() >= tokens.max(then)).cloned().collect();
    let held_out: Vec<Vec<u32>> = long(&held_out);
    let Some((first, others)) = held_out.split_first() else {
        return Err(Error::new(format!("expected a text of {} tokens or more, found none", tokens.max(then))));
    };
    let system = args.machine.system_or("offload")?;
    let sizes = Sizes::new(config.family, config.hidden as u64, config.expert_inner as u64);
    let plan = Plan {
        strategies: vec![args.strategy.clone()],
        resident: Budget::Experts(args.resident.unwrap_or((2 * config.k).min(config.experts))),
        prefill: 0,
        machine: Machine::new(&system, Some(&sizes)),
        replicas: None,
    };
    if args.strategy.precision.kind.name != "full" {
        return Err(Error::usage(format!("--prompt: expected a strategy at full precision, found {}", args.strategy)));
    }
    let (tries, seed) = (args.tries as usize, args.seed);
    // What follows is a text that nothing else is compared with.
    let followed = first[..then].to_vec();
    let attack = Attack { model: &model, plan: &plan, harm, tokens, then: followed, ordinary, tries, seed };
    let found = match &args.replay {
        None => attack.search()?,
        Some(path) => {
            attack.check()?;
            let kept = kept(path, config.vocab)?;
            let judged = attack.judge(&kept.tokens, &Progress::unknown("judging"))?;
            Found { tokens: kept.tokens, judged, tries: 1 }
        }
    };
    let progress = Progress::unknown("comparing");
    let others = if then > 0 { others } else { &held_out[..] };
    let compared = others.iter().take(COMPARED).map(|text| attack.judge(&text[..tokens], &progress));
    let compared = compared.collect::<Result<Vec<Judged>>>()?;
    drop(progress);
    let text = model.decode(&found.tokens)?;
    let kept = Kept { tokens: found.tokens.clone(), text };
    if let Some(path) = &args.keep {
        let written = serde_json::to_string(&kept).map_err(|e| Error::in_file(path, e.to_string()))?;
        file::replace(path, |out| writeln!(out, "{written}"))?;
    }
    Ok(page(args, (harm, tokens), &found, &compared, &kept))
}

/// Tokens of a text.
type Text = Vec<u32>;

/// The model, texts to make prompts of, and texts to compare with.
fn read(args: &Args) -> Result<(Model, Vec<Text>, Vec<Text>)> {
    let own = args.prompt.as_ref().and_then(Option::as_ref);
    let model = own.map_or_else(bundled::model, |folder| Ok(Model::load(folder)?))?;
    if own.is_some() && args.text.is_empty() {
        return Err(Error::new("--text: expected files or folders to read with a model of your own, found none"));
    }
    let encode = |text: &str| Ok(model.encode(text)?);
    if args.text.is_empty() {
        let ordinary = bundled::calibration().map(|(_, text)| encode(text)).collect::<Result<_>>()?;
        // A text of each domain, then another one of each.
        let mut held_out: Vec<(usize, Vec<u32>)> = Vec::new();
        let (mut domain, mut at) = ("", 0);
        for (name, text) in bundled::held_out() {
            at = if name == domain { at + 1 } else { 0 };
            domain = name;
            held_out.push((at, encode(text)?));
        }
        held_out.sort_by_key(|(at, _)| *at);
        return Ok((model, ordinary, held_out.into_iter().map(|(_, text)| text).collect()));
    }
    let texts = text::read(&args.text)?;
    let all: Vec<Vec<u32>> = texts.iter().map(|text| encode(&text.text)).collect::<Result<_>>()?;
    Ok((model, all.clone(), all))
}

fn kept(path: &Path, vocab: usize) -> Result<Kept> {
    let text = file::text(path, MOST)?;
    let kept: Kept =
        serde_json::from_str(&text).map_err(|e| Error::in_file(path, format!("expected a kept prompt: {e}")))?;
    if !(2..=LONGEST).contains(&kept.tokens.len()) || kept.tokens.iter().any(|&id| id as usize >= vocab) {
        return Err(Error::in_file(path, format!("expected 2 to {LONGEST} token ids below {vocab}, found others")));
    }
    Ok(kept)
}

fn page(args: &Args, (harm, tokens): (Harm, usize), found: &Found, compared: &[Judged], kept: &Kept) -> Page {
    let row = |what: &str, tokens: usize, judged: &Judged| {
        let mut row = json!({"what": what, "strategy": args.strategy.to_string(), "tokens": tokens});
        if let (Value::Object(row), Value::Object(more)) = (&mut row, value(judged)) {
            row.extend(more);
        }
        row
    };
    let worst = compared.iter().max_by(|a, b| a.of(harm).total_cmp(&b.of(harm)));
    let mut rows = vec![row("prompt that was found", found.tokens.len(), &found.judged)];
    rows.extend(worst.map(|judged| row("ordinary text, worst", tokens, judged)));
    rows.extend(mean(compared).map(|judged| row("ordinary text, mean", tokens, &judged)));
    let facts = vec![format!(
        "{} of a model that reads; {} prompts tried, {} ordinary texts",
        args.hurt,
        format::count(found.tries),
        format::count(compared.len())
    )];
    let table = Table::new(&PROMPT, &rows);
    let answer = match worst {
        Some(worst) => format!(
            "Behind the prompt that was found {} has {:.4} {}; of ordinary text the worst has {:.4}.",
            args.strategy,
            found.judged.of(harm),
            args.hurt,
            worst.of(harm)
        ),
        None => format!(
            "Behind the prompt that was found {} has {:.4} {}.",
            args.strategy,
            found.judged.of(harm),
            args.hurt
        ),
    };
    Page::new(table.clone()).section(Section::of(facts, table)).answered(answer).beside("prompt", kept)
}

/// The mean of each figure.
fn mean(all: &[Judged]) -> Option<Judged> {
    let count = all.len() as f64;
    let mean = |of: fn(&Judged) -> f64| all.iter().map(of).sum::<f64>() / count;
    let first = all.first()?;
    Some(Judged {
        judged: first.judged,
        mass_loss: mean(|judged| judged.mass_loss),
        divergence: mean(|judged| judged.divergence),
        changed: mean(|judged| judged.changed),
        least_run: mean(|judged| judged.least_run),
    })
}
