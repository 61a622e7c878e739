//! What one node tells the others: an annotation on its Lease.
//!
//! # Design
//! - Programmed is a watermark with exceptions: everything that the API server had up to a revision, but for the objects
//!   that are named. So a report has the size of what is wrong, not of what there is.
//! - A Lease holds [`MAX_EXCEPT`] names and [`ROOM`] bytes of them: with more, the API server would refuse the Lease and the
//!   node would be taken for dead. What does not fit is not counted as programmed: see [`Report::except_from`].
//! - What a report does not say is not taken for granted: one of a newer [`FORMAT`], one without watermark or exceptions,
//!   and one that does not read, count nothing as programmed. Such a node lives all the same.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use crate::{api::Lease, arrows::Applied, mac::Mac, model::ObjectRef, source::snapshot::Seen};

/// The annotation that holds a [`Report`] as JSON.
pub const REPORT: &str = "sluice.dev/report";
/// Which reports are understood: a newer one may mean something else by the same words. 1, which did not say so, named the
/// first [`MAX_EXCEPT`] exceptions and kept silent about the others.
const FORMAT: u32 = 2;
/// Objects that a report names at most, of each sort; a node that cannot program more than that has another trouble.
pub(super) const MAX_EXCEPT: usize = 500;
/// Bytes of exceptions, of conflicts and of what lacks endpoints at most, each. Source: all annotations of an object have
/// 256 KiB, and in JSON a sentence may take twice its bytes.
pub(super) const ROOM: usize = 40 << 10;

/// What a node has programmed and read back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Everything written up to these revisions is programmed, but for `except`.
    pub seen: Seen,
    /// The objects that are not programmed, `Service default/web`.
    pub except: BTreeSet<String>,
    /// There are more than fit: of the objects from this one on, in the order of their names, none counts as programmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub except_from: Option<String>,
    /// Addresses that another host was found to have, each with a sentence. Those that do not fit are exceptions as well.
    pub conflicts: BTreeMap<IpAddr, String>,
    /// The objects with an endpoint that this node cannot reach, `Service default/web`, each with a sentence.
    pub lacking: BTreeMap<String, String>,
    /// The proxy takes connections.
    pub proxy: bool,
    /// The agent is about to end; what is in the kernel goes on forwarding layer 4.
    pub leaving: bool,
    /// Where its neighbours find the node.
    pub address: Option<IpAddr>,
    /// The Ethernet addresses by which it announces VIPs.
    pub macs: Vec<Mac>,
}

/// A report as it is on a Lease, whoever has written it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    format: Option<u32>,
    seen: Option<Seen>,
    except: Option<BTreeSet<String>>,
    except_from: Option<String>,
    conflicts: BTreeMap<IpAddr, String>,
    lacking: BTreeMap<String, String>,
    proxy: bool,
    leaving: bool,
    address: Option<IpAddr>,
    macs: Vec<Mac>,
}

/// A report as this version writes it.
#[derive(Serialize)]
struct Formatted<'a> {
    format: u32,
    #[serde(flatten)]
    report: &'a Report,
}

impl Report {
    /// The report on a Lease; `None` without one, or with one that does not read.
    #[must_use]
    pub fn of(lease: &Lease) -> Option<Self> {
        Self::read(lease.metadata.annotations.get(REPORT)?)
    }

    fn read(text: &str) -> Option<Self> {
        let Written { format, seen, except, except_from, conflicts, lacking, proxy, leaving, address, macs } =
            serde_json::from_str(text).ok()?;
        let is_cut = format.is_none() && except.as_ref().is_some_and(|except| except.len() >= MAX_EXCEPT);
        let seen = seen.filter(|_| format.unwrap_or(1) <= FORMAT && except.is_some()).unwrap_or_default();
        let except_from = if is_cut { Some(String::new()) } else { except_from };
        let except = except.unwrap_or_default();
        Some(Self { seen, except, except_from, conflicts, lacking, proxy, leaving, address, macs })
    }

    /// The annotation.
    #[must_use]
    pub fn text(&self) -> String {
        // Text, numbers and maps by text: this cannot fail.
        serde_json::to_string(&Formatted { format: FORMAT, report: self }).unwrap_or_default()
    }

    /// Takes over what the maps have, as far as it fits.
    pub(super) fn take(&mut self, applied: &Applied) {
        // What is not announced is not served yet; what another host has never is.
        let names: BTreeSet<&String> = applied.unprogrammed.keys().chain(&applied.unannounced).collect();
        let fit = fitting(names.iter().map(|name| name.len()));
        self.except = names.iter().take(fit).map(|name| (*name).clone()).collect();
        self.except_from = names.iter().nth(fit).map(|name| (*name).clone());
        let conflicts: Vec<_> = applied.conflicts.iter().map(|(vip, holder)| (*vip, holder.sentence())).collect();
        let fit = fitting(conflicts.iter().map(|(_, sentence)| sentence.len()));
        self.conflicts = conflicts.into_iter().take(fit).collect();
        let fit = fitting(applied.lacking.iter().map(|(name, sentence)| name.len() + sentence.len()));
        self.lacking = applied.lacking.iter().take(fit).map(|(name, said)| (name.clone(), said.clone())).collect();
    }

    /// Whether the node has seen the object as it was at a revision.
    #[must_use]
    pub fn is_past(&self, object: &ObjectRef, revision: u64) -> bool {
        let seen = if object.kind == "Gateway" { self.seen.gateways } else { self.seen.services };
        // From manifests nothing has a revision, and no report either.
        revision > 0 && seen >= revision
    }

    /// Whether the node has programmed the object as it was at a revision.
    #[must_use]
    pub fn has_programmed(&self, object: &ObjectRef, revision: u64) -> bool {
        self.is_past(object, revision) && {
            let name = object.to_string();
            !self.except.contains(&name) && self.except_from.as_ref().is_none_or(|from| name < *from)
        }
    }
}

/// How many of these, of so many bytes, fit.
fn fitting(sizes: impl Iterator<Item = usize>) -> usize {
    // Quotes, colon and comma.
    let ends = sizes.scan(0, |end, size| {
        *end += size + 6;
        Some(*end)
    });
    ends.take(MAX_EXCEPT).take_while(|end| *end <= ROOM).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ObjectName;

    fn service(name: &str) -> ObjectRef {
        ObjectRef::new("Service", ObjectName::new("default", name))
    }

    fn applied(unprogrammed: impl Iterator<Item = String>) -> Applied {
        Applied {
            unprogrammed: unprogrammed.map(|object| (object, "no room".to_owned())).collect(),
            ..Applied::default()
        }
    }

    #[test]
    fn more_exceptions_than_fit_are_not_programmed() {
        let all: Vec<ObjectRef> = (0..2 * MAX_EXCEPT).map(|n| service(&format!("s{n:04}"))).collect();
        let mut report = Report { seen: Seen { services: 7, gateways: 7 }, ..Report::default() };
        report.take(&applied(all.iter().map(ToString::to_string)));
        assert_eq!(report.except.len(), MAX_EXCEPT);
        let read = Report::read(&report.text()).unwrap();
        assert_eq!(read, report);
        assert_eq!(all.iter().filter(|object| read.has_programmed(object, 7)).count(), 0);
        assert!(read.has_programmed(&service("before-them"), 7), "it is none of them");
        assert!(!read.has_programmed(&service("zzz"), 7), "nobody knows whether it is one of them");
        assert!(all.iter().all(|object| read.is_past(object, 7)), "what is gone is gone");
    }

    #[test]
    fn a_report_fits_into_an_annotation_however_long_names_and_sentences_are() {
        let name = |n: usize| format!("Service {}/{n:0>200}", "n".repeat(63));
        let mut applied = applied((0..5_000).map(name));
        applied.lacking = (0..5_000).map(|n| (name(n), "\"".repeat(300))).collect();
        let holder = crate::arrows::Holder { mac: "02:00:00:00:00:01".to_owned() };
        applied.conflicts = (0..5_000_u32).map(|n| (IpAddr::from(n.to_be_bytes()), holder.clone())).collect();
        let mut report = Report::default();
        report.take(&applied);
        let text = report.text();
        assert!(text.len() < 250 << 10, "{}", text.len());
        assert!(report.except_from.is_some());
        assert!(!report.conflicts.is_empty() && !report.lacking.is_empty());
    }

    #[test]
    fn what_another_version_does_not_say_counts_for_nothing() {
        let seen = r#""seen": {"services": 7, "gateways": 7}"#;
        let cut: Vec<String> =
            (0..MAX_EXCEPT).map(|n| format!("{:?}", service(&format!("s{n}")).to_string())).collect();
        let cut = format!("{{{seen}, \"except\": [{}]}}", cut.join(","));
        for (text, want) in [
            (format!(r#"{{{seen}, "except": []}}"#), true),
            (format!(r#"{{"format": 2, {seen}, "except": [], "another": [1]}}"#), true),
            (format!(r#"{{"format": 3, {seen}, "except": []}}"#), false),
            (format!(r#"{{"format": 2, {seen}}}"#), false),
            (r#"{"format": 2, "except": []}"#.to_owned(), false),
            (format!(r#"{{"format": 2, {seen}, "except": [], "exceptFrom": "A"}}"#), false),
            (cut, false),
            ("{}".to_owned(), false),
            ("[]".to_owned(), false),
        ] {
            let report = Report::read(&text).unwrap_or_else(|| panic!("it does not read: {text}"));
            assert_eq!(report.has_programmed(&service("web"), 7), want, "{text}");
        }
        for text in
            [r#"{"seen": {"services": 7}, "except": []}"#, r#"{"seen": {"services": -1, "gateways": 7}}"#, "nonsense"]
        {
            assert_eq!(Report::read(text), None, "{text}");
        }
    }

    #[test]
    fn what_has_no_revision_is_seen_by_nobody() {
        let report = Report { seen: Seen { services: 7, gateways: 7 }, ..Report::default() };
        assert!(!report.is_past(&service("web"), 0) && !Report::default().is_past(&service("web"), 0));
    }
}
