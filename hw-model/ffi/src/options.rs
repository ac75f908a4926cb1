//! The text that an engine is set up by.

use std::fs;

use cptr_hw_model::dram::{Config, Device, Engine, EngineConfig, MappingKind, PagePolicy, Refresh, presets};

/// Largest device file in bytes.
const LARGEST_DEVICE_FILE: u64 = 1 << 20;

/// The engine for a device (its name, a file that ends in `.toml`, or the text of such a file) and options:
/// `NAME=VALUE`, separated by white space.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn engine(device: &str, options: &str) -> Result<Engine, String> {
    let device = self::device(device)?;
    let config = config(options)?;
    Engine::new(&device, config).map_err(|error| error.to_string())
}

fn device(text: &str) -> Result<Device, String> {
    if let Some(device) = presets::by_name(text) {
        return Ok(device);
    }
    if text.contains('\n') {
        return Device::from_toml(text).map_err(|error| error.to_string());
    }
    if text.ends_with(".toml") {
        let failed = |error: &dyn std::fmt::Display| format!("{text}: {error}");
        let size = fs::metadata(text).map_err(|error| failed(&error))?.len();
        if size > LARGEST_DEVICE_FILE {
            return Err(failed(&format!("expected at most {LARGEST_DEVICE_FILE} bytes, found {size}")));
        }
        let text = fs::read_to_string(text).map_err(|error| failed(&error))?;
        return Device::from_toml(&text).map_err(|error| failed(&error));
    }
    let names = presets::NAMES.join(", ");
    Err(format!("device: expected one of {names}, a file that ends in .toml or its text, found \"{text}\""))
}

fn config(options: &str) -> Result<EngineConfig, String> {
    let mut of = EngineConfig::new(Config::new(MappingKind::Mop4ClXor, Refresh::AllBank));
    for option in options.split_whitespace() {
        let Some((name, value)) = option.split_once('=') else {
            return Err(format!("options: expected NAME=VALUE, found \"{option}\""));
        };
        let wrong = |expected: &str| format!("options: expected {expected} for {name}, found \"{value}\"");
        let number = |most: u64| {
            let number = value.parse::<u64>().ok().filter(|&number| number <= most);
            number.ok_or_else(|| wrong(&format!("a number from 0 to {most}")))
        };
        let controller = &mut of.controller;
        match name {
            "mapping" => {
                let names = MappingKind::ALL.map(MappingKind::name).join(", ");
                controller.mapping = MappingKind::by_name(value).ok_or_else(|| wrong(&format!("one of {names}")))?;
            }
            "refresh" => controller.refresh = Refresh::by_name(value).ok_or_else(|| wrong("none, ab or sb"))?,
            "page" => controller.page_policy = PagePolicy::by_name(value).ok_or_else(|| wrong("open or closed"))?,
            "queue" => controller.queue_depth = number(u64::from(u16::MAX))? as u16,
            "offers" => controller.offers_per_cycle = number(u64::from(u32::MAX))? as u32,
            "channels" => of.channels = number(u64::from(u32::MAX))? as u32,
            "stripe" => of.stripe_bytes = number(1 << 40)?,
            "priorities" => {
                let priorities: Result<Vec<u8>, _> = value.split(',').map(str::parse).collect();
                of.priorities = priorities.map_err(|_| wrong("numbers from 0 to 255, with commas between them,"))?;
            }
            _ => {
                let names = "mapping, refresh, page, queue, offers, channels, stripe, priorities";
                return Err(format!("options: expected one of {names}, found \"{name}\""));
            }
        }
    }
    Ok(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_those_of_the_engine() {
        let all =
            "mapping=robaracoch refresh=sb page=closed\tqueue=16 offers=2\nchannels=3 stripe=512 priorities=0,7,255";
        let of = config(all).unwrap();
        let controller = Config {
            page_policy: PagePolicy::Closed,
            queue_depth: 16,
            offers_per_cycle: 2,
            ..Config::new(MappingKind::RoBaRaCoCh, Refresh::SameBank)
        };
        let wanted = EngineConfig { controller, channels: 3, stripe_bytes: 512, priorities: vec![0, 7, 255] };
        assert_eq!(of, wanted);
        assert_eq!(engine("hbm3-6400", all).unwrap().sources(), 3);
        let text = include_str!("../../data/devices/ddr5-4800.toml");
        assert_eq!(engine(text, "").unwrap().snapshot(), engine("DDR5-4800", "").unwrap().snapshot());
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/devices/ddr5-4800.toml");
        assert_eq!(engine(file, "").unwrap().snapshot(), engine("DDR5-4800", "").unwrap().snapshot());
    }

    #[test]
    fn what_is_wrong_is_said_in_one_sentence() {
        for (device, options, expected) in [
            ("DDR3", "", "device: expected one of DDR4-3200, "),
            ("no/such.toml", "", "no/such.toml: "),
            ("name = 1\n", "", "line 1: "),
            ("DDR5-4800", "queue", "options: expected NAME=VALUE, found \"queue\""),
            ("DDR5-4800", "queue=-1", "a number from 0 to 65535 for queue, found \"-1\""),
            ("DDR5-4800", "queue=0", "queue_depth is 0, but it must lie"),
            ("DDR5-4800", "depth=3", "options: expected one of mapping, refresh"),
            ("DDR5-4800", "mapping=x", "options: expected one of robaracoch"),
            ("DDR5-4800", "priorities=0,256", "for priorities, found \"0,256\""),
            ("DDR5-4800", "channels=2 stripe=65", "stripe_bytes is 65, but it must be a multiple"),
            ("DDR4-3200", "refresh=sb", "needs a device with bank-wise refresh"),
        ] {
            let sentence = engine(device, options).unwrap_err();
            assert!(sentence.contains(expected), "{device} {options}: {sentence}");
        }
    }
}
