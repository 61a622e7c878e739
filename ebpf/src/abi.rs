//! Map names, keys, values, flags and limits: the interface between the programs and the agent.
//!
//! Every type here is `repr(C)` without padding (the `Pod` derive refuses padding), and its size is asserted. A change
//! of any of them, or of a map's capacity, is a new [`LAYOUT`]: the snapshot in `tests/abi.rs` says so when forgotten.
use bytemuck::{Pod, Zeroable};

pub use crate::reason::Reason;

/// Version of the map layout; the directory of the pins carries it (`/sys/fs/bpf/sluice/v5`).
pub const LAYOUT: u32 = 5;

/// Names of the maps, as pinned and as `bpftool` shows them.
pub mod map {
    /// [`FrontendKey`](super::FrontendKey) -> [`Frontend`](super::Frontend), hash.
    pub const FRONTENDS: &str = "FRONTENDS";
    /// `u32` backend id -> [`Backend`](super::Backend), hash.
    pub const BACKENDS: &str = "BACKENDS";
    /// `u32` chunk index -> [`TableChunk`](super::TableChunk), array.
    pub const TABLES: &str = "TABLES";
    /// [`Addr`](super::Addr) -> [`Vip`](super::Vip), hash: the addresses that are ours.
    pub const VIPS: &str = "VIPS";
    /// [`CtKey`](super::CtKey) -> [`CtEntry`](super::CtEntry), LRU hash: flows whose client is known to be real.
    pub const CONNTRACK: &str = "CONNTRACK";
    /// [`CtKey`](super::CtKey) -> [`CtEntry`](super::CtEntry), LRU hash: flows whose client may be anybody, not yet answered.
    pub const OPENING: &str = "OPENING";
    /// `u32` frontend id -> [`Share`](super::Share), array: what each frontend has in `OPENING`.
    pub const SHARES: &str = "SHARES";
    /// `u32` frontend id -> [`Counters`](super::Counters), per-CPU array.
    pub const COUNTERS: &str = "COUNTERS";
    /// [`Reason`](super::Reason) as `u32` -> `u64` packets, per-CPU array.
    pub const REASONS: &str = "REASONS";
    /// `u32` ifindex -> [`Uplink`](super::Uplink), hash: the interfaces that lead to clients, other nodes and endpoints.
    pub const UPLINKS: &str = "UPLINKS";
    /// `0` -> [`Settings`](super::Settings), array.
    pub const SETTINGS: &str = "SETTINGS";
    /// `0` -> [`Bucket`](super::Bucket), per-CPU array: the limit on generated replies.
    pub const REJECTS: &str = "REJECTS";
    /// [`PROXY_TCP`](super::PROXY_TCP) -> the proxy's listening socket, sockmap.
    pub const PROXY: &str = "PROXY";
    /// [`Addr`](super::Addr) -> [`Claim`](super::Claim), LRU hash: when another node was heard to say that a VIP is its own.
    pub const CLAIMED: &str = "CLAIMED";
    /// [`Source`](super::Source) behind its prefix length -> [`SOURCE_ADMITTED`](super::SOURCE_ADMITTED), LPM trie: from
    /// where the clients of some frontends must come.
    pub const SOURCES: &str = "SOURCES";
    /// [`Seat`](super::Seat) -> [`SEAT_LEFT`](super::SEAT_LEFT), hash: backends that a frontend has lost and others still have.
    pub const LEFT: &str = "LEFT";
    /// [`Addr`](super::Addr) -> [`HOST_OWN`](super::HOST_OWN), hash: the addresses of this host, on whichever interface.
    pub const HOST: &str = "HOST";
    /// Ethernet address as a number, see [`neighbour::peer`](crate::neighbour::peer) -> [`PEER_KNOWN`](super::PEER_KNOWN),
    /// hash: the uplinks of the other nodes.
    pub const PEERS: &str = "PEERS";
    /// [`Addr`](super::Addr) -> [`Heard`](super::Heard), LRU hash, [`MAX_CLAIMED`](super::MAX_CLAIMED) rows: who has a VIP that
    /// is asked for.
    pub const HEARD: &str = "HEARD";
    /// `0` -> [`Choice`](super::Choice), per-CPU array: where a program works on a flow that it opens.
    pub const CHOICE: &str = "CHOICE";
    /// [`MeshKey`](super::MeshKey) -> [`Addr`](super::Addr), hash: ClusterIPs that the proxy serves to pods of this node, and where.
    pub const MESH: &str = "MESH";
    /// Every map, in the order in which they are created.
    pub const ALL: [&str; 21] = [
        FRONTENDS, BACKENDS, TABLES, VIPS, CONNTRACK, COUNTERS, REASONS, UPLINKS, SETTINGS, REJECTS, PROXY, CLAIMED,
        SOURCES, LEFT, HOST, PEERS, HEARD, OPENING, SHARES, CHOICE, MESH,
    ];
}

/// Names of the programs in the object.
pub mod program {
    /// XDP, on each uplink: flows whose backend is on another node, in both directions.
    pub const XDP: &str = "sluice_xdp";
    /// TC ingress, on each uplink: everything XDP passed, and all of it where XDP is not available.
    pub const INGRESS: &str = "sluice_ingress";
    /// TC egress, on each uplink: replies of backends on this node.
    pub const EGRESS: &str = "sluice_egress";
    /// TC ingress, on each side interface: replies that return to this node's own address.
    pub const SIDE_IN: &str = "sluice_side_in";
    /// TC egress, on each side interface: replies of backends on this node to clients that are reached by it.
    pub const SIDE_OUT: &str = "sluice_side_out";
    /// [`SIDE_IN`] for an interface whose packets have no Ethernet header.
    pub const BARE_IN: &str = "sluice_bare_in";
    /// [`SIDE_OUT`] for an interface whose packets have no Ethernet header.
    pub const BARE_OUT: &str = "sluice_bare_out";
    /// TC ingress, where pods of this node enter: what they send to a ClusterIP that the proxy serves.
    pub const MESH_IN: &str = "sluice_mesh_in";
    /// TC egress, to pods of this node: what the proxy answers them.
    pub const MESH_OUT: &str = "sluice_mesh_out";
    /// TC, run by the agent and attached nowhere: sends the frame that it is given out of an uplink.
    pub const ANNOUNCE: &str = "sluice_announce";
    /// `sk_lookup`, in the node's network namespace: hands layer 7 frontends to the proxy's socket.
    pub const LOOKUP: &str = "sluice_lookup";
    /// XDP that passes everything: what a veth peer needs before it takes frames from `XDP_TX`; tests and benches.
    pub const PASS: &str = "sluice_pass";
}

/// Frontends at most; one is a VIP, a port and a protocol.
pub const MAX_FRONTENDS: u32 = 65_536;
/// Backends at most, counted once however many frontends choose them.
pub const MAX_BACKENDS: u32 = 131_072;
/// Owned VIPs at most.
pub const MAX_VIPS: u32 = 65_536;
/// VIPs at most that another host is remembered to have claimed.
pub const MAX_CLAIMED: u32 = 4_096;
/// Uplinks of other nodes at most; what those beyond it claim is not believed.
pub const MAX_PEERS: u32 = 16_384;
/// What the map of peers holds for each.
pub const PEER_KNOWN: u32 = 1;
/// Chunks of lookup table at most: 64 MiB, taken when the map is made.
///
/// That is room for 10,000 frontends of ten backends, which take 40 MiB, while the tables that they had before are still kept.
pub const MAX_CHUNKS: u32 = 1_048_576;
/// Slots in one [`TableChunk`].
pub const CHUNK_SLOTS: u32 = 16;
/// Conntrack entries at most; a flow has two, the least recently used are evicted.
pub const MAX_CONNTRACK: u32 = 262_144;
/// Entries at most of flows that are not proved; a flow has two, the least recently used are evicted.
pub const MAX_OPENING: u32 = 65_536;
/// Flows at most that a frontend may open in one window without an answer: three quarters of those that there
/// may be.
pub const OPENING_SHARE: u32 = MAX_OPENING / 2 / 4 * 3;
/// A window is so many bits of nanoseconds: 1.07 seconds.
pub const WINDOW_BITS: u32 = 30;
/// Ranges at most that clients must come from, those of all lists together; frontends with the same list share it.
pub const MAX_SOURCES: u32 = 65_536;
/// Backends at most that are remembered to have left a frontend: beyond it, a SYN without an answer waits for its backend
/// until no frontend has it.
pub const MAX_LEFT: u32 = 16_384;
/// Addresses of this host at most; those beyond it are not recognised as sources that nobody else can have.
pub const MAX_HOST: u32 = 16_384;
/// What the map of the host's addresses holds for each.
pub const HOST_OWN: u32 = 1;
/// Uplinks and side interfaces at most.
pub const MAX_UPLINKS: u32 = 64;
/// ClusterIPs and ports at most that the proxy serves, each of which has two rows; those beyond it are kube-proxy's.
pub const MAX_MESH: u32 = 32_768;
/// Key in the sockmap of the proxy's TCP listener.
pub const PROXY_TCP: u32 = 0;

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// An address: IPv6, or IPv4 as IPv4-mapped IPv6 (`::ffff:a.b.c.d`).
///
/// Order: network. Aligned so that the programs compare and copy words, not bytes; no offset depends on it.
#[repr(C, align(4))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
pub struct Addr {
    /// The bytes as on the wire.
    pub octets: [u8; 16],
}

/// What a client dials.
///
/// Order: address network, port host.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
pub struct FrontendKey {
    /// The VIP.
    pub vip: Addr,
    /// The port, host order.
    pub port: u16,
    /// [`TCP`] or [`UDP`].
    pub proto: u8,
    /// 4 or 6.
    pub family: u8,
}

/// One end of a connection of a pod to the proxy, as the pod has it or as the host does.
///
/// Shape: the key of [`map::MESH`]; the value is the address that the same end has on the other side, at the same port.
/// Order: address network, port host.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
pub struct MeshKey {
    /// The address.
    pub addr: Addr,
    /// The port, TCP.
    pub port: u16,
    /// [`MESH_DIALLED`] or [`MESH_SERVED`].
    pub side: u16,
}

/// A ClusterIP, as pods dial it.
pub const MESH_DIALLED: u16 = 0;
/// The address of the host at which the proxy serves it.
pub const MESH_SERVED: u16 = 1;

/// What to do with the flows of a frontend.
///
/// Shape: one per [`FrontendKey`]; replaced whole, which publishes a new table at once.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Frontend {
    /// Index into the counters; stable while the frontend lives.
    pub id: u32,
    /// First chunk of the lookup table.
    pub table_chunk: u32,
    /// Slots in the lookup table; 0 when there is no backend.
    pub table_slots: u32,
    /// Distinct backends in the table, for people.
    pub backends: u32,
    /// `FRONTEND_*` bits.
    pub flags: u32,
    /// The list of [`Source`]s that its clients must come from; 0 without [`FRONTEND_SOURCES`].
    pub sources: u32,
}

/// The frontend's flows belong to the proxy: the L4 programs pass them, `sk_lookup` steers them.
pub const FRONTEND_PROXY: u32 = 1;
/// No backend here may serve, others may: drop without an answer (`externalTrafficPolicy: Local`).
pub const FRONTEND_DROP: u32 = 2;
/// Choose by the client's address alone (`sessionAffinity: ClientIP`).
pub const FRONTEND_AFFINITY: u32 = 4;
/// Clients must come from a range of the frontend's list; from elsewhere no flow is opened, and none goes on.
pub const FRONTEND_SOURCES: u32 = 8;

/// A range that clients may come from, as a member of its list.
///
/// Shape: the data of an LPM key, whose prefix length is that of the range and [`SOURCE_BITS`]. The list is the same for all
/// clients of a frontend, and so is their family: `::/0` admits no IPv4 client, for no IPv4 frontend has it in its list.
/// Order: network.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
pub struct Source {
    /// The list's id, from 1.
    pub list: [u8; 4],
    /// The network's address.
    pub addr: Addr,
}

/// Bits of a [`Source`] before its address: they always count.
pub const SOURCE_BITS: u32 = 32;
/// What the trie holds for a range.
pub const SOURCE_ADMITTED: u32 = 1;

/// One place where a flow can be sent.
///
/// Shape: one per backend id, ids are stable while the backend lives. Order: address network, port host.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Pod, Zeroable)]
pub struct Backend {
    /// The endpoint's address.
    pub addr: Addr,
    /// The endpoint's port, host order.
    pub port: u16,
    /// `BACKEND_*` bits.
    pub flags: u16,
}

/// The endpoint is on this node: never change the source address.
pub const BACKEND_LOCAL: u16 = 1;
/// The endpoint is on another node: replies must return through this one. Neither bit: the route decides.
pub const BACKEND_REMOTE: u16 = 2;

/// A backend as one of a frontend's.
///
/// Shape: the key of [`map::LEFT`]. What the table says of the same pair is newer: it is looked at for flows that have begun.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
pub struct Seat {
    /// The frontend's id.
    pub frontend: u32,
    /// The backend's id.
    pub backend: u32,
}

/// What the map holds for a backend that has left.
pub const SEAT_LEFT: u32 = 1;

/// Sixteen slots of a lookup table, each a backend id; 0 is no backend.
///
/// # Design
/// An array of chunks, not of slots: publishing a table costs a sixteenth of the system calls.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct TableChunk {
    /// Backend ids.
    pub ids: [u32; CHUNK_SLOTS as usize],
}

/// An address that is ours.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Vip {
    /// `VIP_*` bits.
    pub flags: u32,
    /// Frontends on this address, for people.
    pub frontends: u32,
    /// The node that announces the address when this one does not, and may know flows that this one does not know;
    /// [`Addr::NONE`] where there is none, or where this node does not announce it.
    pub relay: Addr,
}

/// Answer ICMP echo for this address.
pub const VIP_ECHO: u32 = 1;
/// Reject TCP and UDP to ports that no frontend names.
pub const VIP_REJECT: u32 = 2;
/// A frontend here is the proxy's: the host's stack owns its connections, and the ICMP messages about them.
pub const VIP_PROXY: u32 = 4;
/// This node announces the address: it answers ARP and neighbour solicitations for it.
pub const VIP_ANNOUNCE: u32 = 8;
/// The address is the host's own as well: what no frontend names is the host's, ARP and ICMP included.
pub const VIP_HOST: u32 = 16;
/// The address is that of a node of the cluster, this one or another, which speaks from it.
pub const VIP_NODE: u32 = 32;
/// This node asks whether another host has the address, before it announces it: what is heard is remembered.
pub const VIP_PROBE: u32 = 64;

/// A host that was heard to have a VIP which this node asks for before it announces it.
///
/// Units: nanoseconds of the monotonic clock, coarse.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Heard {
    /// When it was heard.
    pub at: u64,
    /// Its Ethernet address, as on the wire.
    pub mac: [u8; 6],
    /// Always 0.
    pub pad: [u8; 2],
}

/// Source and destination of a packet.
///
/// Order: addresses network, ports host.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
pub struct Tuple {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port, host order.
    pub src_port: u16,
    /// Destination port, host order.
    pub dst_port: u16,
}

/// A flow in one direction, as its packets arrive.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
pub struct CtKey {
    /// What the packet carries.
    pub tuple: Tuple,
    /// [`TCP`] or [`UDP`].
    pub proto: u8,
    /// [`CT_REQUEST`] or [`CT_REPLY`].
    pub dir: u8,
    /// Always 0.
    pub pad: [u8; 2],
}

/// From the client to the VIP.
pub const CT_REQUEST: u8 = 0;
/// From the backend to the client, or to this node where the source was changed.
pub const CT_REPLY: u8 = 1;

/// The remembered choice for a flow, in one direction.
///
/// Shape: [`CtKey`] -> `CtEntry`, LRU, [`MAX_CONNTRACK`] rows and [`MAX_OPENING`] rows, two per flow. Units: nanoseconds of the
/// monotonic clock, coarse. Order: addresses network, ports host. Source: RFC 4787 REQ-5 and RFC 5382 REQ-5 for timeouts.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct CtEntry {
    /// When a packet in this direction was last seen; refreshed at most once in [`CT_REFRESH_NS`].
    pub seen: u64,
    /// When the flow began.
    pub created: u64,
    /// What the packet shall carry when it leaves.
    pub to: Tuple,
    /// The frontend's id, for the counters.
    pub frontend: u32,
    /// The backend's id when the flow began; by now another backend may have it.
    pub backend: u32,
    /// `CT_*` flag bits.
    pub flags: u32,
    /// The way that its packets took lately.
    pub hop: Hop,
    /// TCP: the sequence number that this direction's sender acknowledged last, which the other side's RST and FIN are
    /// measured by; 0 while it is not known. Host order.
    pub ack: u32,
    /// TCP, of a client whose flow is not proved: the acknowledgement number that proves that it has heard the backend; 0 while
    /// it is not known. Host order.
    pub expect: u32,
}

/// What is chosen for a flow while it is opened, in the form in which it is entered.
///
/// Shape: one for each CPU, that has no room on the programs' stack. Means nothing between two packets.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Choice {
    /// The reply entry; its `to` is what the client sent, reversed.
    pub entry: CtEntry,
    /// The reply entry's key, but for the port, which must first be reserved.
    pub reply: CtKey,
}

/// The way that the routing table gave the packets of a flow, for XDP: not each of them asks.
///
/// Units: nanoseconds of the monotonic clock, coarse. Order: addresses network.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Hop {
    /// Until when it is followed: [`HOP_NS`] after it was asked for.
    pub until: u64,
    /// The interface to leave by.
    pub ifindex: u32,
    /// The interface that the packet came in by.
    pub ingress: u32,
    /// Destination and source of the Ethernet header.
    pub macs: [u16; 6],
    /// The largest IP packet that it is known to take.
    pub mtu: u16,
    /// A sum of the rest: what two CPUs wrote into each other does not have it.
    pub check: u16,
}

/// For how long the packets of a flow follow a route that may have changed.
pub const HOP_NS: u64 = 100_000_000;

/// The source was changed to this node's address.
pub const CT_SNAT: u32 = 1;
/// The backend has answered. Kept on both entries.
pub const CT_REPLIED: u32 = 2;
/// The client has sent FIN. Kept on both entries.
pub const CT_FIN_CLIENT: u32 = 4;
/// The backend has sent FIN. Kept on both entries.
pub const CT_FIN_BACKEND: u32 = 8;
/// Either side has sent RST. Kept on both entries.
pub const CT_RST: u32 = 16;

/// The flow is not proved: its entries are in [`map::OPENING`].
pub const CT_OPENING: u32 = 32;
/// Another flow takes over the source port of this one, which is not proved.
pub const CT_TAKEN: u32 = 64;
/// UDP: the client has gone on after an answer. Kept on both entries.
pub const CT_DIALOGUE: u32 = 128;

/// How stale `seen` may be before a packet refreshes it: a busy flow must not write the entry with every packet.
pub const CT_REFRESH_NS: u64 = 250_000_000;
/// Idle time after which an established TCP flow is forgotten (RFC 5382: two hours and four minutes at least).
pub const CT_TCP_ESTABLISHED_NS: u64 = 8_000 * 1_000_000_000;
/// Idle time after which a TCP flow is forgotten that is not proved: a SYN comes again 1, 2 and 4 seconds after the last.
pub const CT_TCP_OPENING_NS: u64 = 10 * 1_000_000_000;
/// Idle time after which a closed TCP flow is forgotten: the host's TIME-WAIT.
pub const CT_TCP_CLOSED_NS: u64 = 60 * 1_000_000_000;
/// Idle time after which a UDP flow is forgotten that is more than a question: its client went on after an answer, or it lasts.
pub const CT_UDP_REPLIED_NS: u64 = 180 * 1_000_000_000;
/// Idle time after which a UDP flow is forgotten that was a question and its answers: clients of DNS ask again sooner.
pub const CT_UDP_ANSWERED_NS: u64 = 10 * 1_000_000_000;
/// Idle time after which a UDP flow without an answer is forgotten.
pub const CT_UDP_ONEWAY_NS: u64 = 30 * 1_000_000_000;
/// Age from which on a UDP flow that was answered, and goes on, is more than a question.
pub const CT_UDP_STREAM_NS: u64 = 2 * 1_000_000_000;
/// Idle time from which on an unanswered flow gives up its source port to one that finds no other.
pub const WAITING_NS: u64 = 2 * 1_000_000_000;

/// What one CPU has counted for a frontend. Request: client to backend; reply: backend to client.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Counters {
    /// Flows begun.
    pub flows: u64,
    /// Packets from clients.
    pub request_packets: u64,
    /// Bytes from clients, from the Ethernet header on.
    pub request_bytes: u64,
    /// Packets from backends.
    pub reply_packets: u64,
    /// Bytes from backends, from the Ethernet header on.
    pub reply_bytes: u64,
    /// Packets refused or dropped; the reasons are counted apart.
    pub dropped_packets: u64,
}

/// An interface that leads to clients and to other nodes, or, with [`UPLINK_SIDE`], one by which flows go on or return.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Uplink {
    /// The node's IPv4 address there, IPv4-mapped; all zero where it has none.
    pub v4: Addr,
    /// The node's global IPv6 address there; all zero where it has none.
    pub v6: Addr,
    /// Its Ethernet address, as on the wire; all zero where it has none.
    pub mac: [u8; 6],
    /// `UPLINK_*` bits.
    pub flags: u16,
}

/// No uplink: a route that is more than that to one guest leaves by it. Clients are not served there, endpoints and the way
/// back to clients are reached by it.
pub const UPLINK_SIDE: u16 = 1;
/// It is a bridge: who is on its link, and whose node nothing names, is a guest of this node.
pub const UPLINK_GUESTS: u16 = 2;

/// Settings that may change while the programs run.
///
/// Units: nanoseconds of the monotonic clock. Order: ports host.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Settings {
    /// First source port for flows whose source is changed, host order.
    pub snat_first: u16,
    /// Last of these, inclusive, host order.
    pub snat_last: u16,
    /// RST and ICMP unreachable that one CPU may generate in a second.
    pub reject_rate: u32,
    /// Until when this node answers for the VIPs that it announces; `u64::MAX`: for as long as the programs are there.
    pub announce_until: u64,
    /// Since when this node may have missed that another took over; 0: it hears of the others.
    pub blind_since: u64,
}

/// What other nodes have said about a VIP that is announced here.
///
/// Units: nanoseconds of the monotonic clock, coarse; 0: never.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Claim {
    /// When it was claimed last, but for claims that follow within [`CLAIM_GAP_NS`].
    pub heard: u64,
    /// When it was claimed although this node had defended it, or could have: from then on it is the other's.
    pub yielded: u64,
}

/// Claims that come closer to each other are one: an announcement is more than one frame.
pub const CLAIM_GAP_NS: u64 = 500_000_000;
/// For how long a claim that is repeated is not defended against again (RFC 5227, section 2.4: DEFEND_INTERVAL).
pub const DEFEND_NS: u64 = 10_000_000_000;

/// What a frontend has opened lately.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Share {
    /// The window that is counted: monotonic nanoseconds, shifted right by [`WINDOW_BITS`].
    pub window: u32,
    /// Flows opened in it that were not answered; at most [`OPENING_SHARE`].
    pub flows: u32,
}

/// A token bucket.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Bucket {
    /// Monotonic nanoseconds when it was last filled.
    pub filled: u64,
    /// Whole replies left.
    pub tokens: u64,
}

const _: () = {
    assert!(size_of::<FrontendKey>() == 20);
    assert!(size_of::<Frontend>() == 24);
    assert!(size_of::<Source>() == 20);
    assert!(size_of::<Backend>() == 20);
    assert!(size_of::<TableChunk>() == 64);
    assert!(size_of::<Seat>() == 8);
    assert!(size_of::<Vip>() == 24);
    assert!(size_of::<Heard>() == 16);
    assert!(size_of::<Tuple>() == 36);
    assert!(size_of::<CtKey>() == 40);
    assert!(size_of::<CtEntry>() == 104);
    assert!(size_of::<Choice>() == 144);
    assert!(size_of::<Hop>() == 32);
    assert!(size_of::<Counters>() == 48);
    assert!(size_of::<Uplink>() == 40);
    assert!(size_of::<Settings>() == 24);
    assert!(size_of::<Share>() == 8);
    assert!(size_of::<Bucket>() == 16);
    assert!(size_of::<Claim>() == 16);
};

impl Addr {
    /// No address.
    pub const NONE: Self = Self::v6([0; 16]);

    /// An IPv6 address from its bytes as on the wire.
    #[must_use]
    #[inline(always)]
    pub const fn v6(octets: [u8; 16]) -> Self {
        Self { octets }
    }

    /// An IPv4 address from its four bytes as on the wire.
    #[must_use]
    #[inline(always)]
    pub const fn v4(o: [u8; 4]) -> Self {
        Self::v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, o[0], o[1], o[2], o[3]])
    }

    /// The four bytes of an IPv4 address; of an IPv6 address, the last four.
    #[must_use]
    #[inline(always)]
    pub const fn last4(&self) -> [u8; 4] {
        let [.., a, b, c, d] = self.octets;
        [a, b, c, d]
    }
}
