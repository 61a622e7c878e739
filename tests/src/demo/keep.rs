//! `--keep`: what stands stays, held by a process of its own; `--down` ends that process, which removes it.
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use sluice_ebpf::LAYOUT;

use super::stage::Stage;
use crate::netns::{
    Lab,
    run::{self, RUNS, Run},
};

/// Where the process that holds a run writes its id, in the run's directory.
const HOLDER: &str = "holder.pid";
/// How long a hand-over or a removal may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Hands everything over to a process of its own and prints what to try.
pub(super) fn leave(stage: Stage) -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt as _;
    let front = stage.front()?;
    let Stage { agent, lab, shop, shop_v6, .. } = stage;
    let (id, dir, pins) = (lab.run().id().to_owned(), lab.dir(), agent.bpf_dir().to_owned());
    let (client, socket, manifests) = (lab.client.name().to_owned(), agent.socket(), agent.manifests());
    let sluice = crate::netns::agent::binary()?;
    agent.release();
    lab.hand_over(|| {
        // Not by its path: a build may have replaced the file since.
        let mut holder = Command::new("/proc/self/exe");
        holder.args(["--hold", &id]).process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
        holder.stderr(fs::File::create(dir.join("holder.log"))?);
        let mut holder = holder.spawn().context("start the process that holds the demo")?;
        let began = Instant::now();
        while !dir.join(HOLDER).exists() {
            anyhow::ensure!(holder.try_wait()?.is_none() && began.elapsed() < LIMIT, "the demo could not be kept");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    })?;
    let (sluice, socket) = (sluice.display(), socket.display());
    let enter = format!("nsenter --net=/run/netns/{client}");
    println!(
        "
It all stands. To try, as root:

  dial           {enter} bash -c 'head -1 < /dev/tcp/{}/{}'
  over IPv6      {enter} bash -c 'head -1 < /dev/tcp/{}/{}'
  HTTP           {enter} curl -s -H 'Host: shop.example' http://{}/
  the sandbox    {enter} curl -s -H 'Host: shop.example' -H 'X-Sandbox: alice' http://{}/
  inspect        {sluice} status --admin-socket {socket}    # services, backends, routes, flows
  the maps       bpftool map dump pinned {}/v{LAYOUT}/BACKENDS
  change         edit a file in {}; it applies when saved
  the log        tail -f {}
  remove all     cargo xtask demo --down",
        shop.ip(),
        shop.port(),
        shop_v6.ip(),
        shop_v6.port(),
        front.ip(),
        front.ip(),
        pins.display(),
        manifests.display(),
        dir.join("agent.log").display()
    );
    Ok(())
}

/// Serves in the pods of a demo that is kept, until told to end; the signal handler then removes everything.
///
/// # Errors
/// There is no such run.
pub fn hold(id: &str) -> anyhow::Result<bool> {
    let lab = Lab::adopt(id)?;
    let (new, path) = (lab.dir().join("holder.new"), lab.dir().join(HOLDER));
    fs::write(&new, std::process::id().to_string()).context("write the holder's id")?;
    fs::rename(new, path).context("write the holder's id")?;
    loop {
        std::thread::park();
    }
}

/// Removes every demo that is kept.
///
/// # Errors
/// Not root, or one does not go.
pub fn down() -> anyhow::Result<bool> {
    run::require_root()?;
    let mut gone = 0;
    for id in Run::held() {
        let dir = Path::new(RUNS).join(&id);
        let Some(pid) = fs::read_to_string(dir.join(HOLDER)).ok().and_then(|text| text.parse().ok()) else { continue };
        kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("end process {pid}"))?;
        let began = Instant::now();
        while dir.exists() {
            anyhow::ensure!(began.elapsed() < LIMIT, "{} is still there", dir.display());
            std::thread::sleep(Duration::from_millis(10));
        }
        println!("removed {id}");
        gone += 1;
    }
    if gone == 0 {
        println!("no demo is kept");
    }
    Ok(true)
}
