//! gRPC end to end: a real client and real servers (grpc-go), through `deploy/examples/grpc`, in clear text and under TLS.
//!
//! Most cases are those of gRPC's own interoperability tests; see `tests/clients/cmd/grpc`.
use std::{net::IpAddr, process::Command};

use serde_json::{Value, json};
use sluice_tests::netns::{Datapath, Program, Scene, eventually, manifest::Slice, scene::APPLIED, secure::Certificate};
use tempfile::TempDir;

const HOST: &str = "grpc.example";
/// Where the servers listen.
const PORT: u16 = 50051;

/// gRPC's own cases. Source: `interop-test-descriptions.md` of gRPC.
const OFFICIAL: [&str; 14] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "custom_metadata",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "unimplemented_service",
];
/// Ours.
const OWN: [&str; 6] = ["mebibytes", "deadline", "error_with_trailer", "cancel_is_seen", "by_metadata", "no_backend"];

/// The example with a server in each pod, and clients of it.
struct Bed {
    scene: Scene,
    vip: IpAddr,
    authority: TempDir,
    servers: Vec<Program>,
}

impl Bed {
    /// `api` is these pods, `api-next` is b1; `orders` has no endpoint.
    fn new(api: &[&str]) -> Self {
        let scene = Scene::empty(Datapath::Tc, 2, 1);
        let server = |pod: &str| {
            let mut command = Command::new(xtask::clients::grpc().expect("the program"));
            command.args(["server", "-listen", &format!(":{PORT}"), "-name", pod]);
            Program::serve(scene.lab.pod(pod).space(), &mut command).expect("a server")
        };
        let servers = ["a1", "a2", "b1"].map(server).into();
        let made = Certificate::new(HOST);
        let authority = tempfile::tempdir().expect("a directory");
        std::fs::write(authority.path().join("ca.pem"), &made.pem).expect("a file");
        for file in ["1-gateway.yaml", "2-route.yaml"] {
            let text = std::fs::read_to_string(xtask::root().join("deploy/examples/grpc").join(file));
            scene.agent.write_text(file, &text.expect("the example")).expect("a manifest");
        }
        scene.write("secret.yaml", &[made.secret("grpc-example")]);
        let bed = Self {
            vip: eventually("the Gateway has an address", APPLIED, || {
                let addresses = scene.agent.addresses("Gateway default/grpc")?;
                addresses.into_iter().find(IpAddr::is_ipv4).ok_or_else(|| anyhow::anyhow!("none"))
            }),
            scene,
            authority,
            servers,
        };
        bed.serve("api", api);
        bed.serve("api-next", &["b1"]);
        bed.serve("orders", &[]);
        for tls in [false, true] {
            eventually("calls are served", APPLIED, || bed.run(tls, &["empty_unary", "by_metadata"]));
        }
        bed
    }

    fn serve(&self, name: &str, pods: &[&str]) {
        let service: Value = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"ports": [{"name": "grpc", "port": PORT}]}});
        let slice = Slice::new(name, "v4").port("grpc", "TCP", PORT).pods(self.scene.lab.select(pods));
        self.scene.write(&format!("{name}.yaml"), &[service, slice.json()]);
    }

    fn client(&self, tls: bool, cases: &[&str]) -> Command {
        let mut command = Command::new(xtask::clients::grpc().expect("the program"));
        let to = format!("{}:{}", self.vip, if tls { 443 } else { 80 });
        command.args(["client", "-to", &to, "-authority", HOST]);
        if tls {
            command.arg("-ca").arg(self.authority.path().join("ca.pem"));
        }
        command.args(cases);
        command
    }

    fn run(&self, tls: bool, cases: &[&str]) -> anyhow::Result<String> {
        Program::run(&self.scene.lab.client, &mut self.client(tls, cases))
    }
}

#[test]
fn calls_of_all_kinds_are_as_without_a_proxy() {
    let bed = Bed::new(&["a1"]);
    for tls in [false, true] {
        let cases = [&OFFICIAL[..], &OWN].concat();
        let said = bed.run(tls, &cases).unwrap_or_else(|e| panic!("tls: {tls}: {e:#}"));
        for case in cases {
            assert!(said.lines().any(|line| line == format!("ok {case}")), "tls: {tls}, {case}: {said}");
        }
    }
}

/// A pod that is told to end says GOAWAY and closes its port; its slice follows. Open streams end with the client, and no call fails.
#[test]
fn a_rollout_under_streams_and_calls_fails_none() {
    for tls in [false, true] {
        let mut bed = Bed::new(&["a1"]);
        let mut client = Program::start(&bed.scene.lab.client, &mut bed.client(tls, &["rollout"])).expect("a client");
        assert_eq!(client.line("stream").expect("a stream"), "a1");
        bed.serve("api", &["a1", "a2"]);
        client.line("call a2").expect("the new pod has calls");
        let old = bed.servers.remove(0);
        old.terminate().expect("it runs");
        bed.serve("api", &["a2"]);
        eventually("calls leave the old pod", APPLIED, || {
            let said = bed.run(tls, &["pod"])?;
            anyhow::ensure!(said.contains("pod a2"), "{said}");
            Ok(())
        });
        client.tell("").expect("it runs");
        client.end().unwrap_or_else(|e| panic!("tls: {tls}: {e:#}"));
        old.end().expect("the old pod ends when its streams have");
    }
}
