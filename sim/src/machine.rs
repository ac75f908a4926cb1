//! A machine as the command line names it: one that comes with the program, or a file, and what is changed in it.
//!
//! ```
//! let system = cptr_sim::machine::named("ndp:link.gt_s=32:gpu.memory_gb=24")?;
//! assert_eq!((system.link().gt_s, system.gpu().memory_gb), (32.0, 24.0));
//! let wrong = cptr_sim::machine::named("ndp:link.gts=32").unwrap_err().to_string();
//! assert_eq!(wrong, "ndp: expected a field of its file, found \"link.gts\" (link.gt_s?)");
//! # Ok::<(), cptr_trace::Error>(())
//! ```

use std::path::Path;

use cptr_hw_model::System;
use cptr_trace::error::{Error, Result};
use cptr_trace::file;
use toml::{Table, Value};

use crate::nearest::hint;

/// Bytes that the file of a machine, or of its device, may have.
const MOST: u64 = 1 << 20;

/// Fields that a file may have and most do not.
const OPTIONAL: [&str; 2] = ["dense_bits", "kv_far_share"];

/// Reads `NAME|FILE.toml[:FIELD=VALUE]…`; a field is as the file has it, such as `gpu.memory_gb`.
///
/// # Errors
/// A name, file or field that there is not, and values that no machine can have.
pub fn named(text: &str) -> Result<System> {
    let (name, changes) = match text.find('=').and_then(|sign| text[..sign].rfind(':')) {
        Some(colon) => (&text[..colon], &text[colon + 1..]),
        None => (text, ""),
    };
    if !name.ends_with(".toml") {
        let names = || System::all().iter().map(|system| system.name.as_str());
        let unknown = || {
            let all = names().collect::<Vec<_>>().join(", ");
            Error::new(format!(
                "expected a file ending in .toml, or one of {all}, found \"{name}\"{}",
                hint(name, names())
            ))
        };
        let known = System::find(name).ok_or_else(unknown)?;
        if changes.is_empty() {
            return Ok(known.clone());
        }
        // The DRAM of a device that stays as it is has been simulated already, or is for all.
        return Ok(changed(text, name, System::file(name).unwrap_or_default(), changes)?.knowing(known));
    }
    changed(text, name, &file::text(name.as_ref(), MOST)?, changes)
}

/// The machine of a file's text with what is changed in it, under the name `whole` where something is.
fn changed(whole: &str, name: &str, text: &str, changes: &str) -> Result<System> {
    let beside = |device: &str| {
        let path = Path::new(name).with_file_name(device);
        file::text(&path, MOST).map_err(|error| error.to_string())
    };
    let read =
        |text: &str| System::from_toml_with(text, beside).map_err(|error| Error::new(format!("{name}: {error}")));
    if changes.is_empty() {
        return read(text);
    }
    // What is wrong in the file itself is said with its line.
    read(text)?;
    let mut table: Table = toml::from_str(text).map_err(|error| Error::new(format!("{name}: {}", error.message())))?;
    for pair in changes.split(':') {
        let (field, value) = pair.split_once('=').unwrap_or((pair, ""));
        set(&mut table, name, field, value)?;
    }
    table.insert("name".into(), whole.into());
    read(&table.to_string())
}

/// Sets a field that the file has to a value of its kind.
fn set(table: &mut Table, name: &str, field: &str, text: &str) -> Result<()> {
    let fields = fields(table);
    let known = || fields.iter().map(String::as_str).chain(OPTIONAL);
    if !known().any(|other| other == field) {
        let hint = hint(field, known());
        return Err(Error::new(format!("{name}: expected a field of its file, found \"{field}\"{hint}")));
    }
    let mut path = field.split('.');
    let last = path.next_back().unwrap_or(field);
    let mut place = table;
    for key in path {
        // It is a known field: every key before the last is a table.
        let Some(Value::Table(inner)) = place.get_mut(key) else { return Ok(()) };
        place = inner;
    }
    let number = || text.parse::<f64>().ok().filter(|number| number.is_finite());
    let (value, expected) = match place.get(last) {
        Some(Value::String(_)) => (Some(Value::String(text.into())), "text"),
        Some(Value::Integer(_)) => (text.parse::<i64>().ok().map(Value::Integer), "a whole number"),
        Some(Value::Boolean(_)) => (text.parse::<bool>().ok().map(Value::Boolean), "true or false"),
        Some(Value::Float(_)) | None => (number().map(Value::Float), "a number"),
        Some(_) => (None, "a field with one value"),
    };
    let wrong = || Error::new(format!("{name}: expected {expected} for {field}, found \"{text}\""));
    place.insert(last.into(), value.ok_or_else(wrong)?);
    Ok(())
}

/// All fields with a value, such as `gpu.memory_gb`.
fn fields(table: &Table) -> Vec<String> {
    let of = |(key, value): (&String, &Value)| match value {
        Value::Table(inner) => fields(inner).into_iter().map(|field| format!("{key}.{field}")).collect(),
        _ => vec![key.clone()],
    };
    table.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_files_and_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own.toml");
        std::fs::write(&path, System::file("ndp").unwrap()).unwrap();
        let own = path.display();
        assert_eq!(named("ndp").unwrap(), *System::find("ndp").unwrap());
        assert_eq!(named(&own.to_string()).unwrap(), *System::find("ndp").unwrap());
        for name in ["ndp".to_owned(), own.to_string()] {
            let text = format!("{name}:ndp.memory.channels=24:gpu.name=mine:dense_bits=8:ndp_bits=4");
            let system = named(&text).unwrap();
            assert_eq!((system.gpu().name.as_str(), system.dense_bits, system.ndp_bits), ("mine", 8.0, 4.0));
            assert_eq!((system.ndp().unwrap().memory.channels, system.name), (24, text));
        }
        // What is not changed is as it was.
        let same = named("ndp:gpu.memory_gb=80").unwrap();
        let mut renamed = same;
        renamed.name = "ndp".into();
        assert_eq!(renamed, *System::find("ndp").unwrap());
    }

    #[test]
    fn what_no_machine_has_is_refused() {
        for (text, expected) in [
            ("moon", "expected a file ending in .toml, or one of offload, "),
            ("npd", "found \"npd\" (ndp?)"),
            ("no/such.toml", "no/such.toml: "),
            ("ndp:gpu.memory=1", "ndp: expected a field of its file, found \"gpu.memory\" (gpu.memory_gb?)"),
            ("ndp:gpu.memory_gb=much", "ndp: expected a number for gpu.memory_gb, found \"much\""),
            ("ndp:gpu.memory_gb=nan", "expected a number"),
            ("ndp:ndp.memory.channels=1.5", "ndp: expected a whole number for ndp.memory.channels, found \"1.5\""),
            ("ndp:gpu.memory_gb=-1", "ndp: gpu.memory_gb is -1"),
            ("ndp:ndp.memory.device=DDR9", "ndp: ndp.memory.device is DDR9"),
            ("ndp:gpu=1", "found \"gpu\""),
            ("ndp:link.gt_s=32:", "found \"\""),
            ("ndp:=32", "found \"\""),
        ] {
            let found = named(text).unwrap_err().to_string();
            assert!(found.contains(expected), "{text}: {found}");
        }
    }
}
