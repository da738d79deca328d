//! Describes processes that SIGKILL does not end because they wait in the kernel, for example for a
//! network file system that does not respond.

use std::fmt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::{running, tree};
use crate::fs;

/// A process that could not be killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unkillable {
    /// The PID.
    pub process: i32,
    /// The program's name, as truncated by the kernel.
    pub name: String,
    /// The state as in `ps`: `D` for uninterruptible sleep.
    pub state: String,
    /// The kernel function in which the process waits, if readable.
    pub waits_in: Option<String>,
    /// The control groups (version 1) whose freezer stops the process, which also delays the effect of SIGKILL: its own, or some above
    /// it. Empty if none of them is visible here. `None` if the process is not frozen.
    #[serde(default)]
    pub frozen_by: Option<Vec<String>>,
    /// What the process was preparing, if it has not executed the script yet.
    #[serde(default)]
    pub step: Option<String>,
}

impl Unkillable {
    /// Describes the descendants of this process, except those that this user may not kill. Call
    /// this after all descendants were killed.
    ///
    /// `helper`, the first process of a PID namespace, is included only if no other process is
    /// found: the kernel delays its end until all other processes in the namespace have ended.
    #[must_use]
    pub fn below_this_process(helper: Option<Pid>) -> Vec<Self> {
        let processes = tree::descendants();
        let mut found: Vec<Self> = processes
            .iter()
            .filter(|process| Some(**process) != helper)
            .filter(|process| kill(**process, None) != Err(Errno::EPERM))
            .filter_map(|process| Self::look(*process))
            .collect();
        if found.is_empty() {
            // The helper is left because of processes that are not visible here.
            found.extend(
                helper
                    .filter(|it| processes.contains(it))
                    .and_then(Self::look),
            );
        }
        found
    }

    pub(super) fn look(process: Pid) -> Option<Self> {
        // Do not read `cmdline`, because that can block on the process.
        let stat = fs::read_lossy(format!("/proc/{process}/stat").as_ref()).ok()?;
        let (start, fields) = stat.rsplit_once(')')?;
        let (_, name) = start.split_once('(')?;
        Some(Self {
            process: process.as_raw(),
            name: name.to_owned(),
            state: fields.split_whitespace().next()?.to_owned(),
            waits_in: running::waits_in(process.as_raw()),
            frozen_by: frozen_by(process),
            step: None,
        })
    }
}

/// The file system of the freezer.
const FREEZER: &str = "/sys/fs/cgroup/freezer";

/// See [`Unkillable::frozen_by`]. In version 2, SIGKILL ends frozen processes.
fn frozen_by(process: Pid) -> Option<Vec<String>> {
    let groups = fs::read_lossy(format!("/proc/{process}/cgroup").as_ref()).ok()?;
    let group = groups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, group) = rest.split_once(':')?;
        let has_freezer = controllers.split(',').any(|name| name == "freezer");
        has_freezer.then(|| group.trim_start_matches('/'))
    })?;
    let read = |group: &Path, file: &str| {
        let text = fs::read_lossy(&Path::new(FREEZER).join(group).join(file)).ok()?;
        Some(text.trim().to_owned())
    };
    let state = read(Path::new(group), "freezer.state")?;
    if !matches!(state.as_str(), "FROZEN" | "FREEZING") {
        return None;
    }
    // A group is also frozen if one above it is.
    let freezes = |group: &&Path| read(group, "freezer.self_freezing").as_deref() == Some("1");
    let groups = Path::new(group).ancestors().filter(freezes);
    let path = |group: &Path| Path::new(FREEZER).join(group).display().to_string();
    Some(groups.map(path).collect())
}

impl fmt::Display for Unkillable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` (process {}, state {}",
            self.name, self.process, self.state
        )?;
        if self.frozen_by.is_some() {
            f.write_str(", frozen")?;
        }
        if let Some(function) = &self.waits_in {
            write!(f, ", in the kernel function {function}")?;
        }
        if let Some(step) = &self.step {
            write!(f, ", trying to {step}")?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_is_described_in_one_line() {
        let mut process = Unkillable::look(Pid::this()).unwrap();
        assert_eq!(process.process, Pid::this().as_raw());
        process = Unkillable {
            process: 7,
            name: "stat".to_owned(),
            state: "D".to_owned(),
            waits_in: None,
            frozen_by: None,
            step: None,
        };
        assert_eq!(process.to_string(), "`stat` (process 7, state D)");
        process.waits_in = Some("request_wait_answer".to_owned());
        assert_eq!(
            process.to_string(),
            "`stat` (process 7, state D, in the kernel function request_wait_answer)"
        );
        process.frozen_by = Some(Vec::new());
        assert_eq!(
            process.to_string(),
            "`stat` (process 7, state D, frozen, in the kernel function request_wait_answer)"
        );
        process.frozen_by = None;
        process.step = Some("start `/bin/bash`".to_owned());
        assert_eq!(
            process.to_string(),
            "`stat` (process 7, state D, in the kernel function request_wait_answer, trying to start `/bin/bash`)"
        );
    }
}
