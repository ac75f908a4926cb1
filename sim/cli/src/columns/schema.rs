//! The JSON Schema of a row, made of its columns: rows may have more keys than those.

use serde_json::{Map, Value, json};

use super::{Column, Format, Show};

/// Version of what `--json` prints. Keys that are added leave it; one that goes, or comes to mean something else, does
/// not.
pub(crate) const VERSION: u32 = 1;

/// Name of the form in which a command prints JSON.
pub(crate) fn schema(command: &str) -> String {
    format!("cptr.{command}/{VERSION}")
}

/// A row, which is an object.
pub(crate) fn row_schema(columns: &[Column]) -> Value {
    of(&columns.iter().map(|column| (&*column.key, column)).collect::<Vec<_>>(), "object".into())
}

/// What has these keys; a key with a dot leads into an object, or by a number into a list.
fn of(columns: &[(&str, &Column)], kind: Value) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for name in columns.iter().map(|(key, _)| first(key)) {
        if properties.contains_key(name) {
            continue;
        }
        let inside = columns.iter().filter(|(key, _)| first(key) == name);
        let inside: Vec<(&str, &Column)> =
            inside.map(|(key, column)| (key[name.len()..].trim_start_matches('.'), *column)).collect();
        if inside.iter().any(|(_, column)| column.show != Show::IfAny) {
            required.push(name);
        }
        let value = match inside[..] {
            [("", column)] => leaf(column),
            _ => of(&inside, json!(["object", "null"])),
        };
        properties.insert(name.into(), value);
    }
    if properties.keys().all(|name| name.parse::<usize>().is_ok()) {
        let items: Vec<Value> = properties.into_iter().map(|(_, value)| value).collect();
        return json!({"type": ["array", "null"], "prefixItems": items});
    }
    json!({"type": kind, "required": required, "properties": properties})
}

fn first(key: &str) -> &str {
    key.split_once('.').map_or(key, |(first, _)| first)
}

fn leaf(column: &Column) -> Value {
    // What people read as text may be a number to a machine.
    let kind = match column.format {
        Format::Text => json!(["string", "number", "boolean", "null"]),
        Format::Flag => json!(["boolean", "null"]),
        _ => json!(["number", "null"]),
    };
    let mut all = json!({"type": kind});
    for (key, text) in [("description", column.help), ("unit", column.format.unit())] {
        if !text.is_empty() {
            all[key] = text.into();
        }
    }
    all
}
