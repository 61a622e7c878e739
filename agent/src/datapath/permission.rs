//! Whether this process may do what the datapath needs, asked once and first: the kernel's own refusals come late, one at
//! a time, and do not say what is missing.
use std::fs;

/// Source: `linux/capability.h`.
const NET_ADMIN: u32 = 12;
/// Includes BPF and PERFMON, as before they were split off.
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// The process lacks a capability.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not permitted: this process lacks the capabilities {missing}; want root, or BPF, NET_ADMIN and PERFMON")]
pub struct NotPermitted {
    missing: String,
}

/// Checks the effective capabilities of this process.
///
/// # Errors
/// One is missing; all that are missing are named. Where they cannot be read, the kernel's refusal must do.
pub fn check() -> Result<(), NotPermitted> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    match effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) {
        Some(bits) => missing(bits),
        None => Ok(()),
    }
}

fn missing(effective: u64) -> Result<(), NotPermitted> {
    let has = |capability: u32| effective & (1 << capability) != 0;
    let wanted = [
        ("BPF", has(BPF) || has(SYS_ADMIN)),
        ("NET_ADMIN", has(NET_ADMIN)),
        ("PERFMON", has(PERFMON) || has(SYS_ADMIN)),
    ];
    let missing: Vec<_> = wanted.iter().filter(|(_, has)| !has).map(|(name, _)| *name).collect();
    if missing.is_empty() { Ok(()) } else { Err(NotPermitted { missing: missing.join(", ") }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_capability_is_named() {
        let all = 1 << BPF | 1 << NET_ADMIN | 1 << PERFMON;
        assert_eq!(missing(all), Ok(()));
        assert_eq!(missing(1 << SYS_ADMIN | 1 << NET_ADMIN), Ok(()));
        assert_eq!(missing(0).unwrap_err().missing, "BPF, NET_ADMIN, PERFMON");
        assert_eq!(missing(all & !(1 << PERFMON)).unwrap_err().missing, "PERFMON");
    }
}
