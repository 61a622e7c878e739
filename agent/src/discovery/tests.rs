use super::*;

fn service(name: &str, spec: &str) -> Arc<Service> {
    let text = format!("{{metadata: {{name: {name}, namespace: default}}, spec: {spec}}}");
    Arc::new(serde_saphyr::from_str(&text).unwrap())
}

fn slice(name: &str, of: &str, family: &str, endpoints: &str) -> Arc<EndpointSlice> {
    let text = format!(
        "{{metadata: {{name: {name}, namespace: default, labels: {{kubernetes.io/service-name: {of}}}}}, addressType: {family}, \
         endpoints: {endpoints}, ports: [{{name: http, port: 8080, appProtocol: http}}, {{name: dns, port: 53, protocol: UDP}}]}}"
    );
    Arc::new(serde_saphyr::from_str(&text).unwrap())
}

/// A pod as the endpoints of both families name it.
fn pod(address: &str, name: &str, conditions: &str) -> String {
    format!(
        "{{addresses: ['{address}'], conditions: {{{conditions}}}, nodeName: n1, zone: z1, hostname: {name}, \
         targetRef: {{kind: Pod, name: {name}, namespace: default, uid: uid-{name}}}}}"
    )
}

fn snapshot(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Arc<Snapshot> {
    Arc::new(Snapshot {
        services: services.iter().map(|s| (s.metadata.object_name(), s.clone())).collect(),
        slices: slices.iter().map(|s| (s.metadata.object_name(), s.clone())).collect(),
        ..Snapshot::default()
    })
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn name(name: &str) -> ObjectName {
    ObjectName::new("default", name)
}

fn list(directory: &Directory, service: &str) -> InstanceList {
    directory.of(&name(service)).unwrap().list(None)
}

#[test]
fn the_two_families_of_a_pod_are_one_instance() {
    let web = service("web", "{clusterIP: None}");
    let slices = [
        slice("web-4", "web", "IPv4", &format!("[{}]", pod("10.0.0.1", "web-0", "ready: true"))),
        slice("web-6", "web", "IPv6", &format!("[{}]", pod("fd00::1", "web-0", "ready: true"))),
    ];
    let found = instances(&web, &slices);
    assert_eq!(found.len(), 1, "{found:?}");
    let one = &found[0];
    assert_eq!(one.id, "uid-web-0");
    assert_eq!(one.addresses, ["10.0.0.1", "fd00::1"]);
    assert_eq!((one.ready, one.serving, one.terminating), (true, true, false));
    let http = &one.ports["http"];
    assert_eq!((http.port, http.protocol.as_str(), http.app_protocol.as_deref()), (8080, "TCP", Some("http")));
    assert_eq!((one.ports["dns"].port, one.ports["dns"].protocol.as_str()), (53, "UDP"));
    assert_eq!((one.node.as_deref(), one.zone.as_deref()), (Some("n1"), Some("z1")));
    assert_eq!(one.dns_name.as_deref(), Some("web-0.web.default.svc"));
    let target = one.target_ref.as_ref().unwrap();
    assert_eq!((target.kind.as_str(), target.name.as_str(), target.uid.as_str()), ("Pod", "web-0", "uid-web-0"));
}

#[test]
fn a_service_with_an_address_has_no_names_for_its_pods() {
    let slices = [slice("web-4", "web", "IPv4", &format!("[{}]", pod("10.0.0.1", "web-0", "")))];
    assert_eq!(instances(&service("web", "{clusterIP: 10.96.0.1}"), &slices)[0].dns_name, None);
}

#[test]
fn conditions_that_are_not_given_mean_what_the_api_says() {
    let state = |conditions: &str| {
        let slices = [slice("web-4", "web", "IPv4", &format!("[{}]", pod("10.0.0.1", "web-0", conditions)))];
        let one = instances(&service("web", "{}"), &slices).remove(0);
        (one.ready, one.serving, one.terminating)
    };
    assert_eq!(state(""), (true, true, false));
    assert_eq!(state("ready: false"), (false, false, false));
    assert_eq!(state("ready: false, serving: true, terminating: true"), (false, true, true));
}

#[test]
fn an_endpoint_without_a_pod_is_known_by_its_name_or_address() {
    let endpoints = "[{addresses: [192.0.2.1]}, {addresses: [192.0.2.2], hostname: db}, \
                     {addresses: [192.0.2.3], targetRef: {kind: VM, name: vm}}, {addresses: []}]";
    let found = instances(&service("web", "{}"), &[slice("s", "web", "IPv4", endpoints)]);
    assert_eq!(found.iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), ["192.0.2.1", "db", "vm"]);
    assert_eq!(found[2].target_ref.as_ref().unwrap().namespace, "default");
}

#[test]
fn a_change_moves_the_time_of_what_changed_and_of_nothing_else() {
    let (web, api) = (service("web", "{}"), service("api", "{}"));
    let two = |ready: &str| format!("[{}, {}]", pod("10.0.0.1", "a", "ready: true"), pod("10.0.0.2", "b", ready));
    let other = slice("api-4", "api", "IPv4", &format!("[{}]", pod("10.0.0.9", "c", "")));
    let mut directory = Directory::new(at(0));
    let services = [web, api];
    let old = slice("web-4", "web", "IPv4", &two("ready: true"));
    assert!(directory.take(snapshot(&services, &[old, other.clone()]), at(1)));
    let (web_before, api_before) = (directory.version(Some(&name("web"))), directory.version(Some(&name("api"))));

    let new = slice("web-4", "web", "IPv4", &two("ready: false"));
    assert!(directory.take(snapshot(&services, &[new.clone(), other.clone()]), at(2)));
    let seen = list(&directory, "web");
    assert_eq!((seen.counts.total, seen.counts.ready, seen.counts.not_ready), (2, 1, 1));
    assert_eq!(seen.last_change, at(2).to_string());
    let times: Vec<_> = seen.instances.iter().map(|i| i.last_change.clone()).collect();
    assert_eq!(times, [at(1).to_string(), at(2).to_string()]);
    assert_ne!(directory.version(Some(&name("web"))), web_before);
    assert_eq!(directory.version(Some(&name("api"))), api_before);
    assert_eq!(list(&directory, "api").last_change, at(1).to_string());

    // The same content in another object, as a relist brings it, is no change.
    let same = slice("web-4", "web", "IPv4", &two("ready: false"));
    let version = directory.version(None);
    assert!(!directory.take(snapshot(&services, &[same, other]), at(3)));
    assert_eq!(directory.version(None), version);
    assert_eq!(list(&directory, "web"), seen);
}

#[test]
fn what_leaves_is_gone_and_unknown_is_said_only_after_a_snapshot() {
    let mut directory = Directory::new(at(0));
    assert!(!directory.is_synced());
    let slices = [slice("web-4", "web", "IPv4", &format!("[{}]", pod("10.0.0.1", "a", "")))];
    directory.take(snapshot(&[service("web", "{}")], &slices), at(1));
    assert!(directory.is_synced() && directory.of(&name("web")).is_some());

    assert!(directory.take(snapshot(&[service("web", "{}")], &[]), at(2)));
    let empty = list(&directory, "web");
    assert_eq!((empty.counts.total, empty.last_change), (0, at(2).to_string()));

    assert!(directory.take(snapshot(&[], &slices), at(3)));
    assert!(directory.of(&name("web")).is_none() && directory.version(Some(&name("web"))).is_none());
    // Slices that were there before their Service count as soon as it comes.
    assert!(directory.take(snapshot(&[service("web", "{}")], &slices), at(4)));
    assert_eq!(list(&directory, "web").counts.total, 1);
}

#[test]
fn a_slice_that_moves_to_another_service_leaves_the_first() {
    let services = [service("web", "{}"), service("api", "{}")];
    let endpoints = format!("[{}]", pod("10.0.0.1", "a", ""));
    let mut directory = Directory::new(at(0));
    directory.take(snapshot(&services, &[slice("s", "web", "IPv4", &endpoints)]), at(1));
    directory.take(snapshot(&services, &[slice("s", "api", "IPv4", &endpoints)]), at(2));
    assert_eq!((list(&directory, "web").counts.total, list(&directory, "api").counts.total), (0, 1));
}

#[test]
fn filters_choose_what_is_listed_and_not_what_is_counted() {
    let services = [service("web", "{}"), service("api", "{}")];
    let endpoints =
        format!("[{}, {}]", pod("10.0.0.1", "a", ""), pod("10.0.0.2", "b", "ready: false, terminating: true"));
    let mut directory = Directory::new(at(0));
    directory.take(
        snapshot(&services, &[slice("w", "web", "IPv4", &endpoints), slice("a", "api", "IPv4", &endpoints)]),
        at(1),
    );
    let ready = |ready| Filter { namespace: None, ready };
    let all = list_all(directory.all(None), &ready(None));
    assert_eq!((all.counts.total, all.counts.ready, all.counts.terminating, all.instances.len()), (4, 2, 2, 4));
    let waiting = list_all(directory.all(Some("default")), &ready(Some(false)));
    assert_eq!((waiting.counts.total, waiting.instances.len()), (4, 2));
    assert!(waiting.instances.iter().all(|i| i.instance.id == "uid-b"));
    assert_eq!(waiting.instances[0].service, "api");
    assert_eq!(list_all(directory.all(Some("other")), &ready(None)).instances, []);
}

#[tokio::test]
async fn the_stage_follows_the_snapshots_and_ends_when_told() {
    let (snapshots_out, snapshots) = watch::channel(None);
    let (out, mut directory) = watch::channel(Directory::new(at(0)));
    let cancel = CancellationToken::new();
    let stage = tokio::spawn(run(snapshots, out, cancel.clone()));
    let web = service("web", "{}");
    snapshots_out.send_replace(Some(snapshot(std::slice::from_ref(&web), &[])));
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, directory.wait_for(|d| d.of(&name("web")).is_some())).await.unwrap().unwrap();
    let slices = [slice("web-4", "web", "IPv4", &format!("[{}]", pod("10.0.0.1", "a", "")))];
    snapshots_out.send_replace(Some(snapshot(&[web], &slices)));
    let has_one = |d: &Directory| list(d, "web").counts.total == 1;
    tokio::time::timeout(patience, directory.wait_for(has_one)).await.unwrap().unwrap();
    cancel.cancel();
    stage.await.unwrap();
}
