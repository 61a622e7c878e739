//! Session tickets: a client that comes back saves the signature and a part of the handshake, whichever worker or node it meets.
//!
//! Format: epoch (4 bytes) | salt (16) | nonce (12) | sealed session. The key is derived (HKDF, RFC 5869) from a [`Seed`], the
//! listener's name, the epoch and the salt. A ticket is taken in its epoch and the next one.
//!
//! # Design
//! - Nodes that serve one Gateway share nothing but its Secrets, so what tickets of TLS 1.3 are sealed with comes from the private
//!   keys of the listener: no traffic between nodes, nothing to keep, and tickets outlive a restart. Who steals the private
//!   key can open all tickets then. In TLS 1.3 that does not open recorded sessions: a resumed one has a Diffie-Hellman
//!   exchange of its own (`psk_dhe_ke`, the only mode that is spoken here), and there is no early data. Who has the private key can
//!   pretend to be the server in any case.
//! - In TLS 1.2 a ticket holds the very secret that the session was encrypted with: derived like that, a stolen key would open
//!   whatever was recorded, and forward secrecy would be gone. So those tickets are sealed with what this process alone knows and
//!   keeps on no disk: they hold across its workers, not across nodes or restarts, and such a client makes a full handshake there.
//! - Salt and counter make the nonces: a salt belongs to one process and listener, so no two nodes seal with one key.
//! - The name of the listener is in the key: what one listener has sealed, with the client's certificate that it has looked at, no
//!   other one takes.
use std::{
    fmt,
    sync::Arc,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf,
    rand::{SecureRandom, SystemRandom},
};
use rustls::server::ProducesTickets;

use super::hash;
use crate::model::certificate::Certificate;

/// How long tickets are sealed with one key. Units: seconds.
const EPOCH: u64 = 6 * 3600;
/// Bytes of an epoch, and of a salt, in a ticket.
const EPOCH_LEN: usize = 4;
const SALT_LEN: usize = 16;
/// Clocks of nodes may differ: a ticket may be of the next epoch, too.
const AHEAD: u32 = 1;
/// How many epochs back a ticket may be of.
const BACK: u32 = 1;

/// What keys are derived from.
pub(super) struct Seed([u8; 32]);

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Seed {
    /// One that nobody else has.
    pub(super) fn random() -> Self {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).expect("the kernel gives random bytes");
        Self(bytes)
    }

    /// One that whoever has these certificates' keys has, in whatever order.
    pub(super) fn of(certificates: &[Arc<Certificate>]) -> Self {
        let mut seeds: Vec<&[u8]> = certificates.iter().map(|certificate| certificate.seed.reveal()).collect();
        seeds.sort_unstable();
        Self(hash(seeds))
    }
}

/// Seals and opens the tickets of one listener.
pub(super) struct Tickets {
    base: hkdf::Prk,
    salt: [u8; SALT_LEN],
    sealed: AtomicU64,
    /// The key of the present epoch and our salt.
    current: Mutex<Option<(u32, Arc<LessSafeKey>)>>,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

impl Tickets {
    /// Tickets of the listener `place`.
    pub(super) fn new(seed: &Seed, place: &str) -> Self {
        let mut salt = [0; SALT_LEN];
        SystemRandom::new().fill(&mut salt).expect("the kernel gives random bytes");
        let base = hkdf::Salt::new(hkdf::HKDF_SHA256, b"sluice.dev session tickets 1");
        let base = base.extract(&hash([&seed.0[..], place.as_bytes()]));
        Self { base, salt, sealed: AtomicU64::new(0), current: Mutex::new(None) }
    }

    fn key(&self, epoch: u32, salt: &[u8]) -> Option<LessSafeKey> {
        let epoch = epoch.to_be_bytes();
        let info = [&epoch[..], salt];
        let okm = self.base.expand(&info, &AES_256_GCM).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(okm)))
    }

    fn own_key(&self, epoch: u32) -> Option<Arc<LessSafeKey>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, key)) = current.as_ref().filter(|(of, _)| *of == epoch) {
            return Some(Arc::clone(key));
        }
        let key = Arc::new(self.key(epoch, &self.salt)?);
        *current = Some((epoch, Arc::clone(&key)));
        Some(key)
    }

    fn seal(&self, epoch: u32, plain: &[u8]) -> Option<Vec<u8>> {
        let key = self.own_key(epoch)?;
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - 8..].copy_from_slice(&self.sealed.fetch_add(1, Relaxed).to_be_bytes());
        let mut ticket = Vec::with_capacity(EPOCH_LEN + SALT_LEN + NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
        ticket.extend_from_slice(&epoch.to_be_bytes());
        ticket.extend_from_slice(&self.salt);
        ticket.extend_from_slice(&nonce);
        let mut body = plain.to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut body).ok()?;
        ticket.append(&mut body);
        Some(ticket)
    }

    fn open(&self, now: u32, ticket: &[u8]) -> Option<Vec<u8>> {
        let (epoch, rest) = ticket.split_first_chunk::<EPOCH_LEN>()?;
        let (salt, rest) = rest.split_first_chunk::<SALT_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let epoch = u32::from_be_bytes(*epoch);
        if !(now.saturating_sub(BACK)..=now.saturating_add(AHEAD)).contains(&epoch) {
            return None;
        }
        let key = if *salt == self.salt { self.own_key(epoch)? } else { Arc::new(self.key(epoch, salt)?) };
        let mut body = sealed.to_vec();
        let length = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut body).ok()?.len();
        body.truncate(length);
        Some(body)
    }
}

fn now() -> u32 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    u32::try_from(seconds / EPOCH).unwrap_or(u32::MAX)
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        EPOCH as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(now(), plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(now(), ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(byte: u8) -> Seed {
        Seed([byte; 32])
    }

    #[test]
    fn a_ticket_is_opened_by_whoever_has_the_seed_and_serves_the_listener() {
        let (here, there) = (Tickets::new(&seed(1), "a/gw/web"), Tickets::new(&seed(1), "a/gw/web"));
        let ticket = here.seal(7, b"session").unwrap();
        assert_eq!(here.open(7, &ticket).unwrap(), b"session");
        assert_eq!(there.open(7, &ticket).unwrap(), b"session", "another node");
        assert_eq!(Tickets::new(&seed(2), "a/gw/web").open(7, &ticket), None, "another key");
        assert_eq!(Tickets::new(&seed(1), "a/gw/other").open(7, &ticket), None, "another listener");
    }

    #[test]
    fn a_ticket_ends_with_the_epoch_after_its_own() {
        let tickets = Tickets::new(&seed(1), "p");
        let ticket = tickets.seal(7, b"session").unwrap();
        let taken = |now| tickets.open(now, &ticket).is_some();
        assert_eq!([5, 6, 7, 8, 9].map(taken), [false, true, true, true, false]);
    }

    #[test]
    fn what_was_tampered_with_or_cut_is_not_opened() {
        let tickets = Tickets::new(&seed(1), "p");
        let ticket = tickets.seal(7, b"session").unwrap();
        for at in 0..ticket.len() {
            let mut bad = ticket.clone();
            bad[at] ^= 1;
            assert_eq!(tickets.open(7, &bad), None, "byte {at}");
            assert_eq!(tickets.open(7, &ticket[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn no_two_tickets_have_one_nonce_under_one_key() {
        let tickets = Tickets::new(&seed(1), "p");
        let nonce = |ticket: Vec<u8>| ticket[EPOCH_LEN..EPOCH_LEN + SALT_LEN + NONCE_LEN].to_vec();
        let all: std::collections::BTreeSet<_> = (0..100).map(|_| nonce(tickets.seal(7, b"s").unwrap())).collect();
        assert_eq!(all.len(), 100);
        let other = Tickets::new(&seed(1), "p");
        assert!(!all.contains(&nonce(other.seal(7, b"s").unwrap())), "nor does another node");
    }
}
