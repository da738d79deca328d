//! Describes processes that SIGKILL does not end because they wait in the kernel, for example for a
//! network file system that does not respond.

use std::fmt;

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
    /// Whether the freezer of control groups (version 1) stops the process, which also delays the effect of SIGKILL.
    #[serde(default)]
    pub is_frozen: bool,
    /// What the process was preparing, if it has not executed the script yet.
    #[serde(default)]
    pub step: Option<String>,
}

impl Unkillable {
    /// The unkillable descendants of this process, without those that this user may not kill.
    /// `helper`, the first process of a PID namespace, is included only if no other process is
    /// found: the kernel delays its end until all others in the namespace have ended.
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
            // The helper represents processes that are not visible here.
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
            is_frozen: is_frozen(process),
            step: None,
        })
    }
}

/// Whether a process is in a control group that is frozen. In version 2, SIGKILL ends frozen processes.
fn is_frozen(process: Pid) -> bool {
    let groups = fs::read_lossy(format!("/proc/{process}/cgroup").as_ref()).unwrap_or_default();
    let mut states = groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, group) = rest.split_once(':')?;
        let has_freezer = controllers.split(',').any(|name| name == "freezer");
        let state = format!("/sys/fs/cgroup/freezer{group}/freezer.state");
        fs::read_lossy(state.as_ref()).ok().filter(|_| has_freezer)
    });
    states.any(|state| matches!(state.trim(), "FROZEN" | "FREEZING"))
}

impl fmt::Display for Unkillable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` (process {}, state {}",
            self.name, self.process, self.state
        )?;
        if self.is_frozen {
            f.write_str(", frozen")?;
        }
        if let Some(function) = &self.waits_in {
            write!(f, ", waiting in {function}")?;
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
            is_frozen: false,
            step: None,
        };
        assert_eq!(process.to_string(), "`stat` (process 7, state D)");
        process.waits_in = Some("request_wait_answer".to_owned());
        assert_eq!(
            process.to_string(),
            "`stat` (process 7, state D, waiting in request_wait_answer)"
        );
        process.is_frozen = true;
        assert_eq!(
            process.to_string(),
            "`stat` (process 7, state D, frozen, waiting in request_wait_answer)"
        );
        process.is_frozen = false;
        process.step = Some("start `/bin/bash`".to_owned());
        assert_eq!(
            process.to_string(),
            "`stat` (process 7, state D, waiting in request_wait_answer, trying to start `/bin/bash`)"
        );
    }
}
