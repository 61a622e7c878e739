//! RequestMirror -> who gets copies, and of how many requests.
use super::bad;
use crate::{
    api::http_route::{HttpFraction, HttpRequestMirror},
    model::report::Fault,
};

/// The part of the requests that are copied: numerator and denominator, which is not 0.
///
/// # Errors
/// It is no part of a whole, or is said twice.
pub(super) fn part(spec: &HttpRequestMirror) -> Result<(u32, u32), Fault> {
    let (numerator, denominator) = match (spec.percent, &spec.fraction) {
        (Some(_), Some(_)) => return Err(bad("RequestMirror has percent and fraction, want one of them")),
        (None, None) => return Ok((1, 1)),
        (Some(percent), None) => (percent, 100),
        (None, Some(HttpFraction { numerator, denominator })) => (*numerator, denominator.unwrap_or(100)),
    };
    let why =
        || bad(format!("RequestMirror of {numerator} of {denominator} requests, want a part from 0 to the whole"));
    let part = u32::try_from(numerator).ok().zip(u32::try_from(denominator).ok());
    part.filter(|(numerator, denominator)| *denominator > 0 && numerator <= denominator).ok_or_else(why)
}
