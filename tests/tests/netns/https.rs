//! HTTPS end to end: clients of other makers (curl, openssl) against the example of `deploy/`.
use std::{
    net::IpAddr,
    process::{Command, Output},
};

use serde_json::{Value, json};
use sluice_tests::netns::{
    Datapath, Scene, eventually,
    manifest::Slice,
    scene::{APPLIED, versions},
};

const HOST: &str = "shop.example";

/// A certificate for the host, PEM, and the Secret with it.
fn secret() -> (String, Value) {
    let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).expect("a certificate");
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "shop-example", "namespace": "default"},
        "stringData": {"tls.crt": certificate, "tls.key": key}});
    (certificate, secret)
}

/// Runs a program where the client is.
fn run(scene: &Scene, program: &str, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(args).stdin(std::process::Stdio::null());
    scene.lab.client.enter(move || command.output()).expect("the program is there")
}

/// The example, with pod a1 behind the shop, and where it is.
fn example(datapath: Datapath) -> (Scene, IpAddr) {
    let scene = Scene::empty(datapath, 1, 0);
    scene.write("shop.yaml", &versions(&scene.lab, "shop", &["a1"]));
    for file in ["1-gateway.yaml", "2-routes.yaml"] {
        let text =
            std::fs::read_to_string(xtask::root().join("deploy/examples/https").join(file)).expect("the example");
        scene.agent.write_text(file, &text).expect("a manifest");
    }
    let vip = eventually("the Gateway has an address", APPLIED, || {
        let addresses = scene.agent.addresses("Gateway default/secure")?;
        addresses.into_iter().find(IpAddr::is_ipv4).ok_or_else(|| anyhow::anyhow!("none"))
    });
    (scene, vip)
}

/// What curl says of a URL of the host: the status, a header or so, as its format asks for.
fn curl(scene: &Scene, vip: IpAddr, authority: &std::path::Path, url: &str, args: &[&str]) -> (bool, String) {
    let [http, https] = [80, 443].map(|port| format!("{HOST}:{port}:{vip}"));
    let mut all = vec!["-sS", "--max-time", "5", "--resolve", &http, "--resolve", &https];
    all.extend(["--cacert", authority.to_str().expect("a path"), url]);
    all.extend(args);
    let Output { status, stdout, stderr } = run(scene, "curl", &all);
    (status.success(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}

#[test]
fn the_example_serves_https_and_redirects_to_it() {
    let (scene, vip) = example(Datapath::Tc);
    let dir = tempfile::tempdir().expect("a directory");
    let authority = dir.path().join("ca.pem");
    let status = ["-o", "/dev/null", "-w", "%{http_code} %{redirect_url} %{ssl_verify_result} %{http_version}"];
    std::fs::write(&authority, secret().0).expect("a file");

    // Without the Secret HTTP works, and 443 does not.
    eventually("HTTP is served", APPLIED, || {
        let said = curl(&scene, vip, &authority, &format!("http://{HOST}/a?b=c"), &status);
        anyhow::ensure!(said == (true, format!("301 https://{HOST}/a?b=c 0 1.1")), "{said:?}");
        Ok(())
    });
    let said = scene.agent.cli(&["why", "gateway/default/secure"]).expect("an answer");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("Secret default/shop-example does not exist"), "{said}");

    // It comes, and is replaced.
    for round in 0..2 {
        let (certificate, secret) = secret();
        std::fs::write(&authority, certificate).expect("a file");
        scene.write("secret.yaml", &[secret]);
        for version in [&["--tlsv1.3", "--http2"][..], &["--tls-max", "1.2", "--http1.1"]] {
            let args = [&status[..], version].concat();
            let http = if version.contains(&"--http2") { "2" } else { "1.1" };
            eventually("HTTPS is served with the new certificate", APPLIED, || {
                let said = curl(&scene, vip, &authority, &format!("https://{HOST}/"), &args);
                anyhow::ensure!(said == (true, format!("200  0 {http}")), "round {round}: {said:?}");
                Ok(())
            });
        }
    }

    // Who asks for another name is told what is wrong.
    let at = format!("{vip}:443");
    let Output { stdout, stderr, .. } =
        run(&scene, "openssl", &["s_client", "-connect", &at, "-servername", "x.example"]);
    let said = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
    assert!(said.contains("unrecognized name"), "{said}");
}

/// An independent server behind the example, and two independent clients before it.
#[test]
fn the_example_passes_tls_through() {
    let scene = Scene::empty(Datapath::Tc, 1, 0);
    let dir = tempfile::tempdir().expect("a directory");
    let made = rcgen::generate_simple_self_signed(vec!["vault.shop.example".to_owned()]).expect("a certificate");
    let [authority, key] = ["ca.pem", "key.pem"].map(|file| dir.path().join(file));
    std::fs::write(&authority, made.cert.pem()).expect("a file");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
    let mut server = Command::new("openssl");
    server.args(["s_server", "-accept", "8443", "-www", "-cert", authority.to_str().expect("a path"), "-key"]);
    server.arg(&key).stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    let space = scene.lab.pod("a1").space();
    let mut server = Child(space.enter(move || server.spawn()).expect("openssl starts"));

    let slice = Slice::new("vault", "v4").port("tls", "TCP", 8443).pods(scene.lab.select(&["a1"]));
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "vault", "namespace": "default"},
        "spec": {"ports": [{"name": "tls", "port": 443}]}});
    scene.write("vault.yaml", &[service, slice.json()]);
    let text = std::fs::read_to_string(xtask::root().join("deploy/examples/tls-passthrough/gateway.yaml"));
    scene.agent.write_text("gateway.yaml", &text.expect("the example")).expect("a manifest");
    let vip = eventually("the Gateway has an address", APPLIED, || {
        let addresses = scene.agent.addresses("Gateway default/sealed")?;
        addresses.into_iter().find(IpAddr::is_ipv4).ok_or_else(|| anyhow::anyhow!("none"))
    });
    let resolve = format!("vault.shop.example:8443:{vip}");
    eventually("the vault answers with its own certificate", APPLIED, || {
        let authority = authority.to_str().expect("a path");
        let args = [
            "-sS",
            "--max-time",
            "5",
            "--resolve",
            &resolve,
            "--cacert",
            authority,
            "https://vault.shop.example:8443/",
        ];
        let Output { status, stdout, stderr } = run(&scene, "curl", &args);
        let said = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
        anyhow::ensure!(status.success() && said.contains("s_server"), "{said}");
        Ok(())
    });
    // A name that the listener has and no route: the end, and no alert.
    let at = format!("{vip}:8443");
    let args = ["s_client", "-connect", &at, "-servername", "other.shop.example"];
    let Output { stdout, stderr, .. } = run(&scene, "openssl", &args);
    let said = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
    assert!(!said.contains("alert") && said.contains("no peer certificate available"), "{said}");
    server.0.kill().expect("it runs");
}

/// A program that ends with the test.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn no_key_is_in_what_the_agent_writes() {
    let (scene, vip) = example(Datapath::Tc);
    let (certificate, secret) = secret();
    let dir = tempfile::tempdir().expect("a directory");
    let authority = dir.path().join("ca.pem");
    std::fs::write(&authority, certificate).expect("a file");
    let key = secret["stringData"]["tls.key"].as_str().expect("a key").to_owned();
    scene.write("secret.yaml", &[secret]);
    eventually("HTTPS is served", APPLIED, || {
        let said = curl(&scene, vip, &authority, &format!("https://{HOST}/"), &[]);
        anyhow::ensure!(said.0, "{said:?}");
        Ok(())
    });
    let line = key.lines().nth(1).expect("base64").to_owned();
    let mut texts = Vec::new();
    for command in [
        &["status"][..],
        &["services"],
        &["routes"],
        &["why", "gateway/default/secure"],
        &["why", "secret/default/shop-example"],
        &["why", "listener/default/secure/https"],
    ] {
        let out = scene.agent.cli(&[command, &["-o", "json"]].concat()).expect("an answer");
        texts.push(String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned());
    }
    texts.push(scene.agent.get("/metrics").expect("metrics").1);
    for text in texts {
        assert!(!text.contains(&line), "{text}");
    }
    let said = scene.agent.show(&["why", "listener/default/secure/https"]).expect("why");
    let shows = "host shop.example, under TLS with the certificate of Secret default/shop-example, valid until ";
    assert!(said.contains(&format!("{vip}:443: {shows}")), "{said}");
    let said = scene.agent.show(&["why", "secret/default/shop-example"]).expect("why");
    assert!(said.contains(&format!("listener default/secure/https shows it at {vip}:443")), "{said}");
    let limits = format!("/proc/{}/limits", scene.agent.pid().expect("it runs"));
    let limits = std::fs::read_to_string(limits).expect("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
}
