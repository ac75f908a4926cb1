//! The DRAM model.

use arbitrary::{Result, Unstructured};
use cptr_hw_model::dram::{
    Config, Controller, Device, Engine, EngineConfig, FastChannel, MappingKind, PagePolicy, Refresh, Request, Until,
    presets, stream,
};

use super::readers::refusal;

fn config(device: &Device, input: &mut Unstructured<'_>) -> Result<Config> {
    let mapping = *input.choose(&MappingKind::ALL)?;
    let refresh = *input.choose(&[Refresh::None, Refresh::AllBank, Refresh::SameBank])?;
    let refresh =
        if device.bank_refresh.is_none() && refresh == Refresh::SameBank { Refresh::AllBank } else { refresh };
    Ok(Config {
        page_policy: if input.arbitrary()? { PagePolicy::Closed } else { PagePolicy::Open },
        queue_depth: input.int_in_range(1..=64)?,
        offers_per_cycle: input.int_in_range(1..=4)?,
        ..Config::new(mapping, refresh)
    })
}

/// Reads on both paths: the same cycle, the same counts.
fn compare(device: &Device, config: Config, input: &mut Unstructured<'_>, most_lines: u64) -> Result<()> {
    let (Ok(mut exact), Ok(mut fast)) = (Controller::new(device, config), FastChannel::new(device, config)) else {
        assert!(Controller::new(device, config).is_err() && FastChannel::new(device, config).is_err());
        return Ok(());
    };
    let access = device.organisation.access_bytes();
    let lines_in_all = device.organisation.capacity_bytes / access.max(1);
    for _ in 0..input.int_in_range(1..=4)? {
        let lines = input.int_in_range(1..=most_lines)?.min(lines_in_all);
        let start = input.int_in_range(0..=lines_in_all - lines)? * access;
        let until = if input.arbitrary()? { Until::Served } else { Until::Accepted };
        let lines_read = stream::contiguous(start, lines * access, access);
        let one = exact.run(lines_read, until).map_err(|error| error.to_string());
        let other = fast.read_until(start, lines * access, until).map_err(|error| error.to_string());
        assert_eq!(one.is_ok(), other.is_ok(), "{one:?} {other:?}");
        let pause = input.int_in_range(0..=20_000)?;
        exact.idle_until(exact.cycle() + pause);
        fast.idle_until(fast.cycle() + pause);
        assert_eq!((exact.cycle(), exact.statistics()), (fast.cycle(), fast.statistics()), "{config:?}");
    }
    Ok(())
}

/// A device's file, behind two bytes for each choice of how it is used.
pub(super) fn device(data: &[u8]) {
    let (choices, text) = data.split_at(data.len().min(24));
    let Ok(text) = std::str::from_utf8(text) else { return };
    let device = match Device::from_toml(text) {
        Err(error) => return refusal(&error),
        Ok(device) => device,
    };
    let mut input = Unstructured::new(choices);
    if let Ok(config) = config(&device, &mut input) {
        let _ = compare(&device, config, &mut input, 64);
    }
}

pub(super) fn dram(data: &[u8]) {
    let _ = any_dram(&mut Unstructured::new(data));
}

fn any_dram(input: &mut Unstructured<'_>) -> Result<()> {
    let devices = presets::all();
    let device = input.choose(&devices)?;
    let config = config(device, input)?;
    compare(device, config, input, 600)?;
    engine(device, config, input)
}

/// An engine whose calls come in any order: what is taken completes once, in order of time; a snapshot goes on alike.
fn engine(device: &Device, config: Config, input: &mut Unstructured<'_>) -> Result<()> {
    let Ok(mut engine) = Engine::new(device, EngineConfig::new(config)) else { return Ok(()) };
    let (access, capacity) = (engine.access_bytes(), engine.capacity());
    let (mut taken, mut done, mut now, mut last) = (0, 0, 0u64, 0u64);
    for _ in 0..input.int_in_range(1..=200)? {
        match input.int_in_range(0..=5)? {
            0..=2 => {
                let line = input.int_in_range(0..=capacity / access - 1)?;
                let request =
                    if input.arbitrary()? { Request::read(line * access) } else { Request::write(line * access) };
                taken += u64::from(engine.offer(request).is_ok());
            }
            3 => {
                let to = now.saturating_add(input.int_in_range(0..=500)?);
                assert!(engine.advance(to).is_ok());
                now = to;
                assert!(to == 0 || engine.advance(to - 1).is_err(), "backwards");
            }
            4 => {
                let snapshot = engine.snapshot();
                let mut again = Engine::new(device, EngineConfig::new(config)).expect("as before");
                again.restore(&snapshot).expect("its own snapshot");
                assert_eq!(again.snapshot(), snapshot);
                let mut changed = snapshot;
                let at = input.int_in_range(0..=changed.len() - 1)?;
                changed[at] ^= 1 << input.int_in_range(0..=7)?;
                assert!(again.restore(&changed).is_err(), "bit of byte {at}");
                engine = again;
            }
            _ => {
                while let Some(completion) = engine.pop() {
                    assert!(completion.cycle >= last, "completions are in order of time");
                    last = completion.cycle;
                    done += 1;
                }
            }
        }
    }
    engine.advance(now.saturating_add(1_000_000)).expect("forwards");
    while engine.pop().is_some() {
        done += 1;
    }
    assert_eq!(done, taken, "what is taken completes, once");
    Ok(())
}
