//! Why packets are dropped, answered or sent another way: what the programs count. A part of the map layout, as `abi.rs`.

/// Why a packet was not forwarded as a frontend's flow. Index into the map of reasons.
///
/// Only packets for an owned VIP, or of a tracked flow, are counted; foreign traffic passes without a trace.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// A header is cut off, or a length contradicts the frame. Dropped.
    Malformed = 0,
    /// A fragment: without ports it belongs to no flow. Dropped.
    Fragment = 1,
    /// An IPv6 extension header that is not skipped. Dropped.
    ExtensionHeader = 2,
    /// Neither TCP, UDP nor ICMP echo. Dropped.
    Protocol = 3,
    /// The frontend has no backend at all. Answered with RST or ICMP unreachable.
    NoBackend = 4,
    /// The frontend has backends, none of which may serve here. Dropped.
    NoLocalBackend = 5,
    /// No frontend at this port of an owned VIP. Answered with RST or ICMP unreachable.
    NoFrontend = 6,
    /// An answer was due, the limit on answers was reached. Dropped.
    RejectLimited = 7,
    /// A table names a backend that the map does not hold. Dropped: a defect of the agent.
    BackendMissing = 8,
    /// No free source port towards the backend. Dropped.
    SnatExhausted = 9,
    /// Conntrack refused an entry. Dropped.
    ConntrackFull = 10,
    /// No route to the backend. Dropped.
    NoRoute = 11,
    /// The packet's time to live ended here. Dropped.
    TtlExpired = 12,
    /// Larger than the way to the backend allows. Dropped.
    TooBig = 13,
    /// A rewrite failed. Dropped.
    Rewrite = 14,
    /// The endpoint is an owned VIP: a loop. Dropped.
    Loop = 15,
    /// ICMP echo answered. Not a drop.
    EchoReplied = 16,
    /// The uplink has no address of the flow's family to use as a source. Dropped.
    NoSource = 17,
    /// ARP answered. Not a drop.
    ArpAnswered = 18,
    /// A neighbour solicitation answered. Not a drop.
    NdAnswered = 19,
    /// A neighbour asks for a VIP that another node announces, or may by now. Dropped.
    NotAnnounced = 20,
    /// Another host says that a VIP is its own that is announced here as well. Passed.
    AnnouncedElsewhere = 21,
    /// A segment of a flow that another node knows, sent on to it. Not a drop.
    Relayed = 22,
    /// The client is in no range that the frontend admits. Dropped.
    SourceRefused = 23,
    /// The source is a VIP or an address of this host, which nobody on the network can have. Dropped.
    SourceForged = 24,
    /// An IPv4 source route. Dropped.
    SourceRoute = 25,
    /// RST or FIN with a sequence number that the receiver does not take, or a wrong checksum: the flow stays as it is.
    /// Not a drop.
    EndIgnored = 26,
    /// Somebody who is no node that was ever known says that a VIP is its own that is announced here. Passed.
    ClaimIgnored = 27,
    /// Another node says that a VIP is its own that is announced here, and is contradicted once. Not a drop.
    Defended = 28,
    /// An ICMP error about a packet of a tracked flow, sent on to the end that the packet came from. Not a drop.
    IcmpTranslated = 29,
    /// The frontend has opened its share of flows that nobody answered. Dropped.
    OpeningShare = 30,
}

impl Reason {
    /// Entries in the map of reasons.
    pub const CAPACITY: u32 = 64;
    /// Every reason, in the order of its index.
    pub const ALL: [Self; 31] = [
        Self::Malformed,
        Self::Fragment,
        Self::ExtensionHeader,
        Self::Protocol,
        Self::NoBackend,
        Self::NoLocalBackend,
        Self::NoFrontend,
        Self::RejectLimited,
        Self::BackendMissing,
        Self::SnatExhausted,
        Self::ConntrackFull,
        Self::NoRoute,
        Self::TtlExpired,
        Self::TooBig,
        Self::Rewrite,
        Self::Loop,
        Self::EchoReplied,
        Self::NoSource,
        Self::ArpAnswered,
        Self::NdAnswered,
        Self::NotAnnounced,
        Self::AnnouncedElsewhere,
        Self::Relayed,
        Self::SourceRefused,
        Self::SourceForged,
        Self::SourceRoute,
        Self::EndIgnored,
        Self::ClaimIgnored,
        Self::Defended,
        Self::IcmpTranslated,
        Self::OpeningShare,
    ];
    /// The name in logs, metrics and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Fragment => "fragment",
            Self::ExtensionHeader => "extension_header",
            Self::Protocol => "protocol",
            Self::NoBackend => "no_backend",
            Self::NoLocalBackend => "no_local_backend",
            Self::NoFrontend => "no_frontend",
            Self::RejectLimited => "reject_limited",
            Self::BackendMissing => "backend_missing",
            Self::SnatExhausted => "snat_exhausted",
            Self::ConntrackFull => "conntrack_full",
            Self::NoRoute => "no_route",
            Self::TtlExpired => "ttl_expired",
            Self::TooBig => "too_big",
            Self::Rewrite => "rewrite",
            Self::Loop => "loop",
            Self::EchoReplied => "echo_replied",
            Self::NoSource => "no_source",
            Self::ArpAnswered => "arp_answered",
            Self::NdAnswered => "nd_answered",
            Self::NotAnnounced => "not_announced",
            Self::AnnouncedElsewhere => "announced_elsewhere",
            Self::Relayed => "relayed",
            Self::SourceRefused => "source_refused",
            Self::SourceForged => "source_forged",
            Self::SourceRoute => "source_route",
            Self::EndIgnored => "end_ignored",
            Self::ClaimIgnored => "claim_ignored",
            Self::Defended => "defended",
            Self::IcmpTranslated => "icmp_translated",
            Self::OpeningShare => "opening_share",
        }
    }
}
