//! The vitals in the format of the health monitor: all values are strings, except the uptime.

use serde::Serialize;

/// Load, memory and disks of this machine. The fields have the same names and order as in the Go
/// agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Vitals {
    /// CPU usage since the previous measurement.
    pub cpu: Cpu,
    /// The file systems of the machine.
    pub disk: Disks,
    /// The load averages over 1, 5 and 15 minutes, with two decimals.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub load: Vec<String>,
    /// Memory in use.
    pub mem: Memory,
    /// Swap space in use.
    pub swap: Memory,
    /// The time since boot.
    pub uptime: Uptime,
}

/// CPU usage in percent, with one decimal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Cpu {
    /// Time in the kernel.
    pub sys: String,
    /// Time in user space.
    pub user: String,
    /// Time waiting for I/O.
    pub wait: String,
}

/// Memory or swap space in use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// In KiB.
    pub kb: String,
    /// In percent of the total.
    pub percent: String,
}

/// The file systems that BOSH names. Those that are not mounted are omitted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Disks {
    /// The file system at `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<Disk>,
    /// The file system at `/var/vcap/data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<Disk>,
    /// The file system at `/var/vcap/store`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent: Option<Disk>,
}

/// Usage of a file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Disk {
    /// Inodes in use, in percent.
    pub inode_percent: String,
    /// Bytes in use, in percent.
    pub percent: String,
}

/// The time since boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Uptime {
    /// The time in seconds.
    pub secs: u64,
}

/// `part` of `whole` in percent; 0 if `whole` is 0.
pub(super) fn percent(part: u64, whole: u64, decimals: usize) -> String {
    let share = match whole {
        0 => 0.0,
        _ => part as f64 / whole as f64 * 100.0,
    };
    format!("{share:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_rounded_as_in_go() {
        assert_eq!(percent(1, 3, 1), "33.3");
        assert_eq!(percent(2, 3, 0), "67");
        assert_eq!(percent(1, 1000, 1), "0.1");
        assert_eq!(percent(0, 0, 0), "0");
    }
}
