//! What a program does to a packet, before it becomes a code of the kernel.

/// The outcome of a path. Whatever had to be counted or rewritten has been.
#[must_use]
#[derive(Clone, Copy)]
pub(crate) enum Action {
    /// On to the next program and the host's stack, as the packet now is.
    Pass,
    /// Gone.
    Drop,
    /// Out where it came in; its Ethernet addresses are right.
    Bounce,
    /// Out of this interface: from XDP its Ethernet addresses are right, from TC the kernel finds the neighbour.
    Redirect(u32),
    /// To the neighbour that a helper was told of; TC only.
    Handed,
}

impl Action {
    /// The action as one register: an aggregate cannot be returned by a function that is not inlined.
    #[inline(always)]
    pub(crate) const fn pack(self) -> u64 {
        match self {
            Self::Pass => 0,
            Self::Drop => 1,
            Self::Bounce => 2,
            Self::Redirect(ifindex) => 3 | (ifindex as u64) << 8,
            Self::Handed => 4,
        }
    }

    /// What [`Self::pack`] packed.
    #[inline(always)]
    pub(crate) const fn unpack(packed: u64) -> Self {
        match packed & 0xff {
            0 => Self::Pass,
            2 => Self::Bounce,
            3 => Self::Redirect((packed >> 8) as u32),
            4 => Self::Handed,
            _ => Self::Drop,
        }
    }
}
