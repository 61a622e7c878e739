//! `retry` of a rule -> [`Retry`].
use super::{http::Retry, report::Fault, rule::duration};
use crate::api::http_route::HttpRouteRetry;

/// Tries beyond the first at most, whatever a rule says.
const MOST_ATTEMPTS: i64 = 1000;

/// Reads it. `attempts` is 1 where it is absent, and 0 switches retries off. Source: HTTPRouteRetry of the Gateway API 1.7.
///
/// # Errors
/// A value makes no sense.
pub(super) fn compile(spec: &HttpRouteRetry) -> Result<Retry, Fault> {
    let bad = |what: String| Err(Fault::new("UnsupportedValue", what));
    let attempts = spec.attempts.unwrap_or(1);
    let Some(attempts) = u32::try_from(attempts.min(MOST_ATTEMPTS)).ok() else {
        return bad(format!("retry.attempts {attempts}, want 0 or more"));
    };
    let backoff = match spec.backoff.as_deref().map(|text| (text, duration(text))) {
        None => None,
        Some((_, Some(backoff))) => Some(backoff),
        Some((text, None)) => return bad(format!("retry.backoff {text:?}, want for example \"100ms\"")),
    };
    let codes = spec.codes.iter().map(|code| match u16::try_from(*code) {
        Ok(code) if (400..600).contains(&code) => Ok(code),
        _ => Err(*code),
    });
    match codes.collect() {
        Ok(codes) => Ok(Retry { attempts, codes, backoff }),
        Err(code) => bad(format!("retry.codes {code}, want 400 to 599")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    fn read(spec: Value) -> Result<Retry, String> {
        compile(&serde_json::from_value(spec).unwrap()).map_err(|fault| fault.message)
    }

    #[test]
    fn a_bare_retry_is_one_attempt() {
        assert_eq!(read(json!({})), Ok(Retry { attempts: 1, ..Retry::default() }));
        assert_eq!(read(json!({"attempts": 0})), Ok(Retry::default()));
        assert_eq!(
            read(json!({"attempts": 5000, "codes": [503, 500, 503], "backoff": "1m1ms"})),
            Ok(Retry { attempts: 1000, codes: [500, 503].into(), backoff: Some(Duration::from_millis(60_001)) })
        );
    }

    #[test]
    fn nonsense_is_named() {
        for (spec, want) in [
            (json!({"attempts": -1}), "retry.attempts -1, want 0 or more"),
            (json!({"codes": [399]}), "retry.codes 399, want 400 to 599"),
            (json!({"codes": [70000]}), "retry.codes 70000, want 400 to 599"),
            (json!({"backoff": "fast"}), "retry.backoff \"fast\", want for example \"100ms\""),
        ] {
            assert_eq!(read(spec), Err(want.to_owned()));
        }
    }
}
