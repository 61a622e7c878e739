//! What `status` of ListenerSets should say: what the Gateway answers to each, and to each of its listeners.
//!
//! In: the set as it is, and the model's report on its Gateway. Out: its status, or `None` when it is so already, or the
//! Gateway is not ours. Pure.
//!
//! # Design
//! A set is programmed when its Gateway is: it has no addresses, and no revision that nodes report, of its own.
#[cfg(test)]
mod tests;

use crate::{
    api::{ListenerSet, ObjectName, listener_set::ListenerSetStatus},
    model::{
        Model,
        report::{Fault, SetReport},
    },
    source::Snapshot,
};

use super::{
    conditions::{Wanted, merge},
    gateway::listener_status,
};

/// The status of a ListenerSet.
#[must_use]
pub fn set_status(
    set: &ListenerSet,
    snapshot: &Snapshot,
    model: &Model,
    name: &ObjectName,
    now: &str,
) -> Option<ListenerSetStatus> {
    let (parent, gateway) =
        model.gateways.iter().find(|(_, report)| report.sets.iter().any(|set| set.name == *name))?;
    let report = gateway.sets.iter().find(|set| set.name == *name)?;
    if set.metadata.deletion_timestamp.is_some() || set.metadata.uid != report.subject.uid {
        return None;
    }
    let generation = report.subject.generation;
    let status = &snapshot.gateways.get(parent)?.status;
    let is_parent_programmed = status.conditions.iter().any(|c| c.type_ == "Programmed" && c.status == "True");
    let accepted = accepted(report, &gateway.accepted);
    let programmed = if !accepted.status {
        Wanted::fails("Programmed", accepted.reason, accepted.message.clone())
    } else if is_parent_programmed {
        Wanted::holds("Programmed", "Programmed", "")
    } else {
        Wanted::fails("Programmed", "ParentNotProgrammed", format!("Gateway {parent} is not programmed yet"))
    };
    let of_set = gateway.listeners.iter().filter(|listener| listener.set.as_ref() == Some(name));
    let listeners = of_set.map(|l| listener_status(&set.status.listeners, l, &programmed, generation, now)).collect();
    let conditions =
        merge(&set.status.conditions, &["Accepted", "Programmed"], &[accepted, programmed], generation, now);
    Some(ListenerSetStatus { conditions, listeners }).filter(|status| *status != set.status)
}

fn accepted(report: &SetReport, gateway: &Result<(), Fault>) -> Wanted {
    match (&report.accepted, gateway) {
        (Err(Fault { reason: "NotAllowed", message }), _) => Wanted::fails("Accepted", "NotAllowed", message.clone()),
        (_, Err(fault)) => Wanted::fails("Accepted", "ParentNotAccepted", fault.message.clone()),
        (Err(Fault { reason, message }), Ok(())) => Wanted::fails("Accepted", reason, message.clone()),
        (Ok(()), Ok(())) => match &report.partial {
            None => Wanted::holds("Accepted", "Accepted", ""),
            Some(Fault { reason, message }) => Wanted::holds("Accepted", reason, message.clone()),
        },
    }
}
