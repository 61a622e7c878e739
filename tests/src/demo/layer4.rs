//! Layer 4: connections, datagrams, echo, refusals, and what the maps show.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, ensure};

use super::{
    stage::{PORT, Stage},
    story::Story,
};
use crate::netns::{Connection, Failure, addr, load, ping::ping, udp};

/// Connections of the first proof.
const CONNECTIONS: usize = 1000;
/// Flows of the other proofs.
const FLOWS: usize = 150;
/// The pods behind the Service.
const PODS: [&str; 3] = ["shop-1", "shop-2", "shop-3"];

/// Tells the chapters on layer 4.
pub(super) fn tell(story: &mut Story, stage: &Stage) {
    story.chapter("1,000 connections over three endpoints", |tell| {
        let began = Instant::now();
        let tally = load::burst(&stage.lab.client, stage.shop, CONNECTIONS, 8);
        tell.say(format!("{} -> {}/TCP, in {:.1?}", addr::CLIENT_V4, stage.shop, began.elapsed()));
        for pod in PODS {
            let count = tally.by_pod.get(pod).copied().unwrap_or(0);
            let node = stage.lab.pod(pod).node_name();
            tell.say(format!("{pod} on {node}  {count:>4}  {}", "▇".repeat(count / 12)));
        }
        ensure!(tally.failed() == 0, "{tally}");
        ensure!(PODS.iter().all(|p| tally.by_pod.get(*p).is_some_and(|n| *n > CONNECTIONS / 5)), "uneven: {tally}");
        Ok(format!("{tally}"))
    });
    story.chapter("endpoints here see the client's address", |tell| {
        let mut seen = BTreeMap::<String, IpAddr>::new();
        for _ in 0..FLOWS {
            let answer = Connection::open(&stage.lab.client, stage.shop)?.answer;
            seen.insert(answer.pod, answer.peer);
        }
        let there = IpAddr::from(addr::node_v4(1));
        for (pod, peer) in &seen {
            tell.say(format!("{pod} on {} was called by {peer}", stage.lab.pod(pod).node_name()));
            let wanted = if stage.lab.pod(pod).node == 1 { addr::CLIENT_V4.into() } else { there };
            ensure!(*peer == wanted, "{pod} was called by {peer}, not by {wanted}");
        }
        ensure!(seen.len() == PODS.len(), "only {} endpoints answered", seen.len());
        Ok(format!("on node1 {}; on node2 {there}, so that replies return through node1", addr::CLIENT_V4))
    });
    story.chapter("UDP", |tell| {
        let mut by_pod = BTreeMap::<String, usize>::new();
        for len in 0..FLOWS {
            *by_pod.entry(udp::ask(&stage.lab.client, stage.shop, len)?.pod).or_default() += 1;
        }
        tell.say(format!("{FLOWS} flows to {}/UDP: {by_pod:?}", stage.shop));
        ensure!(by_pod.keys().eq(PODS.iter()), "not every endpoint answered: {by_pod:?}");
        Ok(format!("{FLOWS} of {FLOWS} datagrams answered, by three endpoints"))
    });
    story.chapter("IPv6, TCP and UDP", |tell| {
        let tally = load::burst(&stage.lab.client, stage.shop_v6, FLOWS, 4);
        tell.say(format!("{}/TCP: {tally}", stage.shop_v6));
        ensure!(tally.failed() == 0 && tally.by_pod.keys().eq(PODS.iter()), "{tally}");
        let mut pods = BTreeSet::new();
        for len in 0..FLOWS {
            pods.insert(udp::ask(&stage.lab.client, stage.shop_v6, len)?.pod);
        }
        tell.say(format!("{}/UDP: answered by {pods:?}", stage.shop_v6));
        ensure!(pods.iter().eq(PODS.iter()), "not every endpoint answered");
        Ok(format!("{FLOWS} connections and {FLOWS} datagrams to {}", stage.shop_v6.ip()))
    });
    story.chapter("the address answers ping", |tell| {
        let v4 = ping(&stage.lab.client, stage.shop.ip(), 56)?;
        let v6 = ping(&stage.lab.client, stage.shop_v6.ip(), 56)?;
        tell.say(format!("{} in {v4:.0?}, {} in {v6:.0?}", stage.shop.ip(), stage.shop_v6.ip()));
        Ok("ICMP and ICMPv6 echo".to_owned())
    });
    story.chapter("a port that is not offered refuses at once", |tell| {
        let (began, other) = (Instant::now(), (stage.shop.ip(), PORT + 1).into());
        let outcome = Connection::open(&stage.lab.client, other).map(|c| c.answer);
        let took = began.elapsed();
        tell.say(format!("{other}/TCP: {outcome:?} after {took:.0?}"));
        ensure!(outcome == Err(Failure::Refused), "wanted a refusal, got {outcome:?}");
        ensure!(took.as_millis() < 200, "the refusal took {took:.0?}");
        let datagram = udp::ask(&stage.lab.client, other, 10);
        tell.say(format!("{other}/UDP: {datagram:?}"));
        ensure!(datagram == Err(Failure::Refused), "wanted a refusal, got {datagram:?}");
        Ok(format!("RST in {took:.0?}, ICMP unreachable for UDP"))
    });
}

/// Shows the pinned map of frontends as any person with `bpftool` sees it.
pub(super) fn look_into_maps(story: &mut Story, stage: &Stage) {
    story.chapter("bpftool shows named fields", |tell| {
        let map = stage.agent.bpf_dir().join(format!("v{}/FRONTENDS", sluice_ebpf::LAYOUT));
        let mut command = Command::new("bpftool");
        let output = command.args(["map", "dump", "pinned"]).arg(&map).output().context("run bpftool")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "bpftool: {}", String::from_utf8_lossy(&output.stderr));
        tell.say(format!("bpftool map dump pinned {}", map.display()));
        let rows: Vec<&str> = text.split("},{").collect();
        let row = rows.iter().find(|r| r.contains("\"port\": 5000") && r.contains("\"family\": 4"));
        let row = row.context("no row for the port of the Service")?;
        tell.quote(row.trim_matches(['[', ']', '{', '\n']));
        tell.say(format!("one of {} rows", rows.len()));
        let wanted = ["\"vip\"", "\"port\": 5000", "\"table_slots\"", "\"backends\": 3"];
        for field in wanted {
            ensure!(text.contains(field), "no {field} in the dump");
        }
        Ok(format!("vip, port, table_slots, backends in {}", map.display()))
    });
}
