//! Interfaces that are no cables: a VXLAN, and a tunnel for IP alone, whose packets have no Ethernet header.
use std::{fs::File, io::Write as _, net::Ipv4Addr};

use anyhow::Context as _;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rtnetlink::LinkVxlan;
use tokio::net::unix::pipe::Receiver;

use super::{
    link::Net,
    namespace::{Namespace, Task},
};

/// The port of VXLAN (RFC 7348).
const VXLAN_PORT: u16 = 4789;
/// Larger than any packet.
const BUFFER: usize = 65_536;

impl Net {
    /// Adds one end of a VXLAN over `link` between two hosts, and sets it up.
    ///
    /// # Errors
    /// The name is taken, or there is no such link.
    pub async fn vxlan(&self, name: &str, link: &str, local: Ipv4Addr, remote: Ipv4Addr) -> anyhow::Result<()> {
        let index = self.index(link).await?;
        let vxlan = LinkVxlan::new(name, 1).dev(index).local(local).remote(remote).port(VXLAN_PORT).up().build();
        self.handle.link().add(vxlan).execute().await.with_context(|| format!("add VXLAN {name} over {link}"))
    }
}

/// Joins two namespaces by a tunnel, whose end has the same name in each; it is gone when the task is dropped.
///
/// # Errors
/// The kernel has no such devices, or the name is taken.
pub fn tun(name: &str, ends: [&Namespace; 2]) -> anyhow::Result<Task> {
    let open = |space: &Namespace| {
        let file = space.enter(|| sluice_ebpf::user::open_tun(name)).with_context(|| format!("make {name}"))?;
        fcntl(&file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context("make it not wait")?;
        space.net(async |net| net.up(name).await)?;
        anyhow::Ok(file)
    };
    let [first, second] = [open(ends[0])?, open(ends[1])?];
    Ok(ends[0].spawn(&format!("tunnel {name}"), move || async move {
        if let Err(error) = tokio::try_join!(carry(&first, &second), carry(&second, &first)) {
            eprintln!("tunnel: {error}");
        }
    }))
}

/// Carries what one end sends to the other; what that one does not take is lost, as on a wire.
async fn carry(from: &File, mut to: &File) -> std::io::Result<()> {
    // It is read as a pipe is, but for the borders of packets, which each read keeps.
    let from = Receiver::from_file_unchecked(from.try_clone()?)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        from.readable().await?;
        if let Ok(len) = from.try_read(&mut buffer) {
            let _ = to.write(&buffer[..len]);
        }
    }
}
