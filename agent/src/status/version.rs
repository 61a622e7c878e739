//! Which version of Gateway API the cluster has, as its CRDs say.
//!
//! In: the annotation of the CRD of GatewayClass, asked for every [`AGAIN`] while this agent leads. Out: a [`Bundle`], of which
//! the condition `SupportedVersion` of our GatewayClasses is made.
use std::time::Duration;

use kube::Client;
use serde_json::Value;
use tokio::{sync::watch, time::timeout};

use super::conditions::Wanted;
use crate::telemetry::chain;

/// The annotation that every CRD of Gateway API has. Source: GEP-1709.
const ANNOTATION: &str = "gateway.networking.k8s.io/bundle-version";
/// The CRD that is asked; one bundle has them all.
const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gatewayclasses.gateway.networking.k8s.io";
/// The metadata alone: a CRD with its schema has hundreds of kilobytes.
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// How often it is asked for.
const AGAIN: Duration = Duration::from_secs(30);
/// How long one call may take.
const CALL: Duration = Duration::from_secs(10);
/// The versions that are known: `v1.0` has the first `v1` of the kinds that are read, the last is the one that is tested.
const MAJOR: u32 = 1;
/// See [`MAJOR`].
const MINORS: std::ops::RangeInclusive<u32> = 0..=7;

/// What the CRDs say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Bundle {
    /// It was not asked yet, or there was no answer.
    #[default]
    Unknown,
    /// The CRD has no version on it.
    Unnamed,
    /// `v1.7.0`.
    Version(String),
}

impl Bundle {
    fn of(crd: &Value) -> Self {
        let version = crd["metadata"]["annotations"][ANNOTATION].as_str();
        version.map_or(Self::Unnamed, |version| Self::Version(version.to_owned()))
    }

    /// The condition of a GatewayClass; `None` while nothing is known.
    #[must_use]
    pub(super) fn condition(&self) -> Option<Wanted> {
        let want = format!("want v{MAJOR}.{} to v{MAJOR}.{}", MINORS.start(), MINORS.end());
        let odd = |found: String| Wanted::fails("SupportedVersion", "UnsupportedVersion", format!("{found}; {want}"));
        Some(match self {
            Self::Unknown => return None,
            Self::Unnamed => odd(format!("the CRDs have no annotation {ANNOTATION}")),
            Self::Version(version) if is_known(version) => {
                Wanted::holds("SupportedVersion", "SupportedVersion", format!("Gateway API {version}"))
            }
            Self::Version(version) => odd(format!("the CRDs are of Gateway API {version}")),
        })
    }
}

fn is_known(version: &str) -> bool {
    let mut numbers = version.strip_prefix('v').unwrap_or(version).split('.').map(str::parse::<u32>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(MAJOR)), Some(Ok(minor))) if MINORS.contains(&minor))
}

/// Asks while this agent leads, until nobody listens.
pub(super) async fn follow(client: Client, mut leads: watch::Receiver<bool>, out: watch::Sender<Bundle>) {
    while !out.is_closed() && leads.wait_for(|leads| *leads).await.is_ok() {
        match timeout(CALL, ask(&client)).await {
            Ok(Ok(bundle)) => drop(out.send_if_modified(|known| std::mem::replace(known, bundle.clone()) != bundle)),
            // Without Gateway API there is no such CRD, and no class that would ask.
            Ok(Err(error)) => tracing::debug!(error = chain(&error), "version of Gateway API"),
            Err(_) => tracing::debug!(elapsed = ?CALL, "version of Gateway API"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn ask(client: &Client) -> kube::Result<Bundle> {
    let request = http::Request::get(PATH).header(http::header::ACCEPT, METADATA).body(Vec::new());
    let crd = client.request::<Value>(request.map_err(kube::Error::HttpError)?).await?;
    Ok(Bundle::of(&crd))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_version_that_is_not_known_is_said_to_be_so() {
        let says = |annotations: Value| {
            let condition = Bundle::of(&json!({ "metadata": { "annotations": annotations } })).condition().unwrap();
            (condition.status, condition.reason, condition.message)
        };
        for (version, is_supported) in [
            ("v1.0.0", true),
            ("v1.7.0", true),
            ("v1.7.0-rc.1", true),
            ("v1.8.0", false),
            ("v0.8.1", false),
            ("new", false),
        ] {
            let (status, reason, message) = says(json!({ ANNOTATION: version }));
            let wanted = if is_supported { "SupportedVersion" } else { "UnsupportedVersion" };
            assert_eq!((status, reason), (is_supported, wanted), "{version}");
            assert!(message.contains(version), "{message}");
        }
        assert_eq!(says(json!({})).1, "UnsupportedVersion");
        assert_eq!(Bundle::Unknown.condition(), None);
    }
}
