//! An HTTP/2 client that breaks the protocol in all ways that chance finds, and floods that are known: the proxy ends what is
//! wrong, lives, stays as small as it was, and others notice nothing.
use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use sluice_tests::netns::{
    Scene,
    frames::{End, Wire, announced, field, frame, get, kind::*, post},
    http::{self as client, Protocol},
    secure::Certificate,
};

use super::http2::shop;

/// Connections of the fuzzer, each with a seed of its own: a failure names it, and is the same the next time.
const SEEDS: u64 = 400;
/// What the agent may grow by. All that a connection may hold is bounded; 64 of the floods at once would show any that is not.
const GROWTH: usize = 96 << 20;

/// One connection's worth of frames, made of sound ones and of what chance does to them.
fn script(random: &mut fastrand::Rng, tls: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.usize(1..40) {
        bytes.extend(one(random, tls));
    }
    // Now and then a bit is turned, or the end is missing.
    if random.u8(..4) == 0 {
        let at = random.usize(..bytes.len());
        bytes[at] ^= 1 << random.u8(..8);
    }
    if random.u8(..8) == 0 {
        bytes.truncate(random.usize(1..=bytes.len()));
    }
    bytes
}

fn one(random: &mut fastrand::Rng, tls: bool) -> Vec<u8> {
    let stream = *random.choice([0, 1, 1, 3, 3, 5, 7, 2, 101, 0x7fff_ffff, u32::MAX].iter()).unwrap_or(&1);
    let flags =
        if random.bool() { *random.choice([0, 1, 4, 5, 8, 9, 0x25].iter()).unwrap_or(&0) } else { random.u8(..) };
    let noise: Vec<u8> = (0..random.usize(..64)).map(|_| random.u8(..)).collect();
    match random.u8(..14) {
        0 | 1 => frame(HEADERS, flags | 4, stream, &[get(tls), noise_fields(random)].concat()),
        2 => frame(HEADERS, 4, stream, &post(tls)),
        3 => frame(HEADERS, flags, stream, &noise),
        4 => frame(DATA, flags, stream, &noise),
        5 => frame(CONTINUATION, flags, stream, &noise),
        6 => frame(SETTINGS, flags & 1, 0, &noise[..noise.len() / 6 * 6]),
        7 => frame(WINDOW_UPDATE, 0, stream, &random.u32(..).to_be_bytes()),
        8 => frame(RST_STREAM, 0, stream, &random.u32(..14).to_be_bytes()),
        9 => frame(PRIORITY, 0, stream, &[0, 0, 0, random.u8(..8), 16]),
        10 => frame(PING, flags, 0, &[random.u8(..); 8]),
        11 => frame(GOAWAY, 0, 0, &[0; 8]),
        12 => announced(random.u8(..12), flags, stream, random.usize(..20_000), &noise),
        _ => frame(random.u8(..), flags, stream, &noise),
    }
}

fn noise_fields(random: &mut fastrand::Rng) -> Vec<u8> {
    let names =
        ["x-a", "cookie", "content-length", "te", "transfer-encoding", "expect", ":path", "host", "x-test-body"];
    let values = ["1", "", "-1", "99999999999999999999", "chunked", "100-continue", "/../..", "a\0b", "trailers"];
    let pick = |random: &mut fastrand::Rng, of: &[&'static str]| random.choice(of.iter()).copied().unwrap_or_default();
    (0..random.usize(..6)).flat_map(|_| field(pick(random, &names), pick(random, &values))).collect()
}

/// Floods, each on one connection: what they are called, the bytes that are said again and again, how often.
fn floods(tls: bool) -> Vec<(&'static str, Vec<u8>, Vec<u8>, usize)> {
    let (get, post) = (get(tls), post(tls));
    let large = field("x-large", &"y".repeat(100)).repeat(100);
    let resets = |of: &[u8], count: u32| -> Vec<u8> {
        let each = |n: u32| [frame(HEADERS, 5, 2 * n + 1, of), frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8])].concat();
        (0..count).flat_map(each).collect()
    };
    vec![
        ("CONTINUATION (CVE-2024-27316)", frame(HEADERS, 1, 1, &get), frame(CONTINUATION, 0, 1, &large), 4000),
        ("empty CONTINUATION", frame(HEADERS, 1, 1, &get), frame(CONTINUATION, 0, 1, &[]), 200_000),
        ("rapid reset (CVE-2023-44487)", vec![], resets(&get, 20_000), 1),
        ("SETTINGS (CVE-2019-9515)", vec![], frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]), 200_000),
        ("PING (CVE-2019-9512)", vec![], frame(PING, 0, 0, &[7; 8]), 200_000),
        ("empty DATA (CVE-2019-9518)", frame(HEADERS, 4, 1, &post), frame(DATA, 0, 1, &[]), 200_000),
        ("PRIORITY (CVE-2019-9513)", vec![], frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 16]), 200_000),
        ("unknown frames", vec![], frame(0xbe, 0, 0, &[0; 100]), 200_000),
        ("WINDOW_UPDATE", frame(HEADERS, 4, 1, &post), frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), 200_000),
    ]
}

/// Reads until the connection ends, as it must: nothing more can be said. The code, if there was one.
async fn to_its_end(wire: &mut Wire) -> anyhow::Result<Option<u32>> {
    loop {
        if let End::Connection(code) = wire.end(1).await? {
            return Ok(code);
        }
    }
}

/// Bytes that the agent holds in memory.
fn memory(scene: &Scene) -> usize {
    let status = format!("/proc/{}/status", scene.agent.pid().expect("it runs"));
    let status = std::fs::read_to_string(status).expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
}

/// Runs `attack` while another client asks on a connection that it keeps: each of its requests is answered.
fn beside_others(scene: &Scene, vip: IpAddr, attack: impl FnOnce() + Send) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            scene.lab.client.block_on(|| async {
                let mut connection =
                    client::Connection::open((vip, 80).into(), Protocol::H2c).await.expect("a connection");
                let mut count = 0;
                while !over.load(Relaxed) || count == 0 {
                    let reply = connection.send(client::get("shop.example", "/other")).await.expect("an answer");
                    assert_eq!((reply.status, reply.seen().path), (http::StatusCode::OK, "/other".to_owned()));
                    count += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        });
        // The others end also where the attack fails.
        let result = scope.spawn(attack).join();
        over.store(true, Relaxed);
        others.join().expect("others are served all the time");
        result.expect("the attack is answered");
    });
}

#[test]
fn frames_of_chance_end_in_order_and_nobody_else_notices() {
    let made = Certificate::new("shop.example");
    let (scene, vip) = shop(&made);
    let before = (scene.agent.pid(), memory(&scene));
    beside_others(&scene, vip, || {
        scene.lab.client.block_on(|| async {
            for seed in 0..SEEDS {
                let mut random = fastrand::Rng::with_seed(seed);
                let (port, tls) = if seed % 4 == 0 { (443, Some(&made)) } else { (80, None) };
                let mut wire = Wire::open(SocketAddr::from((vip, port)), tls).await.expect("a connection");
                wire.send(&script(&mut random, tls.is_some())).await;
                wire.send(&frame(PING, 0, 0, b"8 bytes!")).await;
                wire.finish().await;
                // To its end, which must come: nothing more can be said.
                while wire.next().await.unwrap_or_else(|e| panic!("seed {seed}: {e:#}")).is_some() {}
            }
        });
    });
    assert_eq!(scene.agent.pid(), before.0);
    let grown = memory(&scene).saturating_sub(before.1);
    assert!(grown < GROWTH, "{grown} bytes more than before");
}

#[test]
fn floods_are_bounded_and_nobody_else_notices() {
    let made = Certificate::new("shop.example");
    let (scene, vip) = shop(&made);
    let before = memory(&scene);
    beside_others(&scene, vip, || {
        scene.lab.client.block_on(|| async {
            for (port, tls) in [(80, None), (443, Some(&made))] {
                for (what, first, again, count) in floods(tls.is_some()) {
                    let mut wire = Wire::open(SocketAddr::from((vip, port)), tls).await.expect("a connection");
                    wire.send(&first).await;
                    let (began, mut sent) = (Instant::now(), 0);
                    let some = again.repeat((64_usize << 10).div_ceil(again.len()).min(count));
                    let total = again.len() * count;
                    // The attacker reads as well, or its own windows would stop it.
                    let end = loop {
                        if sent < total {
                            wire.send(&some).await;
                            sent += some.len();
                        } else {
                            wire.send(&frame(PING, 0, 0, b"8 bytes!")).await;
                            wire.finish().await;
                            break to_its_end(&mut wire).await.unwrap_or_else(|e| panic!("{what}: {e:#}"));
                        }
                    };
                    let told = (what, tls.is_some(), began.elapsed());
                    println!("{told:?}: {end:?}");
                    let grown = memory(&scene).saturating_sub(before);
                    assert!(grown < GROWTH, "{told:?}: {grown} bytes more than before");
                }
            }
        });
    });
}
