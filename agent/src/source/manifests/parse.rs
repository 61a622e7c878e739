//! The text of one file -> objects, or what is wrong with it and where.
//!
//! A file is cut into documents first, and a document whose text was read before is not read again: one object that
//! changes in a file of a thousand costs one object. Each document is read twice: for its kind, then as that kind.
//! Only kinds that the model reads are kept; what the API server would fill in is filled in.
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use plan::{Head, Plan};
use serde::de::{DeserializeSeed, IgnoredAny};

use crate::api::{
    AddressPool, EndpointSlice, Gateway, GatewayClass, HttpRoute, Namespace, Node, ObjectMeta, ObjectName, Service,
};

/// Characters of a line that a reason repeats at most.
const FOUND_CHARS: usize = 40;

/// One object of a kind that the model reads.
#[derive(Clone, Debug)]
pub(super) enum Object {
    Service(Arc<Service>),
    Slice(Arc<EndpointSlice>),
    GatewayClass(Arc<GatewayClass>),
    Gateway(Arc<Gateway>),
    HttpRoute(Arc<HttpRoute>),
    Pool(Arc<AddressPool>),
    Namespace(Arc<Namespace>),
    Node(Arc<Node>),
}

impl Object {
    /// Whether it is the very same object.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Service(a), Self::Service(b)) => Arc::ptr_eq(a, b),
            (Self::Slice(a), Self::Slice(b)) => Arc::ptr_eq(a, b),
            (Self::GatewayClass(a), Self::GatewayClass(b)) => Arc::ptr_eq(a, b),
            (Self::Gateway(a), Self::Gateway(b)) => Arc::ptr_eq(a, b),
            (Self::HttpRoute(a), Self::HttpRoute(b)) => Arc::ptr_eq(a, b),
            (Self::Pool(a), Self::Pool(b)) => Arc::ptr_eq(a, b),
            (Self::Namespace(a), Self::Namespace(b)) => Arc::ptr_eq(a, b),
            (Self::Node(a), Self::Node(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// Kind and name; that of a cluster-scoped object has no namespace.
    pub(super) fn describe(&self) -> (&'static str, ObjectName) {
        let scoped = |metadata: &ObjectMeta| ObjectName::new("", &metadata.name);
        match self {
            Self::Service(o) => ("Service", o.metadata.object_name()),
            Self::Slice(o) => ("EndpointSlice", o.metadata.object_name()),
            Self::GatewayClass(o) => ("GatewayClass", scoped(&o.metadata)),
            Self::Gateway(o) => ("Gateway", o.metadata.object_name()),
            Self::HttpRoute(o) => ("HTTPRoute", o.metadata.object_name()),
            Self::Pool(o) => ("AddressPool", scoped(&o.metadata)),
            Self::Namespace(o) => ("Namespace", scoped(&o.metadata)),
            Self::Node(o) => ("Node", scoped(&o.metadata)),
        }
    }
}

/// One document that could be read.
#[derive(Clone, Debug, Default)]
pub(super) struct Document {
    /// Its text, to know it by.
    text: String,
    /// Its first line in the file, from 1.
    pub(super) line: u64,
    pub(super) objects: Vec<Object>,
    /// Kinds that nobody reads, `apps/v1 Deployment`.
    pub(super) unknown: Vec<String>,
}

/// Something in a file that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    pub(super) line: Option<u64>,
    pub(super) reason: String,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Yaml,
    Json,
}

/// Reads a file. `known` are the documents that it had.
pub(super) fn parse(text: &str, format: Format, known: &[Document]) -> (Vec<Document>, Vec<Flaw>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (chunks, flaw) = match format {
        Format::Yaml => (split_yaml(text), None),
        Format::Json => split_json(text),
    };
    let known = known.iter().map(|d| (d.text.as_str(), d)).collect::<std::collections::HashMap<_, _>>();
    let mut documents = Vec::with_capacity(chunks.len());
    let mut flaws = Vec::new();
    for (line, chunk) in chunks {
        match known.get(chunk) {
            Some(document) => documents.push(Document { line, ..(*document).clone() }),
            None => match read_document(chunk, format) {
                Ok((objects, unknown)) => documents.push(Document { text: chunk.to_owned(), line, objects, unknown }),
                Err(flaw) => {
                    flaws.push(Flaw { line: Some(flaw.line.map_or(line, |l| l + line - 1)), reason: flaw.reason });
                }
            },
        }
    }
    flaws.extend(flaw);
    (documents, flaws)
}

/// Cuts at `---` and `...` at the start of a line, which cannot be content there, and leaves out what is empty.
fn split_yaml(text: &str) -> Vec<(u64, &str)> {
    let is_marker = |line: &str, marker: &str| {
        line.strip_prefix(marker).is_some_and(|r| r.trim_start().len() < r.len() || r.is_empty())
    };
    let mut chunks = Vec::new();
    let (mut start, mut start_line, mut offset, mut blank) = (0, 1, 0, true);
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let mut cut = |at: usize, next_line: u64, blank: &mut bool| {
            if !*blank {
                chunks.push((start_line, text.get(start..at).unwrap_or_default()));
            }
            (start, start_line, *blank) = (at, next_line, true);
        };
        let end = offset + line.len();
        if is_marker(line, "---") {
            cut(offset, number, &mut blank);
            blank = is_blank(&line[3..]);
        } else if is_marker(line, "...") {
            cut(end, number + 1, &mut blank);
        } else {
            blank &= is_blank(line) || line.starts_with('%');
        }
        offset = end;
    }
    if !blank {
        chunks.push((start_line, text.get(start..).unwrap_or_default()));
    }
    chunks
}

fn is_blank(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#')
}

/// Cuts a sequence of JSON values; what follows a syntax error is not read.
fn split_json(text: &str) -> (Vec<(u64, &str)>, Option<Flaw>) {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let mut chunks = Vec::new();
    let (mut start, mut line) = (0, 1);
    while let Some(value) = values.next() {
        let end = match value {
            Ok(_) => values.byte_offset(),
            Err(e) => {
                let flaw = Flaw { line: Some(u64::try_from(e.line()).unwrap_or(line)), reason: json_reason(&e) };
                return (chunks, Some(flaw));
            }
        };
        let between = text.get(start..end).unwrap_or_default();
        let chunk = between.trim_start();
        let newlines = |s: &str| u64::try_from(s.matches('\n').count()).unwrap_or(u64::MAX);
        line += newlines(&between[..between.len() - chunk.len()]);
        chunks.push((line, chunk));
        line += newlines(chunk);
        start = end;
    }
    (chunks, None)
}

/// Reads one document: its heads, then what they name. Lines are counted from the document's first.
fn read_document(text: &str, format: Format) -> Result<(Vec<Object>, Vec<String>), Flaw> {
    let head = run::<Head, _>(text, format, std::marker::PhantomData)?;
    let plan = Plan::of(&head, "").map_err(|reason| Flaw { line: None, reason })?;
    let mut unknown = Vec::new();
    plan.unknown(&mut unknown);
    let mut objects = Vec::new();
    if plan.has_objects() {
        objects = run(text, format, &plan).map_err(|flaw| Flaw { reason: plan.locate(&flaw.reason), ..flaw })?;
    }
    Ok((objects, unknown))
}

/// Runs a seed over a document; an error carries the path of the field.
fn run<'de, T, S: DeserializeSeed<'de, Value = T>>(text: &'de str, format: Format, seed: S) -> Result<T, Flaw> {
    let mut track = serde_path_to_error::Track::new();
    match format {
        Format::Json => {
            let mut json = serde_json::Deserializer::from_str(text);
            seed.deserialize(serde_path_to_error::Deserializer::new(&mut json, &mut track)).map_err(|e| Flaw {
                line: u64::try_from(e.line()).ok().filter(|l| *l > 0),
                reason: with_path(&track.path(), &json_reason(&e)),
            })
        }
        Format::Yaml => {
            let options = serde_saphyr::options! { with_snippet: false };
            let read = |yaml: serde_saphyr::Deserializer<'de, '_>| {
                seed.deserialize(serde_path_to_error::Deserializer::new(yaml, &mut track))
            };
            serde_saphyr::with_deserializer_from_str_with_options(text, options, read).map_err(|e| {
                let line = e.location().map(|l| l.line()).filter(|l| *l > 0);
                Flaw { line, reason: with_path(&track.path(), &yaml_reason(&e, text)) }
            })
        }
    }
}

fn with_path(path: &serde_path_to_error::Path, reason: &str) -> String {
    let path = path.to_string();
    if path == "." { reason.to_owned() } else { format!("{path}: {reason}") }
}

/// serde_json's text without the place, which a [`Flaw`] holds apart.
fn json_reason(e: &serde_json::Error) -> String {
    let text = e.to_string();
    let place = format!(" at line {} column {}", e.line(), e.column());
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}

/// serde_saphyr's text without the place, which a [`Flaw`] holds apart, and with what is written there, which it leaves
/// out: `invalid i64 at line 9, column 11` -> `found "eighty", want a valid number`.
fn yaml_reason(e: &serde_saphyr::Error, text: &str) -> String {
    let reason = e.to_string();
    let reason = reason.lines().next().unwrap_or_default();
    let Some(at) = e.location() else { return reason.to_owned() };
    let place = format!(" at line {}, column {}", at.line(), at.column());
    let reason = reason.strip_suffix(&place).unwrap_or(reason).replace("i64", "number");
    let want = match (reason.strip_prefix("invalid "), reason.strip_prefix("expected ")) {
        (Some(what), _) if !what.contains(' ') => format!("want a valid {what}"),
        (_, Some(what)) => format!("want {what}"),
        _ => reason,
    };
    let index = |n: u64| usize::try_from(n.saturating_sub(1)).unwrap_or(usize::MAX);
    let line = text.lines().nth(index(at.line())).unwrap_or_default();
    let found = line.chars().skip(index(at.column())).take(FOUND_CHARS).collect::<String>();
    if found.trim().is_empty() { want } else { format!("found {:?}, {want}", found.trim()) }
}
