//! The name that somebody may have meant.

/// How alike a name must be to be offered, as the command line has it.
const ALIKE: f64 = 0.7;

/// The name most like `text`, where one is alike at all.
///
/// ```
/// let names = ["resident", "prefill", "batch"];
/// assert_eq!(cptr_sim::nearest::nearest("residnt", names), Some("resident"));
/// assert_eq!(cptr_sim::nearest::nearest("colour", names), None);
/// ```
pub fn nearest<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let alike = names.into_iter().map(|name| (strsim::jaro(text, name), name));
    alike.filter(|(alike, _)| *alike > ALIKE).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

/// ` (NAME?)` where a name is alike, for a message that has just quoted `text`; else nothing.
///
/// ```
/// assert_eq!(cptr_sim::nearest::hint("bounde", ["lru", "bounded"]), " (bounded?)");
/// assert_eq!(cptr_sim::nearest::hint("x", ["lru", "bounded"]), "");
/// ```
#[must_use]
pub fn hint<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    nearest(text, names).map_or_else(String::new, |name| format!(" ({name}?)"))
}
