//! Flags that agents and the controller share: how they reach the API server, and what decides what becomes of objects.
use std::path::PathBuf;

use clap::Args;
use ipnet::IpNet;

use super::{Classless, ConfigError, METADATA, pool, port_range, route_hosts::RouteHost};
use crate::{model::pool as pools, secrecy};

/// Flags of whoever speaks to the API server.
#[derive(Debug, Args)]
pub struct ApiArgs {
    /// How to reach the API server [default: as pods do, else KUBECONFIG]
    #[arg(help_heading = "Source", long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the agents, where their Leases are
    #[arg(
        help_heading = "Source",
        long,
        value_name = "NAME",
        default_value = "sluice-system",
        env = "SLUICE_NAMESPACE"
    )]
    pub namespace: String,
}

/// Flags about the process itself.
#[derive(Debug, Args)]
pub struct ProcessArgs {
    /// Let a crash leave a core dump: the private keys of listeners are in it
    #[arg(help_heading = "Logs", long, env = "SLUICE_CORE_DUMPS")]
    pub core_dumps: bool,
}

impl ProcessArgs {
    /// Does what they say, before anything is read that is secret.
    pub fn prepare(&self) {
        if !self.core_dumps {
            secrecy::forbid_core_dumps();
        }
    }
}

/// Flags that decide what becomes of objects: the same on all nodes, and at the controller.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// Range that addresses are given from, where an object has none; repeat for several
    #[arg(help_heading = "Addresses", long = "pool", value_name = "CIDR", env = "SLUICE_POOLS", value_delimiter = ',', value_parser = pool)]
    pub pools: Vec<IpNet>,
    /// Range that no endpoint may be in, whatever a slice says: by default the metadata services of clouds, which believe
    /// whoever comes from a node; the same on all nodes; repeat for several, or give 0.0.0.0/32 for none
    #[arg(
        help_heading = "Addresses", long = "refuse-endpoints", value_name = "CIDR", env = "SLUICE_REFUSE_ENDPOINTS",
        value_delimiter = ',', value_parser = pool, default_values = METADATA
    )]
    pub refuse_endpoints: Vec<IpNet>,
    /// What becomes of Services of type LoadBalancer without `loadBalancerClass`; the same on all nodes
    #[arg(
        help_heading = "Addresses",
        long,
        value_name = "WHAT",
        value_enum,
        default_value_t,
        env = "SLUICE_CLASSLESS_SERVICES"
    )]
    pub classless_services: Classless,
    /// Who may ask for which host name by the annotation `sluice.dev/route-host`, for a Route of OpenShift: a namespace or
    /// `*`, and a name, `*.DOMAIN`, or `auto` for the one that the cluster gives; the same on all nodes; repeat for several
    /// [default: nobody]
    #[arg(
        help_heading = "Addresses",
        long = "route-hosts",
        value_name = "NAMESPACE/HOST",
        env = "SLUICE_ROUTE_HOSTS",
        value_delimiter = ',',
        verbatim_doc_comment
    )]
    pub route_hosts: Vec<RouteHost>,
    /// Source ports for flows to endpoints on other nodes; keep them out of net.ipv4.ip_local_port_range
    #[arg(help_heading = "Datapath", long, value_name = "FIRST-LAST", default_value = "10000-29999", value_parser = port_range)]
    pub snat_ports: (u16, u16),
}

impl ClusterArgs {
    /// Refuses pools that share addresses.
    ///
    /// # Errors
    /// Every overlap.
    pub fn check_pools(&self) -> Result<(), ConfigError> {
        let overlaps = pools::check_pools(&self.pools);
        if overlaps.is_empty() { Ok(()) } else { Err(ConfigError::Pools(overlaps.join("; "))) }
    }
}
