//! What a process has cost so far, as the kernel counts it.
use std::time::Duration;

use anyhow::Context as _;

/// Ticks in a second, in `/proc/PID/stat`: part of the kernel's interface to user space, not its own clock.
const TICKS: f64 = 100.0;

/// Time and memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    /// Processor time, user and system.
    pub(super) cpu: Duration,
    /// Memory that is resident. Units: bytes.
    pub(super) resident: u64,
    /// The most that was. Units: bytes.
    pub(super) peak: u64,
}

impl Cost {
    /// Of a process that runs.
    pub(super) fn of(pid: u32) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            std::fs::read_to_string(&path).with_context(|| format!("read {path}"))
        };
        let stat = read("stat")?;
        // The second field, the command's name, may hold spaces; it ends with the last parenthesis.
        let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat has no command")?;
        let field = |n: usize| -> anyhow::Result<f64> {
            let text = fields.split_whitespace().nth(n).context("/proc/PID/stat is short")?;
            text.parse().context("/proc/PID/stat holds no number")
        };
        let cpu = Duration::from_secs_f64((field(11)? + field(12)?) / TICKS);
        let status = read("status")?;
        let bytes = |name: &str| -> anyhow::Result<u64> {
            let line = status.lines().find_map(|l| l.strip_prefix(name));
            let kib = line.and_then(|l| l.split_whitespace().next()).with_context(|| format!("no {name}"))?;
            Ok(kib.parse::<u64>().with_context(|| format!("{name} holds no number"))? * 1024)
        };
        Ok(Self { cpu, resident: bytes("VmRSS:")?, peak: bytes("VmHWM:")? })
    }

    /// Memory that is resident, in MiB.
    pub(super) fn mebibytes(&self) -> f64 {
        self.resident as f64 / 1_048_576.0
    }

    /// The most that was, in MiB.
    pub(super) fn peak_mebibytes(&self) -> f64 {
        self.peak as f64 / 1_048_576.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_cost_something() {
        let cost = Cost::of(std::process::id()).expect("/proc is there");
        assert!(cost.resident > 100_000 && cost.cpu < Duration::from_secs(3600), "{cost:?}");
    }
}
