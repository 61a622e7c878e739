//! Pure logic of a flow, the same in the kernel and in tests: hashes, table lookup, incremental checksums, timeouts.
//!
//! Nothing here touches a packet or a map.
