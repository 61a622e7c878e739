//! A TCP flow through the programs: either side sends, and the flow's entries are looked at.
use sluice_ebpf::{
    BACKEND_LOCAL, BACKEND_REMOTE, CT_OPENING, CT_REPLIED, CT_REPLY, CT_REQUEST, CT_SNAT, CtEntry, CtKey, TCP, Tuple,
    map,
};

use super::{Hook, L4, Lab, Net, Segment, addr};

/// The client's next byte after the handshake.
pub const CLIENT: u32 = 5_001;
/// The backend's.
pub const BACKEND: u32 = 0xffff_ff01;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// A flow to a backend here or on another node, and the program that each direction goes through.
#[derive(Clone, Copy, Debug)]
pub struct Flow<'a> {
    n: &'a Net,
    remote: bool,
    port: u16,
    /// Where the backend sends its replies to.
    pub reply: (&'a str, u16),
}

impl<'a> Flow<'a> {
    /// Makes `vip:80` with one backend, forgets every flow, and opens one: SYN, SYN with ACK, ACK.
    pub fn open(lab: &mut Lab, n: &'a Net, remote: bool) -> Self {
        lab.forget_flows();
        Self::frontend(lab, n, remote);
        Self::open_from(lab, n, remote, 33000)
    }

    /// Makes `vip:80` with one backend, here or on another node, and returns the frontend's id.
    pub fn frontend(lab: &mut Lab, n: &Net, remote: bool) -> u32 {
        let (to, flags) = if remote { (n.remote, BACKEND_REMOTE) } else { (n.pod, BACKEND_LOCAL) };
        lab.backend(1, (to, 8080), flags);
        lab.frontend((n.vip, 80), TCP, 0, &[1])
    }

    /// Opens a flow from a port of the client.
    pub fn open_from(lab: &mut Lab, n: &'a Net, remote: bool, port: u16) -> Self {
        let flow = Self::begin(lab, n, remote, port);
        flow.backend(lab, SYN | ACK, BACKEND - 1, CLIENT);
        flow.client(lab, ACK, CLIENT, BACKEND);
        assert_eq!(flow.state(lab), CT_REPLIED, "it is open");
        flow
    }

    /// Sends the SYN.
    pub fn begin(lab: &mut Lab, n: &'a Net, remote: bool, port: u16) -> Self {
        Self::begin_with(lab, n, remote, port, (SYN, CLIENT - 1, 0))
    }

    /// Sends a first segment: flags, sequence and acknowledgement number.
    ///
    /// # Panics
    /// It opens no flow.
    pub fn begin_with(lab: &mut Lab, n: &'a Net, remote: bool, port: u16, first: (u8, u32, u32)) -> Self {
        let mut flow = Self { n, remote, port, reply: (n.client, port) };
        flow.client(lab, first.0, first.1, first.2);
        let entry = lab.entry((n.client, port), (n.vip, 80), TCP, CT_REQUEST).expect("an entry");
        flow.reply = (if remote { n.node } else { n.client }, entry.to.src_port);
        flow
    }

    /// A segment of the client.
    #[must_use]
    pub fn client_sends(&self, flags: u8, seq: u32, ack: u32) -> Segment {
        Segment { l4: L4::Tcp { flags, seq, ack }, ..Segment::tcp((self.n.client, self.port), (self.n.vip, 80), flags) }
    }

    /// A segment of the backend.
    #[must_use]
    pub fn backend_sends(&self, flags: u8, seq: u32, ack: u32) -> Segment {
        let from = if self.remote { self.n.remote } else { self.n.pod };
        Segment { l4: L4::Tcp { flags, seq, ack }, ..Segment::tcp((from, 8080), self.reply, flags) }
    }

    /// Runs the program of a direction on a packet.
    ///
    /// # Panics
    /// It is not sent on.
    pub fn run(&self, lab: &mut Lab, of_client: bool, packet: &[u8]) {
        let hook = match (self.remote, of_client) {
            (true, _) => Hook::Xdp,
            (false, true) => Hook::Ingress,
            (false, false) => Hook::Egress,
        };
        let code = lab.run(hook, packet).code;
        assert_eq!(code, if self.remote { 3 } else { -1 }, "every packet of the flow is sent on: {:?}", lab.reasons());
    }

    /// The client sends.
    pub fn client(&self, lab: &mut Lab, flags: u8, seq: u32, ack: u32) {
        self.run(lab, true, &self.client_sends(flags, seq, ack).bytes());
    }

    /// The backend sends.
    pub fn backend(&self, lab: &mut Lab, flags: u8, seq: u32, ack: u32) {
        self.run(lab, false, &self.backend_sends(flags, seq, ack).bytes());
    }

    /// The key of each direction, the client's first.
    fn keys(&self) -> [CtKey; 2] {
        let from = if self.remote { self.n.remote } else { self.n.pod };
        let key = |src: (&str, u16), dst: (&str, u16), dir| {
            let tuple = Tuple { src: addr(src.0), dst: addr(dst.0), src_port: src.1, dst_port: dst.1 };
            CtKey { tuple, proto: TCP, dir, pad: [0; 2] }
        };
        let client = (self.n.client, self.port);
        [key(client, (self.n.vip, 80), CT_REQUEST), key((from, 8080), self.reply, CT_REPLY)]
    }

    /// The entry of each direction, the client's first, if there is one.
    #[must_use]
    pub fn entries(&self, lab: &Lab) -> [Option<CtEntry>; 2] {
        let rows = lab.conntrack();
        self.keys().map(|key| rows.iter().find(|(k, _)| *k == key).map(|(_, entry)| *entry))
    }

    /// How many of the two entries are in conntrack, and how many in the map of flows that are not proved.
    #[must_use]
    pub fn places(&self, lab: &Lab) -> (usize, usize) {
        let keys = self.keys();
        let count = |name| lab.rows(name).iter().filter(|(key, _)| keys.contains(key)).count();
        (count(map::CONNTRACK), count(map::OPENING))
    }

    /// The state that both entries have.
    ///
    /// # Panics
    /// One is missing, or they differ.
    #[must_use]
    pub fn state(&self, lab: &Lab) -> u32 {
        let [there, back] = self.entries(lab).map(|entry| entry.expect("an entry").flags & !(CT_SNAT | CT_OPENING));
        assert_eq!(there, back, "both entries say the same");
        there
    }
}
