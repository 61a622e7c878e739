//! Query parameters: which rules ask for, and what a request gives them.
//!
//! A query is read once for a request, however many rules ask for a parameter: one pass that keeps the first value of
//! each name that any rule of the frontend wants.
use std::{borrow::Cow, cell::OnceCell};

mod names;
pub mod normal;
mod words;

pub use self::names::Names;
use super::{escape, matching::ValueMatch, work::work};

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

    /// The decoded value of a parameter, which must be one of the names.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let at = self.names.find(name.as_bytes())?;
        self.values.get_or_init(|| self.read())[at].as_deref()
    }

    /// Cost: one pass over the query, which ends when every name has its value.
    fn read(&self) -> Vec<Option<Cow<'a, str>>> {
        let mut values = vec![None; self.names.count()];
        let (mut left, mut decoded) = (values.len(), Vec::new());
        let bytes = self.text.as_bytes();
        let mut at = 0;
        while left > 0 && at < bytes.len() {
            let name_end = words::find(bytes, at, b'&', b'=');
            let end = words::find(bytes, name_end, b'&', b'&');
            work(end - at);
            if let Some(slot) = self.find(&bytes[at..name_end], &mut decoded).map(|found| &mut values[found])
                && slot.is_none()
            {
                *slot = Some(value(&self.text[end.min(name_end + 1)..end]));
                left -= 1;
            }
            at = end + 1;
        }
        values
    }

    /// Which name it is that may have escapes.
    #[inline]
    fn find(&self, name: &[u8], decoded: &mut Vec<u8>) -> Option<usize> {
        if words::find(name, 0, b'%', b'+') == name.len() {
            return self.names.find(name);
        }
        // Each byte of a decoded name comes from three at most.
        if name.len() > 3 * self.names.longest() {
            return None;
        }
        decoded.clear();
        decode(name, decoded);
        self.names.find(decoded)
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
    let mut at = 0;
    while let Some(&b) = bytes.get(at) {
        work(0);
        let escaped = if b == b'%' { escape::decode(bytes, at) } else { None };
        out.push(escaped.unwrap_or(if b == b'+' { b' ' } else { b }));
        at += if escaped.is_some() { 3 } else { 1 };
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
