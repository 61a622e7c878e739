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
use crate::bench::{self, figures::Figures};

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
    /// Processor time for a request, as a ratio to one that meets the one rule of another Gateway; its goal.
    Flat(f64),
    /// What an answer waits beyond nginx's and HAProxy's: ratios of the median and of the 99th percentile.
    Latency(Load),
    /// Memory for each connection that is idle there, and its goal in KiB.
    Idle(Door, f64),
    /// What two workers serve, as a ratio to one.
    Workers,
    /// Changed routes: their time to effect, and what others wait meanwhile.
    Flips,
}

/// Connections that are held open and idle.
const IDLE: usize = 1000;
/// How long they are left alone before memory is looked at.
const RESTED: Duration = Duration::from_secs(3);
/// So many connections at once.
const BUSY: u32 = 64;

/// And so many, to be spread over the workers.
const SPREAD: u32 = 512;
/// What two workers serve at least, as a ratio to one.
const TWO_WORKERS: f64 = 1.8;
/// Routes, and changes of them.
const FLIPS: (usize, usize) = (3_000, 300);

/// All rows.
pub(super) const ROWS: [Row; 17] = [
    row("h1", "1 KiB over kept connections, saturated", Variant::One, Kind::Cpu(SMALL, [Some(0.9), None])),
    row("rate", "1 KiB at 8,000 requests a second", Variant::One, Kind::Cpu(Load::Rate, [Some(0.9), None])),
    row("latency", "waits at 8,000 requests a second", Variant::One, Kind::Latency(Load::Rate)),
    row("headers", "1,000 rules that differ in a header", Variant::Headers, Kind::Flat(1.03)),
    row("shared-header", "1,000 rules that share the first header", Variant::SharedHeader, Kind::Flat(1.03)),
    row("hosts", "5,000 host names", Variant::Hosts, Kind::Flat(1.03)),
    row("regexes", "200 regular expressions on one host", Variant::Regexes, Kind::Flat(1.25)),
    row("connections", "a connection for each request", Variant::One, Kind::Cpu(NEW, [Some(1.0), None])),
    row("h2", "HTTP/2 from the client", Variant::One, Kind::Cpu(Load::Http2, [None, Some(1.0)])),
    row("tls", "1 KiB over kept connections under TLS 1.3", Variant::One, Kind::Cpu(TLS, [Some(0.6), None])),
    row("h2-tls", "HTTP/2 under TLS 1.3", Variant::One, Kind::Cpu(Load::Http2Tls, [None, Some(1.0)])),
    row("grpc", "a gRPC call's head, HTTP/2 both ways", Variant::Rpc, Kind::Cpu(Load::Rpc, [None, Some(1.0)])),
    row("large", "responses of 1 MiB", Variant::One, Kind::Cpu(Load::Large(8), [Some(0.3), None])),
    row("idle", "a connection that is idle after one request", Variant::One, Kind::Idle(Door::Http1, 4.0)),
    row("idle-tls", "the same under TLS 1.3", Variant::One, Kind::Idle(Door::Tls, 12.0)),
    row("workers", "two workers beside one", Variant::One, Kind::Workers),
    row("flips", "a changed route among 3,000, as in `bench control --source routes`", Variant::One, Kind::Flips),
];

const SMALL: Load = Load::KeepAlive(BUSY);
const NEW: Load = Load::NewConnections;
const TLS: Load = Load::Tls(BUSY);

const fn row(name: &'static str, what: &'static str, variant: Variant, kind: Kind) -> Row {
    Row { name, what, variant, kind }
}

/// One slice of one proxy.
struct Slice {
    /// Processor time for a request. Units: microseconds.
    cpu: f64,
    /// Of our busiest worker, for each request of all. Units: microseconds.
    most: f64,
    latency: Option<[f64; 2]>,
}

/// Measures a row and prints it. Each begins with fresh processes: what one has left in memory is no other's.
pub(super) fn measure(row: &Row, options: &L7Options, figures: &mut Figures) -> anyhow::Result<()> {
    let stand = || Stand::build(row.variant, 1);
    match row.kind {
        Kind::Idle(door, goal) => idle(row, &stand()?, (door, goal), figures),
        Kind::Cpu(load, goals) => beside(row, &stand()?, (load, Some(goals)), options, figures),
        Kind::Latency(load) => beside(row, &stand()?, (load, None), options, figures),
        Kind::Flat(goal) => flat(row, &stand()?, goal, options, figures),
        Kind::Workers => workers(row, options, figures),
        Kind::Flips => {
            let (services, changes) = FLIPS;
            let (source, json) = (bench::Source::Routes, None);
            bench::control_beside(&bench::Options { source, services, changes, rate: 0.0, seconds: 0, json }, figures)
        }
    }
}

/// Visits proxies in turn; the slices of each.
fn slices<const N: usize>(
    stand: &Stand,
    proxies: [Proxy; N],
    (load, variant): (Load, Variant),
    options: &L7Options,
) -> anyhow::Result<[Vec<Slice>; N]> {
    let mut slices = [const { Vec::new() }; N];
    for round in 0..=options.rounds {
        for (index, proxy) in proxies.into_iter().enumerate() {
            let (before, workers) = (stand.cpu(proxy)?, stand.workers()?);
            let served = load.run(stand, proxy, variant, options.seconds)?;
            let each = |time: Duration| time.as_secs_f64() * 1e6 / served.requests;
            let cpu = each(stand.cpu(proxy)? - before);
            let most =
                stand.workers()?.iter().zip(workers).map(|(after, before)| each(*after - before)).fold(0.0, f64::max);
            // The first round fills pools and caches.
            if round > 0 {
                slices[index].push(Slice { cpu, most, latency: served.latency });
            }
        }
    }
    Ok(slices)
}

/// The ratio of two proxies: the median of those of neighbouring slices.
fn ratio(ours: &[Slice], theirs: &[Slice], of: fn(&Slice) -> f64) -> f64 {
    median(ours.iter().zip(theirs).map(|(a, b)| of(a) / of(b)))
}

/// Ours beside the peers; the goals are those of processor time, without them the waits count.
fn beside(
    row: &Row,
    stand: &Stand,
    (load, goals): (Load, Option<[Option<f64>; 2]>),
    options: &L7Options,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let slices = slices(stand, Proxy::ALL, (load, row.variant), options)?;
    let [nginx, haproxy, sluice] = &slices;
    let name = row.name;
    let cpu = |all: &[Slice]| median(all.iter().map(|slice| slice.cpu));
    for (proxy, all) in Proxy::ALL.into_iter().zip(&slices) {
        figures.at_most(&format!("{name}: CPU of {} for a request", proxy.name()), cpu(all), None, "us");
    }
    for (index, (peer, all)) in [("nginx", nginx), ("HAProxy", haproxy)].into_iter().enumerate() {
        if let Some(goals) = goals {
            figures.at_most(&format!("{name}: CPU, ratio to {peer}"), ratio(sluice, all, |s| s.cpu), goals[index], "x");
            continue;
        }
        let goal = (peer == "HAProxy").then_some(1.0);
        let p50 = ratio(sluice, all, |s| s.latency.map_or(f64::NAN, |l| l[0]));
        let p99 = ratio(sluice, all, |s| s.latency.map_or(f64::NAN, |l| l[1]));
        figures.at_most(&format!("{name}: p50, ratio to {peer}"), p50, goal, "x");
        figures.at_most(&format!("{name}: p99, ratio to {peer}"), p99, goal, "x");
    }
    Ok(())
}

/// Many rules beside one, in the same process: the processor time of its worker.
fn flat(row: &Row, stand: &Stand, goal: f64, options: &L7Options, figures: &mut Figures) -> anyhow::Result<()> {
    let proxies = [Proxy::Sluice, Proxy::Plain];
    let [many, one] = slices(stand, proxies, (SMALL, row.variant), options)?;
    for (proxy, all) in proxies.iter().zip([&many, &one]) {
        let what = format!("{}: CPU of {} for a request", row.name, proxy.name());
        figures.at_most(&what, median(all.iter().map(|slice| slice.most)), None, "us");
    }
    figures.at_most(&format!("{}: CPU, ratio to one rule", row.name), ratio(&many, &one, |s| s.most), Some(goal), "x");
    Ok(())
}

/// What two workers serve beside one, by the processor time of the busiest for each request. nginx is the measure of what the machine does
/// meanwhile: one worker and two cannot stand at one address.
fn workers(row: &Row, options: &L7Options, figures: &mut Figures) -> anyhow::Result<()> {
    let mut to_nginx = [0.0; 2];
    for (workers, most) in [1, 2].into_iter().zip(&mut to_nginx) {
        let stand = Stand::build(row.variant, workers)?;
        let load = Load::KeepAlive(SPREAD);
        let [nginx, sluice] = slices(&stand, [Proxy::Nginx, Proxy::Sluice], (load, row.variant), options)?;
        *most = median(sluice.iter().zip(&nginx).map(|(ours, theirs)| ours.most / theirs.cpu));
        let what = format!("{}: CPU of the busiest of {workers} for a request", row.name);
        figures.at_most(&what, median(sluice.iter().map(|slice| slice.most)), None, "us");
    }
    figures.at_least(&format!("{}: two serve as much as", row.name), to_nginx[0] / to_nginx[1], TWO_WORKERS, "x");
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
        std::thread::sleep(RESTED);
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
