//! Change under load: an endpoint that leaves its slice, an agent that is killed.
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{
    stage::{ENDPOINTS, Stage, examples},
    story::Story,
};
use crate::netns::{Connection, Lab, Load, Maps};

/// Clients of the load, each with one connection after the other.
const CLIENTS: usize = 4;
/// How long each part of a proof lasts.
const PART: Duration = Duration::from_millis(1200);
/// How often the maps are looked at.
const LOOK: Duration = Duration::from_micros(200);

/// Tells the chapters on change.
pub(super) fn tell(story: &mut Story, stage: &mut Stage) {
    story.chapter("an endpoint leaves under load", |tell| {
        let mut held = held_by(&stage.lab, stage.shop, "shop-2")?;
        let load = Load::start(&stage.lab.client, stage.shop, CLIENTS);
        std::thread::sleep(PART);
        let before = load.done();
        let whole = std::fs::read_to_string(examples().join(ENDPOINTS)).context("read the endpoints")?;
        tell.say(format!("{before} connections so far; shop-2 leaves the EndpointSlice"));
        stage.agent.write_text(ENDPOINTS, &without(&whole, "shop-2"))?;
        let took = until_backends(stage, 2)?;
        tell.say(format!("the maps lead to two endpoints {took:.1?} later"));
        held.exchange(1000).context("the connection that shop-2 had")?;
        tell.say("the connection that shop-2 has had goes on");
        std::thread::sleep(PART);
        let during = load.stop();
        let after = Load::run(&stage.lab.client, stage.shop, 200, CLIENTS).finish();
        tell.say(format!("afterwards: {after}"));
        ensure!(!after.by_pod.contains_key("shop-2"), "shop-2 still gets connections: {after}");
        stage.agent.write_text(ENDPOINTS, &whole)?;
        until_backends(stage, 3)?;
        tell.say("shop-2 is back");
        ensure!(during.failed() == 0 && after.failed() == 0, "{during}");
        Ok(format!("{during}"))
    });
    story.chapter("kill -9 of the agent under load", |tell| {
        let mut held = held_by(&stage.lab, stage.shop, "shop-3")?;
        let load = Load::start(&stage.lab.client, stage.shop, CLIENTS);
        std::thread::sleep(PART);
        let pid = stage.agent.pid().context("the agent does not run")?;
        let alive = load.done();
        stage.agent.kill9()?;
        tell.say(format!("{alive} connections so far; kill -9 {pid}"));
        std::thread::sleep(PART);
        let dead = load.done() - alive;
        tell.say(format!("{dead} connections without an agent: programs and maps are pinned"));
        let began = Instant::now();
        stage.agent.launch()?;
        tell.say(format!("started again, ready in {:.0?}: pins adopted, programs replaced in place", began.elapsed()));
        std::thread::sleep(PART);
        let tally = load.stop();
        held.exchange(1000).context("the connection that was open all the time")?;
        tell.say("the connection that was open all the time goes on");
        ensure!(dead > 0 && tally.failed() == 0, "{tally}");
        Ok(format!("{} connections, {dead} of them without an agent, 0 failed", tally.succeeded()))
    });
}

/// An open connection that a certain pod answers.
fn held_by(lab: &Lab, to: SocketAddr, pod: &str) -> anyhow::Result<Connection> {
    for _ in 0..200 {
        let connection = Connection::open(&lab.client, to)?;
        if connection.answer.pod == pod {
            return Ok(connection);
        }
    }
    anyhow::bail!("{pod} never answers")
}

/// Waits until the pinned maps lead the Service's flows to so many endpoints; returns how long that took.
fn until_backends(stage: &Stage, wanted: usize) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let maps = Maps::open(stage.agent.bpf_dir())?;
    loop {
        let found = maps.reach(stage.shop)?.map_or(0, |b| b.len());
        if found == wanted {
            return Ok(began.elapsed());
        }
        ensure!(began.elapsed() < Duration::from_secs(3), "still {found} endpoints in the maps, want {wanted}");
        std::thread::sleep(LOOK);
    }
}

/// The text of the slices without the endpoints of one pod.
fn without(slices: &str, pod: &str) -> String {
    let entry = format!("name: {pod} }}");
    let mut kept: Vec<&str> = Vec::new();
    for line in slices.lines() {
        kept.push(line);
        if line.contains(&entry) {
            // Back to the line that begins the endpoint.
            while kept.pop().is_some_and(|l| !l.starts_with("  - addresses")) {}
        }
    }
    kept.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_cut_out_of_the_example() {
        let whole = std::fs::read_to_string(examples().join(ENDPOINTS)).expect("the example");
        let less = without(&whole, "shop-2");
        assert_eq!(whole.matches("- addresses").count(), 6);
        assert_eq!(less.matches("- addresses").count(), 4);
        assert!(!less.contains("10.244.1.12") && less.contains("10.244.1.11") && less.contains("10.244.2.11"));
    }
}
