//! The loaded programs, their maps, and the routes that they ask for.
use std::{collections::BTreeMap, net::IpAddr, process::Command};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf, EbpfLoader, TestRun, TestRunOptions, TestRunResult,
    maps::{
        Array, HashMap, MapData, PerCpuArray, PerCpuValues,
        lpm_trie::{Key, LpmTrie},
    },
    programs::{SchedClassifier, SkLookup, Xdp, XdpMode},
};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
    time::{ClockId, clock_gettime},
};
use sluice_ebpf::*;

use super::{UP0, UP1, object};

/// The namespace: `up0` and `up1` (MTU 1280) are uplinks, `pod0` leads to pods. Every address has a permanent neighbour but .99.
const TOPOLOGY: &str = "
set -e
for d in up0 up1 pod0; do
  ip link add $d mtu 1500 type veth peer name p-$d
  ip link set p-$d up
done
ip link set up0 address 02:00:00:00:01:01
ip link set up1 address 02:00:00:00:02:01
ip link set lo up
for d in up0 up1 pod0; do ip link set $d up; done
ip link set up1 mtu 1280
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 >/dev/null
ip addr add 192.0.2.1/24 dev up0
ip addr add 2001:db8:1::1/64 dev up0 nodad
ip addr add 203.0.113.1/24 dev up1
ip addr add 2001:db8:2::1/64 dev up1 nodad
ip addr add 10.244.0.1/24 dev pod0
ip addr add 2001:db8:f::1/64 dev pod0 nodad
ip route add default via 192.0.2.254
ip -6 route add default via 2001:db8:1::fe
ip route add unreachable 192.0.2.66
neigh() { ip neigh add $1 lladdr $2 dev $3 nud permanent; }
neigh 192.0.2.254 02:00:00:00:00:fe up0
neigh 2001:db8:1::fe 02:00:00:00:00:fe up0
neigh 192.0.2.20 02:00:00:00:00:14 up0
neigh 2001:db8:1::20 02:00:00:00:00:14 up0
neigh 203.0.113.20 02:00:00:00:02:14 up1
neigh 2001:db8:2::20 02:00:00:00:02:14 up1
neigh 10.244.0.5 02:00:00:00:0f:05 pod0
neigh 2001:db8:f::5 02:00:00:00:0f:05 pod0
";

/// What a program made of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The code it returned: `XDP_*`, `TC_ACT_*`; -1 is TCX's "next".
    pub code: i32,
    /// The packet.
    pub packet: Vec<u8>,
}

/// The programs in their namespace.
pub struct Lab {
    /// The loaded object.
    pub bpf: Ebpf,
    /// Index of `up0`, where packets come in.
    pub up0: u32,
    /// Index of `up1`.
    pub up1: u32,
    next_frontend: u32,
}

/// Reasons that are counted, by name.
pub type Reasons = BTreeMap<&'static str, u64>;

/// A map of counted reasons to compare with.
#[must_use]
pub fn drop_reasons(of: &[Reason]) -> Reasons {
    let mut map = Reasons::new();
    for reason in of {
        *map.entry(reason.name()).or_default() += 1;
    }
    map
}

/// An address as the maps have it.
#[must_use]
pub fn addr(ip: &str) -> Addr {
    match ip.parse().expect("an address in a test") {
        IpAddr::V4(a) => Addr::v4(a.octets()),
        IpAddr::V6(a) => Addr::v6(a.octets()),
    }
}

impl Lab {
    /// Makes the namespace on this thread and loads the programs.
    ///
    /// # Errors
    /// No permission, or an object that the kernel refuses.
    pub fn new() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
        let out = Command::new("bash").args(["-c", TOPOLOGY]).output().context("run bash")?;
        if !out.status.success() {
            bail!("topology: {}", String::from_utf8_lossy(&out.stderr));
        }
        let mut bpf = EbpfLoader::new().load_file(object()).context("load the object")?;
        let sides = [program::SIDE_IN, program::SIDE_OUT, program::BARE_IN, program::BARE_OUT];
        let rest = [program::INGRESS, program::EGRESS, program::ANNOUNCE, program::MESH_IN, program::MESH_OUT];
        for name in rest.into_iter().chain(sides) {
            let p: &mut SchedClassifier = bpf.program_mut(name).context(name)?.try_into()?;
            p.load().context(name)?;
        }
        for name in [program::XDP, program::PASS] {
            let p: &mut Xdp = bpf.program_mut(name).context(name)?.try_into()?;
            p.load().context(name)?;
        }
        let p: &mut SkLookup = bpf.program_mut(program::LOOKUP).context(program::LOOKUP)?.try_into()?;
        p.load().context(program::LOOKUP)?;
        // A test run with an ingress interface wants its receive queues registered, which veth does with a program.
        let p: &mut Xdp = bpf.program_mut(program::PASS).context(program::PASS)?.try_into()?;
        p.attach("up0", XdpMode::Driver)?;
        let mut lab = Self { bpf, up0: if_nametoindex("up0")?, up1: if_nametoindex("up1")?, next_frontend: 1 };
        lab.uplink(lab.up0, UP0, "192.0.2.1", "2001:db8:1::1");
        lab.uplink(lab.up1, UP1, "203.0.113.1", "2001:db8:2::1");
        let settings = Settings {
            snat_first: 40_000,
            snat_last: 49_999,
            reject_rate: 1000,
            announce_until: u64::MAX,
            blind_since: 0,
        };
        lab.settings(settings);
        Ok(lab)
    }

    /// A hash map of the object.
    pub fn hash<K: aya::Pod, V: aya::Pod>(&mut self, name: &str) -> HashMap<&mut MapData, K, V> {
        HashMap::try_from(self.bpf.map_mut(name).expect("a map of the object")).expect("a hash map")
    }

    /// Declares an uplink.
    pub fn uplink(&mut self, ifindex: u32, mac: [u8; 6], v4: &str, v6: &str) {
        let row = Uplink { v4: addr(v4), v6: addr(v6), mac, flags: 0 };
        self.hash(map::UPLINKS).insert(ifindex, row, 0).expect("insert an uplink");
    }

    /// Replaces the settings.
    pub fn settings(&mut self, s: Settings) {
        let map = self.bpf.map_mut(map::SETTINGS).expect("the settings");
        Array::try_from(map).and_then(|mut a: Array<_, Settings>| a.set(0, s, 0)).expect("set the settings");
    }

    /// Declares a backend.
    pub fn backend(&mut self, id: u32, at: (&str, u16), flags: u16) {
        let row = Backend { addr: addr(at.0), port: at.1, flags };
        self.hash(map::BACKENDS).insert(id, row, 0).expect("insert a backend");
    }

    /// Declares an owned address.
    pub fn vip(&mut self, ip: &str, flags: u32) {
        let row = Vip { flags, frontends: 1, ..Vip::default() };
        self.hash(map::VIPS).insert(addr(ip), row, 0).expect("insert a VIP");
    }

    /// Declares a VIP that is announced here, and elsewhere when this node is away.
    pub fn relayed_vip(&mut self, ip: &str, relay: &str) {
        let row = Vip { flags: VIP_ANNOUNCE, frontends: 1, relay: addr(relay) };
        self.hash(map::VIPS).insert(addr(ip), row, 0).expect("insert a VIP");
    }

    /// Declares a frontend with these ids as its table, and returns its id. The VIP is declared as well.
    pub fn frontend(&mut self, at: (&str, u16), proto: u8, flags: u32, ids: &[u32]) -> u32 {
        let id = self.next_frontend;
        self.next_frontend += 1;
        self.vip(at.0, VIP_ECHO | VIP_REJECT);
        self.table(at, proto, flags, ids, id);
        id
    }

    /// Writes a frontend's table and then the frontend.
    pub fn table(&mut self, at: (&str, u16), proto: u8, flags: u32, ids: &[u32], id: u32) {
        // Four chunks for each frontend of a test.
        let first = id * 4;
        for (i, chunk) in ids.chunks(CHUNK_SLOTS as usize).enumerate() {
            let mut row = TableChunk::default();
            row.ids[..chunk.len()].copy_from_slice(chunk);
            let map = self.bpf.map_mut(map::TABLES).expect("the tables");
            let mut tables: Array<_, TableChunk> = Array::try_from(map).expect("an array");
            tables.set(first + i as u32, row, 0).expect("write a table");
        }
        let family = if at.0.contains(':') { 6 } else { 4 };
        let key = FrontendKey { vip: addr(at.0), port: at.1, proto, family };
        let (slots, sources) = (ids.len() as u32, if flags & FRONTEND_SOURCES != 0 { id } else { 0 });
        let row = Frontend { id, table_chunk: first, table_slots: slots, backends: slots, flags, sources };
        self.hash(map::FRONTENDS).insert(key, row, 0).expect("insert a frontend");
    }

    /// Admits clients from a network to the frontend with this id, whose list has the same id.
    pub fn admit(&mut self, id: u32, network: &str, bits: u32) {
        let bits = SOURCE_BITS + bits + if network.contains(':') { 0 } else { 96 };
        let key = Key::new(bits, Source { list: id.to_be_bytes(), addr: addr(network) });
        let map = self.bpf.map_mut(map::SOURCES).expect("the sources");
        let mut sources: LpmTrie<_, Source, u32> = LpmTrie::try_from(map).expect("a trie");
        sources.insert(&key, SOURCE_ADMITTED, 0).expect("insert a range");
    }

    /// Runs `sluice_xdp` on a packet that came in by `up0`.
    pub fn xdp(&mut self, packet: &[u8]) -> Output {
        let words = [0, packet.len() as u32, 0, self.up0, 0, 0];
        let p: &Xdp = self.bpf.program(program::XDP).expect("a program").try_into().expect("XDP");
        run(p, packet, bytemuck::cast_slice(&words))
    }

    /// Runs `sluice_ingress` on a packet that came in by `up0`.
    pub fn ingress(&mut self, packet: &[u8]) -> Output {
        self.classify(program::INGRESS, self.up0, packet)
    }

    /// Runs `sluice_egress` on a packet that goes out by `up0`.
    pub fn egress(&mut self, packet: &[u8]) -> Output {
        self.classify(program::EGRESS, self.up0, packet)
    }

    /// Runs `sluice_side_in` on a packet that came in by `up1`.
    pub fn side_in(&mut self, packet: &[u8]) -> Output {
        self.classify(program::SIDE_IN, self.up1, packet)
    }

    /// Runs `sluice_side_out` on a packet that goes out by `up1`.
    pub fn side_out(&mut self, packet: &[u8]) -> Output {
        self.classify(program::SIDE_OUT, self.up1, packet)
    }

    /// Runs a program of TC on a packet at an interface.
    pub(super) fn classify(&mut self, name: &str, ifindex: u32, packet: &[u8]) -> Output {
        let mut context = [0u8; 192];
        // `__sk_buff::ifindex`.
        context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
        let p: &SchedClassifier = self.bpf.program(name).expect("a program").try_into().expect("TC");
        run(p, packet, &context)
    }

    /// The reasons that have been counted, those with a count.
    #[must_use]
    pub fn reasons(&self) -> Reasons {
        let map = self.bpf.map(map::REASONS).expect("the reasons");
        let map: PerCpuArray<_, u64> = PerCpuArray::try_from(map).expect("a per-CPU array");
        let count = |r: &Reason| map.get(&(*r as u32), 0).expect("read a reason").iter().sum();
        Reason::ALL.iter().map(|r| (r.name(), count(r))).filter(|(_, n)| *n > 0).collect()
    }

    /// Sets every reason to zero.
    pub fn forget_reasons(&mut self) {
        let map = self.bpf.map_mut(map::REASONS).expect("the reasons");
        let mut map: PerCpuArray<_, u64> = PerCpuArray::try_from(map).expect("a per-CPU array");
        for reason in Reason::ALL {
            let zero = PerCpuValues::try_from(vec![0; aya::util::nr_cpus().expect("CPUs")]).expect("one for each");
            map.set(reason as u32, zero, 0).expect("reset a reason");
        }
    }

    /// A frontend's counters, all CPUs together.
    #[must_use]
    pub fn counters(&self, frontend: u32) -> Counters {
        let map = self.bpf.map(map::COUNTERS).expect("the counters");
        let map: PerCpuArray<_, Counters> = PerCpuArray::try_from(map).expect("a per-CPU array");
        map.get(&frontend, 0).expect("read counters").iter().fold(Counters::default(), |a, b| Counters {
            flows: a.flows + b.flows,
            request_packets: a.request_packets + b.request_packets,
            request_bytes: a.request_bytes + b.request_bytes,
            reply_packets: a.reply_packets + b.reply_packets,
            reply_bytes: a.reply_bytes + b.reply_bytes,
            dropped_packets: a.dropped_packets + b.dropped_packets,
        })
    }

    /// Every entry of every flow, proved or not.
    #[must_use]
    pub fn conntrack(&self) -> Vec<(CtKey, CtEntry)> {
        let mut rows = self.rows(map::CONNTRACK);
        rows.extend(self.rows(map::OPENING));
        rows
    }

    /// The entries in one of the two maps.
    ///
    /// # Panics
    /// They do not say that they are there.
    #[must_use]
    pub fn rows(&self, name: &str) -> Vec<(CtKey, CtEntry)> {
        let map: HashMap<_, CtKey, CtEntry> =
            HashMap::try_from(self.bpf.map(name).expect("a map of flows")).expect("a hash map");
        let rows: Vec<_> = map.iter().map(|row| row.expect("read an entry")).collect();
        assert!(rows.iter().all(|(_, e)| (e.flags & CT_OPENING != 0) == (name == map::OPENING)), "{name}: {rows:?}");
        rows
    }

    /// The entry of a flow in one direction, without what its flags say of the map that has it.
    #[must_use]
    pub fn entry(&self, src: (&str, u16), dst: (&str, u16), proto: u8, dir: u8) -> Option<CtEntry> {
        let tuple = Tuple { src: addr(src.0), dst: addr(dst.0), src_port: src.1, dst_port: dst.1 };
        let key = CtKey { tuple, proto, dir, pad: [0; 2] };
        let entry = self.conntrack().into_iter().find(|(k, _)| *k == key).map(|(_, e)| e);
        entry.map(|e| CtEntry { flags: e.flags & !CT_OPENING, ..e })
    }

    /// Changes every entry of every flow.
    pub fn age(&mut self, change: impl Fn(&CtKey, &mut CtEntry)) {
        for name in [map::CONNTRACK, map::OPENING] {
            for (key, mut entry) in self.rows(name) {
                change(&key, &mut entry);
                self.hash(name).insert(key, entry, 0).expect("replace an entry");
            }
        }
    }

    /// Enters one direction of a flow that is proved.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn track(&mut self, key: CtKey, entry: CtEntry) {
        self.hash(map::CONNTRACK).insert(key, entry, 0).expect("enter a flow");
    }

    /// Forgets every flow.
    pub fn forget_flows(&mut self) {
        for name in [map::CONNTRACK, map::OPENING] {
            self.forget(name);
        }
    }

    /// Forgets the flows of one map.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn forget(&mut self, name: &str) {
        for (key, _) in self.rows(name) {
            self.hash::<CtKey, CtEntry>(name).remove(&key).expect("remove an entry");
        }
    }

    /// What a frontend has opened in the window that is counted.
    #[must_use]
    pub fn share(&self, frontend: u32) -> Share {
        let map = self.bpf.map(map::SHARES).expect("the shares");
        Array::<_, Share>::try_from(map).expect("an array").get(&frontend, 0).expect("read a share")
    }
}

/// Nanoseconds on the clock of the entries.
///
/// # Panics
/// The clock is missing.
#[must_use]
pub fn now() -> u64 {
    let t = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock");
    t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64
}

fn run<P>(p: &P, packet: &[u8], context: &[u8]) -> Output
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
{
    let mut out = vec![0; packet.len() + 512];
    let mut context_out = vec![0; context.len()];
    let options = TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut out),
        ctx_in: Some(context),
        ctx_out: Some(&mut context_out),
        ..TestRunOptions::default()
    };
    let result = p.test_run(options).unwrap_or_else(|e| panic!("run on {} bytes: {e:?}", packet.len()));
    out.truncate(result.data_size_out as usize);
    Output { code: result.return_value as i32, packet: out }
}
