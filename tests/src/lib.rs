//! The harness of the integration tests: namespaces, packets, agents, clients.
pub mod netns;
pub mod packets;
