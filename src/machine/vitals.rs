//! Measures the vitals of this machine (load, memory and disks) for heartbeats and `get_state`.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::config::Vcap;
use crate::fs::{self, Context as _};

mod heartbeat;
mod proc;
mod report;

pub(crate) use heartbeat::Heartbeat;
pub(crate) use report::Vitals;

use proc::CpuTicks;
use report::{Cpu, Disk, Disks, Uptime, percent};

/// Measures the vitals. CPU usage is measured since the previous measurement, or since boot in the
/// first one.
#[derive(Debug)]
pub(crate) struct VitalsCollector {
    vcap: Vcap,
    previous: Mutex<CpuTicks>,
}

impl VitalsCollector {
    /// Creates a collector without a previous measurement.
    #[must_use]
    pub(crate) fn new(vcap: &Vcap) -> Self {
        Self {
            vcap: vcap.clone(),
            previous: Mutex::default(),
        }
    }

    /// Reads a few small files in `/proc`, and queries up to three file systems for their usage.
    ///
    /// # Errors
    /// If one of these files cannot be read, or the usage of the root file system is unknown.
    /// Values in an unknown format are reported as 0.
    pub(crate) fn collect(&self) -> fs::Result<Vitals> {
        let read = |path: &str| fs::read_lossy(Path::new(path));
        let (mem, swap) = proc::memory(&read("/proc/meminfo")?);
        Ok(Vitals {
            cpu: self.cpu(proc::ticks(&read("/proc/stat")?)),
            disk: self.disks()?,
            load: proc::load(&read("/proc/loadavg")?),
            mem,
            swap,
            uptime: Uptime {
                secs: proc::uptime(&read("/proc/uptime")?),
            },
        })
    }

    /// The CPU usage since the previous call.
    fn cpu(&self, now: CpuTicks) -> Cpu {
        let mut previous = self.previous.lock().unwrap_or_else(PoisonError::into_inner);
        let cpu = now.shares_since(*previous);
        *previous = now;
        cpu
    }

    fn disks(&self) -> fs::Result<Disks> {
        let mounts = fs::mount_points()?;
        let disk = |path: &Path| -> fs::Result<Option<Disk>> {
            // The kernel lists mount points without symbolic links.
            let Ok(real) = fs::canonicalize(path) else {
                return Ok(None);
            };
            if mounts.iter().any(|mount| mount.path == real) {
                usage(&real).map(Some)
            } else {
                Ok(None)
            }
        };
        Ok(Disks {
            system: disk(Path::new("/"))?,
            // A failed data disk must not prevent heartbeats.
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

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn vitals_have_the_format_of_the_health_monitor() {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(scratch.path());
        fs::create_dir_all(&vcap.data()).unwrap();
        let collector = VitalsCollector::new(&vcap);
        for _ in 0..2 {
            let vitals = serde_json::to_value(collector.collect().unwrap()).unwrap();
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
}
