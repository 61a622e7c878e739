//! A worker: a thread with a runtime of its own that accepts connections and serves them to their end.
//!
//! # Design
//! - Each has a listening socket of one SO_REUSEPORT group: the kernel spreads connections over the group by the hash of their
//!   addresses and ports, and no worker is woken for another's.
//! - A worker accepts before it takes a place from [`super::bounds`], which all share: one without clients keeps no place from the
//!   others. So at the bound each worker holds one connection that it does not serve yet; the others wait in its backlog.
//! - Who has a connection by the kernel's word has one by ours, also when the proxy ends: a listening socket that closes resets all that
//!   are in its backlog, with the requests that they have sent. So at the end no handshake begins any more ([`begin_none`]), those that have
//!   begun may end, the backlog is emptied, and then the socket closes.
//! - That end comes when the requests that were in flight are over: until then a worker goes on accepting, and each answer says that
//!   it is the last. The next process cannot serve before this one is gone, and one long stream would keep all others out.
use std::{io, net::TcpListener, pin::pin, sync::Arc, thread, time::Duration};

use socket2::{SockFilter, SockRef};
use tokio::{runtime, sync::oneshot};

use super::{
    LAST_CALL, Shared, canonical, connection,
    socket::{Held, Socket},
    stats::{Counted, add},
};
use crate::descriptors::is_exhausted;

/// How long accepting pauses when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Starts the thread. It accepts until the proxy closes, then what has begun before, and ends when all that it has accepted has; the future waits for that.
///
/// # Errors
/// The system refuses a thread, or to watch the socket.
pub(super) fn start(
    shared: Arc<Shared>,
    listener: TcpListener,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _inside = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    let (ended_out, ended) = oneshot::channel::<()>();
    thread::Builder::new().name(format!("proxy-{}", shared.worker)).spawn(move || {
        // Dropped with the thread, however it ends.
        let _ended = ended_out;
        runtime.block_on(async {
            accept(listener, &shared).await;
            tokio::select! {
                () = shared.late.wait() => {}
                () = shared.kill.cancelled() => {}
            }
        });
        // What is left of tasks goes with the runtime.
    })?;
    Ok(async move { drop(ended.await) })
}

/// Accepts until the proxy closes, and then what is left in the backlog; the socket closes with it.
async fn accept(listener: tokio::net::TcpListener, shared: &Arc<Shared>) {
    let last = async {
        shared.closing.cancelled().await;
        if let Err(error) = begin_none(&SockRef::from(&listener)) {
            tracing::warn!(%error, "connections that begin now may be reset when the proxy ends");
        }
        tokio::time::sleep(LAST_CALL).await;
    };
    let mut last = pin!(last);
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = &mut last => return,
            () = shared.kill.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                if is_exhausted(&error) {
                    add(&shared.stats.exhausted);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        let place = tokio::select! {
            place = shared.bounds.client(&shared.stats) => place,
            () = shared.kill.cancelled() => return,
        };
        add(&shared.stats.accepted);
        let Ok(local) = stream.local_addr() else { continue };
        let (peer, local) = (canonical(peer), canonical(local));
        let (share, tenant, ending) = match shared.table.load().gateway(local, &shared.bounds) {
            None => {
                add(&shared.stats.unclaimed);
                continue;
            }
            Some((tenant, part, release)) => {
                let room = tenant.room(part.held, &shared.stats);
                let ending = release.ending(shared.worker, &shared.drain, shared.settings.drain);
                (tenant.try_connection(part.connections), (Arc::clone(tenant), room), ending)
            }
        };
        let Some(share) = share else {
            add(&shared.stats.gateway_refusals);
            continue;
        };
        let counted = Counted::new(&shared.stats, |stats| &stats.active_connections);
        let socket = Arc::new(Socket::new(stream, Held { place, share, counted }).ending_by(ending));
        let served = Arc::clone(shared);
        let tasks = if shared.drain.is_cancelled() { &shared.late } else { &shared.tasks };
        tasks.spawn(connection::serve(served, tenant, socket, peer, local));
    }
}

/// Has the kernel begin no further handshake at a listening socket, and finish those that have begun: a SYN is dropped, as at a full
/// backlog, and its sender says it again, to whoever has the address then. Accepted sockets have the filter as well, and get no SYN.
///
/// # Errors
/// The kernel takes no filter.
fn begin_none(listener: &SockRef<'_>) -> io::Result<()> {
    // Where the flags are in a TCP header, and which of them say that a handshake begins: SYN without ACK (RFC 9293 part 3.1).
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    // Classic BPF, as in linux/bpf_common.h: a byte of the packet, AND, jump if equal, return how much of the packet is kept.
    listener.attach_filter(&[
        SockFilter::new(0x30, 0, 0, FLAGS),
        SockFilter::new(0x54, 0, 0, SYN | ACK),
        SockFilter::new(0x15, 0, 1, SYN),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ])
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read as _, Write as _},
        net::TcpStream,
    };

    use super::*;

    #[test]
    fn no_handshake_begins_and_those_before_are_whole() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let mut before = TcpStream::connect(addr).unwrap();
        begin_none(&SockRef::from(&listener)).unwrap();
        let late = TcpStream::connect_timeout(&addr, Duration::from_millis(100));
        assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut, "not refused: it asks again");
        before.write_all(b"ask").unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        let mut bytes = [0; 3];
        accepted.read_exact(&mut bytes).unwrap();
        accepted.write_all(&bytes).unwrap();
        before.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"ask");
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}
