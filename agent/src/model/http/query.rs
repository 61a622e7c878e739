//! Query parameters: which rules ask for, and what a request gives them.
//!
//! A query is read once for a request, however many rules ask for a parameter: one pass that keeps the first value of
//! each name that any rule of the frontend wants.
use std::{borrow::Cow, cell::OnceCell};

use super::{matching::ValueMatch, work::work};

/// How a query parameter must be. Of several values the first counts; escapes and `+` are decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryMatch {
    /// Which, by exact name.
    pub name: String,
    /// Its value.
    pub value: ValueMatch<String>,
}

impl QueryMatch {
    /// Whether a query has it. The names of `query` must hold this one.
    #[must_use]
    pub fn holds(&self, query: &Query<'_>) -> bool {
        let Some(value) = query.get(&self.name) else { return false };
        match &self.value {
            ValueMatch::Exact(want) => want == value,
            ValueMatch::Regex(pattern) => pattern.holds(value),
        }
    }
}

/// Names of parameters that rules ask for.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Distinct, in order.
    sorted: Vec<Box<str>>,
    /// Which first bytes they have, by bit; a name that begins with another byte is not looked up.
    first: [u64; 4],
}

impl<'a> FromIterator<&'a str> for Names {
    fn from_iter<I: IntoIterator<Item = &'a str>>(names: I) -> Self {
        let mut sorted: Vec<Box<str>> = names.into_iter().map(Box::from).collect();
        sorted.sort_unstable();
        sorted.dedup();
        let mut first = [0; 4];
        for byte in sorted.iter().map(|name| name.bytes().next().unwrap_or(0)) {
            first[usize::from(byte >> 6)] |= 1 << (byte & 63);
        }
        Self { sorted, first }
    }
}

impl Names {
    /// Where a decoded name is.
    fn find(&self, name: &[u8]) -> Option<usize> {
        let byte = name.first().copied().unwrap_or(0);
        if self.first[usize::from(byte >> 6)] & (1 << (byte & 63)) == 0 {
            return None;
        }
        work(name.len());
        self.sorted.binary_search_by(|known| known.as_bytes().cmp(name)).ok()
    }
}

/// A request's query, read when the first rule asks for a parameter.
#[derive(Debug)]
pub struct Query<'a> {
    text: &'a str,
    names: &'a Names,
    /// By the order of the names.
    values: OnceCell<Vec<Option<Cow<'a, str>>>>,
}

impl<'a> Query<'a> {
    /// A query of which these parameters may be asked for.
    #[must_use]
    pub fn new(text: Option<&'a str>, names: &'a Names) -> Self {
        Self { text: text.unwrap_or(""), names, values: OnceCell::new() }
    }

    fn get(&self, name: &str) -> Option<&str> {
        let at = self.names.sorted.binary_search_by(|known| known.as_ref().cmp(name)).ok()?;
        self.values.get_or_init(|| self.read())[at].as_deref()
    }

    /// Cost: one pass over the query, which ends when every name has its value.
    fn read(&self) -> Vec<Option<Cow<'a, str>>> {
        let mut values = vec![None; self.names.sorted.len()];
        let (mut left, mut decoded) = (values.len(), Vec::new());
        let bytes = self.text.as_bytes();
        let mut at = 0;
        while left > 0 && at < bytes.len() {
            let (start, mut equals, mut escaped) = (at, None, false);
            while let Some(&byte) = bytes.get(at) {
                work(0);
                match byte {
                    b'&' => break,
                    b'=' if equals.is_none() => equals = Some(at),
                    b'%' | b'+' if equals.is_none() => escaped = true,
                    _ => {}
                }
                at += 1;
            }
            let name = &bytes[start..equals.unwrap_or(at)];
            let found = if escaped {
                decoded.clear();
                decode(name, &mut decoded);
                self.names.find(&decoded)
            } else {
                self.names.find(name)
            };
            if let Some(slot) = found.map(|found| &mut values[found])
                && slot.is_none()
            {
                *slot = Some(value(&self.text[equals.map_or(at, |equals| equals + 1)..at]));
                left -= 1;
            }
            at += 1;
        }
        values
    }
}

/// A decoded value; bytes that are no UTF-8 become U+FFFD.
fn value(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|b| matches!(b, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    decode(text.as_bytes(), &mut out);
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// Decodes `%XX` and `+`; a broken escape stays as it is.
fn decode(bytes: &[u8], out: &mut Vec<u8>) {
    let digit = |i: usize| bytes.get(i).and_then(|b| char::from(*b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
    let mut i = 0;
    while let Some(&b) = bytes.get(i) {
        work(0);
        match (b, digit(i + 1), digit(i + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(high * 16 + low);
                i += 2;
            }
            (b'+', _, _) => out.push(b' '),
            _ => out.push(b),
        }
        i += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(name: &str, value: &str, given: Option<&str>) -> bool {
        let names = ["zz", name, "aa"].into_iter().collect();
        let wanted = QueryMatch { name: name.into(), value: ValueMatch::Exact(value.into()) };
        wanted.holds(&Query::new(given, &names))
    }

    #[test]
    fn h105_a_query_parameter_counts_once_and_decoded() {
        let given = Some("b=2&a=x%20y&a=z&c&d=1+1&e=%zz&%66oo=1&g+h=2&i=j=k&&\u{e9}=\u{e9}&=none");
        for (name, value, want) in [
            ("a", "x y", true),
            ("a", "z", false),
            ("b", "2", true),
            ("c", "", true),
            ("d", "1 1", true),
            ("e", "%zz", true),
            ("f", "", false),
            ("foo", "1", true),
            ("g h", "2", true),
            ("i", "j=k", true),
            ("\u{e9}", "\u{e9}", true),
            ("", "", true),
        ] {
            assert_eq!(holds(name, value, given), want, "{name}={value}");
        }
        assert!(!holds("a", "", None) && !holds("", "", None));
        assert!(holds("\u{e9}", "\u{e9}", Some("%C3%A9=%c3%a9")));
    }
}
