//! Bad input: each object that is wrong is named, with what was found and what was wanted, and everything else works.
use std::{fs, net::SocketAddr};

use serde_json::{Value, json};
use sluice_tests::netns::{
    AgentSpec, Connection, Datapath, Scene, eventually,
    manifest::{Service, Slice},
    pod::TCP_PORT,
    scene::{APPLIED, TCP, WEB_V4},
};

/// What `sluice status -o json` says, once it satisfies `holds`.
fn until_status(scene: &Scene, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    eventually(what, APPLIED, || {
        let status = scene.agent.show_json(&["status"])?;
        anyhow::ensure!(holds(&status), "{status:#}");
        Ok(status)
    })
}

/// What has become of an object: outcome, reason and all messages.
fn verdict(scene: &Scene, object: &str) -> String {
    eventually(&format!("there is a verdict on {object}"), APPLIED, || scene.agent.show(&["why", object]))
}

/// `web` still serves.
fn web_serves(scene: &Scene) {
    for to in Scene::both(TCP) {
        Connection::open(&scene.lab.client, to).expect("web is not concerned");
    }
}

#[test]
fn a_file_that_does_not_parse_keeps_its_last_good_objects_and_is_named_with_its_line() {
    let scene = Scene::web(Datapath::Tc, 1, 0);
    let good = fs::read_to_string(scene.agent.manifests().join("web.yaml")).expect("a manifest");
    scene
        .agent
        .write_text("web.yaml", "apiVersion: v1\nkind: Service\nmetadata:\n  name: [web\nspec: {}\n")
        .expect("a file");
    let status = until_status(&scene, "the fault is shown", |s| s["faults"].as_array().is_some_and(|f| f.len() == 1));
    let origin = status["faults"][0]["origin"].as_str().expect("an origin").to_owned();
    let line =
        origin.rsplit_once(':').and_then(|(file, line)| Some((file.ends_with("web.yaml"), line.parse::<u32>().ok()?)));
    assert!(line.is_some_and(|(named, line)| named && (4..=5).contains(&line)), "file and line: {origin}");
    assert!(scene.agent.show(&["status"]).expect("status").contains("web.yaml:"));
    assert!(scene.agent.log().contains("web.yaml"), "the log names it as well");
    web_serves(&scene);
    // The other documents of a directory are followed meanwhile.
    scene.endpoints(&[]);
    scene.endpoints(&["a1"]);
    scene.agent.write_text("web.yaml", &good).expect("a file");
    until_status(&scene, "the fault is gone", |s| s["faults"].as_array().is_some_and(Vec::is_empty));
    web_serves(&scene);
}

/// The Service `web` as it is, with a change.
fn changed(scene: &Scene, change: impl Fn(&mut Value)) {
    let mut web = sluice_tests::netns::scene::web().json();
    change(&mut web);
    scene.write("web.yaml", &[web]);
}

#[test]
fn a_misspelt_field_or_value_is_a_fault_of_its_object_which_is_not_served_otherwise_than_it_was() {
    let scene = Scene::web(Datapath::Tc, 1, 0);
    let ranges = |field: &'static str| move |web: &mut Value| web["spec"][field] = json!(["192.168.0.0/16"]);
    changed(&scene, ranges("loadBalancerSourceRanges"));
    let refused = || match Connection::open(&scene.lab.client, (WEB_V4, TCP).into()) {
        Ok(_) => Err("the client is in no range"),
        Err(_) => Ok(()),
    };
    eventually("the ranges hold", APPLIED, refused);
    // Open, and it closes: nobody knows whom the edit was to shut out.
    changed(&scene, |_| {});
    eventually("it is open", APPLIED, || Connection::open(&scene.lab.client, (WEB_V4, TCP).into()).map(drop));
    changed(&scene, ranges("loadBalancerSourceRange"));
    let status = until_status(&scene, "the fault is shown", |s| s["faults"].as_array().is_some_and(|f| f.len() == 1));
    let said = "spec.loadBalancerSourceRange: unknown field, did you mean loadBalancerSourceRanges?";
    assert!(status["faults"][0]["reason"].as_str().is_some_and(|r| r.ends_with(said)), "{status:#}");
    eventually("it closes", APPLIED, refused);
    let output = scene.agent.cli(&["why", "service/default/web"]).expect("a process");
    let why = String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(output.status.code(), Some(1), "refused: {why}");
    assert!(
        why.contains(&format!("{said}; nobody may connect")) && why.contains("closed until this is mended"),
        "{why}"
    );
    // A slip elsewhere leaves open what is open.
    changed(&scene, |_| {});
    until_status(&scene, "no fault is left", |s| s["faults"].as_array().is_some_and(Vec::is_empty));
    changed(&scene, |web| web["spec"]["sesionAffinity"] = json!("ClientIP"));
    until_status(&scene, "the fault is shown", |s| s["faults"].as_array().is_some_and(|f| f.len() == 1));
    web_serves(&scene);
    let why = scene.agent.show(&["why", "service/default/web"]).expect("a verdict");
    assert!(why.contains("last good form"), "{why}");
    // One that never had a good form is not served at all.
    let slice = Slice::new("other", "v4").port("tcp", "TCP", TCP_PORT).pod(scene.lab.pod("a1"));
    let mut other = Service::new("other").port("tcp", "TCP", 81, TCP_PORT).json();
    other["spec"]["externalTrafficPolicy"] = json!("local");
    scene.write("other.yaml", &[other.clone(), slice.json()]);
    until_status(&scene, "both are shown", |s| s["faults"].as_array().is_some_and(|f| f.len() == 2));
    let output = scene.agent.cli(&["why", "service/default/other"]).expect("a process");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "refused: {said}");
    assert!(said.contains("refused") && said.contains("found \"local\", want Cluster or Local"), "{said}");
    let listed = scene.agent.show_json(&["services"]).expect("services");
    assert!(!listed.to_string().contains("default/other"), "{listed:#}");
    other["spec"]["externalTrafficPolicy"] = json!("Local");
    scene.write("other.yaml", &[other, slice.json()]);
    scene.until_state("default/other", "Accepted");
    changed(&scene, |_| {});
    until_status(&scene, "no fault is left", |s| s["faults"].as_array().is_some_and(Vec::is_empty));
    web_serves(&scene);
}

/// The most memory that a process has had at once. Units: MiB.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
}

#[test]
fn files_made_to_exhaust_memory_are_faults_and_cost_little() {
    const MOST: u64 = 512;
    const FILE: usize = 63 << 20;
    let scene = Scene::web(Datapath::Tc, 1, 0);
    let head = "apiVersion: v1\nkind: Service\nmetadata: {name: bomb";
    let levels = (1..20).map(|n| format!("x{n}: &x{n} [{}]\n", vec![format!("*x{}", n - 1); 20].join(", ")));
    let bomb = format!("{head}}}\nx0: &x0 [a, a, a, a]\n{}", levels.collect::<String>());
    let many = format!("{head}}}\nx: &x [{}]\ny: [{}]\n", vec!["a"; 1000].join(","), vec!["*x"; 2000].join(","));
    let list = format!("{{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{}{{}}]}}", "{},".repeat(FILE / 3));
    let strings = "\"\",".repeat(8 << 20 >> 2);
    let service = "{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {\"name\": \"wide\"}, \"spec\": ";
    let files = [
        ("bomb.yaml", bomb),
        ("many.yaml", many),
        ("deep.yaml", format!("{head}}}\nspec: {}", "[".repeat(100_000))),
        ("block.yaml", (0..2000).map(|n| format!("{}a:\n", " ".repeat(n))).collect()),
        ("deep.json", format!("{service}{}", "[".repeat(1_000_000))),
        ("list.json", list),
        ("wide.json", format!("{service}{{\"loadBalancerSourceRanges\": [{strings}\"\"]}}}}")),
        ("large.json", " ".repeat((64 << 20) + 1)),
    ];
    for (file, text) in &files {
        scene.agent.write_text(file, text).expect("a file");
    }
    let named = |status: &Value| files.iter().all(|(file, _)| status["faults"].to_string().contains(file));
    eventually("all are named", std::time::Duration::from_secs(120), || {
        let status = scene.agent.show_json(&["status"])?;
        anyhow::ensure!(named(&status), "{:#}", status["faults"]);
        Ok(())
    });
    let peak = peak(scene.agent.pid().expect("it runs"));
    assert!(peak < MOST, "{peak} MiB at the most, want less than {MOST}");
    web_serves(&scene);
}

#[test]
fn wrong_types_truncation_and_binary_are_faults_too() {
    let scene = Scene::web(Datapath::Tc, 1, 0);
    let files = [
        ("wrong-type.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec:\n  ports: 80\n"),
        ("truncated.json", "{\"apiVersion\": \"v1\", \"kind\": \"Serv"),
        ("binary.yaml", "\u{0}\u{1}\u{2}"),
        ("text.yaml", "just a sentence"),
    ];
    files.iter().for_each(|(file, text)| scene.agent.write_text(file, text).expect("a file"));
    let status =
        until_status(&scene, "all are shown", |s| s["faults"].as_array().is_some_and(|f| f.len() >= files.len()));
    for (file, _) in files {
        assert!(status["faults"].to_string().contains(file), "{file} is not named: {status:#}");
    }
    web_serves(&scene);
}

#[test]
fn kinds_that_are_not_read_are_reported_once_and_harm_nothing() {
    let scene = Scene::web(Datapath::Tc, 1, 0);
    for n in 0..3 {
        let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n---\n# nothing\n---\n";
        scene.agent.write_text(&format!("deployment{n}.yaml"), text).expect("a file");
    }
    eventually("the log names the kind", APPLIED, || match scene.agent.log().matches("Deployment").count() {
        1 => Ok(()),
        n => Err(format!("{n} times")),
    });
    let status = scene.agent.show_json(&["status"]).expect("status");
    assert_eq!(status["faults"], json!([]));
    web_serves(&scene);
}

#[test]
fn a_service_with_300_ports_is_refused() {
    let scene = Scene::web(Datapath::Tc, 1, 0);
    let wide = (1..=300).fold(Service::new("wide"), |s, n| s.port(&format!("p{n}"), "TCP", n, TCP_PORT));
    scene.write("wide.yaml", &[wide.json()]);
    scene.until_state("default/wide", "TooManyPorts");
    let said = verdict(&scene, "service/default/wide");
    assert!(said.contains("300 ports") && said.contains("want 100 at most"), "found and wanted: {said}");
    web_serves(&scene);
}

#[test]
fn endpoints_that_cannot_be_are_left_out_and_named() {
    let scene = Scene::web(Datapath::Tc, 1, 0);
    let bad = [
        ("127.0.0.1", "loopback"),
        ("169.254.1.1", "link-local"),
        ("224.0.0.1", "multicast"),
        ("0.0.0.0", "unspecified"),
        ("not-an-address", "not an address"),
    ];
    for (n, (address, _)) in bad.iter().enumerate() {
        let endpoint = json!({"addresses": [address], "conditions": {"ready": true}});
        let slice = Slice::new("web", &format!("bad{n}")).port("tcp", "TCP", TCP_PORT).endpoint(endpoint);
        scene.write(&format!("bad{n}.yaml"), &[slice.json()]);
    }
    eventually("the verdict names them", APPLIED, || {
        let said = scene.agent.show(&["why", "service/default/web"])?;
        for (n, (address, why)) in bad.iter().enumerate() {
            let line = said.lines().find(|l| l.contains(&format!("web-bad{n}")) && l.contains(address));
            anyhow::ensure!(line.is_some_and(|l| l.contains(why)), "{address} is {why}: {said}");
        }
        Ok(())
    });
    scene.until_reach((WEB_V4, TCP).into(), &["a1"], TCP_PORT);
    Connection::open(&scene.lab.client, (WEB_V4, TCP).into()).expect("the good endpoint serves");
}

#[test]
fn an_fqdn_slice_is_left_out_and_named() {
    let scene = Scene::web(Datapath::Tc, 1, 0);
    let mut slice = Slice::new("web", "names").port("tcp", "TCP", TCP_PORT).json();
    slice["addressType"] = json!("FQDN");
    slice["endpoints"] = json!([{"addresses": ["shop.example"], "conditions": {"ready": true}}]);
    scene.write("names.yaml", &[slice]);
    eventually("the verdict names it", APPLIED, || {
        let said = scene.agent.show(&["why", "service/default/web"])?;
        anyhow::ensure!(said.contains("web-names") && said.contains("FQDN"), "{said}");
        Ok(())
    });
    web_serves(&scene);
}

#[test]
fn two_services_that_claim_one_address_and_port_are_told_apart() {
    let scene = Scene::web(Datapath::Tc, 1, 1);
    let other = Service::new("zzz").port("tcp", "TCP", TCP, TCP_PORT).address(&WEB_V4.to_string());
    let slice = Slice::new("zzz", "v4").port("tcp", "TCP", TCP_PORT).pod(scene.lab.pod("b1"));
    scene.endpoints(&["a1"]);
    scene.write("zzz.yaml", &[other.json(), slice.json()]);
    let state = scene.until_state("default/zzz", "AddressTaken");
    assert_eq!(state["addresses"], json!([]));
    let said = verdict(&scene, "service/default/zzz");
    assert!(said.contains("203.0.113.7") && said.contains("default/web"), "who has it: {said}");
    scene.until_reach((WEB_V4, TCP).into(), &["a1"], TCP_PORT);
    // The same with leave to share: then it is the port that two of them claim.
    let share = |s: Service| s.annotation("sluice.dev/sharing-key", "one");
    scene.write("web.yaml", &[share(sluice_tests::netns::scene::web()).json()]);
    scene.write("zzz.yaml", &[share(other.clone()).json(), slice.json()]);
    scene.until_state("default/zzz", "PortConflict");
    scene.until_reach((WEB_V4, TCP).into(), &["a1"], TCP_PORT);
    scene.write(
        "zzz.yaml",
        &[share(other.port("more", "TCP", 81, TCP_PORT)).json(), {
            Slice::new("zzz", "v4").port("more", "TCP", TCP_PORT).pod(scene.lab.pod("b1")).json()
        }],
    );
    scene.until_reach((WEB_V4, 81).into(), &["b1"], TCP_PORT);
    web_serves(&scene);
}

#[test]
fn an_exhausted_pool_says_so_and_a_freed_address_goes_to_who_waits() {
    let scene = Scene::with(AgentSpec::new(Datapath::Tc).pools(&["203.0.113.7/32"]), 1, 0);
    for name in ["first", "second"] {
        let slice = Slice::new(name, "v4").port("tcp", "TCP", TCP_PORT).pod(scene.lab.pod("a1"));
        let service = Service::new(name).port("tcp", "TCP", TCP, TCP_PORT);
        scene.write(&format!("{name}.yaml"), &[service.json(), slice.json()]);
        scene.until_state(&format!("default/{name}"), if name == "first" { "Accepted" } else { "PoolExhausted" });
    }
    let said = verdict(&scene, "service/default/second");
    assert!(said.contains("203.0.113.7/32"), "which pool: {said}");
    let to = SocketAddr::from((WEB_V4, TCP));
    Connection::open(&scene.lab.client, to).expect("first serves");
    scene.agent.remove("first.yaml").expect("it is there");
    let state = scene.until_state("default/second", "Accepted");
    assert_eq!(state["addresses"], json!(["203.0.113.7"]));
    scene.until_reach(to, &["a1"], TCP_PORT);
    Connection::open(&scene.lab.client, to).expect("second serves");
}

#[test]
fn overlapping_pools_are_refused_at_the_start() {
    let scene = Scene::empty(Datapath::Tc, 0, 0);
    let Scene { lab, mut agent, .. } = scene;
    agent.stop().expect("it ends well");
    agent.spec_mut().pools = vec!["203.0.113.0/24".to_owned(), "203.0.113.128/25".to_owned()];
    agent.spawn().expect("a process");
    let (status, log) = agent.wait_end().expect("it gives up");
    assert!(!status.success() && log.contains("203.0.113.0/24") && log.contains("203.0.113.128/25"), "{log}");
    drop((agent, lab));
}

#[test]
fn an_address_outside_the_pools_is_refused_and_no_other_is_given() {
    let scene = Scene::web(Datapath::Tc, 1, 0);
    scene.write("away.yaml", &[Service::new("away").port("tcp", "TCP", 80, TCP_PORT).address("192.0.2.1").json()]);
    let state = scene.until_state("default/away", "AddressOutsidePools");
    assert_eq!(state["addresses"], json!([]));
    assert!(verdict(&scene, "service/default/away").contains("192.0.2.1"));
    web_serves(&scene);
}

#[test]
fn manifests_arrive_as_config_map_volumes_have_them() {
    // A directory per version, `..data` a link to the newest, the file a link through it: the kubelet swaps `..data`.
    let scene = Scene::empty(Datapath::Tc, 2, 0);
    let dir = scene.agent.manifests();
    let publish = |version: &str, pod: &str| {
        let slice = Slice::new("web", "v4").port("tcp", "TCP", TCP_PORT).pod(scene.lab.pod(pod)).json();
        let service = Service::new("web").port("tcp", "TCP", TCP, TCP_PORT).address(&WEB_V4.to_string()).json();
        let versioned = dir.join(format!("..{version}"));
        fs::create_dir(&versioned).expect("a directory");
        fs::write(versioned.join("web.yaml"), format!("{service:#}\n---\n{slice:#}\n")).expect("a file");
        std::os::unix::fs::symlink(format!("..{version}"), dir.join("..data_tmp")).expect("a link");
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).expect("a swap");
    };
    publish("2026_01", "a1");
    std::os::unix::fs::symlink("..data/web.yaml", dir.join("web.yaml")).expect("a link");
    scene.until_reach((WEB_V4, TCP).into(), &["a1"], TCP_PORT);
    publish("2026_02", "a2");
    fs::remove_dir_all(dir.join("..2026_01")).expect("a directory");
    scene.until_reach((WEB_V4, TCP).into(), &["a2"], TCP_PORT);
    let status = scene.agent.show_json(&["status"]).expect("status");
    assert_eq!((&status["faults"], &status["problems"]), (&json!([]), &json!([])), "read once, not twice: {status:#}");
}
