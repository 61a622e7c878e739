//! The one thing of a ClientHello that the library does not tell: whether TLS 1.3 is offered.
//!
//! Cipher suites do not say it: clients that are held to TLS 1.2 name those of TLS 1.3 all the same.

/// A record of a handshake, its extension of versions, TLS 1.3. Source: RFC 8446 part 5.1, 4.2.1.
const HANDSHAKE: u8 = 22;
const SUPPORTED_VERSIONS: u16 = 43;
const TLS_13: u16 = 0x0304;

/// Whether a ClientHello, as it came in records, offers TLS 1.3. What cannot be read offers nothing: the library has read it
/// before, and refuses what is malformed.
pub(super) fn offers_tls13(records: &[u8]) -> bool {
    versions(records)
        .is_some_and(|versions| versions.chunks_exact(2).any(|version| number(version) == usize::from(TLS_13)))
}

/// The versions in `supported_versions`, each two bytes.
fn versions(mut records: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    // What a record holds may end within a message; what comes after the ClientHello is not looked at.
    while let Some((head, rest)) = records.split_first_chunk::<5>() {
        if head[0] != HANDSHAKE {
            break;
        }
        let (payload, rest) = rest.split_at_checked(number(&head[3..]))?;
        message.extend_from_slice(payload);
        records = rest;
    }
    // Its type, its length, the old version, a random.
    let mut rest = message.get(4..4 + number(message.get(1..4)?))?.get(2 + 32..)?;
    for size in [1, 2, 1] {
        // The session, the cipher suites, the compressions.
        (_, rest) = sized(rest, size)?;
    }
    let (mut extensions, _) = sized(rest, 2)?;
    while let Some((kind, rest)) = extensions.split_first_chunk::<2>() {
        let (body, rest) = sized(rest, 2)?;
        if u16::from_be_bytes(*kind) == SUPPORTED_VERSIONS {
            return Some(sized(body, 1)?.0.to_vec());
        }
        extensions = rest;
    }
    None
}

/// A vector whose length is told in `size` bytes, and what comes after it.
fn sized(bytes: &[u8], size: usize) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(size)?;
    rest.split_at_checked(number(length))
}

/// In network order.
fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{
        ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion,
        crypto::ring::default_provider,
        version::{TLS12, TLS13},
    };

    use super::*;

    fn hello(versions: &[&'static SupportedProtocolVersion]) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), "a.example".try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same message in records of so many bytes.
    fn cut(record: &[u8], size: usize) -> Vec<u8> {
        let record_of = |part: &[u8]| [&[22, 3, 1, 0, u8::try_from(part.len()).unwrap()], part].concat();
        record[5..].chunks(size).flat_map(record_of).collect()
    }

    #[test]
    fn versions_are_found_however_the_message_is_cut() {
        for (versions, want) in [(&[&TLS13][..], true), (&[&TLS13, &TLS12], true), (&[&TLS12], false)] {
            let hello = hello(versions);
            assert_eq!(offers_tls13(&hello), want, "{versions:?}");
            for size in [1, 7, 255] {
                assert_eq!(offers_tls13(&cut(&hello, size)), want, "{versions:?} in records of {size}");
            }
        }
    }

    #[test]
    fn nonsense_offers_nothing() {
        let hello = hello(&[&TLS13]);
        for at in 0..hello.len() {
            assert!(!offers_tls13(&hello[..at]), "cut at {at}");
        }
        assert!(!offers_tls13(&[22, 3, 1, 0, 4, 1, 0, 0xff, 0xff]));
    }
}
