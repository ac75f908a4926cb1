//! The name that somebody may have meant.

/// The name most like `text`, where one is alike at all: at most a third of its letters, and one in any case, left out,
/// put in, changed or exchanged with the next.
///
/// ```
/// let names = ["resident", "prefill", "batch"];
/// assert_eq!(cptr_sim::nearest::nearest("residnt", names), Some("resident"));
/// assert_eq!(cptr_sim::nearest::nearest("lur", ["lrfu", "lru"]), Some("lru"));
/// assert_eq!(cptr_sim::nearest::nearest("colour", names), None);
/// ```
pub fn nearest<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let apart = names.into_iter().map(|name| (strsim::damerau_levenshtein(text, name), name));
    apart
        .filter(|(apart, name)| *apart <= (name.len() / 3).max(1))
        .min_by_key(|(apart, _)| *apart)
        .map(|(_, name)| name)
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
