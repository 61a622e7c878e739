//! DNAT, SNAT and revNAT: all the same operation, since an entry holds the whole tuple that the packet shall carry.
use crate::context::Packet;
use sluice_ebpf::{
    Tuple, csum,
    packet::{ETH_LEN, Headers, unmapped},
};

/// Writes the tuple into the packet and adjusts its checksums. `forward`: this is the hop that decrements the time to
/// live; otherwise the host's stack will.
///
/// `None` leaves a packet half changed, to be dropped.
#[inline(always)]
pub(crate) fn rewrite<P: Packet>(p: P, h: &Headers, to: &Tuple, forward: bool) -> Option<()> {
    let old = &h.key.tuple;
    let addrs = csum::diff_addrs(old, to, h.v6);
    let b = p.bounds();
    let hop = forward as u8;
    if h.v6 {
        let [next, hops] = b.read::<[u8; 2]>(ETH_LEN + 6)?;
        b.write(ETH_LEN + 6, [next, hops.wrapping_sub(hop)])?;
        b.write::<[u16; 8]>(ETH_LEN + 8, bytemuck::cast(to.src))?;
        b.write::<[u16; 8]>(ETH_LEN + 24, bytemuck::cast(to.dst))?;
    } else {
        // Time to live and protocol, the header checksum.
        let [life, check] = b.read::<[u16; 2]>(ETH_LEN + 8)?;
        let [ttl, proto] = life.to_ne_bytes();
        let new = u16::from_ne_bytes([ttl.wrapping_sub(hop), proto]);
        let check = csum::apply(check, addrs + csum::diff(life as u32, new as u32));
        b.write(ETH_LEN + 8, [new, check])?;
        b.write(ETH_LEN + 12, unmapped(&to.src))?;
        b.write(ETH_LEN + 16, unmapped(&to.dst))?;
    }
    b.write(h.l4(), [to.src_port.to_be(), to.dst_port.to_be()])?;
    p.fix_l4(h, addrs, csum::diff_ports(old, to), csum::pseudo(to, h.key.proto, h.l4_len, h.v6))
}
