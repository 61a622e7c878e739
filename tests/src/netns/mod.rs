//! A small network in namespaces, with a real agent in it.
//!
//! ```text
//!                 lan: bridge br0
//!        ┌─────────────┼──────────────┐
//!      client        node1          node2        198.51.100.0/24, 2001:db8:51::/64
//!   .10  ::10      .1  ::1        .2  ::2        eth0 in each
//!                  │agent│
//!                 pods: veth     pods: veth      10.244.<node>.0/24, 2001:db8:244:<node>::/64
//! ```
//!
//! [`Lab`] builds it, [`Agent`] runs `sluice` in node1, [`load`], [`http`] and [`ping`] act in the client. The client
//! routes the VIP ranges 203.0.113.0/24, 198.18.0.0/15 and 2001:db8:113::/64 to node1. Nothing is created outside the
//! namespaces; a [`Run`] owns every name that a run leaves in the file system and removes it on drop, on ^C, and at
//! the start of the next run where the last one was killed.
//!
//! # Design
//! - rtnetlink, not `ip`: nothing to install, and errors have names.
//! - Neighbours are found by real ARP and NDP: an entry that is not there yet is a case that the programs must handle.
//! - `rp_filter` is strict on the nodes, the harsher of the two settings that hosts have.
//! - `/sys/class/net` is never read: after `setns` it still shows the namespace in which sysfs was mounted.
pub mod addr;
pub mod agent;
pub mod connection;
pub mod flood;
pub mod frames;
pub mod http;
pub mod lab;
pub mod link;
pub mod lives;
pub mod load;
pub mod manifest;
pub mod maps;
pub mod namespace;
pub mod neighbour;
pub mod outcome;
pub mod pass;
pub mod ping;
pub mod pod;
pub mod program;
pub mod request;
pub mod routing;
pub mod run;
pub mod scene;
pub mod secure;
pub mod serve;
pub mod traffic;
pub mod tunnel;
pub mod udp;
pub mod wait;

pub use agent::{Agent, AgentSpec, Datapath};
pub use connection::Connection;
pub use lab::{Lab, LabSpec, PodSpec};
pub use load::Load;
pub use maps::Maps;
pub use namespace::Namespace;
pub use outcome::{Answer, Failure, Tally};
pub use pod::Pod;
pub use program::Program;
pub use run::Run;
pub use scene::Scene;
pub use wait::eventually;
