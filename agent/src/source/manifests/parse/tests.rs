use std::sync::Arc;

use super::*;
use crate::api::ObjectName;

fn yaml(text: &str) -> (Vec<Document>, Vec<Flaw>) {
    parse(text, Format::Yaml, &[])
}

fn json(text: &str) -> (Vec<Document>, Vec<Flaw>) {
    parse(text, Format::Json, &[])
}

fn names(documents: &[Document]) -> Vec<(u64, String)> {
    let name = |d: &Document| d.objects.iter().map(|o| (d.line, o.describe().1.name)).collect::<Vec<_>>();
    documents.iter().flat_map(name).collect()
}

fn only_flaw((documents, flaws): (Vec<Document>, Vec<Flaw>)) -> Flaw {
    assert_eq!(names(&documents), []);
    let [flaw] = <[Flaw; 1]>::try_from(flaws).unwrap();
    flaw
}

#[test]
fn documents_are_cut_where_yaml_cuts_them() {
    let text = "\u{feff}%YAML 1.2\n# nothing yet\n---\n---   # still nothing\n\napiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  annotations:\n    text: |\n      ---\n      ----\n...\n# between\n--- {apiVersion: v1, kind: Service, metadata: {name: b}}\n---\r\napiVersion: v1\r\nkind: Service\r\nmetadata: {name: c}\r\n---";
    let (documents, flaws) = yaml(text);
    assert_eq!(flaws, []);
    assert_eq!(names(&documents), [(4, "a".into()), (16, "b".into()), (17, "c".into())]);
    assert_eq!(names(&yaml("").0), []);
}

#[test]
fn lists_are_unpacked_and_typed_lists_lend_their_kind() {
    let list = "apiVersion: v1\nkind: List\nmetadata: {}\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: a}}\n- {apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}\n- apiVersion: v1\n  kind: Service\n  metadata: {name: b, namespace: other}\n";
    let (documents, flaws) = yaml(list);
    assert_eq!(flaws, []);
    assert_eq!(names(&documents), [(1, "a".into()), (1, "b".into())]);
    assert_eq!(documents[0].unknown, ["apps/v1 Deployment"]);
    let typed = r#"{"items": [{"metadata": {"name": "a"}}], "kind": "ServiceList", "apiVersion": "v1"}"#;
    assert_eq!(names(&json(typed).0), [(1, "a".into())]);
    assert_eq!(json(r#"{"apiVersion": "v1", "kind": "List", "items": null}"#).1, []);
}

#[test]
fn json_values_follow_each_other() {
    let (documents, flaws) = json(
        "\n{\"apiVersion\":\"v1\",\"kind\":\"Service\",\n\"metadata\":{\"name\":\"a\"}}\n\n{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{\"name\":\"b\"}}\n",
    );
    assert_eq!(flaws, []);
    assert_eq!(names(&documents), [(2, "a".into()), (5, "b".into())]);
}

#[test]
fn null_is_the_default_as_the_api_server_writes_it() {
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, namespace: null, labels: null, creationTimestamp: null}\naddressType: IPv4\nendpoints: null\nports: null\n";
    let (documents, flaws) = yaml(slice);
    assert_eq!(flaws, []);
    assert_eq!(documents[0].objects[0].describe(), ("EndpointSlice", ObjectName::new("default", "s")));
}

#[test]
fn s15_a_slice_port_without_a_name_gets_the_one_that_the_api_server_writes() {
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s}\naddressType: IPv4\nports: [{port: 80}, {name: web}]\n";
    let (documents, _) = yaml(slice);
    let Object::Slice(slice) = &documents[0].objects[0] else { panic!("{documents:?}") };
    assert_eq!(slice.ports.iter().map(|p| p.name.as_deref()).collect::<Vec<_>>(), [Some(""), Some("web")]);
}

#[test]
fn same_kind_of_another_group_is_unknown() {
    let (documents, flaws) =
        yaml("apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: nonsense}");
    assert_eq!(flaws, []);
    assert_eq!((names(&documents), documents[0].unknown.len()), (vec![], 1));
}

#[test]
fn a_number_out_of_range_is_read_and_judged_later() {
    let (documents, flaws) = yaml(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports: [{port: 70000, targetPort: web}, {port: -1, targetPort: 8080}]",
    );
    assert_eq!(flaws, []);
    let Object::Service(service) = &documents[0].objects[0] else { panic!("{documents:?}") };
    assert_eq!(service.spec.ports.iter().map(|p| p.port).collect::<Vec<_>>(), [70_000, -1]);
}

#[test]
fn a_flaw_names_line_object_field_found_and_wanted() {
    let broken = "# one\n---\napiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n  ports:\n  - port: 80\n  - port: eighty\n";
    let flaw = only_flaw(yaml(broken));
    assert_eq!(flaw.line, Some(10), "{flaw:?}");
    assert_eq!(flaw.reason, "Service default/web: spec.ports[1].port: found \"eighty\", want a valid number");

    let broken = "\n{\"apiVersion\": \"v1\", \"kind\": \"Service\",\n \"metadata\": {\"name\": \"web\"},\n \"spec\": {\"ports\": [{\"port\": \"eighty\"}]}}";
    let flaw = only_flaw(json(broken));
    assert_eq!(flaw.line, Some(4), "{flaw:?}");
    assert_eq!(flaw.reason, "Service default/web: spec.ports[0].port: invalid type: string \"eighty\", expected i64");
}

#[test]
fn a_flaw_in_a_list_names_the_element() {
    let broken = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n- apiVersion: v1\n  kind: Service\n  metadata: {name: b}\n  spec:\n    ports: 80\n";
    let flaw = only_flaw(yaml(broken));
    assert_eq!(flaw.line, Some(11), "{flaw:?}");
    assert_eq!(flaw.reason, "Service default/b: items[1].spec.ports: found \"80\", want sequence start");
}

#[test]
fn syntax_errors_and_missing_names_have_a_line_and_spare_their_neighbours() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: good}\n---\nkind: [\n---\napiVersion: v1\nkind: Service\n---\nkind: Service\nmetadata: {name: x}\n---\njust text\n";
    let (documents, flaws) = yaml(text);
    assert_eq!(names(&documents), [(1, "good".into())]);
    let lines = flaws.iter().map(|f| f.line).collect::<Vec<_>>();
    assert!(matches!(lines[..], [Some(5..=6), Some(6..=7), Some(9..=10), Some(12..=13)]), "{flaws:?}");
    assert_eq!(flaws[1].reason, "metadata.name: missing in a Service, want a name");
    assert!(flaws[2].reason.starts_with("apiVersion: missing"), "{flaws:?}");
    assert_eq!(flaws[0].reason, "kind: found \"[\", want string scalar");
    assert_eq!(flaws[3].reason, "found \"just text\", want mapping start");
    assert_eq!(json("{\"apiVersion\": \"v1\",\n\n oops").1[0].line, Some(3));
}

#[test]
fn a_document_that_was_read_before_keeps_its_objects_wherever_it_moves() {
    let doc = |name: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n");
    let (before, _) = yaml(&format!("{}---\n{}", doc("a"), doc("b")));
    let (after, _) = parse(&format!("{}---\n{}---\n{}", doc("a"), doc("new"), doc("b")), Format::Yaml, &before);
    let address = |d: &Document| match &d.objects[0] {
        Object::Service(s) => Arc::as_ptr(s),
        other => panic!("{other:?}"),
    };
    assert_eq!(names(&after), [(1, "a".into()), (4, "new".into()), (8, "b".into())]);
    assert_eq!((address(&before[0]), address(&before[1])), (address(&after[0]), address(&after[2])));
}

proptest::proptest! {
    #[test]
    fn no_text_panics_and_lines_lie_in_it(text in "(apiVersion: v1|kind: (Service|List)|metadata: \\{name: a\\}|items:|- |  |---|\\.\\.\\.|[{}\\[\\]:\"#%|&*!]|\n|\r\n|é){0,40}") {
        for format in [Format::Yaml, Format::Json] {
            let (documents, flaws) = parse(&text, format, &[]);
            let last = u64::try_from(text.lines().count()).unwrap() + 1;
            for line in documents.iter().map(|d| d.line).chain(flaws.iter().filter_map(|f| f.line)) {
                proptest::prop_assert!((1..=last).contains(&line), "line {line} of {last}: {flaws:?}");
            }
        }
    }
}

#[test]
fn cluster_scoped_kinds_are_known_by_their_name_alone() {
    let text = "apiVersion: sluice.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: edge, namespace: odd}\nspec: {addresses: [203.0.113.0/24], autoAssign: false, announce: none}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: web, labels: {team: a}}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {podCIDRs: [10.1.0.0/24], unschedulable: true}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.1}], conditions: null}\n---\napiVersion: sluice.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: bad}\nspec: {priority: high}\n";
    let (documents, flaws) = yaml(text);
    let objects = documents.iter().flat_map(|d| &d.objects).collect::<Vec<_>>();
    let named = |kind, name: &str| (kind, ObjectName::new("", name));
    assert_eq!(
        objects.iter().map(|o| o.describe()).collect::<Vec<_>>(),
        [named("AddressPool", "edge"), named("Namespace", "web"), named("Node", "n1")]
    );
    let Object::Pool(pool) = objects[0] else { panic!("{objects:?}") };
    assert_eq!((pool.spec.auto_assign, pool.spec.avoid_buggy_addresses, pool.spec.priority), (false, true, 0));
    let Object::Node(node) = objects[2] else { panic!("{objects:?}") };
    assert_eq!((node.spec.pod_cidrs.len(), node.status.addresses[0].address.as_str()), (1, "192.0.2.1"));
    let [flaw] = <[Flaw; 1]>::try_from(flaws).unwrap();
    assert!(flaw.reason.starts_with("AddressPool bad: spec.priority: found \"high"), "{flaw:?}");
}

#[test]
fn a_reference_grant_is_read_at_both_of_its_versions() {
    for version in ["v1", "v1beta1"] {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/{version}\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: infra}}\n\
             spec: {{from: [{{group: g.k8s.io, kind: HTTPRoute, namespace: a}}], to: [{{group: '', kind: Service}}]}}\n"
        );
        let (documents, flaws) = yaml(&text);
        assert_eq!(flaws, []);
        let [Object::ReferenceGrant(grant)] = &documents[0].objects[..] else { panic!("{documents:?}") };
        assert_eq!((grant.spec.from[0].namespace.as_str(), grant.spec.to[0].name.as_deref()), ("a", None));
        assert_eq!(documents[0].objects[0].describe(), ("ReferenceGrant", ObjectName::new("infra", "g")));
    }
}

#[test]
fn a_secret_is_read_and_its_text_is_not_kept() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ntype: kubernetes.io/tls\ndata: {tls.crt: Y2VydA==, other: b3RoZXI=}\nstringData: {tls.key: keytext}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {ca.crt: ca, more: x}\n";
    let (documents, flaws) = yaml(text);
    assert_eq!(flaws, []);
    let [Object::Secret(secret)] = &documents[0].objects[..] else { panic!("{documents:?}") };
    assert_eq!(secret.data.key.as_ref().unwrap().reveal(), b"keytext");
    let [Object::ConfigMap(map)] = &documents[1].objects[..] else { panic!("{documents:?}") };
    assert_eq!(map.data.authorities.as_deref(), Some("ca"));
    let printed = format!("{documents:?}");
    assert!(!printed.contains("keytext") && !printed.contains("b3RoZXI"), "{printed}");
}

#[test]
fn what_is_wrong_with_a_secret_is_told_without_what_it_holds() {
    let head = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ntype: kubernetes.io/tls\n";
    for body in [
        "data: {tls.key: 'keytext !'}\n",
        "data: {tls.key: [keytext]}\n",
        "data: keytext\n",
        "stringData: {tls.key: {keytext: keytext}}\n",
        "stringData:\n  tls.key: \"keytext\n",
        "stringData: {tls.key: a, tls.key: keytext}\n",
        "data:\n  tls.key: &a keytext\n  b: *keytext\n",
    ] {
        let (documents, flaws) = yaml(&format!("{head}{body}"));
        assert!(!flaws.is_empty(), "{body}: {documents:?}");
        assert!(!format!("{flaws:?}").contains("keytext"), "{flaws:?}");
    }
    let text = r#"{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"tls.key": "keytext !"}}"#;
    let (_, flaws) = json(text);
    assert!(flaws.len() == 1 && !format!("{flaws:?}").contains("keytext"), "{flaws:?}");
}

#[test]
fn a_gateway_class_belongs_to_no_namespace() {
    let text = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: edge, namespace: odd}\nspec: {controllerName: sluice.dev/gateway}\n";
    let (documents, flaws) = parse(text, Format::Yaml, &[]);
    assert_eq!(flaws, []);
    let [Object::GatewayClass(class)] = &documents[0].objects[..] else { panic!("{documents:?}") };
    assert_eq!(class.spec.controller_name, "sluice.dev/gateway");
    assert_eq!(documents[0].objects[0].describe(), ("GatewayClass", ObjectName::new("", "edge")));
}

/// The faults of one object, without its name.
fn faults(text: &str) -> Vec<String> {
    let (documents, flaws) = yaml(text);
    assert_eq!(names(&documents), [], "an object with faults is left out: {flaws:?}");
    let bare = |flaw: &Flaw| {
        let object = flaw.object.clone().expect("the object is known");
        flaw.reason.strip_prefix(&format!("{object}: ")).expect("its name comes first").to_owned()
    };
    flaws.iter().map(bare).collect()
}

const WEB: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: LoadBalancer, ";
const ROUTE: &str =
    "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: {parentRefs: [{name: g}], ";

#[test]
fn a_field_that_does_not_exist_is_a_fault_with_its_path_and_the_nearest_name() {
    for (text, expected) in [
        (
            format!("{WEB}loadBalancerSourceRange: [192.168.0.0/16]}}"),
            "spec.loadBalancerSourceRange: unknown field, did you mean loadBalancerSourceRanges?",
        ),
        (
            format!("{WEB}ports: [{{port: 80}}, {{port: 81, targetport: 8080}}]}}"),
            "spec.ports[1].targetport: unknown field, did you mean targetPort?",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: web, lables: {a: b}}\n".to_owned(),
            "metadata.lables: unknown field, did you mean labels?",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nports: [{port: 80}]\n".to_owned(),
            "ports: unknown field",
        ),
        (
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s}\naddressType: IPv4\nendpoint: []\n"
                .to_owned(),
            "endpoint: unknown field, did you mean endpoints?",
        ),
        (format!("{ROUTE}hostname: shop.example}}"), "spec.hostname: unknown field, did you mean hostnames?"),
        (
            format!("{ROUTE}rules: [{{matches: [{{paths: {{value: /a}}}}]}}]}}"),
            "spec.rules[0].matches[0].paths: unknown field, did you mean path?",
        ),
        (
            format!("{ROUTE}rules: [{{matches: [{{headers: [{{name: a, values: b}}]}}]}}]}}"),
            "spec.rules[0].matches[0].headers[0].values: unknown field, did you mean value?",
        ),
        (
            format!("{ROUTE}rules: [{{backendRef: [{{name: a}}]}}]}}"),
            "spec.rules[0].backendRef: unknown field, did you mean backendRefs?",
        ),
        (
            "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g}\nspec: {from: [{namespaces: a}]}\n"
                .to_owned(),
            "spec.from[0].namespaces: unknown field, did you mean namespace?",
        ),
        (
            "apiVersion: sluice.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: p}\nspec: {autoasign: false}\n".to_owned(),
            "spec.autoasign: unknown field, did you mean autoAssign?",
        ),
    ] {
        assert_eq!(faults(&text), [expected], "{text}");
    }
}

#[test]
fn a_misspelt_value_of_an_enumeration_is_a_fault_with_those_that_there_are() {
    for (text, expected) in [
        (
            format!("{WEB}externalTrafficPolicy: local}}"),
            "spec.externalTrafficPolicy: found \"local\", want Cluster or Local",
        ),
        (
            format!("{WEB}internalTrafficPolicy: local}}"),
            "spec.internalTrafficPolicy: found \"local\", want Cluster or Local",
        ),
        (
            format!("{WEB}sessionAffinity: clientip}}"),
            "spec.sessionAffinity: found \"clientip\", want None or ClientIP",
        ),
        (
            format!("{WEB}ports: [{{port: 80, protocol: tcp}}]}}"),
            "spec.ports[0].protocol: found \"tcp\", want TCP, UDP or SCTP",
        ),
        (format!("{WEB}ipFamilies: [ipv4]}}"), "spec.ipFamilies[0]: found \"ipv4\", want IPv4 or IPv6"),
        (
            format!("{ROUTE}rules: [{{matches: [{{path: {{type: Prefix}}}}]}}]}}"),
            "spec.rules[0].matches[0].path.type: found \"Prefix\", want Exact, PathPrefix or RegularExpression",
        ),
        (
            format!("{ROUTE}rules: [{{matches: [{{method: get}}]}}]}}"),
            "spec.rules[0].matches[0].method: found \"get\", want GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE or PATCH",
        ),
    ] {
        assert_eq!(faults(&text), [expected], "{text}");
    }
    // All at once.
    assert_eq!(faults(&format!("{WEB}port: 1, externalTrafficPolicy: local, sessionAffinity: x}}")).len(), 3);
}

#[test]
fn fields_that_kubernetes_has_and_nobody_here_reads_are_no_faults() {
    let text = format!(
        "{WEB}allocateLoadBalancerNodePorts: false, clusterIPs: [10.0.0.1], externalIPs: [], healthCheckNodePort: 30000,\n  internalTrafficPolicy: Local, publishNotReadyAddresses: true, trafficDistribution: PreferClose, ports: [{{port: 80, nodePort: 30001}}],\n  sessionAffinityConfig: {{clientIP: {{timeoutSeconds: 1}}}}, ipFamilyPolicy: '', selector: {{anything: goes}}}}\nstatus: {{whatever: 1}}\n"
    );
    let (documents, flaws) = yaml(&text);
    assert_eq!((names(&documents), flaws), (vec![(1, "web".into())], vec![]));
    let text = format!(
        "{ROUTE}useDefaultGateways: None, rules: [{{filters: [{{type: CORS, cors: {{maxAge: 5}}}}], retry: {{attempts: 2}}}}]}}"
    );
    assert_eq!(yaml(&text).1, []);
    // A kind of the same name in another group has fields of its own.
    assert_eq!(
        yaml("apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: a}\nspec: {template: {}}").1,
        []
    );
}

#[test]
fn an_element_with_a_fault_spares_the_others_of_its_list() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n- apiVersion: v1\n  kind: Service\n  metadata: {name: b}\n  spec:\n    sessionafinity: ClientIP\n";
    let (documents, flaws) = yaml(list);
    assert_eq!(names(&documents), [(1, "a".into())]);
    let expected = Flaw {
        line: Some(11),
        object: Some("Service default/b".into()),
        reason: "Service default/b: items[1].spec.sessionafinity: unknown field, did you mean sessionAffinity?".into(),
        closes: None,
    };
    assert_eq!(flaws, [expected]);
    let typed = r#"{"kind": "ServiceList", "apiVersion": "v1", "items": [{"metadata": {"name": "a", "lable": {}}}, {"metadata": {"name": "b"}}]}"#;
    let (documents, flaws) = json(typed);
    assert_eq!((names(&documents), flaws.len()), (vec![(1, "b".into())], 1));
}
