//! Addresses that a Gateway asks for, step by step as the official suite changes them (GatewayStaticAddresses,
//! GatewayOptionalAddressValue).
use super::*;

/// Makes these the addresses that the Gateway asks for; its status stays.
fn ask(world: &mut World, addresses: &Value) -> GatewayStatus {
    let mut asked = Gateway::clone(&world.snapshot.gateways[&name("gw")]);
    asked.spec.addresses = serde_json::from_value(addresses.clone()).unwrap();
    world.snapshot.gateways.insert(name("gw"), Arc::new(asked));
    world.write_gateway(true, T0)
}

#[test]
fn static_addresses_are_had_all_or_told_which_kind_or_which_one_cannot_be() {
    // Both families are there to be had: an address of the one that nobody asked for must not be among them.
    let mut world = World::new(json!([gateway(json!([http("web", json!({}))]))]));
    world.pools = &["192.0.2.0/24", "2001:db8::/64"];
    let unknown = json!({"type": "test.example/fake", "value": "fake"});
    let unusable = json!({"type": "IPAddress", "value": "198.51.100.9"});
    let usable = json!({"type": "IPAddress", "value": "192.0.2.5"});

    let status = ask(&mut world, &json!([unknown, unusable, usable]));
    assert_eq!(gateway_says(&status), ["Accepted=False/UnsupportedAddress", "Programmed=False/Invalid"]);
    assert_eq!(status.addresses, []);

    let status = ask(&mut world, &json!([unusable, usable]));
    assert_eq!(gateway_says(&status), ["Accepted=True/Accepted", "Programmed=False/AddressNotUsable"]);
    assert!(status.conditions[1].message.contains("198.51.100.9"), "{}", status.conditions[1].message);
    assert_eq!(status.addresses, [], "neither is shown while one of them cannot be had");

    let status = ask(&mut world, &json!([usable]));
    assert_eq!(gateway_says(&status), ["Accepted=True/Accepted", "Programmed=True/Programmed"]);
    assert_eq!(serde_json::to_value(&status.addresses).unwrap(), json!([usable]), "exactly that one");

    let nonsense = json!({"type": "IPAddress", "value": "192.0.2.500"});
    assert_eq!(gateway_says(&ask(&mut world, &json!([nonsense])))[0], "Accepted=False/UnsupportedAddress");
}

#[test]
fn an_address_without_a_value_is_one_of_the_pools() {
    for address in [json!({"type": "IPAddress"}), json!({"type": "IPAddress", "value": ""}), json!({})] {
        let mut world = World::new(json!([gateway(json!([http("web", json!({}))]))]));
        let status = ask(&mut world, &json!([address]));
        assert_eq!(gateway_says(&status)[1], "Programmed=True/Programmed", "{address}");
        let given = json!([{"type": "IPAddress", "value": "192.0.2.1"}]);
        assert_eq!(serde_json::to_value(&status.addresses).unwrap(), given, "{address}");
    }
}

/// A Gateway of TCP and UDP alone has the status that one of HTTP has.
#[test]
fn listeners_of_layer_4_are_programmed_and_take_routes_of_their_kind() {
    let listeners =
        json!([{"name": "t", "port": 9300, "protocol": "TCP"}, {"name": "u", "port": 9300, "protocol": "UDP"}]);
    let mut world = World::new(json!([gateway(listeners)]));
    let status = world.write_gateway(true, T0);
    assert_eq!(gateway_says(&status), ["Accepted=True/Accepted", "Programmed=True/Programmed"]);
    for (at, kind) in [(0, "TCPRoute"), (1, "UDPRoute")] {
        assert_eq!(listener_says(&status, at), GOOD_LISTENER, "{kind}");
        let kinds: Vec<_> = status.listeners[at].supported_kinds.iter().map(|k| k.kind.as_str()).collect();
        assert_eq!(kinds, [kind]);
    }
}
