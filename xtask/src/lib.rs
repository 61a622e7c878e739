//! What `cargo xtask` does and `agent/build.rs` shares.
pub mod ebpf;
