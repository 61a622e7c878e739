//! membership -> datapath: for how long this node may announce VIPs; and back at the start, what the agent before has left of it.

/// For how long VIPs may be announced.
///
/// # Design
/// The programs outlive the agent. In a cluster another node takes over when this one is not heard of for a while, so by
/// then the programs must have fallen silent by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Validity {
    /// For as long as the programs are attached, with or without the agent.
    #[default]
    Always,
    /// Until then, unless it is prolonged.
    Until(std::time::Instant),
    /// Until `until`, unless another host says that a VIP is its own.
    Blind {
        /// The end, unless it is prolonged.
        until: std::time::Instant,
        /// Since when it counts what another host says.
        since: std::time::Instant,
    },
    /// As the agent before this one has left it: nothing is told yet, what is answered goes on until its end.
    Before,
}

/// What the agent before this one has left of the right to announce VIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answering {
    /// The programs have never answered.
    Never,
    /// They have fallen silent.
    Lapsed {
        /// Since when another node may have taken over.
        since: std::time::Instant,
    },
    /// They answer.
    Now {
        /// Since when this node has not heard of the others, if it has not.
        blind_since: Option<std::time::Instant>,
    },
}
