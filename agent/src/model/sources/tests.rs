use super::*;
use crate::{
    model::{
        self, Model, Outcome,
        fixture::{add_service, node, services},
    },
    source::Snapshot,
};

const POOLS: &[&str] = &["192.0.2.0/24", "2001:db8::/64"];

fn compile(snapshot: &Snapshot) -> Model {
    model::compile(snapshot, &node(POOLS))
}

/// The lists of the frontends of a dual-stack Service with these ranges, by VIP; `all` where everybody may come.
fn lists(ranges: &str) -> Vec<String> {
    listed(&compile(&services(&[("web", &spec(ranges))])))
}

fn spec(ranges: &str) -> String {
    format!("{{type: LoadBalancer, ipFamilyPolicy: PreferDualStack, {ranges} ports: [{{port: 80}}]}}")
}

fn listed(model: &Model) -> Vec<String> {
    let text = |ranges: &Ranges| ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    model.frontends.values().map(|target| target.sources().map_or("all".to_owned(), text)).collect()
}

#[test]
fn s96_a_frontend_admits_the_ranges_of_its_own_family() {
    for (written, v4, v6) in [
        ("[]", "all", "all"),
        ("['0.0.0.0/0']", "all", ""),
        ("['::/0']", "", "all"),
        ("[' 0.0.0.0/0 ', \"\\t::/0\\n\"]", "all", "all"),
        ("['198.51.100.0/24']", "198.51.100.0/24", ""),
        ("['198.51.100.77/24', '2001:db8:c::7/64']", "198.51.100.0/24", "2001:db8:c::/64"),
        ("['10.1.0.0/16', '10.0.0.0/8', '9.9.9.9/32', '10.0.0.0/8']", "9.9.9.9/32 10.0.0.0/8", ""),
        ("['10.0.0.0/8', '0.0.0.0/0']", "all", ""),
    ] {
        assert_eq!(lists(&format!("loadBalancerSourceRanges: {written},")), [v4, v6], "{written}");
    }
}

#[test]
fn s96_who_admits_nobody_of_a_family_is_told() {
    let model = compile(&services(&[("web", &spec("loadBalancerSourceRanges: ['198.51.100.0/24'],"))]));
    let verdict = model.verdicts.values().next().unwrap();
    assert_eq!(verdict.outcome, Outcome::Accepted);
    let told = "2001:db8::1: the source ranges have none of IPv6: nobody may connect";
    assert!(verdict.messages.iter().any(|message| message == told), "{verdict:?}");
}

#[test]
fn s96_a_newer_form_that_cannot_be_read_refuses_the_service_and_its_address_stays() {
    let mut snapshot = services(&[("web", &spec("")), ("other", &spec(""))]);
    let before = compile(&snapshot);
    let web = snapshot.services.get_mut(&ObjectName::new("default", "web")).unwrap();
    Arc::make_mut(web).spec.unread_sources = Some("spec.loadBalancerSourceRange: unknown field".to_owned());
    let model = compile(&snapshot);
    let object = ObjectRef::new("Service", ObjectName::new("default", "web"));
    let verdict = &model.verdicts[&object];
    assert_eq!((verdict.outcome, verdict.reason), (Outcome::Refused, "InvalidSourceRanges"));
    assert_eq!(verdict.messages, ["spec.loadBalancerSourceRange: unknown field; nobody may connect"]);
    assert_eq!(model.allocations, before.allocations);
    assert_eq!((listed(&model), listed(&before).len()), (vec!["all".to_owned(); 2], 4));
}

#[test]
fn s96_a_range_that_cannot_be_read_refuses_the_service_and_is_named() {
    for odd in ["198.51.100.0", "198.51.100.0/33", "example.org", "", "10.0.0.0/8 10.0.0.0/8", "::ffff:10.0.0.0/104"] {
        let model = compile(&services(&[
            ("web", &spec(&format!("loadBalancerSourceRanges: ['192.0.2.0/24', '{odd}'],"))),
            ("other", &spec("")),
        ]));
        let verdict = &model.verdicts[&ObjectRef::new("Service", ObjectName::new("default", "web"))];
        assert_eq!((verdict.outcome, verdict.reason), (Outcome::Refused, "InvalidSourceRanges"));
        let want = format!("spec.loadBalancerSourceRanges holds {odd:?}, want ranges like 198.51.100.0/24 or");
        assert!(verdict.messages[0].starts_with(&want), "{verdict:?}");
        assert_eq!(listed(&model), ["all", "all"], "the other one alone has frontends");
        assert_eq!(model.allocations.len(), 2, "it keeps its address");
    }
}

#[test]
fn s96_the_annotation_counts_where_the_field_is_empty() {
    let given = |annotation: &str, field: &str| {
        let mut snapshot = Snapshot::default();
        let spec = spec(&format!("loadBalancerSourceRanges: {field},"));
        let metadata = format!("{{name: web, namespace: default, annotations: {{{ANNOTATION}: '{annotation}'}}}}");
        add_service(&mut snapshot, &format!("{{metadata: {metadata}, spec: {spec}}}"));
        let model = compile(&snapshot);
        let verdict = model.verdicts.values().next().unwrap();
        (listed(&model), verdict.messages.first().cloned().unwrap_or_default())
    };
    assert_eq!(given(" 198.51.100.0/24 , 2001:db8:c::/64 ", "[]").0, ["198.51.100.0/24", "2001:db8:c::/64"]);
    assert_eq!(given("198.51.100.0/24", "['203.0.113.0/24']").0, ["203.0.113.0/24", ""], "the field wins");
    assert_eq!(given(" ", "[]").0, ["all", "all"]);
    let (lists, message) = given("198.51.100.0/24,", "[]");
    assert!(lists.is_empty());
    assert!(message.starts_with(&format!("annotation {ANNOTATION} holds \"\", want ranges like")), "{message}");
}

#[test]
fn s96_an_annotation_that_is_nearly_the_one_refuses_the_service() {
    let given = |name: &str, field: &str| {
        let mut snapshot = Snapshot::default();
        let spec = spec(&format!("loadBalancerSourceRanges: {field},"));
        let metadata = format!("{{name: web, namespace: default, annotations: {{{name}: '198.51.100.0/24'}}}}");
        add_service(&mut snapshot, &format!("{{metadata: {metadata}, spec: {spec}}}"));
        let model = compile(&snapshot);
        let verdict = model.verdicts.values().next().unwrap();
        (listed(&model).len(), verdict.messages.first().cloned().unwrap_or_default())
    };
    let prefix = "service.beta.kubernetes.io/";
    for odd in ["load-balancer-source-range", "load-balancer-sources-ranges", "loadbalancer-source-ranges"] {
        let told = format!("annotation {prefix}{odd} is not known, did you mean {ANNOTATION}? nobody may connect");
        assert_eq!(given(&format!("{prefix}{odd}"), "[]"), (0, told));
        assert_eq!(given(&format!("{prefix}{odd}"), "['203.0.113.0/24']").0, 2, "the field says it");
    }
    for other in ["aws-load-balancer-source-ranges", "load-balancer-ports", "load-balancer-address-ranges"] {
        assert_eq!(given(&format!("{prefix}{other}"), "[]").0, 2, "{other} is another's");
    }
}

#[test]
fn equal_lists_are_one_and_stay_the_same_from_model_to_model() {
    let spec = spec("loadBalancerSourceRanges: ['10.0.0.0/8', '2001:db8:c::/64'],");
    let first = services(&[("a", &spec), ("b", &spec)]);
    let more = services(&[("a", &spec), ("b", &spec), ("c", &spec)]);
    let mut memo = model::Memo::default();
    let models = [first, more].map(|snapshot| memo.compile(&Arc::new(snapshot), &node(POOLS)));
    let all: Vec<&Ranges> =
        models.iter().flat_map(|m| m.frontends.values()).filter_map(model::Target::sources).collect();
    assert_eq!(all.len(), 10);
    let pointers: BTreeSet<_> = all.iter().map(|ranges| ranges.as_ptr()).collect();
    assert_eq!(pointers.len(), 2, "one of each family");
}

#[test]
fn s149_too_many_ranges_refuse_the_younger_service_whole_and_no_other() {
    let ranges = |from: usize, n: usize| {
        let range = |n: usize| format!("10.{}.{}.{}/32", n >> 16, n >> 8 & 255, n & 255);
        format!("loadBalancerSourceRanges: [{}],", (from..from + n).map(range).collect::<Vec<_>>().join(", "))
    };
    let mut snapshot = Snapshot::default();
    let mut add = |name: &str, day: u8, ranges: &str| {
        let metadata = format!("{{name: {name}, namespace: default, creationTimestamp: '2026-01-0{day}T00:00:00Z'}}");
        add_service(&mut snapshot, &format!("{{metadata: {metadata}, spec: {}}}", spec(ranges)));
    };
    add("old", 1, &ranges(0, MAX_RANGES - 10));
    add("same", 2, &ranges(0, MAX_RANGES - 10));
    add("young", 3, &ranges(40_000, 11));
    add("younger", 4, &ranges(50_000, 10));
    let model = compile(&snapshot);
    let verdict = |name: &str| &model.verdicts[&ObjectRef::new("Service", ObjectName::new("default", name))];
    for name in ["old", "same", "younger"] {
        assert_eq!(verdict(name).outcome, Outcome::Accepted, "{name}: {:?}", verdict(name));
    }
    assert_eq!((verdict("young").outcome, verdict("young").reason), (Outcome::Refused, "TooManySourceRanges"));
    assert!(verdict("young").messages[0].contains("has 11 ranges that no older Service has, and 32758 of 32768"));
    assert_eq!(model.frontends.len(), 6, "nothing of it is programmed");
}

#[test]
fn an_address_is_found_in_the_list_by_its_range() {
    let list: Vec<IpNet> =
        ["10.0.0.0/8", "192.0.2.16/28", "192.0.2.64/32", "203.0.113.0/24"].map(|r| r.parse().unwrap()).into();
    for (client, admitted) in [
        ("9.255.255.255", false),
        ("10.0.0.0", true),
        ("10.255.255.255", true),
        ("11.0.0.0", false),
        ("192.0.2.15", false),
        ("192.0.2.31", true),
        ("192.0.2.32", false),
        ("192.0.2.64", true),
        ("192.0.2.65", false),
        ("203.0.113.255", true),
        ("2001:db8::1", false),
    ] {
        assert_eq!(admits(&list, client.parse().unwrap()), admitted, "{client}");
    }
    assert!(!admits(&[], "192.0.2.1".parse().unwrap()));
}
