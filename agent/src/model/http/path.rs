//! The normal form of a path: what is routed is what is forwarded.
//!
//! A proxy that routes on one spelling and forwards another lets clients walk around its rules. So a path is brought
//! into one form before any rule sees it, and that form goes upstream:
//!
//! - Escapes of unreserved characters are decoded once (`%61` is `a`); other escapes stay, in upper case (`%2f` is
//!   `%2F`, not a separator; `%252e` stays `%252e`).
//! - `.` and `..` segments are resolved, `..` at the root is dropped.
//! - Empty segments stay: `//` is not `/` (RFC 3986 has them differ, and object stores use it).
//! - Refused: broken escapes, `%00`, raw bytes outside printable ASCII, backslashes, and `..` in disguise: beside an
//!   escaped separator (`..%2F`, `%5C..`) or before parameters (`..;`), which some servers would resolve later.
use std::borrow::Cow;

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// It does not begin with `/`.
    #[error("the path does not begin with \"/\"")]
    Relative,
    /// A `%` without two hexadecimal digits.
    #[error("the path has a broken escape")]
    Escape,
    /// `%00`, a raw byte outside printable ASCII, a backslash.
    #[error("the path has a forbidden character")]
    Character,
    /// A dot segment that only some servers would see.
    #[error("the path hides a dot segment")]
    HiddenDots,
}

/// Brings a path, without query, into its normal form. Cost: one pass and no allocation for a path that is normal.
///
/// # Errors
/// When the path has no meaning that every server would share.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, PathFault> {
    if !path.starts_with('/') {
        return Err(PathFault::Relative);
    }
    let bytes = path.as_bytes();
    let mut plain = true;
    for (i, &b) in bytes.iter().enumerate() {
        match b {
            b'%' => plain = false,
            b'.' if bytes[i - 1] == b'/' => plain = false,
            b'\\' | 0..=0x20 | 0x7f.. => return Err(PathFault::Character),
            _ => {}
        }
    }
    if plain {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode(bytes)?;
    resolve(&decoded).map(Cow::Owned)
}

/// Decodes escapes of unreserved characters, upper-cases the others.
fn decode(bytes: &[u8]) -> Result<String, PathFault> {
    let digit = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16)).ok_or(PathFault::Escape);
    let mut out = String::with_capacity(bytes.len());
    let mut i = 0;
    while let Some(&b) = bytes.get(i) {
        if b != b'%' {
            out.push(char::from(b));
            i += 1;
            continue;
        }
        let value = digit(bytes.get(i + 1))? * 16 + digit(bytes.get(i + 2))?;
        match u8::try_from(value).map_or('\0', char::from) {
            '\0' => return Err(PathFault::Character),
            c if c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~') => out.push(c),
            _ => out.push_str(&format!("%{value:02X}")),
        }
        i += 3;
    }
    Ok(out)
}

/// Resolves dot segments. Source: RFC 3986 part 5.2.4.
fn resolve(path: &str) -> Result<String, PathFault> {
    let mut kept: Vec<&str> = Vec::new();
    let mut open_end = false;
    for segment in path[1..].split('/') {
        open_end = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            _ if hides_dots(segment) => return Err(PathFault::HiddenDots),
            _ => kept.push(segment),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in kept {
        out.push('/');
        out.push_str(segment);
    }
    if open_end || out.is_empty() {
        out.push('/');
    }
    Ok(out)
}

fn hides_dots(segment: &str) -> bool {
    let dots = |piece: &str| matches!(piece, "." | "..");
    let before_parameters = segment.split_once(';').is_some_and(|(head, _)| dots(head));
    before_parameters || (segment.contains('%') && segment.split("%2F").flat_map(|p| p.split("%5C")).any(dots))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn brings_paths_into_one_form() {
        for (given, want) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/%61/%7Eb", "/a/~b"),
            ("/a%2fb", "/a%2Fb"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/../../b", "/b"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/..", "/"),
            ("//a//b", "//a//b"),
            ("/a/...", "/a/..."),
            ("/.well-known/x", "/.well-known/x"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/a;v=1/b", "/a;v=1/b"),
        ] {
            assert_eq!(normalise(given).unwrap(), want, "{given}");
        }
    }

    #[test]
    fn refuses_what_servers_read_differently() {
        for (given, want) in [
            ("", PathFault::Relative),
            ("a", PathFault::Relative),
            ("/%", PathFault::Escape),
            ("/%zz", PathFault::Escape),
            ("/%4", PathFault::Escape),
            ("/%00", PathFault::Character),
            ("/a\\b", PathFault::Character),
            ("/a b", PathFault::Character),
            ("/\u{e9}", PathFault::Character),
            ("/..%2fadmin", PathFault::HiddenDots),
            ("/a%5c..%5cadmin", PathFault::HiddenDots),
            ("/a/..;/admin", PathFault::HiddenDots),
        ] {
            assert_eq!(normalise(given), Err(want), "{given}");
        }
    }

    proptest! {
        #[test]
        fn the_normal_form_is_stable_and_has_no_dots(path in "/[a-c./%25e2]{0,24}") {
            if let Ok(once) = normalise(&path) {
                prop_assert_eq!(normalise(&once).unwrap(), once.as_ref());
                prop_assert!(once.starts_with('/'));
                prop_assert!(!once.split('/').any(|s| s == "." || s == ".."));
            }
        }
    }
}
