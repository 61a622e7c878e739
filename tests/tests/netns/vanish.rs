//! Clients that connect and vanish, at any phase and in each way: nothing of them stays, and others see no error.
//!
//! `SLUICE_TEST_CLIENTS` says how many there are in each wave.
use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use serde_json::json;
use sluice_tests::netns::{
    AgentSpec, Datapath, Scene, eventually,
    http::{self as client, Protocol},
    manifest::{gateway, http_route},
    scene::{APPLIED, FRONT, versions},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

const HOST: &str = "shop.example";
/// Clients of one wave.
const CLIENTS: usize = 1_000;
/// How many of them are at work at once.
const AT_ONCE: usize = 100;
/// All bounds on silence that the wave meets are 10 s.
const OVER: Duration = Duration::from_secs(40);
/// What a wave may add to the agent's memory after another, where nothing leaks: less than its connections took.
const GROWTH_KIB: u64 = 2 << 10;
/// Waves at most. What leaks does so in each; what the allocator keeps for the next is the same after a few.
const WAVES: usize = 6;

/// How far a client comes before it goes.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Connected,
    InHead,
    Thinking,
    InBody,
    Idle,
}

/// How it goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    Reset,
    Fin,
    Silence,
}

/// Silence after a whole request is no end; in a body and between requests it is bounded by a minute and more.
const KINDS: [(Phase, Way); 12] = {
    use Phase::{Connected, Idle, InBody, InHead, Thinking};
    use Way::{Fin, Reset, Silence};
    [
        (Connected, Reset),
        (InHead, Reset),
        (Thinking, Reset),
        (InBody, Reset),
        (Idle, Reset),
        (Connected, Fin),
        (InHead, Fin),
        (Thinking, Fin),
        (InBody, Fin),
        (Idle, Fin),
        (Connected, Silence),
        (InHead, Silence),
    ]
};

/// One client; returns the connection of one that stays and is silent.
async fn vanish(to: SocketAddr, (phase, way): (Phase, Way)) -> std::io::Result<Option<TcpStream>> {
    let mut stream = TcpStream::connect(to).await?;
    let request = match phase {
        Phase::Connected => String::new(),
        Phase::InHead => format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX-"),
        Phase::Thinking => format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nx-test-delay-ms: 60000\r\n\r\n"),
        Phase::InBody => format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100000\r\n\r\nhalf"),
        Phase::Idle => format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
    };
    stream.write_all(request.as_bytes()).await?;
    if let Phase::Idle = phase {
        let _ = stream.read(&mut [0; 4096]).await?;
    }
    // Some before the proxy has looked at it, some after.
    tokio::time::sleep(Duration::from_millis(fastrand::u64(..50))).await;
    match way {
        Way::Reset => stream.set_zero_linger().map(|()| None),
        Way::Fin => Ok(None),
        Way::Silence => Ok(Some(stream)),
    }
}

/// Sends a wave; returns those that are silent.
fn wave(scene: &Scene, clients: usize) -> Vec<std::net::TcpStream> {
    scene.lab.client.block_on(|| async move {
        let (mut silent, mut going) = (Vec::new(), JoinSet::new());
        let mut kinds = KINDS.iter().copied().cycle().take(clients);
        loop {
            while going.len() < AT_ONCE
                && let Some(kind) = kinds.next()
            {
                going.spawn(vanish((FRONT, 80).into(), kind));
            }
            let Some(done) = going.join_next().await else { break };
            let kept = done.expect("no panic").expect("every client gets as far as it wants");
            silent.extend(kept.map(|stream| stream.into_std().expect("a socket")));
        }
        silent
    })
}

/// Open descriptors of the agent, and its memory in KiB.
fn held(scene: &Scene) -> (usize, u64) {
    let process = format!("/proc/{}", scene.agent.pid().expect("it runs"));
    let files = std::fs::read_dir(format!("{process}/fd")).expect("its descriptors").count();
    let status = std::fs::read_to_string(format!("{process}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    (files, line.trim().trim_end_matches(" kB").parse().expect("a number"))
}

/// Whether the last wave has left no more than the one before it.
fn is_level(memory: &[u64]) -> bool {
    matches!(memory, [.., before, last] if *last <= before + GROWTH_KIB)
}

#[test]
fn clients_that_vanish_leave_nothing_behind_and_harm_nobody() {
    let clients = std::env::var("SLUICE_TEST_CLIENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(CLIENTS);
    let scene = Scene::with(AgentSpec::new(Datapath::Tc), 1, 0);
    scene.write("front.yaml", &[gateway("front", 80, Some(&FRONT.to_string()))]);
    scene.write("v1.yaml", &versions(&scene.lab, "v1", &["a1"]));
    let rules = json!([{"backendRefs": [{"name": "v1", "port": 80}]}]);
    scene.write("route.yaml", &[http_route("shop", "front", &[HOST], &rules)]);
    let ask = || client::send(&scene.lab.client, (FRONT, 80).into(), Protocol::Http1, client::get(HOST, "/"));
    eventually("the route is in force", APPLIED, || {
        anyhow::ensure!(ask()?.status == 200);
        Ok(())
    });
    let (before, _) = held(&scene);
    let (stop, served, failed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let mut memory = Vec::new();
    std::thread::scope(|scope| {
        // Somebody who behaves, on a new connection each time.
        let other = scope.spawn(|| {
            while !stop.load(Relaxed) {
                let is_served = ask().is_ok_and(|reply| reply.status == 200);
                if is_served { &served } else { &failed }.fetch_add(1, Relaxed);
            }
        });
        while memory.len() < WAVES && !is_level(&memory) {
            let silent = wave(&scene, clients);
            assert!(!silent.is_empty());
            eventually("their connections are closed", OVER, || {
                // The one who behaves has one on either side, and one in the pool.
                let (files, _) = held(&scene);
                anyhow::ensure!(files <= before + 3, "{files} descriptors, {before} before");
                Ok(())
            });
            memory.push(held(&scene).1);
        }
        stop.store(true, Relaxed);
        other.join().expect("no panic");
    });
    let served = served.load(Relaxed);
    assert!(served > 100 && failed.load(Relaxed) == 0, "{served} served, {failed:?} failed");
    eventually("nothing of anybody is left", OVER, || {
        let (files, _) = held(&scene);
        anyhow::ensure!(files <= before, "{files} descriptors, {before} before");
        Ok(())
    });
    assert!(is_level(&memory), "KiB after each wave: {memory:?}");
    let (_, metrics) = scene.agent.get("/metrics").expect("an answer");
    for gauge in ["active_connections", "active_requests"] {
        assert!(metrics.contains(&format!("\nsluice_proxy_{gauge} 0.0\n")), "{gauge}: {metrics}");
    }
}
