//! The command line as written -> settings as used; the one list of defaults.
mod cluster;
mod controller;
mod observe;
pub mod route_hosts;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::{
    model::{Port, host::Host},
    telemetry::LogFormat,
};

pub use cluster::{ApiArgs, ClusterArgs, ProcessArgs};
pub use controller::ControllerArgs;
pub use observe::ObserveArgs;

/// A load balancer for Kubernetes: addresses, eBPF forwarding and a layer 7 proxy in one binary.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent of this node: forward what the objects ask for
    #[command(after_long_help = AGENT_HELP)]
    Agent(Box<AgentArgs>),
    /// Lead in the agents' place, on no node: write addresses, conditions, EndpointSlices and Routes
    #[command(after_long_help = controller::HELP)]
    Controller(Box<ControllerArgs>),
    /// Show what the agent does and what keeps it from doing more
    Status(InspectArgs),
    /// Show the Services and Gateways, their addresses and ports
    Services(ServicesArgs),
    /// Show the backends of each frontend and where they run
    Backends(InspectArgs),
    /// Show the layer 7 routes in the order in which they are tried
    Routes(InspectArgs),
    /// Say what the proxy would do with a request, and why; exit status 1: it would answer with 4xx or 5xx itself
    Explain(ExplainArgs),
    /// Show tracked flows: client, VIP, chosen backend
    Flows(FlowsArgs),
    /// Show who is behind a Service, or behind all: pods, addresses, ports, readiness, since when
    Instances(InstancesArgs),
    /// Say why an object works or does not; exit status 1: it is refused, 2: it is not known
    Why(WhyArgs),
    /// Print the version
    Version,
    /// Print a script that completes commands and flags in a shell
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write the man pages, one for each command
    Man {
        /// The directory; it is made where it does not exist
        dir: PathBuf,
    },
    /// Detach the programs and remove every pin and route: forwarding stops
    Cleanup(CleanupArgs),
    /// Print a manifest that is made from the code: for `cargo xtask generate`
    #[command(hide = true)]
    Generate {
        /// Which one.
        #[arg(value_enum)]
        what: Generated,
        /// What it is made from: for `fields` the published schemas.
        files: Vec<PathBuf>,
    },
}

/// A manifest that is made from the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Generated {
    /// The RBAC rules of the agent.
    Rbac,
    /// The definition of AddressPool.
    Crds,
    /// The fields that manifests may hold.
    Fields,
}

/// Which programs forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Native XDP where the driver has it, else generic XDP, else TC alone; TC alone on veth.
    #[default]
    Auto,
    /// Native XDP and TC; TC alone, and a note in the status, where the driver has no XDP.
    Xdp,
    /// Generic XDP and TC.
    XdpGeneric,
    /// TC alone.
    Tc,
}

const AGENT_HELP: &str = "\
The agent reads Services and EndpointSlices, Gateways, ListenerSets, routes of all kinds, policies and what they refer to from the API server, or from ordinary Kubernetes YAML \
below the manifests directory, and follows every change. It needs the capabilities BPF, NET_ADMIN and PERFMON, and a bpffs at /sys/fs/bpf.

When it ends, however it ends, the programs stay attached and go on forwarding layer 4 flows; `sluice cleanup` removes them.

Examples:
  sluice agent --kubeconfig ~/.kube/config --interface eth0
  sluice agent --manifests /etc/sluice --interface eth0 --pool 203.0.113.0/24 --pool 2001:db8:113::/112";

/// Flags of `sluice agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Directory of Kubernetes YAML or JSON, read with its sub-directories and watched for change
    /// [default: the objects are read from the API server]
    #[arg(
        help_heading = "Source",
        long,
        value_name = "DIR",
        env = "SLUICE_MANIFESTS",
        conflicts_with = "kubeconfig",
        verbatim_doc_comment
    )]
    pub manifests: Option<PathBuf>,
    /// Where the API server and the other agents are.
    #[command(flatten)]
    pub api: ApiArgs,
    /// Interface towards clients and other nodes; repeat for several [default: those of the default routes]
    #[arg(
        help_heading = "Datapath",
        long = "interface",
        value_name = "IF",
        env = "SLUICE_INTERFACES",
        value_delimiter = ','
    )]
    pub interfaces: Vec<String>,
    /// Name of this node, compared with `nodeName` of endpoints [default: the host's name]
    #[arg(help_heading = "Node", long, value_name = "NAME", env = "NODE_NAME")]
    pub node: Option<String>,
    /// Zone of this node, compared with the hints of endpoints
    #[arg(help_heading = "Node", long, value_name = "ZONE", env = "NODE_ZONE")]
    pub zone: Option<String>,
    /// Which programs forward
    #[arg(help_heading = "Datapath", long, value_name = "MODE", value_enum, default_value_t, env = "SLUICE_DATAPATH")]
    pub datapath: Mode,
    /// Threads that serve layer 7, each with a socket, connections and pools of its own [default: the processors there are]
    #[arg(
        help_heading = "Proxy",
        long,
        value_name = "N",
        env = "SLUICE_PROXY_WORKERS",
        value_parser = clap::value_parser!(u16).range(1..=256)
    )]
    pub proxy_workers: Option<u16>,
    /// What is told of requests.
    #[command(flatten)]
    pub observe: ObserveArgs,
    /// Which VIPs this node announces by ARP and NDP on its interfaces
    #[arg(
        help_heading = "Addresses",
        long,
        value_name = "WHICH",
        value_enum,
        default_value_t,
        env = "SLUICE_ANNOUNCE"
    )]
    pub announce: Announce,
    /// What must be the same on all nodes.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// What concerns the process itself.
    #[command(flatten)]
    pub process: ProcessArgs,
    /// Who leads, and so writes: addresses, conditions, EndpointSlices and Routes of Services
    #[arg(help_heading = "Source", long, value_name = "WHO", value_enum, default_value_t, env = "SLUICE_LEADER")]
    pub leader: Leader,
    /// Directory of the pinned maps and links, on a bpffs
    #[arg(help_heading = "Files and sockets", long, value_name = "DIR", default_value = DEFAULT_BPF_DIR, env = "SLUICE_BPF_DIR")]
    pub bpf_dir: PathBuf,
    /// Directory where given addresses are remembered
    #[arg(
        help_heading = "Files and sockets",
        long,
        value_name = "DIR",
        default_value = "/var/lib/sluice",
        env = "SLUICE_STATE_DIR"
    )]
    pub state_dir: PathBuf,
    /// Unix socket of the admin API
    #[arg(help_heading = "Files and sockets", long, value_name = "PATH", default_value = DEFAULT_ADMIN_SOCKET, env = "SLUICE_ADMIN_SOCKET")]
    pub admin_socket: PathBuf,
    /// TCP address that serves /livez, /readyz and /metrics as well
    #[arg(help_heading = "Files and sockets", long, value_name = "ADDR:PORT", env = "SLUICE_METRICS_ADDR", value_parser = socket_addr)]
    pub metrics_addr: Option<SocketAddr>,
    /// TCP address that serves /livez and /readyz alone: on 127.0.0.1 for the probes of this node, whom no crowd elsewhere delays
    #[arg(long, value_name = "ADDR:PORT", env = "SLUICE_HEALTH_ADDR", value_parser = socket_addr)]
    pub health_addr: Option<SocketAddr>,
    /// TCP address that serves the discovery API, to whoever reaches it: who is behind each Service
    #[arg(help_heading = "Files and sockets", long, value_name = "ADDR:PORT", env = "SLUICE_DISCOVERY_ADDR", value_parser = socket_addr)]
    pub discovery_addr: Option<SocketAddr>,
    /// Log format
    #[arg(help_heading = "Logs", long, value_name = "FORMAT", value_enum, default_value_t, env = "SLUICE_LOG_FORMAT")]
    pub log_format: LogFormat,
}

/// Who may lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Leader {
    /// One of the agents.
    #[default]
    Agents,
    /// `sluice controller`, which runs elsewhere: the agents need no permission to write objects.
    Controller,
}

/// Which VIPs are announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Announce {
    /// All that this node has and no other node announces.
    #[default]
    Auto,
    /// None: another node has them, or routes lead here.
    None,
}

/// What becomes of Services that name no class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Classless {
    /// They are ours.
    #[default]
    Take,
    /// They are another's: only Services of the class `sluice.dev/lb` are ours.
    Leave,
}

/// Flags that every inspection command has.
#[derive(Clone, Debug, Args)]
pub struct InspectArgs {
    /// Unix socket of the agent's admin API
    #[arg(long, value_name = "PATH", default_value = DEFAULT_ADMIN_SOCKET, env = "SLUICE_ADMIN_SOCKET")]
    pub admin_socket: PathBuf,
    /// Directory of the pinned maps, which are read where no agent runs
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPF_DIR, env = "SLUICE_BPF_DIR")]
    pub bpf_dir: PathBuf,
    /// Output form
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t)]
    pub output: Output,
}

/// Flags of `sluice services`.
#[derive(Debug, Args)]
pub struct ServicesArgs {
    /// One Service or Gateway: NAME, or NAMESPACE/NAME [default: all]
    pub name: Option<String>,
    /// The common flags.
    #[command(flatten)]
    pub inspect: InspectArgs,
}

/// Flags of `sluice flows`.
#[derive(Debug, Args)]
pub struct FlowsArgs {
    /// The common flags.
    #[command(flatten)]
    pub inspect: InspectArgs,
    /// Flows shown at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
    /// Those of clients in this range
    #[arg(long, value_name = "ADDR|CIDR", value_parser = range)]
    pub client: Option<IpNet>,
    /// Those to this address
    #[arg(long, value_name = "ADDR")]
    pub vip: Option<std::net::IpAddr>,
    /// Those to this Service: NAME, or NAMESPACE/NAME
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
}

/// Flags of `sluice explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The method, as GET
    pub method: String,
    /// The URL, as `http://shop.example/cart?item=1`; its host is the request's
    pub url: String,
    /// A header field; repeat for several
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// Where the request comes in [default: wherever a Gateway listens at the URL's port]
    #[arg(long, value_name = "ADDR:PORT", value_parser = socket_addr)]
    pub at: Option<SocketAddr>,
    /// Who dials, for `hash-on: client-address` and `trusted-proxies` [default: nobody in particular]
    #[arg(long, value_name = "ADDR")]
    pub client: Option<std::net::IpAddr>,
    /// The common flags.
    #[command(flatten)]
    pub inspect: InspectArgs,
}

/// Flags of `sluice instances`.
#[derive(Debug, Args)]
pub struct InstancesArgs {
    /// The Service: `NAMESPACE/NAME` [default: all]
    pub service: Option<String>,
    /// Those of one namespace
    #[arg(short, long, value_name = "NAME", conflicts_with = "service")]
    pub namespace: Option<String>,
    /// Only those that are ready (`true`), or that are not (`false`)
    #[arg(long, value_name = "BOOL")]
    pub ready: Option<bool>,
    /// The common flags.
    #[command(flatten)]
    pub inspect: InspectArgs,
}

/// Flags of `sluice why`.
#[derive(Debug, Args)]
pub struct WhyArgs {
    /// The object: KIND/NAMESPACE/NAME, as `service/default/web`, KIND/NAME, as `gatewayclass/sluice`, a route of
    /// any kind: route/NAMESPACE/NAME, or a listener: listener/NAMESPACE/GATEWAY/NAME, listener/NAMESPACE/LISTENERSET/NAME
    pub object: String,
    /// The common flags.
    #[command(flatten)]
    pub inspect: InspectArgs,
}

/// Flags of `sluice cleanup`.
#[derive(Debug, Args)]
pub struct CleanupArgs {
    /// Directory of the pinned maps and links
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPF_DIR, env = "SLUICE_BPF_DIR")]
    pub bpf_dir: PathBuf,
    /// Go on until told to end, doing nothing: in a DaemonSet, whose pods would be started again and again
    #[arg(long)]
    pub stay: bool,
}

/// Form of an inspection command's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table for people.
    #[default]
    Table,
    /// The same with all its columns.
    Wide,
    /// The API's JSON.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Where clouds serve metadata, credentials among them. Source: EC2 (both families), Azure, Google and OpenStack at the
/// first, Alibaba at the last. The first is link-local, and refused whatever this says.
const METADATA: [&str; 3] = ["169.254.169.254/32", "fd00:ec2::254/128", "100.100.100.200/32"];
const DEFAULT_BPF_DIR: &str = "/sys/fs/bpf/sluice";
const DEFAULT_ADMIN_SOCKET: &str = "/run/sluice/admin.sock";

/// Settings that cannot be used together, or on this host.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Two pools share addresses.
    #[error("--pool: {0}")]
    Pools(String),
    /// The host has no name and none was given.
    #[error("{flag}: the host has no usable name ({reason}); want one")]
    NoName {
        /// The flag that gives one.
        flag: &'static str,
        /// What is wrong with the host's.
        reason: String,
    },
}

impl AgentArgs {
    /// The name of this node.
    ///
    /// # Errors
    /// None was given and the host has none.
    pub fn node_name(&self) -> Result<String, ConfigError> {
        given_or_host(self.node.as_deref(), "--node")
    }

    /// What this process needs of the host's ports; `proxy` is the port of the proxy's socket.
    #[must_use]
    pub fn host(&self, proxy: u16) -> Host {
        let (first, last) = self.cluster.snat_ports;
        let own = [
            (Some(proxy), "Sluice's proxy"),
            (self.metrics_addr.map(|addr| addr.port()), "Sluice's metrics and health"),
            (self.health_addr.map(|addr| addr.port()), "Sluice's health"),
            (self.discovery_addr.map(|addr| addr.port()), "Sluice's discovery API"),
        ];
        let own = own.into_iter().filter_map(|(port, what)| Some((Port::try_new(i64::from(port?))?, what)));
        Host { own_ports: own.collect(), snat_ports: Some(first..=last), ..Host::default() }
    }
}

/// What was given, or the host's name.
fn given_or_host(given: Option<&str>, flag: &'static str) -> Result<String, ConfigError> {
    match given {
        Some(name) => Ok(name.to_owned()),
        None => match nix::unistd::gethostname() {
            Ok(name) if !name.is_empty() => Ok(name.to_string_lossy().into_owned()),
            Ok(_) => Err(ConfigError::NoName { flag, reason: "it is empty".to_owned() }),
            Err(e) => Err(ConfigError::NoName { flag, reason: e.to_string() }),
        },
    }
}

/// A range in which the host part is empty, so that a typo does not become a larger range.
fn pool(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text.parse().map_err(|e| format!("{e}; want a range as 203.0.113.0/24"))?;
    if net.addr() != net.network() {
        return Err(format!("has bits set behind its prefix; want {}", net.trunc()));
    }
    Ok(net)
}

/// A range, or one address.
fn range(text: &str) -> Result<IpNet, String> {
    let one = text.parse::<std::net::IpAddr>().map(IpNet::from);
    one.or_else(|_| text.parse()).map_err(|_| "want an address or a range, as 192.0.2.1 or 192.0.2.0/24".to_owned())
}

/// An address with a port; one of IPv6 may do without brackets, as a manifest writes it that puts a node's address in.
fn socket_addr(text: &str) -> Result<SocketAddr, String> {
    let bare = || {
        let (ip, port) = text.rsplit_once(':')?;
        Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
    };
    text.parse().ok().or_else(bare).ok_or_else(|| "want ADDR:PORT, as 192.0.2.1:9640 or [2001:db8::1]:9640".to_owned())
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    let wanted = || "want FIRST-LAST with 1024 <= FIRST <= LAST <= 65535".to_owned();
    let (first, last) = text.split_once('-').ok_or_else(wanted)?;
    let (first, last) = (first.parse().map_err(|_| wanted())?, last.parse().map_err(|_| wanted())?);
    if (1024..=last).contains(&first) { Ok((first, last)) } else { Err(wanted()) }
}

/// Warns where the range of source ports meets the host's own: two flows might then share a tuple.
pub fn warn_of_port_overlap((first, last): (u16, u16)) {
    let path = Path::new("/proc/sys/net/ipv4/ip_local_port_range");
    let Ok(text) = std::fs::read_to_string(path) else { return };
    let bounds: Vec<u16> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    if let [low, high] = bounds[..]
        && first <= high
        && low <= last
    {
        tracing::warn!(
            reason = format!("--snat-ports {first}-{last} meets net.ipv4.ip_local_port_range {low}-{high}"),
            "a flow of this host and a forwarded flow may take the same source port"
        );
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_flags_of_the_agent_stand_under_headings() {
        let help = Cli::command().find_subcommand_mut("agent").unwrap().render_long_help().to_string();
        let at = |words: &str| help.find(words).unwrap_or_else(|| panic!("{words}: {help}"));
        for (heading, flag) in [
            ("\nSource:", "--manifests"),
            ("\nDatapath:", "--interface"),
            ("\nAddresses:", "--pool"),
            ("\nFiles and sockets:", "--bpf-dir"),
            ("\nLogs:", "--log-format"),
        ] {
            assert!(at(heading) < at(&format!("{flag} ")), "{heading} {flag}");
        }
    }

    #[test]
    fn a_pool_with_host_bits_is_refused_with_the_range_that_was_meant() {
        assert_eq!(pool("203.0.113.9/24").unwrap_err(), "has bits set behind its prefix; want 203.0.113.0/24");
        assert!(pool("203.0.113.0/24").is_ok());
        assert!(pool("nonsense").unwrap_err().contains("want a range"));
    }

    #[test]
    fn endpoints_in_metadata_services_are_refused_unless_told_otherwise() {
        let refused = |arguments: &[&str]| {
            let cli = Cli::try_parse_from([&["sluice", "agent"], arguments].concat()).unwrap();
            let Command::Agent(args) = cli.command else { panic!("want the agent") };
            args.cluster.refuse_endpoints.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(refused(&[]), METADATA);
        assert_eq!(refused(&["--refuse-endpoints=192.0.2.0/24,2001:db8::/32"]), ["192.0.2.0/24", "2001:db8::/32"]);
    }

    #[test]
    fn an_address_of_either_family_takes_a_port() {
        let parsed = |text| socket_addr(text).map(|a| a.to_string()).ok();
        assert_eq!(parsed("192.0.2.1:9640").as_deref(), Some("192.0.2.1:9640"));
        assert_eq!(parsed("[2001:db8::1]:9640").as_deref(), Some("[2001:db8::1]:9640"));
        assert_eq!(parsed("2001:db8::1:9640").as_deref(), Some("[2001:db8::1]:9640"));
        for wrong in ["192.0.2.1", "2001:db8::", ":9640", "host:9640", "192.0.2.1:96400"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_port_range_is_ordered_and_above_the_privileged_ports() {
        assert_eq!(port_range("10000-29999"), Ok((10_000, 29_999)));
        for wrong in ["", "5", "80-90", "3000-2000", "1024-70000"] {
            assert!(port_range(wrong).is_err(), "{wrong}");
        }
    }
}
