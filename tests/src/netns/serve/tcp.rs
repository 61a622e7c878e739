//! TCP: one line that says who answers, then every byte back until the client has sent its last.
//!
//! The line is `<pod> <port> <peer address>`: the port tells target ports apart, the peer address tells whether the
//! source was changed on the way.
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};

use super::Identity;

/// Serves until dropped.
pub async fn serve(listener: TcpListener, identity: Identity) {
    loop {
        // An error here is a connection that went away before it was accepted.
        if let Ok((stream, _)) = listener.accept().await {
            let identity = identity.clone();
            // A client that resets is the client's business.
            tokio::spawn(async move { drop(answer(stream, &identity).await) });
        }
    }
}

async fn answer(mut stream: TcpStream, identity: &Identity) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let line =
        format!("{} {} {}\n", identity.pod, stream.local_addr()?.port(), stream.peer_addr()?.ip().to_canonical());
    stream.write_all(line.as_bytes()).await?;
    let (mut from, mut to) = stream.split();
    tokio::io::copy(&mut from, &mut to).await?;
    stream.shutdown().await
}
