//! The child's orders and its report, as plain data: one line of JSON each.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::question::Question;
use super::rules::Rules;
use super::step::StepError;
use super::view::View;
use super::wire;
use crate::process::{Exceeded, OutputSummary, RunningProcess, Status, Unkillable, Usage};

/// The orders of a child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Orders {
    /// Run a script.
    Run(Box<Spec>),
    /// Answer a question within a time limit.
    Answer(Question, Duration),
}

/// The script to run, and how. The script's environment precedes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The program, looked up in `PATH`.
    pub program: String,
    /// Its arguments.
    #[serde(with = "wire")]
    pub arguments: Vec<OsString>,
    /// Its working directory, in its view.
    #[serde(with = "wire")]
    pub directory: PathBuf,
    /// Its umask.
    pub umask: u32,
    /// How much higher its niceness is than this program's, from 0 to 19.
    pub nice: i32,
    /// The file on which the child holds a shared lock until the last process has ended. Later runs remove the script's directories only when
    /// the file is not locked.
    #[serde(with = "wire")]
    pub process_lock: PathBuf,
    /// The time between SIGTERM and SIGKILL if the agent is gone or the child receives a signal.
    pub grace: Duration,
    /// Its view of the file system, with its own IPC namespace; `None` for the host's.
    pub view: Option<View>,
    /// The rules for its accesses in a tree that several packages use; `None` for no rules.
    pub rules: Option<Rules>,
    /// Whether its output is a terminal, which becomes its controlling terminal and its input. Otherwise it has no terminal and no input.
    #[serde(default)]
    pub terminal: bool,
}

/// The child's report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The script ran and ended.
    Ended(Box<ScriptEnd>),
    /// It could not be started.
    Failed(StepError),
    /// The child ended without a report. The fork server has killed its remaining processes and reports in its place.
    Lost {
        /// The child's exit status.
        status: Status,
    },
}

/// A script that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptEnd {
    /// Its exit status.
    pub status: Status,
    /// The number of processes that outlived it and were stopped.
    pub left_behind: usize,
    /// The number of processes that this user may not kill.
    pub not_ended: usize,
    /// Processes that wait in the kernel and cannot be killed: they may still change the script's files.
    #[serde(default)]
    pub unkillable: Vec<Unkillable>,
    /// The resources that it and its descendants used.
    pub usage: Usage,
    /// The mount points of mounts that it left. Bytes that are not UTF-8 are replaced.
    #[serde(default)]
    pub mounts: Vec<String>,
    /// Its processes when it exceeded a time limit, before they were stopped.
    #[serde(default)]
    pub processes: Vec<RunningProcess>,
    /// Its output, which only the agent knows.
    #[serde(skip)]
    pub output: OutputSummary,
    /// The time limit that it has exceeded, which only the agent knows.
    #[serde(skip)]
    pub exceeded: Option<Exceeded>,
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::super::step::Step;
    use super::super::view::{ImageRoot, Mounted, Protection, Writes};
    use super::*;

    /// This path is not UTF-8.
    fn odd(start: &str) -> PathBuf {
        OsString::from_vec([start.as_bytes(), b"\xff"].concat()).into()
    }

    #[test]
    fn spec_and_report_are_one_line_each_and_survive_a_round_trip() {
        let spec = Spec {
            program: "bash".to_owned(),
            arguments: vec!["-x".into(), "a\nb".into()],
            directory: PathBuf::from("/var/vcap/data/compile/a"),
            umask: 0o022,
            nice: 0,
            process_lock: PathBuf::from("/var/vcap/packages/.lock"),
            grace: Duration::from_millis(1500),
            view: Some(View {
                root: Some(ImageRoot {
                    lower: PathBuf::from("/images/root"),
                    overlay: PathBuf::from("places/0/root"),
                    in_memory: false,
                }),
                in_user_namespace: false,
                processes: true,
                locked: true,
                network: true,
                work: odd("/work-"),
                dependencies: vec![Mounted {
                    sealed: PathBuf::from("store/a"),
                    at: PathBuf::from("places/0/vcap/data/packages/a/1"),
                }],
                writes: Writes::ToDisk,
                overlay: PathBuf::from("places/0/overlay"),
                scratch: vec![(
                    PathBuf::from("scratch/a"),
                    PathBuf::from("places/0/vcap/data/a"),
                )],
                hidden: Some(odd("scratch")),
                secrets: vec![PathBuf::from("/etc/agent.json")],
                kept: Vec::new(),
                memory: vec![PathBuf::from("places/0/dev-shm")],
                named: vec![(
                    PathBuf::from("/tmp/home"),
                    PathBuf::from("places/0/tmp/home"),
                )],
                links: Vec::new(),
                temporary: vec![(PathBuf::from("places/0/tmp"), PathBuf::from("/tmp"))],
                tree: (PathBuf::from("places/0/vcap"), PathBuf::from("/var/vcap")),
                protection: Some(Protection {
                    writable: vec![odd("/var/vcap")],
                    read_only: vec![odd("/var/vcap/sys")],
                    home: Some(odd("/home/")),
                }),
            }),
            rules: Some(Rules {
                guarded: vec![PathBuf::from("/var/vcap/packages")],
                listed: vec![odd("/base-")],
                whole: vec![odd("/base-")],
                readable: vec![odd("/base-")],
            }),
            terminal: true,
        };
        let line = serde_json::to_string(&spec).unwrap();
        assert!(!line.contains('\n'));
        assert!(
            line.contains("/var/vcap/data/compile/a"),
            "UTF-8 paths are text: {line}"
        );
        assert_eq!(serde_json::from_str::<Spec>(&line).unwrap(), spec);
        let failed = Report::Failed(StepError {
            step: Step::Bind(odd(""), PathBuf::from("/b")),
            errno: 2,
        });
        let line = serde_json::to_string(&failed).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&line).unwrap(), failed);
        let report = Report::Ended(Box::new(ScriptEnd {
            status: Status::Signaled(9),
            left_behind: 2,
            not_ended: 0,
            unkillable: vec![Unkillable {
                process: 7,
                name: "stat".to_owned(),
                state: "D".to_owned(),
                waits_in: None,
                frozen_by: None,
                step: None,
            }],
            usage: Usage::default(),
            mounts: vec!["/var/vcap/data/compile/a/m".to_owned()],
            processes: vec![RunningProcess {
                depth: 1,
                process: 7,
                command: "make \u{fffd}".to_owned(),
                state: "S".to_owned(),
                elapsed: Duration::from_secs(1),
                waits_in: None,
            }],
            output: OutputSummary::default(),
            exceeded: None,
        }));
        let line = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&line).unwrap(), report);
    }
}
