//! How the machine is doing, in the words of BOSH's health monitor: everything is a text but the uptime.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use serde_json::Value;

use crate::config::Vcap;
use crate::fs::{self, Context as _};

mod heartbeat;
mod proc;

pub use heartbeat::Heartbeat;
use proc::Ticks;

/// How the machine is doing. Its fields have the names and the order that the Go agent sends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Vitals {
    /// Processor time since the last look.
    pub cpu: Cpu,
    /// The file systems that are mounted at places which BOSH knows.
    pub disk: Disks,
    /// Load averages over 1, 5 and 15 minutes, with two decimals.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub load: Vec<String>,
    /// Memory in use.
    pub mem: Memory,
    /// Swap space in use.
    pub swap: Memory,
    /// How long the machine has been up.
    pub uptime: Uptime,
}

/// Percent of the processors' time, with one decimal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// In the kernel.
    pub sys: String,
    /// In programs.
    pub user: String,
    /// Waiting for disks.
    pub wait: String,
}

/// Memory or swap space in use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// In KiB.
    pub kb: String,
    /// In percent of all there is.
    pub percent: String,
}

/// The file systems that BOSH knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Disks {
    /// `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<Disk>,
    /// `/var/vcap/data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<Disk>,
    /// `/var/vcap/store`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent: Option<Disk>,
}

/// How full a file system is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Percent of its inodes in use.
    pub inode_percent: String,
    /// Percent of its bytes in use.
    pub percent: String,
}

/// How long the machine has been up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Uptime {
    /// In seconds.
    pub secs: u64,
}

/// Looks at the machine. Processor time is counted between two looks, the first of which counts from the machine's start.
#[derive(Debug)]
pub struct VitalsCollector {
    vcap: Vcap,
    before: Mutex<Ticks>,
}

impl VitalsCollector {
    /// Nothing looked at yet.
    #[must_use]
    pub fn new(vcap: &Vcap) -> Self {
        Self {
            vcap: vcap.clone(),
            before: Mutex::default(),
        }
    }

    /// Looks at everything: a few small files of the kernel, and three file systems.
    ///
    /// # Errors
    /// When a file of the kernel cannot be read. What cannot be understood in it counts as nothing.
    pub fn collect(&self) -> fs::Result<Vitals> {
        let read = |path: &str| fs::read_lossy(Path::new(path));
        let (mem, swap) = proc::memory(&read("/proc/meminfo")?);
        Ok(Vitals {
            cpu: self.cpu(proc::ticks(&read("/proc/stat")?)),
            disk: self.disks(&read("/proc/self/mountinfo")?)?,
            load: proc::load(&read("/proc/loadavg")?),
            mem,
            swap,
            uptime: Uptime {
                secs: proc::uptime(&read("/proc/uptime")?),
            },
        })
    }

    /// The shares since the last look. Looks that follow each other within one tick share what the kernel counts last.
    fn cpu(&self, now: Ticks) -> Cpu {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let cpu = now.shares_since(*before);
        *before = now;
        cpu
    }

    fn disks(&self, mountinfo: &str) -> fs::Result<Disks> {
        let mounts = proc::mount_points(mountinfo);
        let disk = |path: &Path| -> fs::Result<Option<Disk>> {
            // A link leads to where the mount is.
            let Ok(real) = fs::canonicalize(path) else {
                return Ok(None);
            };
            if mounts.contains(&real) {
                usage(&real).map(Some)
            } else {
                Ok(None)
            }
        };
        Ok(Disks {
            system: disk(Path::new("/"))?,
            // A disk that fails is the disk's matter, not the heartbeat's.
            ephemeral: disk(&self.vcap.data()).unwrap_or_default(),
            persistent: disk(&self.vcap.store()).unwrap_or_default(),
        })
    }
}

fn usage(path: &Path) -> fs::Result<Disk> {
    let stat = nix::sys::statvfs::statvfs(path).at("measure", path)?;
    Ok(Disk {
        percent: percent(
            stat.blocks().saturating_sub(stat.blocks_free()),
            stat.blocks(),
            0,
        ),
        inode_percent: percent(
            stat.files().saturating_sub(stat.files_free()),
            stat.files(),
            0,
        ),
    })
}

/// A share in percent; nothing of nothing is 0.
fn percent(part: u64, whole: u64, decimals: usize) -> String {
    let share = match whole {
        0 => 0.0,
        _ => part as f64 / whole as f64 * 100.0,
    };
    format!("{share:.decimals$}")
}

impl Vitals {
    /// The JSON of it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        // It has texts and numbers only, which always are JSON.
        serde_json::to_value(self).unwrap_or(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_vitals_in_the_form_that_the_health_monitor_reads() {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(scratch.path());
        fs::create_dir_all(&vcap.data()).unwrap();
        let collector = VitalsCollector::new(&vcap);
        for _ in 0..2 {
            let vitals = collector.collect().unwrap().to_json();
            let number = |pointer: &str| -> f64 {
                let value = vitals.pointer(pointer).and_then(Value::as_str).unwrap();
                value.parse().unwrap()
            };
            for pointer in [
                "/cpu/sys",
                "/cpu/user",
                "/cpu/wait",
                "/mem/percent",
                "/swap/percent",
            ] {
                assert!((0.0..=100.0).contains(&number(pointer)), "{pointer}");
            }
            for index in 0..3 {
                assert!(number(&format!("/load/{index}")) >= 0.0);
            }
            assert!((0.0..=100.0).contains(&number("/disk/system/percent")));
            assert!((0.0..=100.0).contains(&number("/disk/system/inode_percent")));
            assert!(vitals["disk"].get("ephemeral").is_none());
            assert!(number("/mem/kb") > 0.0);
            assert!(vitals["uptime"]["secs"].as_u64().unwrap() > 0);
        }
    }

    #[test]
    fn a_share_is_rounded_as_go_does_and_nothing_of_nothing_is_zero() {
        assert_eq!(percent(1, 3, 1), "33.3");
        assert_eq!(percent(2, 3, 0), "67");
        assert_eq!(percent(1, 1000, 1), "0.1");
        assert_eq!(percent(0, 0, 0), "0");
    }
}
