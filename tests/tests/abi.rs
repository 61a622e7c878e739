//! The interface between the programs and the agent, as text: maps of the built object, offsets of every struct, values
//! of every flag and limit. A map that an older agent pinned is adopted by a newer one only if all of it is the same.
//!
//! When this fails and the change is meant: raise `LAYOUT` (the pins move to another directory), say in the changelog
//! what an upgrade loses, and run the test with `SLUICE_WRITE_ABI=1` to write the new text.
use std::{fmt::Write, fs, path::Path};

use sluice_ebpf::*;

/// The size, alignment and field offsets of structs. A field that is missing here fails to compile.
macro_rules! layouts {
    ($out:expr, $($name:ident { $($field:ident: $type:ty),+ $(,)? })+) => {$({
        let whole: fn($name) = |$name { $($field),+ }| { $(let _: $type = $field;)+ };
        let _ = whole;
        writeln!($out, "struct {}: {} bytes", stringify!($name), size_of::<$name>())?;
        $(writeln!($out, "  {:>2} {}: {}", std::mem::offset_of!($name, $field), stringify!($field), stringify!($type))?;)+
    })+};
}

macro_rules! constants {
    ($out:expr, $($name:ident),+ $(,)?) => {$(writeln!($out, "const {} = {}", stringify!($name), $name)?;)+};
}

fn maps(out: &mut String) -> std::fmt::Result {
    let bytes = fs::read(sluice_tests::packets::object()).expect("read the object");
    let object = aya_obj::Object::parse(&bytes).expect("parse the object");
    for name in map::ALL {
        let m = object.maps.get(name).unwrap_or_else(|| panic!("the object has no map {name}"));
        let (kind, key, value, entries) = (m.map_type(), m.key_size(), m.value_size(), m.max_entries());
        writeln!(out, "map {name}: type {kind}, key {key}, value {value}, entries {entries}, flags {}", m.map_flags())?;
    }
    let mut others: Vec<_> = object.maps.keys().filter(|n| !map::ALL.contains(&n.as_str())).collect();
    others.sort();
    assert!(others.is_empty(), "maps that no pin is kept for: {others:?}");
    let mut programs: Vec<_> = object.programs.keys().cloned().collect();
    programs.sort();
    let (uplink, side) = ([program::XDP, program::INGRESS, program::EGRESS], [program::SIDE_IN, program::SIDE_OUT]);
    let mesh = [program::MESH_IN, program::MESH_OUT];
    let rest = [program::BARE_IN, program::BARE_OUT, program::ANNOUNCE, program::LOOKUP, program::PASS];
    let mut want = [&uplink[..], &side, &mesh, &rest].concat();
    want.sort_unstable();
    assert_eq!(programs, want);
    Ok(())
}

fn snapshot() -> Result<String, std::fmt::Error> {
    let mut out = format!("layout {LAYOUT}\n\n");
    maps(&mut out)?;
    out.push('\n');
    layouts! { out,
        FrontendKey { vip: Addr, port: u16, proto: u8, family: u8 }
        MeshKey { addr: Addr, port: u16, side: u16 }
        Frontend { id: u32, table_chunk: u32, table_slots: u32, backends: u32, flags: u32, sources: u32 }
        Source { list: [u8; 4], addr: Addr }
        Backend { addr: Addr, port: u16, flags: u16 }
        Seat { frontend: u32, backend: u32 }
        TableChunk { ids: [u32; CHUNK_SLOTS as usize] }
        Vip { flags: u32, frontends: u32, relay: Addr }
        Heard { at: u64, mac: [u8; 6], pad: [u8; 2] }
        Tuple { src: Addr, dst: Addr, src_port: u16, dst_port: u16 }
        CtKey { tuple: Tuple, proto: u8, dir: u8, pad: [u8; 2] }
        CtEntry {
            seen: u64, created: u64, to: Tuple, frontend: u32, backend: u32, flags: u32, hop: Hop, ack: u32, expect: u32,
        }
        Choice { entry: CtEntry, reply: CtKey }
        Hop { until: u64, ifindex: u32, ingress: u32, macs: [u16; 6], mtu: u16, check: u16 }
        Counters {
            flows: u64, request_packets: u64, request_bytes: u64, reply_packets: u64, reply_bytes: u64,
            dropped_packets: u64,
        }
        Uplink { v4: Addr, v6: Addr, mac: [u8; 6], flags: u16 }
        Settings { snat_first: u16, snat_last: u16, reject_rate: u32, announce_until: u64, blind_since: u64 }
        Bucket { filled: u64, tokens: u64 }
        Share { window: u32, flows: u32 }
        Claim { heard: u64, yielded: u64 }
    }
    writeln!(out, "struct Addr: {} bytes\n", size_of::<Addr>())?;
    constants! { out,
        MAX_FRONTENDS, MAX_BACKENDS, MAX_VIPS, MAX_CHUNKS, CHUNK_SLOTS, MAX_CONNTRACK, MAX_UPLINKS, PROXY_TCP, TCP, UDP,
        FRONTEND_PROXY, FRONTEND_DROP, FRONTEND_AFFINITY, FRONTEND_SOURCES, MAX_SOURCES, MAX_LEFT, SEAT_LEFT, SOURCE_BITS, SOURCE_ADMITTED, BACKEND_LOCAL, BACKEND_REMOTE, VIP_ECHO, VIP_REJECT, VIP_PROXY,
        VIP_ANNOUNCE, VIP_HOST, VIP_NODE, VIP_PROBE, UPLINK_SIDE, UPLINK_GUESTS, MAX_HOST, HOST_OWN, MAX_PEERS, PEER_KNOWN,
        CT_REQUEST, CT_REPLY, CT_SNAT, CT_REPLIED, CT_FIN_CLIENT, CT_FIN_BACKEND, CT_RST, CT_OPENING,
        CT_TAKEN, CT_DIALOGUE, MAX_MESH, MESH_DIALLED, MESH_SERVED, MAX_OPENING, OPENING_SHARE, WINDOW_BITS,
    }
    for reason in Reason::ALL {
        writeln!(out, "reason {} = {}", reason.name(), reason as u32)?;
    }
    Ok(out)
}

#[test]
fn the_layout_is_what_the_pins_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/abi.txt");
    let got = snapshot().expect("write to memory");
    if std::env::var_os("SLUICE_WRITE_ABI").is_some() {
        fs::write(&path, &got).unwrap();
    }
    let want = fs::read_to_string(&path).unwrap_or_default();
    let changed: Vec<_> = got.lines().filter(|l| !want.contains(*l)).collect();
    assert!(got == want, "the layout changed, is LAYOUT {LAYOUT} still right? new or changed: {changed:#?}");
}

#[test]
fn addresses_are_bytes_in_network_order() {
    assert_eq!(bytemuck::bytes_of(&Addr::v4([192, 0, 2, 1])), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]);
    assert_eq!(Addr::v4([192, 0, 2, 1]).last4(), [192, 0, 2, 1]);
    // What bpftool prints is what a person reads: a port's number, not its bytes swapped.
    let key = FrontendKey { vip: Addr::v4([192, 0, 2, 1]), port: 443, proto: TCP, family: 4 };
    assert_eq!(bytemuck::bytes_of(&key)[16..18], 443u16.to_ne_bytes());
}
