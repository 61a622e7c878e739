//! What processes of this host listen on, as `/proc/net` says it.
//!
//! Source: `Documentation/networking/proc_net_tcp.rst`. The kernel prints addresses as words of its own byte order, and a
//! TCP table has the sockets that listen before all others: the rest is not read.
use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::model::{Port, Proto};

/// The state of a TCP socket that listens.
const TCP_LISTEN: &str = "0A";
/// The state of a UDP socket that is connected to nobody.
const UDP_UNCONNECTED: &str = "07";

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listening {
    /// The address; `None` is every address of the host.
    pub addr: Option<IpAddr>,
    /// The port.
    pub port: Port,
    /// The protocol.
    pub proto: Proto,
}

/// All of them; what cannot be read is left out.
pub(super) fn read() -> BTreeSet<Listening> {
    let tables = [("tcp", Proto::Tcp), ("tcp6", Proto::Tcp), ("udp", Proto::Udp), ("udp6", Proto::Udp)];
    let mut all = BTreeSet::new();
    for (name, proto) in tables {
        // A host without a family has no such table.
        if let Ok(file) = File::open(format!("/proc/net/{name}")) {
            all.extend(parse(BufReader::new(file), proto));
        }
    }
    all
}

fn parse(table: impl BufRead, proto: Proto) -> Vec<Listening> {
    let mut all = Vec::new();
    for line in table.lines().skip(1).map_while(Result::ok) {
        let mut fields = line.split_whitespace().skip(1);
        let (Some(local), Some(_), Some(state)) = (fields.next(), fields.next(), fields.next()) else { continue };
        match (proto, state) {
            (Proto::Tcp, TCP_LISTEN) | (Proto::Udp, UDP_UNCONNECTED) => all.extend(listening(local, proto)),
            (Proto::Tcp, _) => break,
            (Proto::Udp, _) => {}
        }
    }
    all
}

fn listening(local: &str, proto: Proto) -> Option<Listening> {
    let (addr, port) = local.split_once(':')?;
    let port = Port::try_new(i64::from_str_radix(port, 16).ok()?)?;
    let word = |at: usize| Some(u32::from_str_radix(addr.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let addr = match addr.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let mut octets = [0; 16];
            octets.iter_mut().zip(words.iter().flatten()).for_each(|(octet, byte)| *octet = *byte);
            IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
        }
        _ => return None,
    };
    Some(Listening { addr: (!addr.is_unspecified()).then_some(addr), port, proto })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(table: &str, proto: Proto) -> Vec<String> {
        let text =
            |l: Listening| format!("{}:{}/{}", l.addr.map_or("*".to_owned(), |a| a.to_string()), l.port, l.proto);
        parse(table.as_bytes(), proto).into_iter().map(text).collect()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn listening_sockets_of_both_families_are_found_and_others_are_not() {
        let tcp = "  sl  local_address rem_address   st tx_queue\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1 1 0\n\
             1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1 1 0\n\
             2: 0100007F:1F90 0100007F:A0A0 01 00000000:00000000 00:00000000 00000000 0 0 1 1 0\n";
        assert_eq!(texts(tcp, Proto::Tcp), ["127.0.0.1:8080/TCP", "*:22/TCP"]);
        let tcp6 = "  sl  local_address remote_address st\n\
             0: B80D0120000000000000000001000000:01BB 00000000000000000000000000000000:0000 0A 0:0\n\
             1: 0000000000000000FFFF00000A0200C0:0050 00000000000000000000000000000000:0000 0A 0:0\n\
             2: nonsense 00000000000000000000000000000000:0000 0A 0:0\n";
        assert_eq!(texts(tcp6, Proto::Tcp), ["2001:db8::1:443/TCP", "192.0.2.10:80/TCP"]);
        let udp = "  sl  local_address rem_address st\n\
             0: 0100007F:A0A0 0100007F:0035 01 0:0\n\
             1: 00000000:0035 00000000:0000 07 0:0\n";
        assert_eq!(texts(udp, Proto::Udp), ["*:53/UDP"]);
    }

    #[test]
    fn a_socket_of_this_process_is_found() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
        let port = Port::try_new(i64::from(socket.local_addr().expect("its address").port())).expect("a port");
        let wanted = Listening { addr: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), port, proto: Proto::Tcp };
        assert!(read().contains(&wanted));
    }
}
