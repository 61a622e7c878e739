//! The form in which a query goes upstream.
use std::borrow::Cow;

use crate::model::http::{escape, work::work};

/// How many parameters a query may have: as many as fit into the 8 KiB that nginx reads of a request line, and what Rack
/// takes. Servers differ beyond (Go 10,000, Tomcat, PHP and Django 1,000), so that what is behind may be seen by one and not
/// by another. Each parameter costs more than its bytes do; this bounds it.
pub const MOST_PARAMETERS: usize = 4096;

/// Why a query is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryFault {
    /// A control character or a space.
    #[error("the query has a forbidden character")]
    Character,
    /// More than [`MOST_PARAMETERS`].
    #[error("the query has too many parameters")]
    Parameters,
    /// With its escapes it is longer than there is room for.
    #[error("the query is too long")]
    Long,
}

/// Brings a query into the form in which it goes upstream: bytes outside ASCII are escaped, which is what they mean
/// (URL Standard, query state). `room` is how long it may be then, in bytes.
///
/// nginx and HAProxy pass such bytes as they are, Envoy likewise; servers that read RFC 3986 to the letter get a query
/// that they can read. `|`, `{`, `}`, `[`, `]`, `\`, `^` and the backtick, which that RFC does not allow either, go on as
/// they are, as through all three. `<`, `>` and `"`, which the `http` crate takes for no part of a query, are escaped before
/// it reads them (`proxy::http1`); from an HTTP/2 client `h2` refuses them.
///
/// # Errors
/// When it is none, or too large.
///
/// Cost: one pass and no allocation where all is ASCII, else a second one over what there is room for.
pub fn normalise(query: &str, room: usize) -> Result<Cow<'_, str>, QueryFault> {
    let bytes = query.as_bytes();
    work(bytes.len());
    let (mut allowed, mut escapes, mut ampersands) = (true, 0_u32, 0_u32);
    // Without branches, so that many bytes are looked at in one step.
    for &b in bytes {
        allowed &= (b > 0x20) & (b != 0x7f);
        escapes += u32::from(b >= 0x80);
        ampersands += u32::from(b == b'&');
    }
    if !allowed {
        return Err(QueryFault::Character);
    }
    if ampersands as usize >= MOST_PARAMETERS {
        return Err(QueryFault::Parameters);
    }
    let length = bytes.len() + 2 * escapes as usize;
    if length > room {
        return Err(QueryFault::Long);
    }
    if escapes == 0 {
        return Ok(Cow::Borrowed(query));
    }
    let mut out = vec![0; length];
    let (mut from, mut to) = (0, 0);
    while from < bytes.len() {
        work(3);
        // Both ways may write bytes too many, for the next turn to write over.
        match (bytes[from..].first_chunk::<8>(), out[to..].first_chunk_mut::<8>()) {
            (Some(chunk), Some(room)) if chunk[0] < 0x80 => {
                *room = *chunk;
                let run = ((u64::from_le_bytes(*chunk) & HIGH).trailing_zeros() / 8) as usize;
                (from, to) = (from + run, to + run);
            }
            _ => {
                let escaped = &ESCAPED[usize::from(bytes[from])];
                let length = if bytes[from] < 0x80 { 1 } else { escaped.len() };
                out[to..to + length].copy_from_slice(&escaped[..length]);
                (from, to) = (from + 1, to + length);
            }
        }
    }
    String::from_utf8(out).map(Cow::Owned).map_err(|_| QueryFault::Character)
}

const HIGH: u64 = (u64::MAX / 0xff) << 7;

/// Each byte escaped; those of ASCII as they are, in front.
const ESCAPED: [[u8; 3]; 256] = {
    let mut all = [[0; 3]; 256];
    let mut byte = 0;
    while byte < all.len() {
        all[byte] = if byte < 0x80 { [byte as u8, 0, 0] } else { escape::encode(byte as u8) };
        byte += 1;
    }
    all
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOM: usize = 1 << 16;

    #[test]
    fn a_query_is_escaped_where_it_is_no_ascii() {
        assert_eq!(normalise("a=\u{e9}&b=%c3", ROOM).as_deref(), Ok("a=%C3%A9&b=%c3"));
        assert!(matches!(normalise("a=%zz&b=[{|}]", ROOM), Ok(Cow::Borrowed(_))));
        assert_eq!(normalise("a b", ROOM), Err(QueryFault::Character));
        assert_eq!(normalise("a=\u{e9}\x7f", ROOM), Err(QueryFault::Character));
    }

    #[test]
    fn a_query_has_no_more_parameters_and_bytes_than_it_may() {
        let most = vec!["a"; MOST_PARAMETERS].join("&");
        assert!(normalise(&most, ROOM).is_ok());
        assert_eq!(normalise(&format!("{most}&"), ROOM), Err(QueryFault::Parameters));
        assert_eq!(normalise("a=\u{e9}", 8).as_deref(), Ok("a=%C3%A9"));
        assert_eq!(normalise("a=\u{e9}", 7), Err(QueryFault::Long));
        assert_eq!(normalise("abc", 2), Err(QueryFault::Long));
    }

    proptest! {
        #[test]
        fn each_byte_outside_ascii_becomes_three(query in "[a&=%\u{e9}\u{2603}\u{1f600}]{0,40}") {
            let want: String = query
                .bytes()
                .map(|b| if b < 0x80 { char::from(b).to_string() } else { format!("%{b:02X}") })
                .collect();
            prop_assert_eq!(normalise(&query, ROOM).unwrap(), want);
        }
    }
}
