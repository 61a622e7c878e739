//! The end of a certificate's validity, out of its DER: no crate of the tree tells it.
//!
//! Source: RFC 5280 part 4.1 (`TBSCertificate`, `Validity`), X.690 part 8.1 (tags and lengths).
use jiff::civil::{Date, DateTime, Time};

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0]`: the version, which may be absent.
const VERSION: u8 = 0xa0;

/// `notAfter`; `None` where the DER is malformed before it. Units: seconds since 1970.
pub(super) fn not_after(der: &[u8]) -> Option<i64> {
    let (certificate, _) = take(der, SEQUENCE)?;
    let (mut body, _) = take(certificate, SEQUENCE)?;
    if let Some((_, rest)) = take(body, VERSION) {
        body = rest;
    }
    let (_serial, body) = take(body, INTEGER)?;
    let (_algorithm, body) = take(body, SEQUENCE)?;
    let (_issuer, body) = take(body, SEQUENCE)?;
    let (validity, _) = take(body, SEQUENCE)?;
    let (_, after) = time(validity)?;
    time(after).map(|(seconds, _)| seconds)
}

/// One value with this tag, and what comes after it.
fn take(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    if found == tag { rest.split_at_checked(length) } else { None }
}

/// A time, and what comes after it.
fn time(der: &[u8]) -> Option<(i64, &[u8])> {
    let (text, year_digits, rest) = match (take(der, UTC_TIME), take(der, GENERALIZED_TIME)) {
        (Some((text, rest)), _) => (text, 2, rest),
        (None, Some((text, rest))) => (text, 4, rest),
        (None, None) => return None,
    };
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if text.len() != year_digits + 10 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, others) = text.split_at(year_digits);
    let year: i16 = year.parse().ok()?;
    let year = match (year_digits, year) {
        (2, 50..) => 1900 + year,
        (2, _) => 2000 + year,
        _ => year,
    };
    let part = |at: usize| others.get(2 * at..2 * at + 2)?.parse::<i8>().ok();
    let day = Date::new(year, part(0)?, part(1)?).ok()?;
    let clock = Time::new(part(2)?, part(3)?, part(4)?, 0).ok()?;
    // Not by way of a timestamp: those end before the year 9999 does, which stands for "no end".
    Some((day.to_datetime(clock).duration_since(DateTime::constant(1970, 1, 1, 0, 0, 0, 0)).as_secs(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_both_kinds_are_read() {
        let utc = |text: &str| time(&[&[UTC_TIME, 13][..], text.as_bytes()].concat()).map(|(at, _)| at);
        assert_eq!(utc("700101000000Z"), Some(0));
        assert_eq!(utc("491231235959Z"), Some(2_524_607_999));
        assert_eq!(utc("500101000000Z"), Some(-631_152_000), "1950");
        let general = |text: &str| time(&[&[GENERALIZED_TIME, 15][..], text.as_bytes()].concat()).map(|(at, _)| at);
        assert_eq!(general("99991231235959Z"), Some(253_402_300_799));
        for bad in ["701301000000Z", "7001010000+0Z", "70010100000Z0"] {
            assert_eq!(utc(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_cut_short_is_malformed() {
        assert_eq!(not_after(&[]), None);
        assert_eq!(not_after(&[SEQUENCE, 0x82, 0xff, 0xff, SEQUENCE]), None);
        assert_eq!(not_after(&[SEQUENCE, 0x80]), None);
    }
}
