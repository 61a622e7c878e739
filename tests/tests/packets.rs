//! The real programs, packet by packet. Each case is a sentence, a packet in, an action, and the packet out in full.
mod packets {
    mod claims;
    mod ends;
    mod errors;
    mod flows;
    mod forged;
    mod hops;
    mod icmp;
    mod malformed;
    mod mesh;
    mod neighbours;
    mod opening;
    mod priority;
    mod programs;
    mod refused;
    mod shares;
    mod sides;
    mod sources;
    mod splice;
    mod tracking;
    mod veth;
}
