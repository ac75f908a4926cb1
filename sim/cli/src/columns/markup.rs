//! Text into markup.

/// Plain text as HTML and XML text or attribute value. Characters that XML does not allow become U+FFFD.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in clean(text).chars() {
        match character {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Replaces what no escape can bring into XML (control characters, U+FFFE, U+FFFF). For texts in plots, which plotters
/// escapes.
pub(crate) fn clean(text: &str) -> String {
    let allowed =
        |c: char| matches!(c, '\t' | '\n' | '\r') || (!c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}'));
    text.chars().map(|c| if allowed(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

/// Plain text as paragraphs, cut at empty lines.
pub(crate) fn paragraphs(text: &str) -> String {
    let text = text.replace("\r\n", "\n");
    let parts = text.split("\n\n").map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| format!("<p>{}</p>\n", escape(part))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_through() {
        assert_eq!(escape("<b a=\"1\" c='2'>&amp;"), "&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;amp;");
        assert_eq!(escape("a\u{0}\u{8}\u{ffff}b"), "a\u{fffd}\u{fffd}\u{fffd}b");
        assert_eq!(escape("µ → 日本"), "µ → 日本");
    }

    #[test]
    fn paragraphs_at_empty_lines() {
        assert_eq!(paragraphs("a\nb\r\n\r\n<c>\n\n\n"), "<p>a\nb</p>\n<p>&lt;c&gt;</p>\n");
        assert_eq!(paragraphs(" \n"), "");
    }
}
