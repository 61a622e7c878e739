//! UDP: the same line as TCP has, then as many of the datagram's own bytes as keep the answer no longer than the
//! question, so that a datagram that just fits the MTU has an answer that does.
use tokio::net::UdpSocket;

use super::Identity;

/// Larger than any datagram.
const BUFFER: usize = 65_536;

/// Serves until dropped.
pub async fn serve(socket: UdpSocket, identity: Identity) {
    let mut buffer = vec![0; BUFFER];
    let port = socket.local_addr().map_or(0, |a| a.port());
    loop {
        // An error here is an ICMP message about an answer that found nobody.
        let Ok((len, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let mut answer = format!("{} {port} {}\n", identity.pod, peer.ip().to_canonical()).into_bytes();
        answer.extend_from_slice(&buffer[..len.saturating_sub(answer.len())]);
        let _ = socket.send_to(&answer, peer).await;
    }
}
