//! The examples of `deploy/` as they are, through the whole of the proxy: that they do what their comments say.
use std::path::PathBuf;

use serde_json::json;

use crate::{
    harness::{Bed, Origin, header, status, until},
    tls::made,
    tls_origin::TlsOrigin,
};

fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples").join(name)
}

#[tokio::test]
async fn canary_by_weight_and_by_header() {
    let (shop, next) = (Origin::named("shop").await, Origin::named("next").await);
    let bed = Bed::of_manifests(&example("canary"), &[("shop", &[shop.addr]), ("shop-next", &[next.addr])]).await;
    let mut client = bed.connect().await;
    let mut of_next = 0;
    for _ in 0..200 {
        client.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
        let response = client.response().await;
        let is_next = response.ends_with("next");
        assert_eq!(header(&response, "x-version"), is_next.then_some("next"));
        of_next += usize::from(is_next);
    }
    assert_eq!(of_next, 10, "5 of 100");
    for _ in 0..20 {
        assert!(bed.get("/", "shop.example", "X-Version: next\r\n").await.ends_with("next"));
    }
}

#[tokio::test]
async fn mirror_to_the_next_version() {
    let (mut shop, mut next) = (Origin::named("shop").await, Origin::answering("HTTP/1.1 500 No\r\n\r\n", true).await);
    let bed = Bed::of_manifests(&example("mirror"), &[("shop", &[shop.addr]), ("shop-next", &[next.addr])]).await;
    // One of two, by chance: that none of 64 gets there is none of this world.
    for _ in 0..64 {
        assert!(bed.get("/cart", "shop.example", "").await.ends_with("shop"));
        let seen = shop.next().await;
        assert!(seen.starts_with("GET /v1/cart ") && header(&seen, "x-mirrored-by") == Some("sluice"), "{seen}");
    }
    until("the copies are through", || bed.stats.sum(|stats| &stats.active_mirrors) == 0).await;
    let copy = next.next().await;
    assert!(copy.starts_with("GET /cart ") && header(&copy, "x-mirrored-by") == Some("sluice"), "{copy}");
}

#[tokio::test]
async fn cors_for_the_pages_of_the_shop() {
    let mut api = Origin::named("api").await;
    let bed = Bed::of_manifests(&example("cors"), &[("api", &[api.addr])]).await;
    let preflight = async |origin: &str| {
        let asked = format!("Origin: {origin}\r\nAccess-Control-Request-Method: PUT\r\n");
        bed.raw(format!("OPTIONS / HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n{asked}\r\n")).await
    };
    for origin in ["https://shop.example", "https://www.shop.example"] {
        let response = preflight(origin).await;
        assert_eq!(status(&response), 204);
        assert_eq!(header(&response, "access-control-allow-origin"), Some(origin));
        assert_eq!(header(&response, "access-control-allow-methods"), Some("GET, PUT, DELETE"));
        assert_eq!(header(&response, "access-control-max-age"), Some("600"));
    }
    assert_eq!(status(&preflight("https://shop.example.evil").await), 403);
    assert!(api.untouched());
    let response = bed.get("/", "api.example", "Origin: https://shop.example\r\n").await;
    assert!(response.ends_with("api"));
    assert_eq!(header(&response, "access-control-allow-credentials"), Some("true"));
    assert_eq!(header(&response, "access-control-expose-headers"), Some("X-Request-Id"));
}

#[tokio::test]
async fn tls_to_a_backend_whose_certificate_is_known() {
    let server = made(&["payments.internal"]);
    let mut payments = TlsOrigin::start(&server).await;
    let dir = tempfile::tempdir().unwrap();
    for file in ["1-gateway.yaml", "2-policy.yaml"] {
        std::fs::copy(example("backend-tls").join(file), dir.path().join(file)).unwrap();
    }
    let authority = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "payments-ca", "namespace": "default"},
        "data": {"ca.crt": server.certificate}});
    std::fs::write(dir.path().join("3-authority.json"), authority.to_string()).unwrap();
    let bed = Bed::of_manifests(dir.path(), &[("payments:443", &[payments.addr])]).await;
    assert_eq!(status(&bed.get("/", "payments.example", "").await), 200);
    assert_eq!(payments.next().await.sni.as_deref(), Some("payments.internal"));
}
