//! HTTP/2 end to end by clients of another maker: `nghttp` and `h2load`, in clear text and under TLS.
use std::{net::IpAddr, process::Command};

use serde_json::{Value, json};
use sluice_tests::netns::{
    Datapath, Program, Scene, eventually,
    manifest::http_route,
    scene::{APPLIED, versions},
    secure::Certificate,
};

const HOST: &str = "shop.example";

/// A Gateway with HTTP and HTTPS before pods a1 and a2, and its address.
pub(super) fn shop(made: &Certificate) -> (Scene, IpAddr) {
    let scene = Scene::empty(Datapath::Tc, 2, 0);
    let gateway: Value = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "shop", "namespace": "default"},
        "spec": {"gatewayClassName": "sluice", "listeners": [
            {"name": "http", "port": 80, "protocol": "HTTP"},
            {"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "shop"}]}}]}});
    let rules = json!([{"backendRefs": [{"name": "shop", "port": 80}]}]);
    scene.write("shop.yaml", &versions(&scene.lab, "shop", &["a1", "a2"]));
    scene.write("front.yaml", &[made.secret("shop"), gateway, http_route("shop", "shop", &[], &rules)]);
    let vip = eventually("the Gateway has an address", APPLIED, || {
        let addresses = scene.agent.addresses("Gateway default/shop")?;
        addresses.into_iter().find(IpAddr::is_ipv4).ok_or_else(|| anyhow::anyhow!("none"))
    });
    for tls in [false, true] {
        eventually("the shop is served", APPLIED, || {
            let said = nghttp(&scene, vip, tls, &["-n"], &["/"])?;
            anyhow::ensure!(said.contains(":status: 200"), "{said}");
            Ok(())
        });
    }
    (scene, vip)
}

fn urls(vip: IpAddr, tls: bool, paths: &[&str]) -> Vec<String> {
    let base = if tls { format!("https://{vip}:443") } else { format!("http://{vip}:80") };
    paths.iter().map(|path| format!("{base}{path}")).collect()
}

fn nghttp(scene: &Scene, vip: IpAddr, tls: bool, arguments: &[&str], paths: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("nghttp");
    command.args(["--verbose", "--no-verify-peer", "--timeout=60", "-H", &format!(":authority: {HOST}")]);
    command.args(arguments).args(urls(vip, tls, paths));
    let said = Program::run(&scene.lab.client, &mut command)?;
    // It colours what it prints.
    let mut plain = String::new();
    for (i, part) in said.split('\u{1b}').enumerate() {
        plain.push_str(if i == 0 { part } else { part.split_once('m').map_or(part, |(_, rest)| rest) });
    }
    Ok(plain)
}

/// What h2load says of so many requests; all must succeed.
fn h2load(scene: &Scene, vip: IpAddr, tls: bool, requests: usize, arguments: &[&str]) -> String {
    let mut command = Command::new("h2load");
    command.args(["-n", &requests.to_string(), "-T", "60", "-H", &format!(":authority: {HOST}")]);
    command.args(arguments).args(urls(vip, tls, &["/"]));
    let said = Program::run(&scene.lab.client, &mut command).expect("h2load runs");
    let all = format!("{requests} done, {requests} succeeded, 0 failed, 0 errored, 0 timeout");
    let good = format!("status codes: {requests} 2xx, 0 3xx, 0 4xx, 0 5xx");
    assert!(said.contains(&all) && said.contains(&good), "{arguments:?}: {said}");
    said
}

#[test]
fn nghttp_and_h2load_find_nothing_wrong() {
    let made = Certificate::new(HOST);
    let (scene, vip) = shop(&made);
    let dir = tempfile::tempdir().expect("a directory");
    let body = dir.path().join("body");
    std::fs::write(&body, vec![b'x'; 1 << 20]).expect("a file");
    let data = format!("--data={}", body.display());
    for tls in [false, true] {
        let run = |arguments: &[&str], paths: &[&str]| {
            nghttp(&scene, vip, tls, arguments, paths).unwrap_or_else(|e| panic!("tls: {tls}, {arguments:?}: {e:#}"))
        };
        // Several streams of one connection, each with its own answer.
        let said = run(&[], &["/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8"]);
        assert_eq!(said.matches(":status: 200").count(), 8, "{said}");
        for n in 1..=8 {
            assert_eq!(said.matches(&format!("\"path\":\"/{n}\"")).count(), 1, "{said}");
        }
        // Windows of 15 bytes.
        let small = run(&["-n", "-w", "4", "-W", "4", "-H", "x-test-body: 2000"], &["/small"]);
        assert!(small.contains(":status: 200") && small.contains("content-length: 2000"), "{small}");
        // A body of 1 MiB, padded, behind priorities, with a trailer, and one announced with Expect.
        for how in [&["-b", "200"][..], &["--trailer=x-sum: 1"], &["--expect-continue"], &["--no-dep"]] {
            let said = run(&[how, &[&data]].concat(), &["/data"]);
            assert!(said.contains(":status: 200") && said.contains("\"body\":1048576"), "{how:?}: {said}");
        }
        // Many connections and streams, large bodies, small windows, HTTP/1.1 on the same port.
        h2load(&scene, vip, tls, 2000, &["-c", "10", "-m", "20"]);
        h2load(&scene, vip, tls, 200, &["-c", "4", "-m", "10", "-H", "x-test-body: 100000"]);
        h2load(&scene, vip, tls, 20, &["-c", "2", "-m", "5", "-w", "10", "-W", "10", "-H", "x-test-body: 100000"]);
        h2load(&scene, vip, tls, 100, &["-c", "4", "-m", "10", &data]);
        h2load(&scene, vip, tls, 500, &["-c", "10", "--h1"]);
    }
}
