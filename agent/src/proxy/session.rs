//! Session persistence: which endpoint a client has been at, as the client itself remembers it.
//!
//! In: a rule's [`Session`] and a request. Out: the endpoint that has its session, if that is still one of the rule's; and what the response
//! tells the client to remember. Nothing is kept here: a node that has never seen the client reads what another one wrote.
//!
//! Token: nonce (12 bytes) | sealed: hash of the Service port (8), address (16), port (2), seconds at which the session began (4) and was
//! last seen (4) | tag (16), in base64 without padding.
//!
//! # Design
//! - A token says nothing to who has not the key, and cannot be made or changed: AES-256-GCM with a key that the route's `uid` and
//!   the rule's number make. That is known to all nodes; who can read it can read the endpoints as well. Where there is no `uid`
//!   (`--manifests`) the key is this process's own, and a restart ends all sessions.
//! - What is in it is looked up in the endpoints that the rule has now, and never dialled: a pod that is gone, or was another rule's, is none.
//! - The nonce is a MAC of what is sealed: nodes that share a key and know nothing of each other never seal two things with one nonce.
//! - A session goes where its endpoint is, whatever the weights are by now; 0 as well (GEP-1619, traffic splitting). Where that endpoint is
//!   ejected, or fails and the request goes elsewhere, the session moves with it: an application that has lost its state once should not do
//!   so at each request.
use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::LazyLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest, hmac,
    rand::{SecureRandom, SystemRandom},
};

use super::table::Table;
use crate::{
    model::http::{
        ServicePort, Share, ShareTarget,
        session::{Sealing, Session, SessionPlace},
    },
    stable,
};

/// What is sealed. Units: bytes.
const PLAIN: usize = 8 + 16 + 2 + 4 + 4;
/// With nonce and tag.
const TOKEN: usize = NONCE_LEN + PLAIN + 16;
/// How many cookies of the name are looked at: browsers send one for each path that has one.
const MOST_COOKIES: usize = 8;
/// Which part of the idle time may pass before the client is told that it was seen.
const REFRESH: u32 = 8;

/// What this process alone knows.
static OWN: LazyLock<[u8; 32]> = LazyLock::new(|| {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
});

/// What a token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    /// [`port_hash`].
    service: u64,
    endpoint: SocketAddr,
    /// Units: seconds since 1970.
    began: u32,
    seen: u32,
}

/// The session of a request, where its rule has some.
pub(super) struct Bound<'a> {
    session: &'a Session,
    /// What its token says, if that holds.
    said: Option<Said>,
    now: u32,
}

impl<'a> Bound<'a> {
    /// What a request says of its session.
    pub(super) fn read(session: &'a Session, headers: &HeaderMap) -> Self {
        Self::read_at(session, headers, now())
    }

    fn read_at(session: &'a Session, headers: &HeaderMap, now: u32) -> Self {
        let open = |token: &[u8]| open(session, token).filter(|said| holds(session, said, now));
        let said = match &session.place {
            SessionPlace::Header(name) => headers.get(name).and_then(|value| open(value.as_bytes())),
            SessionPlace::Cookie { name, .. } => cookies(headers, name).take(MOST_COOKIES).find_map(open),
        };
        Self { session, said, now }
    }

    /// The share with its endpoint, and that endpoint; `None` where the client has no session that can go on.
    pub(super) fn share<'s>(&self, table: &Table, shares: &'s [Share]) -> Option<(&'s Share, SocketAddr)> {
        self.share_of(shares, |port, endpoint| table.any_cluster(port).is_some_and(|known| known.has(endpoint)))
    }

    /// The same where `has` says which endpoints a Service port has.
    pub(super) fn share_of<'s>(
        &self,
        shares: &'s [Share],
        has: impl Fn(&ServicePort, SocketAddr) -> bool,
    ) -> Option<(&'s Share, SocketAddr)> {
        let said = self.said?;
        let is_there = |share: &&Share| match &share.to {
            ShareTarget::Cluster(cluster) => {
                port_hash(&cluster.port) == said.service && has(&cluster.port, said.endpoint)
            }
            ShareTarget::Invalid(_) => false,
        };
        Some((shares.iter().find(is_there)?, said.endpoint))
    }

    /// Tells the client where it has been, unless it knows.
    pub(super) fn write(&self, headers: &mut HeaderMap, (port, endpoint): (&ServicePort, SocketAddr), is_secure: bool) {
        let (service, now) = (port_hash(port), self.now);
        let same = self.said.filter(|said| (said.service, said.endpoint) == (service, endpoint));
        let is_fresh = |said: Said| {
            let idle = self.session.idle.map(|idle| idle / REFRESH);
            idle.is_none_or(|idle| Duration::from_secs(now.saturating_sub(said.seen).into()) < idle)
        };
        if same.is_some_and(is_fresh) {
            return;
        }
        // What moved to another endpoint is a session that goes on.
        let began = self.said.map_or(now, |said| said.began.min(now));
        let Some(token) = seal(self.session, Said { service, endpoint, began, seen: now }) else { return };
        match &self.session.place {
            SessionPlace::Header(name) => {
                headers.extend(HeaderValue::try_from(token).ok().map(|value| (name.clone(), value)));
            }
            SessionPlace::Cookie { name, path, is_permanent } => {
                let secure = if is_secure { "; Secure" } else { "" };
                let lasts =
                    self.session.absolute.filter(|_| *is_permanent).map(|absolute| {
                        format!("; Max-Age={}", absolute.as_secs().saturating_sub((now - began).into()))
                    });
                let lasts = lasts.unwrap_or_default();
                let cookie = format!("{name}={token}; Path={path}{lasts}; HttpOnly; SameSite=Strict{secure}");
                headers.extend(HeaderValue::try_from(cookie).ok().map(|value| (header::SET_COOKIE, value)));
            }
        }
    }
}

/// Whether a session lasts still. One that begins in the future is of a node whose clock is ahead.
fn holds(session: &Session, said: &Said, now: u32) -> bool {
    let is_within = |limit: Option<Duration>, since: u32| {
        limit.is_none_or(|limit| Duration::from_secs(now.saturating_sub(since).into()) < limit)
    };
    is_within(session.absolute, said.began) && is_within(session.idle, said.seen)
}

/// The values of the cookies of a name.
fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let pairs =
        headers.get_all(header::COOKIE).into_iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// The value of the first cookie of a name.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &'a str) -> Option<&'a [u8]> {
    cookies(headers, name).next()
}

/// A Service port, for a token.
fn port_hash(port: &ServicePort) -> u64 {
    stable::hash(port.to_string().as_bytes())
}

fn now() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

/// A key for one purpose.
fn key(session: &Session, purpose: &str) -> digest::Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"sluice.dev sessions 1 ");
    context.update(purpose.as_bytes());
    match &session.seed {
        Some(seed) => context.update(seed.as_bytes()),
        None => {
            context.update(&*OWN);
            let name = match &session.place {
                SessionPlace::Cookie { name, .. } => name.as_str(),
                SessionPlace::Header(name) => name.as_str(),
            };
            context.update(name.as_bytes());
        }
    }
    context.finish()
}

/// The keys of a session, derived once for all its requests.
fn sealing(session: &Session) -> Option<&Sealing> {
    session.keys.get(|| {
        let seal = UnboundKey::new(&AES_256_GCM, key(session, "seal ").as_ref()).ok().map(LessSafeKey::new)?;
        Some(Sealing { seal, nonce: hmac::Key::new(hmac::HMAC_SHA256, key(session, "nonce ").as_ref()) })
    })
}

fn seal(session: &Session, said: Said) -> Option<String> {
    let Said { service, endpoint, began, seen } = said;
    let address = match endpoint.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut plain = Vec::with_capacity(TOKEN);
    plain.extend(service.to_be_bytes());
    plain.extend(address.octets());
    plain.extend(endpoint.port().to_be_bytes());
    plain.extend(began.to_be_bytes());
    plain.extend(seen.to_be_bytes());
    let sealing = sealing(session)?;
    let mac = hmac::sign(&sealing.nonce, &plain);
    let nonce: [u8; NONCE_LEN] = mac.as_ref()[..NONCE_LEN].try_into().ok()?;
    sealing.seal.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut plain).ok()?;
    Some(URL_SAFE_NO_PAD.encode([&nonce[..], &plain].concat()))
}

fn open(session: &Session, token: &[u8]) -> Option<Said> {
    // Before anything is worked out for it.
    if token.len() != base64::encoded_len(TOKEN, false)? {
        return None;
    }
    let mut bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let plain = sealing(session)?.seal.open_in_place(nonce, Aad::empty(), sealed).ok()?;
    let (service, rest) = plain.split_first_chunk::<8>()?;
    let (address, rest) = rest.split_first_chunk::<16>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let (began, seen) = rest.split_first_chunk::<4>()?;
    let ip = IpAddr::V6(Ipv6Addr::from(*address)).to_canonical();
    Some(Said {
        service: u64::from_be_bytes(*service),
        endpoint: SocketAddr::new(ip, u16::from_be_bytes(*port)),
        began: u32::from_be_bytes(*began),
        seen: u32::from_be_bytes(seen.try_into().ok()?),
    })
}

#[cfg(test)]
mod tests;
