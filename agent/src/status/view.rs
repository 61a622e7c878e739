//! What the writers look at: the model, and what the nodes say they have done.
use std::{collections::BTreeSet, net::IpAddr};

use super::version::Bundle;
use crate::{
    api::ObjectMeta,
    config::route_hosts::RouteHosts,
    membership::{Members, Report, Revisions},
    model::{Model, ObjectRef},
};

/// The input of the pure planners.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The newest model of this node.
    pub model: &'a Model,
    /// The nodes that live.
    pub members: &'a Members,
    /// Which revisions nodes must have seen.
    pub revisions: &'a Revisions,
    /// Who may ask for which host names.
    pub route_hosts: &'a RouteHosts,
    /// Which version of Gateway API there is.
    pub bundle: &'a Bundle,
}

impl<'a> View<'a> {
    /// The nodes that must have programmed an address before it is shown: those that announce it; where nobody does,
    /// traffic may come to any node, and all of them must. The node that would announce it without these is not among them:
    /// it programs whatever there is, and takes over later than that takes.
    #[must_use]
    pub fn servers(&self, addrs: &[IpAddr]) -> BTreeSet<&'a str> {
        let announcers = self.model.announcers_of(addrs);
        announcers.unwrap_or_else(|| self.members.alive.keys().map(String::as_str).collect())
    }

    /// Whether the nodes that serve these addresses of an object have programmed it as it is. Without a node, nobody has.
    #[must_use]
    pub fn is_programmed(&self, object: &ObjectRef, metadata: &ObjectMeta, addrs: &[IpAddr]) -> bool {
        let revision = self.revisions.of(object, metadata);
        let has = |node: &&str| self.members.alive.get(*node).is_some_and(|r| r.has_programmed(object, revision));
        let servers = self.servers(addrs);
        !servers.is_empty() && servers.iter().all(has)
    }

    /// What is said of these addresses that another host has, in sentences. Which node has found it is not: the condition
    /// must not be another one when a node dies.
    #[must_use]
    pub fn conflicts(&self, addrs: &[IpAddr]) -> Vec<String> {
        let said = |addr: &IpAddr| {
            let of = |report: &Report| report.conflicts.get(addr).map(|sentence| format!("{addr}: {sentence}"));
            self.members.alive.values().filter_map(of).min()
        };
        addrs.iter().filter_map(said).collect()
    }

    /// Whether nodes cannot reach an endpoint of the object, and why one cannot, as a sentence.
    ///
    /// # Design
    /// Neither names nor numbers: an endpoint on a network that half of the nodes cannot reach would have its Service written
    /// to whenever one of them comes or goes.
    #[must_use]
    pub fn lacking(&self, object: &ObjectRef) -> Option<String> {
        let object = object.to_string();
        let said: Vec<&String> = self.members.alive.values().filter_map(|report| report.lacking.get(&object)).collect();
        let first = said.iter().min()?;
        let who = match said.len() {
            all if all == self.members.alive.len() => "no node can reach",
            1 => "one node cannot reach",
            _ => "some nodes cannot reach",
        };
        let Some((kind, name)) = object.split_once(' ') else { return Some(format!("{who} {first}")) };
        Some(format!("{who} {first}; `sluice why {}/{name}` on a node says whether it can", kind.to_lowercase()))
    }

    /// Whether every node that lives has seen the object as it was at a revision: each may have its addresses in its maps.
    #[must_use]
    pub fn everyone_is_past(&self, object: &ObjectRef, revision: u64) -> bool {
        !self.members.alive.is_empty() && self.members.alive.values().all(|report| report.is_past(object, revision))
    }
}
