//! The command line and the admin API: tables that say what is true, JSON that parses, metrics that a scraper reads.
use serde_json::json;
use sluice_tests::netns::{
    AgentSpec, Connection, Datapath, Scene, agent, eventually,
    load::burst,
    manifest::{gateway, http_route},
    scene::{APPLIED, FRONT, TCP, UDP, WEB_V4, versions},
    udp,
};

/// A scene with one Service and one Gateway, and some traffic behind it.
fn busy() -> Scene {
    let scene = Scene::web(Datapath::Tc, 1, 1);
    scene.write("front.yaml", &[gateway("front", 80, Some(&FRONT.to_string()))]);
    scene.write("v1.yaml", &versions(&scene.lab, "v1", &["a1"]));
    let rules = json!([{"matches": [{"path": {"type": "PathPrefix", "value": "/shop"}}],
                        "backendRefs": [{"name": "v1", "port": 80}]}]);
    scene.write("route.yaml", &[http_route("shop", "front", &["shop.example"], &rules)]);
    scene.until_state("default/front", "Accepted");
    assert_eq!(burst(&scene.lab.client, (WEB_V4, TCP).into(), 50, 4).failed(), 0);
    udp::ask(&scene.lab.client, (WEB_V4, UDP).into(), 10).expect("an answer");
    scene
}

#[test]
fn every_inspection_says_what_is_true_as_table_and_as_json() {
    let scene = busy();
    let _held = Connection::open(&scene.lab.client, (WEB_V4, TCP).into()).expect("a connection");
    let wanted: [(&str, &[&str]); 5] = [
        ("status", &["node node1", "ready", "eth0", "198.51.100.1", "programmed: revision"]),
        ("services", &["default/web", "203.0.113.7", "2001:db8:113::7", "80/TCP", "53/UDP", "default/front", "proxy"]),
        ("backends", &["203.0.113.7:80/TCP", "10.244.1.11:7000", "local", "10.244.2.11:7000", "remote", "active"]),
        ("routes", &["default/front", "shop.example", "/shop", "default/shop#0", "v1"]),
        ("flows", &["TCP", "198.51.100.10:", "203.0.113.7:80", "established", "UDP"]),
    ];
    for (command, words) in wanted {
        let table = scene.agent.show(&[command]).expect("a table");
        for word in words {
            assert!(table.contains(word), "`sluice {command}` does not show {word:?}:\n{table}");
        }
        scene.agent.show_json(&[command]).expect("JSON");
    }
    let services = scene.agent.show_json(&["services"]).expect("JSON");
    let web = services.as_array().into_iter().flatten().find(|s| s["name"] == "default/web").expect("web").clone();
    assert_eq!((&web["kind"], &web["outcome"], &web["backends"]), (&json!("Service"), &json!("accepted"), &json!(4)));
    assert_eq!(web["flows"], 52, "50 of the burst, one datagram, one that is held");
    assert!(web["bytes"].as_u64() > Some(50 * 128), "bytes are counted: {web}");
    let backends = scene.agent.show_json(&["backends"]).expect("JSON");
    assert_eq!(backends.as_array().map(Vec::len), Some(8), "two pods, two families, two protocols");
    let flows = scene.agent.show_json(&["flows"]).expect("JSON");
    let held = flows["flows"].as_array().into_iter().flatten().filter(|f| f["state"] == "established").count();
    assert_eq!(held, 1, "{flows:#}");
}

#[test]
fn without_an_agent_the_command_line_says_where_it_has_looked() {
    let mut scene = Scene::empty(Datapath::Tc, 0, 0);
    scene.agent.stop().expect("it ends well");
    let output = scene.agent.cli(&["status"]).expect("a process");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("admin.sock"), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "one sentence: {said}");
}

#[test]
fn why_tells_of_every_kind_and_its_exit_status_says_whether_the_object_works() {
    let scene = busy();
    let edge = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "edge"},
                      "spec": {"controllerName": "example.com/other"}});
    let mut lost = gateway("lost", 80, None);
    lost["spec"]["gatewayClassName"] = json!("slucie");
    let pool = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "AddressPool", "metadata": {"name": "bad"},
                      "spec": {"addresses": ["203.0.113.300/24"]}});
    scene.write("odd.yaml", &[edge, lost, pool]);
    scene.until_state("default/web", "Accepted");
    for (object, code, words) in [
        ("service/default/web", 0, &["accepted", "203.0.113.7"][..]),
        ("svc/web", 0, &["Service default/web: accepted"]),
        ("gatewayclass/edge", 0, &["ignored (ForeignController)", "want \"sluice.dev/gateway\""]),
        ("gateway/default/lost", 0, &["ignored (NoSuchClass)", "\"slucie\"", "did you mean \"sluice\"?"]),
        ("addresspool/bad", 1, &["AddressPool bad: refused", "203.0.113.300/24"]),
        ("grpcroute/default/any", 0, &["ignored (UnsupportedKind)", "not served yet"]),
        ("endpointslice/default/web-v4", 0, &["ignored (ReadForOthers)", "Service default/web"]),
        ("service/default/wbe", 2, &["no Service default/wbe is known", "did you mean default/web?"]),
        ("servce/default/web", 2, &["did you mean Service?"]),
        ("addresspool/a/b", 2, &["is in no namespace"]),
        ("nonsense", 2, &["want KIND/NAMESPACE/NAME"]),
    ] {
        eventually(object, APPLIED, || {
            let output = scene.agent.cli(&["why", object])?;
            let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
            anyhow::ensure!(output.status.code() == Some(code), "{object} ends with {}: {said}", output.status);
            let missing = words.iter().find(|word| !said.contains(**word));
            anyhow::ensure!(missing.is_none(), "{object} lacks {missing:?}: {said}");
            Ok(())
        });
    }
}

#[test]
fn what_others_wrote_reaches_no_terminal_raw() {
    let scene = busy();
    let rules = json!([{"matches": [{"path": {"type": "RegularExpression", "value": "/\u{1b}]0;owned\u{7}(\u{9b}31m"}}],
                        "backendRefs": [{"name": "v1", "port": 80}]}]);
    let bad = http_route("bad", "front", &["bad.example"], &rules).to_string();
    scene.agent.write_text("bad.json", &bad).expect("a file");
    let is_raw = |text: &str| text.chars().any(|c| c.is_control() && c != '\n');
    eventually("the verdict shows the pattern, escaped", APPLIED, || {
        let said = scene.agent.show(&["why", "httproute/default/bad"])?;
        anyhow::ensure!(said.contains("owned") && said.contains("\\u{7}") && !is_raw(&said), "{said:?}");
        Ok(())
    });
    for command in
        [&["status"][..], &["routes"], &["status", "-o", "json"], &["why", "httproute/default/bad", "-o", "json"]]
    {
        let said = scene.agent.show(command).expect("an answer");
        assert!(!is_raw(&said), "{command:?}: {said:?}");
    }
    scene
        .agent
        .write_text("raw.yaml", "apiVersion: v1\nkind: \"S\\e]0;owned\\a\"\nmetadata: {name: x}\n")
        .expect("a file");
    eventually("the log names the kind, escaped", APPLIED, || {
        let log = scene.agent.log();
        anyhow::ensure!(log.contains("kind is not read") && !is_raw(&log), "{log:?}");
        Ok(())
    });
}

#[test]
fn health_and_metrics_are_for_probes_and_scrapers() {
    let mut spec = AgentSpec::new(Datapath::Tc);
    spec.extra = ["--metrics-addr", "127.0.0.1:9500"].map(str::to_owned).to_vec();
    let scene = Scene::with(spec, 1, 0);
    for path in ["/livez", "/readyz"] {
        assert_eq!(scene.agent.get(path).expect("an answer").0, 200, "{path}");
    }
    let (status, metrics) = scene.agent.get("/metrics").expect("an answer");
    assert_eq!(status, 200);
    for line in metrics.lines().filter(|l| !l.starts_with('#')) {
        let value = line.rsplit_once(' ').and_then(|(_, value)| value.parse::<f64>().ok());
        assert!(value.is_some(), "not a sample: {line:?}");
    }
    assert!(metrics.contains("sluice_ready 1") && metrics.trim_end().ends_with("# EOF"), "{metrics}");
    // The same over TCP; what shows objects stays on the Unix socket.
    let over_tcp = |path: &str| {
        let request = sluice_tests::netns::http::get("node1", path);
        let protocol = sluice_tests::netns::http::Protocol::Http1;
        sluice_tests::netns::http::send(&scene.lab.node1, ([127, 0, 0, 1], 9500).into(), protocol, request)
    };
    assert_eq!(over_tcp("/metrics").expect("an answer").status, 200);
    assert_eq!(over_tcp("/readyz").expect("an answer").status, 200);
    assert_eq!(over_tcp("/api/v1/status").expect("an answer").status, 404);
}

#[test]
fn help_explains_itself() {
    let help = |arguments: &[&str]| {
        let output = std::process::Command::new(agent::binary().expect("a binary")).args(arguments).output();
        String::from_utf8(output.expect("a process").stdout).expect("text")
    };
    let agent = help(&["agent", "--help"]);
    for word in ["--manifests", "--interface", "--pool", "--datapath", "xdp-generic", "--bpf-dir", "Example"] {
        assert!(agent.contains(word), "`sluice agent --help` does not mention {word}");
    }
    for command in ["status", "services", "backends", "routes", "flows", "cleanup"] {
        assert!(help(&["--help"]).contains(command), "`sluice --help` does not mention {command}");
        assert!(help(&[command, "--help"]).contains("Usage"), "`sluice {command} --help`");
    }
}
