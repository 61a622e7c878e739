//! Which connections a listener of the admin API has, and which goes when there are too many.
//!
//! A probe must be answered whoever else has opened connections and says nothing on them. So nobody waits to be accepted: beyond
//! the bound, of one peer or of all, the connection that has been idle for longest is closed. One whose request is being
//! answered stays; where all are, the new one is closed.
use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long a client may take for the head of a request.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take to read an answer once it is made. Then the connection is closed.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// How many connections a listener has at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    /// Of all peers.
    pub all: usize,
    /// Of one: an IPv4 address, or what shares the first 64 bits of an IPv6 address.
    pub of_peer: usize,
}

/// The connections of a listener, the oldest first.
#[derive(Debug)]
pub(super) struct Slots {
    most: Most,
    open: Mutex<Vec<Arc<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    peer: Option<IpAddr>,
    /// No request has come yet.
    idle: AtomicBool,
    evicted: CancellationToken,
    answered: Notify,
}

/// A connection's right to be, until dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    entry: Arc<Entry>,
}

impl Slots {
    /// No connection yet.
    #[must_use]
    pub(super) fn new(most: Most) -> Arc<Self> {
        Arc::new(Self { most, open: Mutex::default() })
    }

    /// Takes a connection in, be it in another's place; `None` when there are too many and all are at work.
    pub(super) fn admit(self: &Arc<Self>, peer: Option<IpAddr>) -> Option<Slot> {
        let peer = peer.map(subscriber);
        let mut open = self.lock();
        let of_peer = open.iter().filter(|entry| peer.is_some() && entry.peer == peer).count();
        if of_peer >= self.most.of_peer {
            evict(&mut open, |entry| entry.peer == peer)?;
        } else if open.len() >= self.most.all {
            evict(&mut open, |_| true)?;
        }
        let entry =
            Entry { peer, idle: AtomicBool::new(true), evicted: CancellationToken::new(), answered: Notify::new() };
        let entry = Arc::new(entry);
        open.push(Arc::clone(&entry));
        drop(open);
        Some(Slot { slots: Arc::clone(self), entry })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Entry>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the oldest idle connection among these.
fn evict(open: &mut Vec<Arc<Entry>>, among: impl Fn(&Entry) -> bool) -> Option<()> {
    let oldest = open.iter().position(|entry| entry.idle.load(Relaxed) && among(entry))?;
    open.remove(oldest).evicted.cancel();
    Some(())
}

/// What counts as one peer.
fn subscriber(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

impl Slot {
    /// Says that the request has come: the connection is at work.
    pub(super) fn begin(&self) {
        self.entry.idle.store(false, Relaxed);
    }

    /// Says that the answer is made; the client has only to read it.
    pub(super) fn answered(&self) {
        self.entry.answered.notify_one();
    }

    /// Returns when the connection must end: another has its place, or the client does not read.
    pub(super) async fn over(&self) {
        let unread = async {
            self.entry.answered.notified().await;
            tokio::time::sleep(READ_TIMEOUT).await;
        };
        tokio::select! {
            () = self.entry.evicted.cancelled() => {}
            () = unread => {}
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.lock().retain(|entry| !Arc::ptr_eq(entry, &self.entry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> Option<IpAddr> {
        Some([192, 0, 2, last].into())
    }

    fn is_over(slot: &Slot) -> bool {
        slot.entry.evicted.is_cancelled()
    }

    #[test]
    fn a_peer_beyond_its_part_loses_its_oldest_idle_connection() {
        let slots = Slots::new(Most { all: 9, of_peer: 2 });
        let other = slots.admit(peer(2)).unwrap();
        let (one, two) = (slots.admit(peer(1)).unwrap(), slots.admit(peer(1)).unwrap());
        one.begin();
        let three = slots.admit(peer(1)).unwrap();
        assert_eq!([&other, &one, &two, &three].map(is_over), [false, false, true, false]);
        three.begin();
        assert!(slots.admit(peer(1)).is_none(), "both are at work");
        drop(one);
        assert!(slots.admit(peer(1)).is_some());
    }

    #[test]
    fn of_all_the_one_that_is_idle_for_longest_goes() {
        let slots = Slots::new(Most { all: 2, of_peer: 2 });
        let (busy, idle) = (slots.admit(peer(1)).unwrap(), slots.admit(peer(2)).unwrap());
        busy.begin();
        let new = slots.admit(peer(3)).unwrap();
        assert_eq!([&busy, &idle, &new].map(is_over), [false, true, false]);
        assert_eq!(slots.lock().len(), 2);
        drop(idle);
        assert_eq!(slots.lock().len(), 2, "a place that was given away is given back once");
    }

    #[test]
    fn who_has_a_whole_ipv6_network_is_one_peer() {
        let slots = Slots::new(Most { all: 9, of_peer: 1 });
        let at = |text: &str| slots.admit(Some(text.parse().unwrap())).unwrap();
        let (one, other, mapped) = (at("2001:db8::1"), at("2001:db8:0:1::1"), at("::ffff:192.0.2.1"));
        let (two, plain) = (at("2001:db8::2"), at("192.0.2.1"));
        assert_eq!([&one, &other, &mapped, &two, &plain].map(is_over), [true, false, true, false, false]);
        let (a, b) = (slots.admit(None).unwrap(), slots.admit(None).unwrap());
        assert!(!is_over(&a) && !is_over(&b), "those of a Unix socket are no peers");
    }
}
