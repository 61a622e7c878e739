//! The harness of the integration tests: namespaces, packets, agents, clients. The demo is made of the same parts.
pub mod demo;
pub mod netns;
