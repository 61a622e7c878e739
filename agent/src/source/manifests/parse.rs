//! The text of one file -> objects, or what is wrong with it and where.
//!
//! A file is cut into documents first, and a document whose text was read before is not read again: one object that
//! changes in a file of a thousand costs one object. Each document is read for its kind, then checked against the
//! published fields of that kind, then read as that kind. Only kinds that the model reads are kept; what the API server
//! would fill in is filled in.
//!
//! # Design
//! A field that no API server knows is a fault of its object, as a value of the wrong type is: `kubectl` would have
//! refused the object, and what a misspelt field was to forbid would be allowed in silence. Where the fault has the name
//! of an object, that object alone keeps its last good form; it is not served where it never had one.
//!
//! A fault in what says who may connect to a Service, its source ranges or a field that is spelt nearly like them, closes the
//! Service: the edit may have been to shut somebody out. Its last good form keeps its addresses, and the model refuses it
//! until it is mended. Any other fault leaves open what is open: a slip elsewhere must not take a service away.
mod check;
mod object;
mod plan;
#[cfg(test)]
mod tests;

use std::{cell::Cell, collections::HashMap};

use check::{MAX_VALUES, Report};
pub(super) use object::Object;
use plan::{Head, Plan};
use serde::de::{DeserializeSeed, IgnoredAny};
use serde_path_to_error::Segment;

/// Characters of a line that a reason repeats at most.
const FOUND_CHARS: usize = 40;

/// SHA-256 of a document's text. With thousands of files their texts are megabytes.
type Digest = [u8; 32];

/// One document that could be read.
#[derive(Clone, Debug, Default)]
pub(super) struct Document {
    /// What its text is known by; `None` where it is to be read again.
    digest: Option<Digest>,
    /// Its first line in the file, from 1.
    pub(super) line: u64,
    pub(super) objects: Vec<Object>,
    /// Kinds that nobody reads, `apps/v1 Deployment`.
    pub(super) unknown: Vec<String>,
    /// How many values it has, of the file's [`MAX_VALUES`].
    values: usize,
}

impl Document {
    /// The last good form of an object, in a document of its own.
    pub(super) fn keep(line: u64, object: Object) -> Self {
        Self { line, objects: vec![object], ..Self::default() }
    }

    /// Closes the Services for which there is a reason, by their names.
    pub(super) fn close<'r>(&mut self, reason: impl Fn(&str) -> Option<&'r str>) {
        for object in &mut self.objects {
            if let Some(reason) = reason(&object.name()) {
                *object = object.clone().closed(reason);
                // To be read again when it comes back as it was.
                self.digest = None;
            }
        }
    }
}

/// Something in a file that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    pub(super) line: Option<u64>,
    /// `Service default/web`: the one object that it concerns; `None` where it may concern more.
    pub(super) object: Option<String>,
    pub(super) reason: String,
    /// `Service default/web`: nobody may connect to it until the flaw is gone.
    pub(super) closes: Option<String>,
}

impl Flaw {
    pub(super) fn of_file(line: Option<u64>, reason: String) -> Self {
        Self { line, object: None, reason, closes: None }
    }

    /// The same without what it quotes.
    fn hidden(mut self) -> Self {
        let is_quote = |c: char| matches!(c, '"' | '`');
        if let (Some(first), Some(last)) = (self.reason.find(is_quote), self.reason.rfind(is_quote)) {
            self.reason.replace_range(first..=last, "(hidden)");
        }
        self
    }

    /// What it says of the object that it closes.
    pub(super) fn of_closed(&self, object: &str) -> Option<&str> {
        let about = self.closes.as_deref() == Some(object);
        about.then(|| self.reason.strip_prefix(object).and_then(|r| r.strip_prefix(": ")).unwrap_or(&self.reason))
    }
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
    let known = known.iter().filter_map(|d| Some((d.digest?, d))).collect::<HashMap<_, _>>();
    let left = Cell::new(MAX_VALUES);
    let mut documents = Vec::with_capacity(chunks.len());
    let mut flaws = Vec::new();
    for (line, chunk) in chunks {
        let digest = digest(chunk);
        if let Some(document) = known.get(&digest) {
            left.set(left.get().saturating_sub(document.values));
            documents.push(Document { line, ..(*document).clone() });
            continue;
        }
        let before = left.get();
        let (objects, unknown, mut found) = match read_document(chunk, format, &left) {
            Ok(read) => read,
            Err(flaw) => {
                let flaw = if may_hold_keys(chunk) { flaw.hidden() } else { flaw };
                flaws.push(Flaw { line: Some(flaw.line.map_or(line, |l| l + line - 1)), ..flaw });
                continue;
            }
        };
        found.iter_mut().for_each(|flaw| flaw.line = Some(flaw.line.map_or(line, |l| l + line - 1)));
        if may_hold_keys(chunk) {
            found = found.into_iter().map(Flaw::hidden).collect();
        }
        // A document with faults is read again: what was wrong with it must be told again. So is a Secret: nothing of its text is kept.
        let is_kept = found.is_empty() && !objects.iter().any(|object| matches!(object, Object::Secret(_)));
        let digest = is_kept.then_some(digest);
        flaws.append(&mut found);
        documents.push(Document { digest, line, objects, unknown, values: before - left.get() });
    }
    flaws.extend(flaw);
    (documents, flaws)
}

fn digest(text: &str) -> Digest {
    let mut out = Digest::default();
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref());
    out
}

/// Whether a document may be a Secret, or have one, be it readable or not.
fn may_hold_keys(text: &str) -> bool {
    text.contains("Secret")
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
                let line = Some(u64::try_from(e.line()).unwrap_or(line));
                return (chunks, Some(Flaw::of_file(line, json_reason(&e))));
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

/// Objects, kinds that nobody reads, and what is wrong with objects that are left out.
type Read = (Vec<Object>, Vec<String>, Vec<Flaw>);

/// Reads one document: its heads, then what they name. Lines are counted from the document's first. Takes from `left`
/// the values that it has.
fn read_document(text: &str, format: Format, left: &Cell<usize>) -> Result<Read, Flaw> {
    let head = run::<Head, _>(text, format, std::marker::PhantomData)?;
    let mut plan = Plan::of(&head, "").map_err(|reason| Flaw::of_file(None, reason))?;
    drop(head);
    let mut unknown = Vec::new();
    plan.unknown(&mut unknown);
    if !plan.has_objects() {
        return Ok((Vec::new(), unknown, Vec::new()));
    }
    let report = Report::new(left);
    run(text, format, report.check(&plan))?;
    let mut flaws = Vec::new();
    for misfit in report.into_misfits() {
        let object = plan.name_of(misfit.element).map(str::to_owned);
        let line = line_of(text, &misfit.reason);
        let reason = object.as_ref().map_or(misfit.reason.clone(), |name| format!("{name}: {}", misfit.reason));
        let closes = object.clone().filter(|_| misfit.is_about_sources);
        flaws.push((misfit.element, Flaw { line, object, reason, closes }));
    }
    flaws.iter().for_each(|(element, _)| plan.skip(*element));
    let mut objects = Vec::new();
    if plan.has_objects() {
        let whole = if let Plan::Object(_, name) = &plan { Some(name.clone()) } else { None };
        let locate = |(flaw, Place { element, is_about_sources }): (Flaw, Place)| {
            let closes = plan.name_of(element).filter(|_| is_about_sources).map(str::to_owned);
            Flaw { reason: plan.locate(&flaw.reason), object: whole, closes, ..flaw }
        };
        objects = run_to(text, format, &plan).map_err(locate)?;
    }
    Ok((objects, unknown, flaws.into_iter().map(|(_, flaw)| flaw).collect()))
}

/// The line of a field that a reason begins with the path of, where one line alone can be it.
fn line_of(text: &str, reason: &str) -> Option<u64> {
    let path = reason.split(": ").next().unwrap_or_default().trim_end_matches(|c: char| "[]0123456789".contains(c));
    let name = path.rsplit('.').next().filter(|name| !name.is_empty())?;
    let has_key = |line: &str| {
        line.match_indices(name).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let after = line[at + name.len()..].trim_start_matches(['"', '\'']).trim_start();
            before.is_none_or(|c| !c.is_alphanumeric()) && after.starts_with(':')
        })
    };
    let mut found = (1..).zip(text.lines()).filter(|(_, line)| has_key(line)).map(|(number, _)| number);
    found.next().filter(|_| found.next().is_none())
}

/// Where the reading of a document ended.
struct Place {
    /// Which element of the list it is in; 0 where the document is the object.
    element: usize,
    /// It is in what says who gets in.
    is_about_sources: bool,
}

impl Place {
    fn of(path: &serde_path_to_error::Path) -> Self {
        let (mut element, mut is_about_sources) = (0, false);
        for (depth, segment) in path.iter().enumerate() {
            match segment {
                Segment::Seq { index } if depth == 1 => element = *index,
                Segment::Map { key } => is_about_sources |= key == check::SOURCE_RANGES,
                Segment::Seq { .. } | Segment::Enum { .. } | Segment::Unknown => {}
            }
        }
        Self { element, is_about_sources }
    }
}

/// Runs a seed over a document; an error carries the path of the field.
fn run<'de, T, S: DeserializeSeed<'de, Value = T>>(text: &'de str, format: Format, seed: S) -> Result<T, Flaw> {
    run_to(text, format, seed).map_err(|(flaw, _)| flaw)
}

/// [`run`]; an error comes with its place.
fn run_to<'de, T, S: DeserializeSeed<'de, Value = T>>(
    text: &'de str,
    format: Format,
    seed: S,
) -> Result<T, (Flaw, Place)> {
    let mut track = serde_path_to_error::Track::new();
    let read = read_as(text, format, seed, &mut track);
    read.map_err(|flaw| {
        let path = track.path();
        (Flaw { reason: with_path(&path, &flaw.reason), ..flaw }, Place::of(&path))
    })
}

/// Reads a document, and keeps track of the place in it.
fn read_as<'de, T, S: DeserializeSeed<'de, Value = T>>(
    text: &'de str,
    format: Format,
    seed: S,
    track: &mut serde_path_to_error::Track,
) -> Result<T, Flaw> {
    match format {
        Format::Json => {
            let mut json = serde_json::Deserializer::from_str(text);
            seed.deserialize(serde_path_to_error::Deserializer::new(&mut json, track)).map_err(|e| {
                let line = u64::try_from(e.line()).ok().filter(|l| *l > 0);
                Flaw::of_file(line, json_reason(&e))
            })
        }
        Format::Yaml => {
            let options = serde_saphyr::options! {
                with_snippet: false,
                budget: serde_saphyr::budget! { max_nodes: MAX_VALUES, max_events: 4 * MAX_VALUES },
            };
            let read = |yaml: serde_saphyr::Deserializer<'de, '_>| {
                seed.deserialize(serde_path_to_error::Deserializer::new(yaml, track))
            };
            serde_saphyr::with_deserializer_from_str_with_options(text, options, read).map_err(|e| {
                let line = e.location().map(|l| l.line()).filter(|l| *l > 0);
                Flaw::of_file(line, yaml_reason(&e, text))
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
