//! Who gets which address, on a real API server: section G of the checklist.
use std::net::IpAddr;

use serde_json::{Value, json};
use sluice_tests::cluster::{
    TestNamespace,
    look::{ingress, is_marked},
    scene::{POOL, Scene, load_balancer, pool_of},
};

/// A Service with annotations under `sluice.dev/`.
fn asks(spec: &Value, annotations: &Value) -> Value {
    let mut service = load_balancer(spec);
    let named = annotations.as_object().expect("annotations").iter();
    service["metadata"]["annotations"] = named.map(|(name, v)| (format!("sluice.dev/{name}"), v.clone())).collect();
    service
}

/// One TCP port of another number.
fn port(number: u16) -> Value {
    json!([{ "name": "http", "port": number, "protocol": "TCP" }])
}

fn apply(ns: &TestNamespace<'_>, name: &str, service: &Value) {
    ns.apply("", &format!("services/{name}"), service);
}

/// Waits until a pool's condition has this status, and returns its message.
fn until_pool(scene: &Scene, name: &str, condition: &str, status: &str) -> String {
    let path = format!("/apis/sluice.dev/v1alpha1/addresspools/{name}");
    scene.plane.until(&format!("pool {name} is {condition}: {status}"), |api| {
        let pool = api.get(&path)?;
        let conditions = pool["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|c| c["type"] == condition && c["status"] == status);
        anyhow::ensure!(found.is_some(), "{:#}", pool["status"]);
        Ok(found.and_then(|c| c["message"].as_str()).unwrap_or_default().to_owned())
    })
}

#[test]
fn s66_s67_s68_s69_s76_s79_what_a_service_has_outlives_agents_and_pools() {
    let mut scene = Scene::start(2, 1);
    let mut agents = std::mem::take(&mut scene.agents);
    let ns = scene.plane.namespace("kept");
    // Not in the order of their addresses, so that giving anew would give others.
    let addrs = ["203.0.113.7", "203.0.113.5", "203.0.113.3"];
    let mut kept: Vec<(String, Vec<IpAddr>)> = Vec::new();
    for (n, addr) in addrs.iter().enumerate() {
        let name = format!("kept-{n}");
        apply(&ns, &name, &asks(&json!({}), &json!({ "addresses": addr })));
        kept.push((name.clone(), scene.until_addresses(&ns, &name)));
        assert_eq!(kept[n].1, [addr.parse::<IpAddr>().expect("an address")]);
        // They ask for nothing any more, but have it.
        apply(&ns, &name, &load_balancer(&json!({})));
    }
    for (name, of) in [("shared-a", 1), ("shared-b", 2)] {
        apply(&ns, name, &asks(&json!({ "ports": port(8000 + of) }), &json!({ "sharing-key": "one" })));
        kept.push((name.to_owned(), scene.until_addresses(&ns, name)));
    }
    assert_eq!(kept[3].1, kept[4].1, "they share");
    apply(
        &ns,
        "dual",
        &load_balancer(&json!({ "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"] })),
    );
    kept.push(("dual".to_owned(), scene.until_addresses(&ns, "dual")));
    scene.serve(&ns, "kept-0", &["a1", "b1"]);
    scene.until_answers((kept[0].1[0], 80), &["a1", "b1"]);
    let check = |when: &str| {
        for (name, addrs) in &kept {
            let addrs: Vec<_> = addrs.iter().map(ToString::to_string).collect();
            assert_eq!(ingress(&scene.service(&ns, name)), addrs, "{name} {when}");
        }
        scene.until_answers((kept[0].1[0], 80), &["a1", "b1"]);
    };

    // S66, S67, S76: with nobody there, newcomers ask for what others have; then everybody starts at once.
    agents.iter_mut().for_each(|agent| agent.kill9().expect("it runs"));
    apply(&ns, "a-thief", &asks(&json!({}), &json!({ "addresses": addrs[0] })));
    apply(&ns, "a-newcomer", &load_balancer(&json!({})));
    agents.iter_mut().for_each(|agent| agent.spawn().expect("it starts"));
    agents.iter_mut().for_each(|agent| agent.wait_ready().expect("it is ready"));
    let said = scene.until_reason(&ns, "a-thief", "AddressTaken");
    assert!(said.contains("kept-0"), "{said}");
    let newcomer = scene.until_addresses(&ns, "a-newcomer");
    assert!(kept.iter().all(|(_, addrs)| !addrs.contains(&newcomer[0])), "{newcomer:?}");
    check("after a restart");

    // S79: a selector that excludes them takes nothing away and gives nothing.
    let whole = json!(["203.0.113.0/28", "2001:db8:113::/124"]);
    let selector = json!({ "matchLabels": { "team": "other" } });
    pool_of(&scene.plane, POOL, &json!({ "addresses": whole, "namespaceSelector": selector }));
    apply(&ns, "excluded", &load_balancer(&json!({})));
    scene.until_reason(&ns, "excluded", "NoPool");
    check("with a selector");
    // S68: a pool that has shrunk says what it left behind.
    pool_of(&scene.plane, POOL, &json!({ "addresses": ["203.0.113.8/29"] }));
    let said = until_pool(&scene, POOL, "OutOfPool", "True");
    assert!(said.contains(addrs[0]), "{said}");
    scene.until_shows(&ns, "excluded", &["203.0.113.9"]);
    check("with a pool that has shrunk");
    // S69, and S66 for a pool of another name.
    scene.plane.api().delete(&format!("/apis/sluice.dev/v1alpha1/addresspools/{POOL}")).expect("it is there");
    apply(&ns, "late", &load_balancer(&json!({})));
    scene.until_reason(&ns, "late", "NoPool");
    check("without a pool");
    pool_of(&scene.plane, "renamed", &json!({ "addresses": whole }));
    scene.until_addresses(&ns, "late");
    check("with a pool of another name");
    until_pool(&scene, "renamed", "OutOfPool", "False");
}

#[test]
fn s70_s71_s72_s73_s74_who_cannot_have_an_address_is_told_why_and_gets_it_when_it_is_there() {
    let scene = Scene::start(1, 0);
    let ns = scene.plane.namespace("pending");
    // S71, S72: no other address instead, a reason, an Event.
    apply(&ns, "holder", &asks(&json!({}), &json!({ "addresses": "203.0.113.5" })));
    scene.until_shows(&ns, "holder", &["203.0.113.5"]);
    let cases = [
        ("outside", json!({}), "192.0.2.9", "AddressOutsidePools", "192.0.2.9"),
        ("taken", json!({}), "203.0.113.5", "AddressTaken", "holder"),
        ("family", json!({}), "2001:db8:113::5", "AddressFamilyMismatch", "IPv4"),
        ("nonsense", json!({}), "203.0.113.x", "InvalidAddress", "203.0.113.x"),
        ("differ", json!({ "loadBalancerIP": "203.0.113.6" }), "203.0.113.7", "AddressesDiffer", "203.0.113.6"),
        ("many", json!({}), "203.0.113.6,203.0.113.7", "TooManyAddresses", "203.0.113.7"),
    ];
    for (name, spec, addr, reason, words) in &cases {
        apply(&ns, name, &asks(spec, &json!({ "addresses": addr })));
        let said = scene.until_reason(&ns, name, reason);
        assert!(said.contains(words), "{name}: {said}");
        assert_eq!(scene.until_told(&ns, name, "SyncLoadBalancerFailed", words), "Warning");
        let service = scene.service(&ns, name);
        assert!(ingress(&service).is_empty() && !is_marked(&service), "{service:#}");
    }
    // What is wrong later is told as well, though something was wrong before.
    apply(&ns, "nonsense", &asks(&json!({}), &json!({ "addresses": "192.0.2.8" })));
    scene.until_told(&ns, "nonsense", "SyncLoadBalancerFailed", "192.0.2.8");
    apply(&ns, "differ", &asks(&json!({ "loadBalancerIP": "203.0.113.7" }), &json!({ "addresses": "203.0.113.7" })));
    scene.until_shows(&ns, "differ", &["203.0.113.7"]);
    // What was taken is there as soon as its holder goes; what was asked for wrongly, when it is asked for rightly.
    scene.delete(&ns, "holder");
    scene.until_shows(&ns, "taken", &["203.0.113.5"]);
    apply(&ns, "outside", &asks(&json!({}), &json!({ "addresses": "203.0.113.9" })));
    scene.until_shows(&ns, "outside", &["203.0.113.9"]);
    // And one that has an address and asks for another one shows that alone.
    apply(&ns, "outside", &asks(&json!({}), &json!({ "addresses": "203.0.113.10" })));
    scene.until_shows(&ns, "outside", &["203.0.113.10"]);
    scene.until_told(&ns, "outside", "UpdatedLoadBalancer", "203.0.113.9");

    // S70: a pool of two; the one that waits longest is next.
    pool_of(&scene.plane, "small", &json!({ "addresses": ["203.0.113.100-203.0.113.101"], "autoAssign": false }));
    let of_small = || asks(&json!({}), &json!({ "address-pool": "small" }));
    for name in ["one", "two"] {
        apply(&ns, name, &of_small());
        scene.until_addresses(&ns, name);
    }
    until_pool(&scene, "small", "Exhausted", "True");
    for name in ["wait-a", "wait-b"] {
        apply(&ns, name, &of_small());
        let said = scene.until_reason(&ns, name, "PoolExhausted");
        assert!(said.contains("2 of 2 addresses of pool small"), "{said}");
        assert_eq!(scene.until_told(&ns, name, "SyncLoadBalancerFailed", "PoolExhausted"), "Warning");
    }
    let freed = scene.until_addresses(&ns, "one");
    scene.delete(&ns, "one");
    assert_eq!(scene.until_addresses(&ns, "wait-a"), freed);
    scene.until_reason(&ns, "wait-b", "PoolExhausted");

    // S74: pools that overlap say so; one over what the cluster uses gives nothing of it.
    pool_of(&scene.plane, "twice", &json!({ "addresses": ["203.0.113.100/32"], "autoAssign": false }));
    assert!(until_pool(&scene, "twice", "Overlapping", "True").contains("small"));
    assert!(until_pool(&scene, "small", "Overlapping", "True").contains("twice"));
    let cluster_ip = scene.service(&ns, "two")["spec"]["clusterIP"].as_str().expect("one").to_owned();
    pool_of(&scene.plane, "stolen", &json!({ "addresses": [cluster_ip], "autoAssign": false }));
    assert!(until_pool(&scene, "stolen", "Ready", "False").contains("two"));
    apply(&ns, "robber", &asks(&json!({}), &json!({ "address-pool": "stolen" })));
    scene.until_reason(&ns, "robber", "NoPool");
    odd_ranges(&scene, &ns);
}

/// S73: the smallest ranges give all they have, huge ones are not enumerated, and what ends in .0 or .255 is given to
/// who asks for it.
fn odd_ranges(scene: &Scene, ns: &TestNamespace<'_>) {
    let cases = [
        ("octets", "198.18.0.254-198.18.1.1", "IPv4", vec!["198.18.0.254", "198.18.1.1"]),
        ("pair", "198.18.2.4/31", "IPv4", vec!["198.18.2.4", "198.18.2.5"]),
        ("single", "198.18.3.0/32", "IPv4", vec!["198.18.3.0"]),
        ("single-six", "2001:db8:1::7/128", "IPv6", vec!["2001:db8:1::7"]),
        ("huge-six", "2001:db8:2::/64", "IPv6", vec!["2001:db8:2::1", "2001:db8:2::2", "2001:db8:2::3"]),
    ];
    for (pool, range, family, given) in &cases {
        pool_of(&scene.plane, pool, &json!({ "addresses": [range], "autoAssign": false }));
        // One more than there are, but for the one that has enough for everybody.
        for n in 0..given.len() + usize::from(*pool != "huge-six") {
            let of_pool = asks(&json!({ "ipFamilies": [family] }), &json!({ "address-pool": pool }));
            apply(ns, &format!("{pool}-{n}"), &of_pool);
            match given.get(n) {
                Some(addr) => scene.until_shows(ns, &format!("{pool}-{n}"), &[addr]),
                None => drop(scene.until_reason(ns, &format!("{pool}-{n}"), "PoolExhausted")),
            }
        }
    }
    apply(ns, "octets-asked", &asks(&json!({}), &json!({ "addresses": "198.18.0.255" })));
    scene.until_shows(ns, "octets-asked", &["198.18.0.255"]);
    apply(ns, "huge-asked", &asks(&json!({ "ipFamilies": ["IPv6"] }), &json!({ "addresses": "2001:db8:2:0:ff::" })));
    scene.until_shows(ns, "huge-asked", &["2001:db8:2:0:ff::"]);
    until_pool(scene, "huge-six", "Ready", "True");
}

#[test]
fn s75_s77_s78_addresses_are_shared_and_families_come_and_go_without_moving_what_is_there() {
    let scene = Scene::start(1, 1);
    let (ns, other) = (scene.plane.namespace("share"), scene.plane.namespace("share"));
    let key = |grant: &str| json!({ "sharing-key": "k", "sharing-namespaces": grant });
    apply(&ns, "a", &asks(&json!({ "ports": port(80) }), &key(other.name())));
    let vip = scene.until_addresses(&ns, "a");
    let shown = [vip[0].to_string()];
    let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
    // S75: another port shares, the same port and a Service elsewhere that is not granted do not.
    apply(&ns, "b", &asks(&json!({ "ports": port(81) }), &key("")));
    scene.until_shows(&ns, "b", &shown);
    apply(&ns, "c", &asks(&json!({ "ports": port(80) }), &key("")));
    assert_ne!(scene.until_addresses(&ns, "c"), vip);
    apply(&other, "d", &asks(&json!({ "ports": port(82) }), &key("")));
    assert_ne!(scene.until_addresses(&other, "d"), vip);
    scene.delete(&other, "d");
    apply(
        &other,
        "d",
        &asks(
            &json!({ "ports": port(82) }),
            &json!({
                "sharing-key": "k", "sharing-namespaces": ns.name(), "addresses": vip[0].to_string(),
            }),
        ),
    );
    // It asks for an address that `b` has too, which grants nothing.
    let said = scene.until_reason(&other, "d", "AddressTaken");
    assert!(said.contains("/b"), "{said}");
    apply(&ns, "b", &asks(&json!({ "ports": port(81) }), &key(other.name())));
    scene.until_shows(&other, "d", &shown);
    for (ns, name, number) in [(&ns, "a", 80), (&ns, "b", 81), (&other, "d", 82)] {
        scene.serve(ns, name, &["a1"]);
        scene.until_answers((vip[0], number), &["a1"]);
    }
    // One that leaves takes its port; the last one frees the address.
    scene.delete(&ns, "a");
    scene.until_unprogrammed((vip[0], 80));
    scene.until_answers((vip[0], 81), &["a1"]);
    apply(&ns, "alone", &asks(&json!({}), &json!({ "addresses": vip[0].to_string() })));
    scene.until_reason(&ns, "alone", "AddressTaken");
    scene.delete(&ns, "b");
    scene.delete(&other, "d");
    scene.until_shows(&ns, "alone", &shown);

    // S77: a second family is added and the first address stays; S78: it goes again, from the status too.
    let of =
        |policy: &str, families: Value| load_balancer(&json!({ "ipFamilyPolicy": policy, "ipFamilies": families }));
    apply(&ns, "dual", &of("SingleStack", json!(["IPv4"])));
    let first = scene.until_addresses(&ns, "dual")[0];
    apply(&ns, "dual", &of("RequireDualStack", json!(["IPv4", "IPv6"])));
    let both = scene.plane.until("both families", |_| {
        let addrs = scene.addresses(ns.name(), "dual")?;
        anyhow::ensure!(addrs.len() == 2, "{addrs:?}");
        Ok(addrs)
    });
    assert_eq!((both[0], both[1].is_ipv6()), (first, true), "S78: in the order of the families");
    scene.serve(&ns, "dual", &["a1"]);
    both.iter().for_each(|addr| scene.until_answers((*addr, 80), &["a1"]));
    apply(&ns, "dual", &of("SingleStack", json!(["IPv4"])));
    scene.until_shows(&ns, "dual", &[&first.to_string()]);
    scene.until_unprogrammed((both[1], 80));
    apply(&ns, "six", &asks(&json!({ "ipFamilies": ["IPv6"] }), &json!({ "addresses": both[1].to_string() })));
    scene.until_shows(&ns, "six", &[&both[1].to_string()]);

    // S77: where a family has no address, all or nothing, or what there is.
    pool_of(&scene.plane, "four", &json!({ "addresses": ["203.0.113.64/30"], "autoAssign": false }));
    let of_four = |policy: &str| asks(&json!({ "ipFamilyPolicy": policy }), &json!({ "address-pool": "four" }));
    apply(&ns, "require", &of_four("RequireDualStack"));
    let said = scene.until_reason(&ns, "require", "NoPool");
    assert!(said.contains("IPv6"), "{said}");
    assert!(ingress(&scene.service(&ns, "require")).is_empty());
    apply(&ns, "prefer", &of_four("PreferDualStack"));
    assert_eq!(scene.until_addresses(&ns, "prefer").len(), 1);
}
