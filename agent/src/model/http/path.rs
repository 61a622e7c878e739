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

use super::{escape, work::work};

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

/// Brings a path, without query, into its normal form. Cost: one pass and no allocation for a path that is normal, a
/// second pass for one that is not.
///
/// # Errors
/// When the path has no meaning that every server would share.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, PathFault> {
    if !path.starts_with('/') {
        return Err(PathFault::Relative);
    }
    let bytes = path.as_bytes();
    work(2 * bytes.len());
    let (mut plain, mut allowed) = (true, true);
    // Without branches, so that many bytes are looked at in one step.
    for &b in bytes {
        allowed &= (b > 0x20) & (b < 0x7f) & (b != b'\\');
        plain &= b != b'%';
    }
    for (&b, &next) in bytes.iter().zip(&bytes[1..]) {
        plain &= (b != b'/') | (next != b'.');
    }
    if !allowed {
        return Err(PathFault::Character);
    }
    if plain {
        return Ok(Cow::Borrowed(path));
    }
    rewrite(bytes).map(Cow::Owned)
}

/// Decodes escapes of unreserved characters, upper-cases the others and resolves dot segments (RFC 3986 part 5.2.4).
fn rewrite(bytes: &[u8]) -> Result<String, PathFault> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut segment = Segment::open(&mut out);
    let mut i = 1;
    while let Some(&b) = bytes.get(i) {
        work(0);
        i += 1;
        if segment.dots == Dots::No && b != b'/' && b != b'%' {
            out.push(b);
            continue;
        }
        if b == b'/' {
            segment.close(&mut out)?;
            segment = Segment::open(&mut out);
            continue;
        }
        if b != b'%' {
            segment.add(b)?;
            out.push(b);
            continue;
        }
        let value = escape::decode(bytes, i - 1).ok_or(PathFault::Escape)?;
        i += 2;
        match value {
            0 => return Err(PathFault::Character),
            c if c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b'~') => {
                segment.add(c)?;
                out.push(c);
            }
            c => {
                if matches!(c, b'/' | b'\\') {
                    segment.separate()?;
                } else {
                    segment.dots = Dots::No;
                }
                out.extend_from_slice(&escape::encode(c));
            }
        }
    }
    if segment.close(&mut out)? {
        out.push(b'/');
    }
    String::from_utf8(out).map_err(|_| PathFault::Character)
}

/// Whether what was seen so far is dots alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dots {
    Empty,
    One,
    Two,
    No,
}

/// A segment of a path while it is written.
struct Segment {
    /// Where it begins in what is written, behind its slash.
    start: usize,
    /// What its last piece is, behind the last escaped separator.
    dots: Dots,
    /// It has an escaped separator.
    in_pieces: bool,
}

impl Segment {
    /// Begins a segment with its slash.
    fn open(out: &mut Vec<u8>) -> Self {
        out.push(b'/');
        Self { start: out.len(), dots: Dots::Empty, in_pieces: false }
    }

    /// Takes a character of it.
    fn add(&mut self, c: u8) -> Result<(), PathFault> {
        self.dots = match (c, self.dots) {
            (b'.', Dots::Empty) => Dots::One,
            (b'.', Dots::One) => Dots::Two,
            // Parameters behind dots: some servers take them away first.
            (b';', Dots::One | Dots::Two) => return Err(PathFault::HiddenDots),
            _ => Dots::No,
        };
        Ok(())
    }

    /// Takes an escaped separator.
    fn separate(&mut self) -> Result<(), PathFault> {
        if matches!(self.dots, Dots::One | Dots::Two) {
            return Err(PathFault::HiddenDots);
        }
        (self.dots, self.in_pieces) = (Dots::Empty, true);
        Ok(())
    }

    /// Ends it: one of dots is taken back with its slash, and with the segment before it if they are two. Whether it was
    /// one, so that a path that ends with it ends with a slash.
    fn close(&self, out: &mut Vec<u8>) -> Result<bool, PathFault> {
        match self.dots {
            Dots::Empty | Dots::No => return Ok(false),
            Dots::One | Dots::Two if self.in_pieces => return Err(PathFault::HiddenDots),
            Dots::One | Dots::Two => out.truncate(self.start - 1),
        }
        if self.dots == Dots::Two {
            let before = out.iter().rposition(|b| *b == b'/').unwrap_or(0);
            work(out.len() - before);
            out.truncate(before);
        }
        Ok(true)
    }
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
            ("/a%2f..;/admin", PathFault::HiddenDots),
            ("/a%2f.", PathFault::HiddenDots),
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
