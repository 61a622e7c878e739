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
    let unused = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
                        "metadata": {"name": "unused"}, "spec": {
                            "targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
                            "validation": {"hostname": "web.example", "wellKnownCACertificates": "System"}}});
    scene.write("odd.yaml", &[edge, lost, pool, unused]);
    scene.until_state("default/web", "Accepted");
    for (object, code, words) in [
        ("service/default/web", 0, &["accepted", "203.0.113.7"][..]),
        ("svc/web", 0, &["Service default/web: accepted"]),
        ("gatewayclass/edge", 0, &["ignored (ForeignController)", "want \"sluice.dev/gateway\""]),
        ("gateway/default/lost", 0, &["ignored (NoSuchClass)", "\"slucie\"", "did you mean \"sluice\"?"]),
        ("addresspool/bad", 1, &["AddressPool bad: refused", "203.0.113.300/24"]),
        ("backendtlspolicy/default/any", 2, &["no BackendTLSPolicy default/any is known"]),
        ("btlspolicy/default/unused", 0, &["ignored (TargetNotUsed)", "no route of a Gateway of ours"]),
        ("grpcroute/default/any", 2, &["no GRPCRoute default/any is known"]),
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
fn headings_and_counts_say_what_is_true() {
    let scene = busy();
    let listeners =
        json!([{"name": "web", "port": 81, "protocol": "HTTP"}, {"name": "odd", "port": 53, "protocol": "SCTP"}]);
    let mut half = gateway("half", 81, None);
    half["spec"]["listeners"] = listeners;
    let sctp = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "sctp"},
                      "spec": {"type": "LoadBalancer", "ports": [{"port": 80, "protocol": "SCTP"}]}});
    scene.write("half.yaml", &[half, sctp]);
    scene.until_state("default/half", "UnsupportedProtocol");
    assert!(Connection::open(&scene.lab.client, (WEB_V4, 9).into()).is_err(), "no frontend is there");
    let status = scene.agent.show(&["status"]).expect("status");
    let under = |heading: &str, words: &str| {
        let lines = status.lines().skip_while(|line| *line != heading).skip(1);
        lines.take_while(|line| line.starts_with("  ")).any(|line| line.contains(words))
    };
    for (heading, words) in [
        ("objects of which a part does not work:", "default/half"),
        ("objects that do not work:", "default/sctp"),
        ("packets refused or dropped:", "no_frontend"),
    ] {
        assert!(under(heading, words), "{words} under {heading:?}:\n{status}");
    }
    assert!(!under("objects that do not work:", "default/half"), "{status}");
    let services = scene.agent.show(&["services"]).expect("services");
    let line = |name: &str| services.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
    assert!(line("default/half").contains("partial (UnsupportedProtocol)"), "{services}");
    assert!(line("default/web").contains("2 IPv4, 2 IPv6"), "{services}");
    let json = scene.agent.show_json(&["services"]).expect("JSON");
    let front = json.as_array().into_iter().flatten().find(|s| s["name"] == "default/front").expect("front").clone();
    assert_eq!((&front["flows"], &front["bytes"]), (&json!(null), &json!(null)), "the proxy counts requests");
    let none = std::process::Command::new(agent::binary().expect("a binary"))
        .args(["cleanup", "--bpf-dir", "/sys/fs/bpf/sluice-nowhere"])
        .output()
        .expect("a process");
    assert!(String::from_utf8_lossy(&none.stdout).contains("nothing was removed"), "{none:?}");
}

#[test]
fn manifests_that_are_not_there_are_named_by_status() {
    let scene = Scene::empty(Datapath::Tc, 0, 0);
    let Scene { lab, mut agent, .. } = scene;
    agent.stop().expect("it ends well");
    std::fs::remove_dir_all(agent.manifests()).expect("a directory");
    agent.spawn().expect("a process");
    let dir = agent.manifests().display().to_string();
    eventually("status names the directory", APPLIED, || {
        let said = agent.show(&["status"])?;
        anyhow::ensure!(said.contains(&dir) && said.contains("No such file or directory"), "{said}");
        Ok(())
    });
    drop((agent, lab));
}

#[test]
fn without_an_agent_the_maps_answer_and_say_so() {
    let mut scene = busy();
    let _held = Connection::open(&scene.lab.client, (WEB_V4, TCP).into()).expect("a connection");
    scene.agent.stop().expect("it ends well");
    let dir = scene.agent.bpf_dir().display().to_string();
    let wanted: [(&str, &[&str]); 3] = [
        ("flows", &["203.0.113.7:80", "established"]),
        ("backends", &["203.0.113.7:80/TCP", "10.244.1.11:7000", "local", "10.244.2.11:7000", "remote"]),
        ("services", &["203.0.113.7", "80/TCP", "InTheMaps"]),
    ];
    for (command, words) in wanted {
        let output = scene.agent.cli(&[command, "--bpf-dir", &dir]).expect("a process");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && err.contains("no agent runs") && err.contains(&dir), "{command}: {err}");
        for word in words {
            assert!(out.contains(word), "`sluice {command}` does not show {word:?}:\n{out}");
        }
        scene.agent.show_json(&[command, "--bpf-dir", &dir]).expect("JSON");
    }
    // What only an agent knows is not made up.
    let output = scene.agent.cli(&["flows", "--service", "web", "--bpf-dir", &dir]).expect("a process");
    assert!(!output.status.success(), "{output:?}");
}

#[test]
fn lists_are_narrowed_and_come_in_each_form() {
    let scene = busy();
    let _held = Connection::open(&scene.lab.client, (WEB_V4, TCP).into()).expect("a connection");
    for name in ["web", "default/web"] {
        let one = scene.agent.show_json(&["services", name]).expect("JSON");
        let names = one.as_array().into_iter().flatten().map(|s| s["name"].clone()).collect::<Vec<_>>();
        assert_eq!(names, [json!("default/web")]);
    }
    let none = scene.agent.cli(&["services", "wbe"]).expect("a process");
    assert!(String::from_utf8_lossy(&none.stderr).contains("did you mean web?"), "{none:?}");
    let count = |flags: &[&str]| {
        let flows = scene.agent.show_json(&[&["flows"], flags].concat()).expect("JSON");
        let open = flows["flows"].as_array().into_iter().flatten().filter(|f| f["state"] == "established").count();
        (open, flows["total"].as_u64().unwrap_or_default() > 0)
    };
    for (flags, expected) in [
        (&["--client", "198.51.100.10"][..], (1, true)),
        (&["--client", "198.51.100.0/24", "--vip", "203.0.113.7", "--service", "web"], (1, true)),
        (&["--client", "192.0.2.0/24"], (0, false)),
        (&["--vip", "203.0.113.99"], (0, false)),
        (&["--service", "v1"], (0, false)),
    ] {
        assert_eq!(count(flags), expected, "{flags:?}");
    }
    let yaml = scene.agent.show(&["services", "web", "-o", "yaml"]).expect("YAML");
    assert!(yaml.lines().any(|line| line.trim_start_matches("- ").trim() == "name: default/web"), "{yaml}");
    let (narrow, wide) = (scene.agent.show(&["services"]), scene.agent.show(&["services", "-o", "wide"]));
    let (narrow, wide) = (narrow.expect("a table"), wide.expect("a table"));
    assert!(!narrow.contains("DROPPED") && wide.contains("DROPPED") && wide.contains("CLIENTS"), "{narrow}\n{wide}");
}

#[test]
fn the_binary_documents_itself() {
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(agent::binary().expect("a binary")).args(arguments).output();
        let output = output.expect("a process");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    assert!(run(&["version"]).starts_with("sluice 0."));
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["completion", shell]).contains("instances"), "{shell}");
    }
    let dir = std::env::temp_dir().join(format!("sluice-man-{}", std::process::id()));
    run(&["man", &dir.display().to_string()]);
    let page = std::fs::read_to_string(dir.join("sluice-agent.1")).expect("a page");
    assert!(page.contains(".TH") && page.contains("manifests"), "{page}");
    std::fs::remove_dir_all(dir).expect("a directory");
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
