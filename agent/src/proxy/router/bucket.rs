//! Entries with the same host name and path, told apart by what else they want.
//!
//! # Design
//! Where there are many, each is found by the one thing that it wants and fewest others do, whichever position that has in the rule: an
//! exact header or query parameter by its value, in a hash map; else one that a pattern holds, whose patterns are looked for together.
//! Only those that want neither are tried one by one.
use std::collections::HashMap;

use http::{HeaderMap, HeaderName};

use super::{patterns::Patterns, rules::Asked};
use crate::model::http::{
    HttpEntry, HttpMatch, Pattern,
    matching::{ValueMatch, joined},
    work::work,
};

/// From how many entries on a bucket is split.
const SPLIT_AT: usize = 8;

/// See the module. Indices are into the host name's entries, ascending.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// Tried one by one.
    pub(super) plain: Vec<usize>,
    headers: HashMap<HeaderName, ByValue>,
    parameters: HashMap<Box<str>, ByValue>,
}

/// Entries by what they want of one header, or of one query parameter.
#[derive(Debug, Default)]
struct ByValue {
    exact: HashMap<Box<[u8]>, Vec<usize>>,
    /// The longest exact value; a longer one is not hashed. Units: bytes.
    longest: usize,
    patterns: Patterns,
}

impl ByValue {
    /// The first entry that holds, of those that want this value or have a pattern that holds it.
    fn find(&self, value: &[u8], asked: Asked<'_, '_>) -> Option<usize> {
        let exact = (value.len() <= self.longest).then(|| {
            work(value.len());
            self.exact.get(value)
        });
        let exact = exact.flatten().and_then(|list| asked.first(list.iter().copied()));
        let text = if self.patterns.is_empty() { None } else { std::str::from_utf8(value).ok() };
        let pattern = text.and_then(|text| asked.first(self.patterns.holding(text)));
        [exact, pattern].into_iter().flatten().min()
    }

    /// Whether a header is longer than all exact values, so that nothing wants it.
    fn is_beyond(&self, headers: &HeaderMap, name: &HeaderName) -> bool {
        let mut length = 0;
        for (i, value) in headers.get_all(name).iter().enumerate() {
            work(0);
            length += value.len() + i.min(1);
        }
        self.patterns.is_empty() && length > self.longest
    }
}

/// Something that an entry wants: a header or a parameter, with an exact value or one that a pattern holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Wanted<'a> {
    Header(&'a HeaderName, &'a [u8]),
    Parameter(&'a str, &'a [u8]),
    HeaderPattern(&'a HeaderName),
    ParameterPattern(&'a str),
}

/// All that a match wants beside its path, with the pattern where it is one.
fn wanted(matches: &HttpMatch) -> impl Iterator<Item = (Wanted<'_>, Option<&Pattern>)> {
    let headers = matches.headers.iter().map(|header| match &header.value {
        ValueMatch::Exact(value) => (Wanted::Header(&header.name, value.as_bytes()), None),
        ValueMatch::Regex(pattern) => (Wanted::HeaderPattern(&header.name), Some(pattern)),
    });
    let parameters = matches.query.iter().map(|parameter| match &parameter.value {
        ValueMatch::Exact(value) => (Wanted::Parameter(&parameter.name, value.as_bytes()), None),
        ValueMatch::Regex(pattern) => (Wanted::ParameterPattern(&parameter.name), Some(pattern)),
    });
    headers.chain(parameters)
}

impl Bucket {
    /// Moves entries from the list to the maps, when the list is long.
    pub(super) fn split(&mut self, entries: &[HttpEntry]) {
        if self.plain.len() < SPLIT_AT {
            return;
        }
        let all = std::mem::take(&mut self.plain);
        let mut counts: HashMap<Wanted<'_>, usize> = HashMap::new();
        for (one, _) in all.iter().flat_map(|index| wanted(&entries[*index].matches)) {
            *counts.entry(one).or_default() += 1;
        }
        let mut patterns: HashMap<Wanted<'_>, Vec<(usize, &Pattern)>> = HashMap::new();
        for index in all {
            // A pattern costs more than a look-up, however few there are.
            let rank = |(one, pattern): &(Wanted<'_>, Option<&Pattern>)| (pattern.is_some(), counts.get(one).copied());
            match wanted(&entries[index].matches).min_by_key(rank) {
                None => self.plain.push(index),
                Some((one, Some(pattern))) => patterns.entry(one).or_default().push((index, pattern)),
                Some((Wanted::Header(name, value), None)) => {
                    self.headers.entry(name.clone()).or_default().add(value, index);
                }
                Some((Wanted::Parameter(name, value), None)) => {
                    self.parameters.entry(name.into()).or_default().add(value, index);
                }
                Some((Wanted::HeaderPattern(_) | Wanted::ParameterPattern(_), None)) => self.plain.push(index),
            }
        }
        for (one, patterns) in patterns {
            let of = match one {
                Wanted::Header(name, _) | Wanted::HeaderPattern(name) => self.headers.entry(name.clone()).or_default(),
                Wanted::Parameter(name, _) | Wanted::ParameterPattern(name) => {
                    self.parameters.entry(name.into()).or_default()
                }
            };
            of.patterns = Patterns::new(&patterns);
        }
    }

    /// The first entry that holds beside its path.
    pub(super) fn find(&self, asked: Asked<'_, '_>) -> Option<usize> {
        let headers = asked.request.headers;
        let by_header = self.headers.iter().filter_map(|(name, by_value)| {
            if !headers.contains_key(name) || by_value.is_beyond(headers, name) {
                return None;
            }
            by_value.find(&joined(headers, name), asked)
        });
        let by_parameter = self
            .parameters
            .iter()
            .filter_map(|(name, by_value)| by_value.find(asked.query.get(name)?.as_bytes(), asked));
        by_header.chain(by_parameter).chain(asked.first(self.plain.iter().copied())).min()
    }
}

impl ByValue {
    fn add(&mut self, value: &[u8], index: usize) {
        self.longest = self.longest.max(value.len());
        self.exact.entry(value.into()).or_default().push(index);
    }
}
