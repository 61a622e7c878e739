//! What the kernel's side and the user's side of Sluice share: the layout of every map, and the pure logic that both
//! run, so that the two cannot drift.
//!
//! This library is built twice: `no_std` for `bpfel-unknown-none` together with the programs in `main.rs` (feature
//! `programs`), and for the host, where the agent reads and writes the maps (feature `user`) and where the pure parts
//! are tested. It owns names, keys, values, flags and limits; it must hold no policy.
//!
//! # Design
//!
//! - Addresses are 16 bytes in network order, IPv4 as IPv4-mapped IPv6: one map serves both families, and
//!   `bpftool map dump` prints an address as the bytes that a person knows.
//! - Ports are host order, for the same reader. The programs convert once, where they parse a packet.
//! - A frontend's value names where its lookup table lies in [`TableChunk`]s. A change writes a new table to free
//!   space, then replaces that one value: a packet sees the old table or the new one, never half of each.
//! - A conntrack entry holds the tuple that the packet shall have. Both directions are the same operation.
#![cfg_attr(not(any(test, feature = "user")), no_std)]

pub mod abi;
pub mod bare;
pub mod csum;
pub mod flow;
pub mod neighbour;
pub mod packet;
pub mod reason;
#[cfg(feature = "user")]
pub mod user;

pub use abi::*;
