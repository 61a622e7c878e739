//! The harness of the integration tests: namespaces, packets, agents, clients. The demo and the benchmarks are made of
//! the same parts.
pub mod bench;
pub mod cluster;
pub mod demo;
pub mod netns;
pub mod packets;
