//! The rows of the table: what is asked, and what of it counts.
use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::{
    L7Options,
    config::{NAME, Variant},
    load::Load,
    proxies::{Door, Proxy, Stand},
};
use crate::bench::figures::Figures;

/// A row.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) variant: Variant,
    kind: Kind,
}

enum Kind {
    /// Processor time for a request, as a ratio to each peer; the goals for nginx and for HAProxy.
    Cpu(Load, [Option<f64>; 2]),
    /// What an answer waits beyond nginx's and HAProxy's: ratios of the median and of the 99th percentile.
    Latency(Load),
    /// Memory for each connection that is idle there, and its goal in KiB.
    Idle(Door, f64),
}

/// Connections that are held open and idle.
const IDLE: usize = 1000;
/// How long they are left alone before memory is looked at.
const RESTED: Duration = Duration::from_secs(3);
/// So many connections at once.
const BUSY: u32 = 64;

/// All rows.
pub(super) const ROWS: [Row; 13] = [
    row("h1", "1 KiB over kept connections, saturated", Variant::One, Kind::Cpu(SMALL, [Some(0.9), None])),
    row("rate", "1 KiB at 8,000 requests a second", Variant::One, Kind::Cpu(Load::Rate, [Some(0.9), None])),
    row("latency", "waits at 8,000 requests a second", Variant::One, Kind::Latency(Load::Rate)),
    row("headers", "1,000 rules that differ in a header", Variant::Headers, Kind::Cpu(SMALL, [None, None])),
    row("hosts", "5,000 host names", Variant::Hosts, Kind::Cpu(SMALL, [None, None])),
    row("connections", "a connection for each request", Variant::One, Kind::Cpu(NEW, [Some(1.0), None])),
    row("h2", "HTTP/2 from the client", Variant::One, Kind::Cpu(Load::Http2, [None, Some(1.0)])),
    row("tls", "1 KiB over kept connections under TLS 1.3", Variant::One, Kind::Cpu(TLS, [Some(0.6), None])),
    row("h2-tls", "HTTP/2 under TLS 1.3", Variant::One, Kind::Cpu(Load::Http2Tls, [None, Some(1.0)])),
    row("grpc", "a gRPC call's head, HTTP/2 both ways", Variant::Rpc, Kind::Cpu(Load::Rpc, [None, Some(1.0)])),
    row("large", "responses of 1 MiB", Variant::One, Kind::Cpu(Load::KeepAlive(8, "/m"), [Some(0.3), None])),
    row("idle", "a connection that is idle after one request", Variant::One, Kind::Idle(Door::Http1, 4.0)),
    row("idle-tls", "the same under TLS 1.3", Variant::One, Kind::Idle(Door::Tls, 12.0)),
];

const SMALL: Load = Load::KeepAlive(BUSY, "/k");
const NEW: Load = Load::NewConnections;
const TLS: Load = Load::Tls(BUSY);

const fn row(name: &'static str, what: &'static str, variant: Variant, kind: Kind) -> Row {
    Row { name, what, variant, kind }
}

/// One slice of one proxy.
struct Slice {
    /// Processor time for a request. Units: microseconds.
    cpu: f64,
    latency: Option<[f64; 2]>,
}

/// Measures a row and prints it.
pub(super) fn measure(row: &Row, stand: &Stand, options: &L7Options, figures: &mut Figures) -> anyhow::Result<()> {
    let (load, is_latency) = match row.kind {
        Kind::Idle(door, goal) => return idle(row, stand, (door, goal), figures),
        Kind::Cpu(load, _) => (load, false),
        Kind::Latency(load) => (load, true),
    };
    let mut slices: [Vec<Slice>; 3] = [const { Vec::new() }; 3];
    for round in 0..=options.rounds {
        for (index, proxy) in Proxy::ALL.into_iter().enumerate() {
            let before = stand.cpu(proxy)?;
            let served = load.run(stand, proxy, row.variant, options.seconds)?;
            let cpu = (stand.cpu(proxy)? - before).as_secs_f64() * 1e6 / served.requests;
            // The first round fills pools and caches.
            if round > 0 {
                slices[index].push(Slice { cpu, latency: served.latency });
            }
        }
    }
    let [nginx, haproxy, sluice] = &slices;
    let name = row.name;
    let cpu = |all: &[Slice]| median(all.iter().map(|slice| slice.cpu));
    for (proxy, all) in Proxy::ALL.into_iter().zip(&slices) {
        figures.at_most(&format!("{name}: CPU of {} for a request", proxy.name()), cpu(all), None, "us");
    }
    let ratio = |peer: &[Slice], of: fn(&Slice) -> f64| median(sluice.iter().zip(peer).map(|(a, b)| of(a) / of(b)));
    for (index, (peer, all)) in [("nginx", nginx), ("HAProxy", haproxy)].into_iter().enumerate() {
        if let Kind::Cpu(_, goals) = row.kind {
            figures.at_most(&format!("{name}: CPU, ratio to {peer}"), ratio(all, |s| s.cpu), goals[index], "x");
        }
        if is_latency {
            let goal = (peer == "HAProxy").then_some(1.0);
            let p50 = ratio(all, |s| s.latency.map_or(f64::NAN, |l| l[0]));
            let p99 = ratio(all, |s| s.latency.map_or(f64::NAN, |l| l[1]));
            figures.at_most(&format!("{name}: p50, ratio to {peer}"), p50, goal, "x");
            figures.at_most(&format!("{name}: p99, ratio to {peer}"), p99, goal, "x");
        }
    }
    Ok(())
}

/// What connections cost that have had one request each.
fn idle(row: &Row, stand: &Stand, (door, goal): (Door, f64), figures: &mut Figures) -> anyhow::Result<()> {
    let config = client(&stand.certificate)?;
    for proxy in Proxy::ALL {
        let address = proxy.address(door);
        let open = || -> anyhow::Result<TcpStream> {
            let mut stream = TcpStream::connect(&address)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            if door == Door::Tls {
                let session = ClientConnection::new(Arc::clone(&config), NAME.try_into()?)?;
                let mut stream = StreamOwned::new(session, stream);
                ask(&mut stream)?;
                return Ok(stream.sock);
            }
            ask(&mut stream)?;
            Ok(stream)
        };
        // What one connection brings with it is not counted.
        let first = stand.space.enter(open).with_context(|| format!("ask {}", proxy.name()))?;
        let before = stand.memory(proxy)?;
        let all = stand.space.enter(|| (0..IDLE).map(|_| open()).collect::<anyhow::Result<Vec<_>>>())?;
        std::thread::sleep(RESTED);
        let after = stand.memory(proxy)?;
        drop((first, all));
        let each = after.saturating_sub(before) as f64 / 1024.0 / IDLE as f64;
        let goal = (proxy == Proxy::Sluice).then_some(goal);
        figures.at_most(&format!("{}: memory of {}", row.name, proxy.name()), each, goal, "KiB");
    }
    Ok(())
}

/// Sends one request and reads the answer.
fn ask(stream: &mut (impl Read + Write)) -> anyhow::Result<()> {
    stream.write_all(format!("GET /k HTTP/1.1\r\nhost: {NAME}\r\n\r\n").as_bytes())?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(&[b'x'; 1 << 10]) {
        let n = stream.read(&mut buffer)?;
        anyhow::ensure!(n > 0, "the connection ended after {} bytes", answer.len());
        answer.extend_from_slice(&buffer[..n]);
    }
    Ok(())
}

/// A client of TLS that trusts this certificate.
fn client(certificate: &str) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes())?)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    Ok(Arc::new(builder.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth()))
}

fn median(all: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = all.collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}
