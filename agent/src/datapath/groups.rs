//! Memberships in multicast groups: the solicited-node groups, to which IPv6 neighbours send their questions.
//!
//! # Design
//! Membership, not all-multicast: it opens the interface's filter and also tells switches, which forward a group only to
//! where it was reported (MLD snooping). A socket has room for some hundreds to thousands of groups (`optmem_max`);
//! when one is full another is opened. Memberships end with the process: while no agent runs, an IPv6 neighbour that
//! does not know a VIP yet finds it only where nothing filters.
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv6Addr,
};

use socket2::{Domain, Protocol, Socket, Type};

/// A group on an interface.
pub type Membership = (u32, Ipv6Addr);

/// The memberships and the sockets that hold them.
#[derive(Debug, Default)]
pub struct Groups {
    sockets: Vec<Socket>,
    joined: BTreeMap<Membership, usize>,
}

/// A group cannot be joined.
#[derive(Debug, thiserror::Error)]
#[error("join the group {group} on interface {interface}: {source}; neighbours may not find its VIPs")]
pub struct GroupError {
    group: Ipv6Addr,
    interface: u32,
    source: io::Error,
}

impl Groups {
    /// Makes the memberships those of `wanted`.
    ///
    /// # Errors
    /// A group cannot be joined; the rest is done all the same.
    pub fn sync(&mut self, wanted: &BTreeSet<Membership>) -> Result<(), GroupError> {
        let Self { sockets, joined } = self;
        joined.retain(|(interface, group), socket| {
            let keep = wanted.contains(&(*interface, *group));
            if !keep && let Some(socket) = sockets.get(*socket) {
                // It fails if the interface is gone, and the membership with it.
                let _ = socket.leave_multicast_v6(group, *interface);
            }
            keep
        });
        if joined.is_empty() {
            sockets.clear();
        }
        let mut result = Ok(());
        for membership in wanted {
            if self.joined.contains_key(membership) {
                continue;
            }
            let (interface, group) = *membership;
            match self.join(interface, &group) {
                Ok(socket) => _ = self.joined.insert(*membership, socket),
                Err(source) => result = result.and(Err(GroupError { group, interface, source })),
            }
        }
        result
    }

    /// Joins a group by the last socket, or by a new one when that is full.
    fn join(&mut self, interface: u32, group: &Ipv6Addr) -> io::Result<usize> {
        if let Some(socket) = self.sockets.last() {
            match socket.join_multicast_v6(group, interface) {
                Err(e) if matches!(e.raw_os_error(), Some(nix::libc::ENOMEM | nix::libc::ENOBUFS)) => {}
                // An interface of that index was here before.
                Err(e) if e.raw_os_error() == Some(nix::libc::EADDRINUSE) => return Ok(self.sockets.len() - 1),
                other => return other.map(|()| self.sockets.len() - 1),
            }
        }
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        socket.join_multicast_v6(group, interface)?;
        self.sockets.push(socket);
        Ok(self.sockets.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loopback interface.
    const LO: u32 = 1;

    fn group(n: u16) -> Membership {
        (LO, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, n))
    }

    #[test]
    fn there_are_as_many_sockets_as_it_takes() {
        let mut groups = Groups::default();
        let many: BTreeSet<Membership> = (0..10_000).map(group).collect();
        groups.sync(&many).unwrap();
        assert_eq!(groups.joined.len(), many.len());
        assert!(groups.sockets.len() > 1, "more than one socket holds");
        let few: BTreeSet<Membership> = [group(7), group(20_000)].into();
        groups.sync(&few).unwrap();
        assert!(groups.joined.keys().eq(&few));
        groups.sync(&BTreeSet::new()).unwrap();
        assert!(groups.sockets.is_empty());
    }

    #[test]
    fn an_interface_that_is_not_there_is_named_and_the_rest_is_joined() {
        let mut groups = Groups::default();
        let nowhere = (0x7fff_fff0, group(1).1);
        let error = groups.sync(&[nowhere, group(1), group(2)].into()).unwrap_err();
        assert!(error.to_string().contains("ff02::1:ff00:1 on interface 2147483632"), "{error}");
        assert_eq!(groups.joined.len(), 2);
    }
}
