//! The bounds that Gateways have reached, as metrics.
use std::collections::BTreeSet;

use super::metrics::count;
use crate::{
    proxy::{Bound, Pressed},
    telemetry::Labels,
};

/// Gateways that have samples of their own, at most; the others are one.
const MOST_GATEWAYS: usize = 1000;

/// The samples of the bounds that were reached, by Gateway: configuration alone makes them, and they end with their Gateway.
pub(super) fn samples(pressed: &[Pressed]) -> Vec<(Labels, f64)> {
    let mut samples: Vec<(Labels, f64)> = Vec::new();
    let (mut gateways, mut others) = (BTreeSet::new(), [0; Bound::ALL.len()]);
    for Pressed { gateway, bound, refused, .. } in pressed {
        if gateways.len() == MOST_GATEWAYS && !gateways.contains(gateway) {
            others[*bound as usize] += refused;
            continue;
        }
        gateways.insert(gateway);
        samples.push((of_bound(&gateway.ns, &gateway.name, *bound), count(*refused)));
    }
    let others = Bound::ALL.into_iter().zip(others).filter(|(_, refused)| *refused > 0);
    samples.extend(others.map(|(bound, refused)| (of_bound("", "other", bound), count(refused))));
    samples
}

fn of_bound(ns: &str, name: &str, bound: Bound) -> Labels {
    vec![("gateway_namespace", ns.to_owned()), ("gateway_name", name.to_owned()), ("bound", bound.name().to_owned())]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::api::ObjectName;

    #[test]
    fn a_thousand_gateways_have_samples_of_their_own_and_the_others_one_for_each_bound() {
        let pressed = |n: usize, bound| Pressed {
            gateway: ObjectName::new("default", format!("gw-{n:04}")),
            bound,
            open: 1,
            most: 1,
            refused: 2,
            ago: Duration::ZERO,
            is_own: true,
        };
        let all: Vec<Pressed> =
            (0..MOST_GATEWAYS + 3).flat_map(|n| [pressed(n, Bound::Connections), pressed(n, Bound::Memory)]).collect();
        let samples = samples(&all);
        assert_eq!(samples.len(), 2 * MOST_GATEWAYS + 2);
        let (labels, value) = &samples[0];
        let of = |name: &str| labels.iter().find(|(label, _)| *label == name).map(|(_, value)| value.as_str());
        assert_eq!((of("gateway_name"), of("bound"), *value), (Some("gw-0000"), Some("connections"), 2.0));
        assert_eq!(samples[2 * MOST_GATEWAYS..].iter().map(|(_, value)| *value).collect::<Vec<_>>(), [6.0, 6.0]);
    }
}
