//! Addresses that another node announces than before, told by Events about nodes.
//!
//! In: the announcers of one model after the other. Out: at most [`MAX_NODES`] Events for each change. Pure.
//!
//! # Design
//! An Event about each Service would be 10,000 of them when a node dies. What has changed is a node: when it dies its addresses
//! go to many others, and it is the one that lost them; when it returns it is the one that has them from many others. So of both
//! sides the one with fewer nodes is told of. Who announces an address now is in `sluice services`, at any time.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::write::Note;
use crate::model::verdict::some_of;

/// Nodes that one change is told of at most; of more, only as many.
const MAX_NODES: usize = 8;
/// Addresses, and nodes, that are named in an Event.
const MAX_NAMED: usize = 3;
/// The reason of these Events.
const REASON: &str = "SluiceAnnouncerChanged";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// `None` before the first model.
    last: Option<Arc<BTreeMap<IpAddr, String>>>,
}

impl Moves {
    /// What is to be told, with the node that it is about. Cost: nothing while the announcers are the same.
    pub(super) fn look(&mut self, announcers: &Arc<BTreeMap<IpAddr, String>>) -> Vec<(String, Note)> {
        let Some(last) = self.last.replace(Arc::clone(announcers)) else { return Vec::new() };
        if Arc::ptr_eq(&last, announcers) {
            return Vec::new();
        }
        let (mut from, mut to) = (BTreeMap::<&str, Moved<'_>>::new(), BTreeMap::<&str, Moved<'_>>::new());
        for (addr, new) in announcers.iter() {
            let Some(old) = last.get(addr).filter(|old| *old != new) else { continue };
            from.entry(old).or_default().note(*addr, new);
            to.entry(new).or_default().note(*addr, old);
        }
        let told = |(node, moved): (&&str, &Moved<'_>), text: String| {
            let text = format!("{text}: {}", moved.addresses());
            ((*node).to_owned(), Note { is_warning: false, reason: REASON, text })
        };
        if from.len() <= to.len() {
            let lost = |(node, moved): (&&str, &Moved<'_>)| {
                let text = format!("{} no longer announced by it but by {}", moved.count(), moved.nodes());
                told((node, moved), text)
            };
            from.iter().take(MAX_NODES).map(lost).collect()
        } else {
            let got = |(node, moved): (&&str, &Moved<'_>)| {
                let text = format!("it announces {} that {} announced", moved.count(), moved.nodes());
                told((node, moved), text)
            };
            to.iter().take(MAX_NODES).map(got).collect()
        }
    }
}

/// What a node has lost, or got.
#[derive(Debug, Default)]
struct Moved<'a> {
    addrs: Vec<IpAddr>,
    others: BTreeSet<&'a str>,
}

impl<'a> Moved<'a> {
    fn note(&mut self, addr: IpAddr, other: &'a str) {
        self.addrs.push(addr);
        self.others.insert(other);
    }

    fn count(&self) -> String {
        match self.addrs.len() {
            1 => "1 address".to_owned(),
            n => format!("{n} addresses"),
        }
    }

    fn addresses(&self) -> String {
        some_of(self.addrs.iter(), MAX_NAMED)
    }

    fn nodes(&self) -> String {
        some_of(self.others.iter(), MAX_NAMED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::announce::tests::announcer;

    fn announced(nodes: &[&str]) -> Arc<BTreeMap<IpAddr, String>> {
        let vips = (0..10_000_u16).map(|n| {
            let [high, low] = n.to_be_bytes();
            IpAddr::from([10, 0, high, low])
        });
        Arc::new(vips.filter_map(|vip| Some((vip, announcer(vip, nodes)?.to_owned()))).collect())
    }

    #[test]
    fn the_death_and_the_return_of_a_node_with_many_addresses_are_one_event_each() {
        let names: Vec<String> = (0..20).map(|n| format!("node-{n:02}")).collect();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        let (whole, without) = (announced(&all), announced(&all[1..]));
        let count = whole.values().filter(|by| *by == "node-00").count();
        assert!(count > 300, "{count}");
        let mut moves = Moves::default();
        assert_eq!(moves.look(&whole), [], "a leader that begins knows of no change");
        let [(node, note)] = &moves.look(&without)[..] else { panic!("want one") };
        assert_eq!((node.as_str(), note.reason, note.is_warning), ("node-00", REASON, false));
        let said =
            format!("{count} addresses no longer announced by it but by node-01, node-02, node-03 and 16 more: ");
        assert!(note.text.starts_with(&said), "{}", note.text);
        assert!(note.text.ends_with(&format!(" and {} more", count - 3)) && note.text.len() < 250, "{}", note.text);
        assert_eq!(moves.look(&without), []);
        let [(node, note)] = &moves.look(&whole)[..] else { panic!("want one") };
        assert_eq!(node, "node-00");
        let said = format!("it announces {count} addresses that node-01, node-02, node-03 and 16 more announced: ");
        assert!(note.text.starts_with(&said), "{}", note.text);
    }

    #[test]
    fn addresses_that_come_and_go_are_no_moves_and_one_that_moves_is_named() {
        let of = |all: &[(u8, &str)]| -> Arc<BTreeMap<IpAddr, String>> {
            Arc::new(all.iter().map(|(n, by)| (IpAddr::from([192, 0, 2, *n]), (*by).to_owned())).collect())
        };
        let mut moves = Moves::default();
        moves.look(&of(&[(1, "a"), (2, "b")]));
        assert_eq!(moves.look(&of(&[(1, "a"), (3, "c")])), []);
        let told = moves.look(&of(&[(1, "b"), (3, "c")]));
        let text = "1 address no longer announced by it but by b: 192.0.2.1".to_owned();
        assert_eq!(told, [("a".to_owned(), Note { is_warning: false, reason: REASON, text })]);
    }

    #[test]
    fn whatever_changes_few_events_tell_of_it() {
        let names: Vec<String> = (0..64).map(|n| format!("node-{n:02}")).collect();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut moves = Moves::default();
        moves.look(&announced(&all[..32]));
        assert_eq!(moves.look(&announced(&all[32..])).len(), MAX_NODES);
    }
}
