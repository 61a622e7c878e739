//! Text of others on its way to a terminal: names, values and messages of objects must not move the cursor, set the title or
//! reverse what stands there.
use std::{borrow::Cow, fmt::Write};

/// The text with its control characters as `\u{1b}`; line ends and tabs stay. The same for JSON, where the form is that of
/// JSON: `\u001b`.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    escape(text, |c| c != '\n' && c != '\t' && is_control(c), |c, out| write!(out, "{}", c.escape_unicode()))
}

/// The same for one line: line ends are control characters too.
#[must_use]
pub fn printable_line(text: &str) -> Cow<'_, str> {
    escape(text, is_control, |c, out| write!(out, "{}", c.escape_default()))
}

/// The same for a JSON document, whose strings may hold no other escapes.
#[must_use]
pub fn printable_json(text: &str) -> Cow<'_, str> {
    escape(text, |c| c != '\n' && is_control(c), |c, out| write!(out, "\\u{:04x}", u32::from(c)))
}

/// C0, DEL and C1, and what changes the direction of the text around it. Source: UAX #9, the explicit formatting characters.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escape(
    text: &str,
    is_bad: impl Fn(char) -> bool,
    write: impl Fn(char, &mut String) -> std::fmt::Result,
) -> Cow<'_, str> {
    let Some(first) = text.find(&is_bad) else { return Cow::Borrowed(text) };
    let mut out = String::with_capacity(text.len() + 8);
    out.push_str(&text[..first]);
    for c in text[first..].chars() {
        if is_bad(c) {
            // Writing to a String cannot fail.
            let _ = write(c, &mut out);
        } else {
            let _ = out.write_char(c);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TITLE: &str = "a\u{1b}]0;owned\u{7}b\u{9b}31mc\u{202e}d\u{7f}\te\nf\u{e9}";

    #[test]
    fn control_characters_are_shown_and_text_stays() {
        let expected = "a\\u{1b}]0;owned\\u{7}b\\u{9b}31mc\\u{202e}d\\u{7f}\te\nf\u{e9}";
        assert_eq!(printable(TITLE), expected);
        assert!(matches!(printable("plain \u{e9}\n"), Cow::Borrowed(_)));
        assert_eq!(printable_line("a\nb\tc"), "a\\nb\\tc");
    }

    #[test]
    fn json_says_the_same_before_and_after() {
        let document = serde_json::to_string_pretty(&serde_json::json!({ "x": TITLE })).unwrap();
        let safe = printable_json(&document);
        assert!(!safe.contains(|c| c != '\n' && is_control(c)), "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap()["x"], TITLE);
    }
}
