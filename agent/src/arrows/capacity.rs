//! How much there is room for in the maps that objects fill.
use sluice_ebpf::{MAX_BACKENDS, MAX_CHUNKS, MAX_FRONTENDS, MAX_SOURCES};

/// How much the maps hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Frontends.
    pub frontends: u32,
    /// Backends.
    pub backends: u32,
    /// Chunks of lookup table.
    pub chunks: u32,
    /// Source ranges.
    pub sources: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        // Backend 0 is no backend.
        let backends = MAX_BACKENDS - 1;
        Self { frontends: MAX_FRONTENDS, backends, chunks: MAX_CHUNKS, sources: MAX_SOURCES }
    }
}
