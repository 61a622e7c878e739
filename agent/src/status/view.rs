//! What the writers look at: the model, and what the nodes say they have done.
use std::{collections::BTreeSet, net::IpAddr};

use super::version::Bundle;
use crate::{
    config::route_hosts::RouteHosts,
    membership::{Members, Report},
    model::{Model, ObjectRef},
};

/// The input of the pure planners.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The newest model of this node.
    pub model: &'a Model,
    /// The nodes that live.
    pub members: &'a Members,
    /// Who may ask for which host names.
    pub route_hosts: &'a RouteHosts,
    /// Which version of Gateway API there is.
    pub bundle: &'a Bundle,
}

impl<'a> View<'a> {
    /// The nodes that must have programmed an address before it is shown: those that announce it; where nobody does,
    /// traffic may come to any node, and all of them must.
    #[must_use]
    pub fn servers(&self, addrs: &[IpAddr]) -> BTreeSet<&'a str> {
        let by_address = |addr: &IpAddr| self.model.announcers.get(addr).map(String::as_str);
        let announcers: Option<BTreeSet<&str>> = addrs.iter().map(by_address).collect();
        announcers.unwrap_or_else(|| self.members.alive.keys().map(String::as_str).collect())
    }

    /// `, announced by NODE` for people; empty where nobody announces.
    #[must_use]
    pub fn announced_by(&self, addrs: &[IpAddr]) -> String {
        let by: BTreeSet<&String> = addrs.iter().filter_map(|addr| self.model.announcers.get(addr)).collect();
        let by: Vec<&str> = by.into_iter().map(String::as_str).collect();
        if by.is_empty() { String::new() } else { format!(", announced by {}", by.join(" and ")) }
    }

    /// Whether a node has programmed the object as it was at a revision.
    #[must_use]
    pub fn has_programmed(&self, node: &str, object: &ObjectRef, revision: &str) -> bool {
        let Some(report) = self.members.alive.get(node) else { return false };
        is_past(report, object, revision) && !report.except.contains(&object.to_string())
    }

    /// What a node says of these addresses that another host has, in sentences.
    #[must_use]
    pub fn conflicts(&self, addrs: &[IpAddr]) -> Vec<String> {
        let said = |addr: &IpAddr| {
            let of = |(node, report): (&String, &Report)| {
                report.conflicts.get(addr).map(|sentence| format!("{addr}, on the network of {node}: {sentence}"))
            };
            self.members.alive.iter().find_map(of)
        };
        addrs.iter().filter_map(said).collect()
    }

    /// Which nodes cannot reach an endpoint of the object, and why, in sentences.
    #[must_use]
    pub fn lacking(&self, object: &ObjectRef) -> Vec<String> {
        let of = |(node, report): (&String, &Report)| {
            report.lacking.get(&object.to_string()).map(|sentence| format!("{node} cannot reach {sentence}"))
        };
        self.members.alive.iter().filter_map(of).collect()
    }

    /// Whether every node that lives has seen the object as it was at a revision.
    #[must_use]
    pub fn everyone_is_past(&self, object: &ObjectRef, revision: &str) -> bool {
        !self.members.alive.is_empty() && self.members.alive.values().all(|r| is_past(r, object, revision))
    }
}

fn is_past(report: &Report, object: &ObjectRef, revision: &str) -> bool {
    let seen = if object.kind == "Gateway" { report.seen.gateways } else { report.seen.services };
    revision.parse::<u64>().is_ok_and(|revision| seen >= revision)
}
