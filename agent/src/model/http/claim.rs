//! Fields by which a client says who it is. The proxy replaces them by what the connection shows, before any rule sees
//! them: a rule that trusts one of them trusts the connection.
use super::work::work;

/// The fields that the proxy writes itself.
pub const WRITTEN: [&str; 5] =
    ["x-real-ip", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"];

/// Whether a field, by its name in lower case, says who the client is, or is one of those that servers take for one, or for
/// the framing or the host: servers that hand fields on as variables take `X_Real_IP` for `X-Real-IP`.
#[must_use]
pub fn is_claim(name: &str) -> bool {
    work(name.len());
    let is = |known: &str| name.len() == known.len() && begins(name, known);
    let claim = begins(name, "x-forwarded-") || is("forwarded") || is("x-real-ip");
    let framing = || ["content-length", "transfer-encoding", "host", "connection"].into_iter().any(is);
    claim || (name.contains('_') && framing())
}

/// Whether a name begins with `known`, where `_` counts as `-`.
fn begins(name: &str, known: &str) -> bool {
    let same = |(a, b): (u8, u8)| a == b || (a, b) == (b'_', b'-');
    name.len() >= known.len() && name.bytes().zip(known.bytes()).all(same)
}
