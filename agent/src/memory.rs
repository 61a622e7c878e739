//! How much memory this process may have.
use std::{fs, path::Path};

/// What is assumed where the kernel does not say. Units: bytes.
const UNKNOWN: usize = 1 << 30;

/// The memory of the machine, or what the cgroups of this process leave of it. Units: bytes.
#[must_use]
pub fn limit() -> usize {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let machine = read(Path::new("/proc/meminfo")).as_deref().and_then(total);
    let own = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    own.lines()
        .flat_map(files)
        .filter_map(|path| bytes(&read(Path::new(&path))?))
        .chain(machine)
        .min()
        .unwrap_or(UNKNOWN)
}

/// The files with the limits of a cgroup and of those above it, of a line of `/proc/self/cgroup`. Source: cgroups(7).
fn files(line: &str) -> Vec<String> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { return Vec::new() };
    let (root, file) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max"),
        "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        _ => return Vec::new(),
    };
    Path::new(group).ancestors().map(|group| format!("{root}{}/{file}", group.display()).replace("//", "/")).collect()
}

/// A limit; `None` for `max`.
fn bytes(text: &str) -> Option<usize> {
    text.trim().parse().ok()
}

/// `MemTotal` of `/proc/meminfo`, which is in KiB.
fn total(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_all_cgroups_above_hold() {
        assert_eq!(
            files("0::/kubepods/pod1"),
            [
                "/sys/fs/cgroup/kubepods/pod1/memory.max",
                "/sys/fs/cgroup/kubepods/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(files("9:memory:/"), ["/sys/fs/cgroup/memory/memory.limit_in_bytes"]);
        assert!(files("8:cpu,cpuacct:/a").is_empty() && files("nonsense").is_empty());
    }

    #[test]
    fn no_limit_is_none() {
        assert_eq!((bytes("max\n"), bytes("1048576\n")), (None, Some(1 << 20)));
        assert_eq!(total("MemTotal:       24 kB\nMemFree: 1 kB\n"), Some(24 << 10));
        assert!((1 << 20..1 << 50).contains(&limit()));
    }
}
