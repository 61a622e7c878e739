//! A worker: a thread with a runtime of its own that accepts connections and serves them to their end.
//!
//! # Design
//! - Each has a listening socket of one SO_REUSEPORT group: the kernel spreads connections over the group by the hash of their
//!   addresses and ports, and no worker is woken for another's.
//! - A worker accepts before it takes a place from [`super::bounds`], which all share: one without clients keeps no place from the
//!   others. So at the bound each worker holds one connection that it does not serve yet; the others wait in its backlog.
use std::{io, net::TcpListener, sync::Arc, thread, time::Duration};

use tokio::{runtime, sync::oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    Shared, canonical, connection,
    socket::{Held, Socket},
    stats::{Counted, add},
};
use crate::descriptors::is_exhausted;

/// How long accepting pauses when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Starts the thread. It accepts until `cancel`, and ends when all that it has accepted has; the future waits for that.
///
/// # Errors
/// The system refuses a thread, or to watch the socket.
pub(super) fn start(
    shared: Arc<Shared>,
    listener: TcpListener,
    cancel: CancellationToken,
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
            accept(listener, &shared, &cancel).await;
            tokio::select! {
                () = shared.tasks.wait() => {}
                () = shared.kill.cancelled() => {}
            }
        });
        // What is left of tasks goes with the runtime.
    })?;
    Ok(async move { drop(ended.await) })
}

/// Accepts until `cancel`; the socket closes with it.
async fn accept(listener: tokio::net::TcpListener, shared: &Arc<Shared>, cancel: &CancellationToken) {
    loop {
        let next = async {
            let (stream, peer) = listener.accept().await?;
            Ok((shared.bounds.client(&shared.stats).await, stream, peer))
        };
        let accepted: io::Result<_> = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = next => accepted,
        };
        let (place, stream, peer) = match accepted {
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
        add(&shared.stats.accepted);
        let Ok(local) = stream.local_addr() else { continue };
        let (peer, local) = (canonical(peer), canonical(local));
        let (share, tenant) = match shared.table.load().gateway(local, &shared.bounds) {
            None => {
                add(&shared.stats.unclaimed);
                continue;
            }
            Some((tenant, part)) => {
                let room = tenant.room(part.held, &shared.stats);
                (tenant.try_connection(part.connections), (Arc::clone(tenant), room))
            }
        };
        let Some(share) = share else {
            add(&shared.stats.gateway_refusals);
            continue;
        };
        let counted = Counted::new(&shared.stats, |stats| &stats.active_connections);
        let socket = Arc::new(Socket::new(stream, Held { place, share, counted }));
        let served = Arc::clone(shared);
        shared.tasks.spawn(connection::serve(served, tenant, socket, peer, local));
    }
}
