//! Secrets on a real API server: followed one by one, by name, with a permission for the whole cluster or for one namespace.
use std::{
    net::IpAddr,
    process::{Command, Stdio},
};

use anyhow::Context as _;
use serde_json::{Value, json};
use sluice_tests::cluster::{TestNamespace, look::holds, scene::Scene};

const GATEWAY: &str = "gateway.networking.k8s.io/v1";
const RBAC: &str = "rbac.authorization.k8s.io/v1";

fn gateway(ns: &TestNamespace<'_>, name: &str) {
    let listener =
        json!({ "name": "https", "port": 443, "protocol": "HTTPS", "tls": { "certificateRefs": [{ "name": name }] } });
    ns.apply(
        GATEWAY,
        &format!("gateways/{name}"),
        &json!({ "kind": "Gateway", "spec": { "gatewayClassName": "sluice", "listeners": [listener] } }),
    );
}

/// A new certificate in a Secret; PEM.
fn secret(ns: &TestNamespace<'_>, name: &str) -> String {
    let made = rcgen::generate_simple_self_signed(vec!["shop.example".to_owned()]).expect("a certificate");
    let data = json!({ "tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem() });
    ns.apply(
        "",
        &format!("secrets/{name}"),
        &json!({ "kind": "Secret", "type": "kubernetes.io/tls", "stringData": data }),
    );
    made.cert.pem()
}

/// Waits until the listener's references are said to be bad for a reason with these words.
fn until_bad(scene: &Scene, ns: &TestNamespace<'_>, name: &str, words: &str) {
    scene.plane.until(&format!("{name} says {words:?}"), |api| {
        let gateway = api.get(&ns.path(GATEWAY, &format!("gateways/{name}")))?;
        let conditions = &gateway["status"]["listeners"][0]["conditions"];
        let resolved = conditions.as_array().context("no condition")?.iter().find(|c| c["type"] == "ResolvedRefs");
        let resolved = resolved.context("no such condition")?;
        let said = resolved["message"].as_str().unwrap_or_default();
        anyhow::ensure!(resolved["reason"] == "InvalidCertificateRef" && said.contains(words), "{resolved:#}");
        Ok(())
    });
}

/// Waits until it is programmed; where it is.
fn until_programmed(scene: &Scene, ns: &TestNamespace<'_>, name: &str) -> IpAddr {
    scene.plane.until(&format!("{name} is programmed"), |api| {
        let gateway = api.get(&ns.path(GATEWAY, &format!("gateways/{name}")))?;
        let status: &Value = &gateway["status"];
        anyhow::ensure!(holds(status, "Programmed") && holds(&status["listeners"][0], "ResolvedRefs"), "{status:#}");
        Ok(status["addresses"][0]["value"].as_str().context("no address")?.parse()?)
    })
}

/// Waits until this certificate, PEM, is shown at an address.
fn until_shown(scene: &Scene, vip: IpAddr, certificate: &str) {
    let connect = std::net::SocketAddr::new(vip, 443).to_string();
    let line = certificate.lines().nth(1).expect("base64");
    scene.plane.until(&format!("{vip} shows the certificate"), |_| {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &connect]).stdin(Stdio::null());
        let said = scene.lab.client.enter(move || command.output())?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        anyhow::ensure!(said.contains(line), "{said}");
        Ok(())
    });
}

#[test]
fn a_secret_is_followed_from_its_first_reference_to_its_last() {
    let scene = Scene::with(1, 1, |plane| plane.install_gateway_api().expect("the CRDs of Gateway API"));
    let ns = scene.plane.namespace("shop");
    gateway(&ns, "cert");
    until_bad(&scene, &ns, "cert", "does not exist");
    let first = secret(&ns, "cert");
    let vip = until_programmed(&scene, &ns, "cert");
    until_shown(&scene, vip, &first);
    until_shown(&scene, vip, &secret(&ns, "cert"));
    let bad =
        json!({ "kind": "Secret", "type": "kubernetes.io/tls", "stringData": { "tls.crt": "no", "tls.key": "no" } });
    ns.apply("", "secrets/cert", &bad);
    until_bad(&scene, &ns, "cert", "tls.crt has no certificate in PEM");
    secret(&ns, "cert");
    until_programmed(&scene, &ns, "cert");
    scene.plane.api().delete(&ns.path("", "secrets/cert")).expect("it can be deleted");
    until_bad(&scene, &ns, "cert", "does not exist");
}

#[test]
fn where_secrets_may_not_be_read_the_listener_says_so_and_a_role_binding_is_enough() {
    let scene = Scene::with(1, 1, |plane| {
        plane.install_gateway_api().expect("the CRDs of Gateway API");
        let binding = format!("/apis/{RBAC}/clusterrolebindings/sluice-tls");
        plane.api().delete(&binding).expect("the binding for all namespaces");
    });
    let (ns, other) = (scene.plane.namespace("shop"), scene.plane.namespace("other"));
    let [certificate, _] = [&ns, &other].map(|ns| {
        let certificate = secret(ns, "cert");
        gateway(ns, "cert");
        until_bad(&scene, ns, "cert", "may not be read");
        certificate
    });
    let binding = json!({
        "kind": "RoleBinding",
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "sluice-tls" },
        "subjects": [{ "kind": "ServiceAccount", "name": "sluice", "namespace": "sluice-system" }],
    });
    ns.apply(RBAC, "rolebindings/sluice-tls", &binding);
    let vip = until_programmed(&scene, &ns, "cert");
    until_shown(&scene, vip, &certificate);
    until_bad(&scene, &other, "cert", "may not be read");
}
