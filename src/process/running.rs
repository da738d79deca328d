//! Lists the processes of a script for the report about a script that hangs.

use std::fmt;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::diag::Elapsed;
use crate::fs;

/// The maximum number of processes in the list.
const MAX_PROCESSES: usize = 40;

/// The maximum length of a command line in characters.
const COMMAND_LIMIT: usize = 100;

/// The time limit for reading all command lines. Reading a command line can block on the process.
const READ_LIMIT: Duration = Duration::from_secs(1);

/// The unit of times in `/proc/PID/stat`: 1/100 second on all supported machines (proc(5),
/// `USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// A process of a script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningProcess {
    /// The number of its ancestors in the list.
    pub depth: usize,
    /// The PID.
    pub process: i32,
    /// The command line, shortened. If it is not readable, the program's name in brackets.
    pub command: String,
    /// The state as in `ps`.
    pub state: String,
    /// The time since the process was started.
    pub elapsed: Duration,
    /// The kernel function in which the process waits, if readable.
    pub waits_in: Option<String>,
}

impl fmt::Display for RunningProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:indent$}{} {} (state {}, runs for {}",
            "",
            self.process,
            self.command,
            self.state,
            Elapsed(self.elapsed),
            indent = 2 * self.depth,
        )?;
        if let Some(function) = &self.waits_in {
            write!(f, ", in the kernel function {function}")?;
        }
        f.write_str(")")
    }
}

/// The descendants of this process, each after its parent, at most 40. Programs named `hidden` are
/// left out.
///
/// If reading the command lines takes longer than a second, they are left out.
pub(crate) fn running_below_this_process(hidden: &'static str) -> Vec<RunningProcess> {
    let own = Pid::this();
    let (sender, receiver) = mpsc::channel();
    let reading = std::thread::Builder::new().spawn(move || {
        // Sending fails if the receiver no longer waits.
        let _ = sender.send(processes_below(own, hidden, command_line));
    });
    match reading {
        Ok(_) => {
            let read = receiver.recv_timeout(READ_LIMIT);
            read.unwrap_or_else(|_| processes_below(own, hidden, |_| None))
        }
        // Read directly if no thread can be started: a process whose children are in another PID
        // namespace cannot create threads (pid_namespaces(7)).
        Err(_) => processes_below(own, hidden, |stat| {
            let stat = (!waits_uninterruptibly(stat.process)).then_some(stat);
            stat.and_then(command_line)
        }),
    }
}

fn processes_below(
    root: Pid,
    hidden: &str,
    command_line: impl Fn(&Stat) -> Option<String>,
) -> Vec<RunningProcess> {
    let now = fs::read_lossy("/proc/uptime".as_ref())
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .map_or(Duration::ZERO, Duration::from_secs_f64);
    let mut all: Vec<Stat> = fs::list("/proc".as_ref())
        .unwrap_or_default()
        .iter()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_number))
        .filter_map(|entry| Stat::parse(&fs::read_lossy(&entry.path().join("stat")).ok()?))
        .collect();
    all.sort_by_key(|stat| (stat.started, stat.process));
    let shown = in_order(&all, root.as_raw(), hidden);
    let describe = |(depth, stat): (usize, &Stat)| RunningProcess {
        depth,
        process: stat.process,
        command: command_line(stat).unwrap_or_else(|| format!("[{}]", shortened(&stat.name))),
        state: stat.state.clone(),
        elapsed: now.saturating_sub(stat.started),
        waits_in: waits_in(stat.process),
    };
    shown
        .into_iter()
        .take(MAX_PROCESSES)
        .map(describe)
        .collect()
}

fn is_number(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_digit())
}

/// The kernel function in which a process waits, if this process may read it.
pub(super) fn waits_in(process: i32) -> Option<String> {
    let function = fs::read_lossy(format!("/proc/{process}/wchan").as_ref()).ok()?;
    Some(function).filter(|function| !function.is_empty() && function != "0")
}

/// The descendants of `root`, each after its parent, with their depths.
fn in_order<'a>(all: &'a [Stat], root: i32, hidden: &str) -> Vec<(usize, &'a Stat)> {
    let mut found: Vec<(usize, &Stat)> = Vec::new();
    let children = |parent: i32, depth: usize| {
        let children = all.iter().filter(move |stat| stat.parent == parent);
        children.rev().map(move |stat| (depth, stat))
    };
    let mut next: Vec<(usize, &Stat)> = children(root, 0).collect();
    while let Some((depth, stat)) = next.pop() {
        let is_shown = stat.name != hidden;
        if is_shown {
            found.push((depth, stat));
        }
        next.extend(children(stat.process, depth + usize::from(is_shown)));
        if found.len() > all.len() {
            // The parents form a cycle, because PIDs were reused while they were read.
            break;
        }
    }
    found
}

/// Whether a thread of a process is in uninterruptible sleep. `true` if that is unknown.
fn waits_uninterruptibly(process: i32) -> bool {
    let threads = fs::list(format!("/proc/{process}/task").as_ref()).unwrap_or_default();
    let stat = |path: &Path| Stat::parse(&fs::read_lossy(path).ok()?);
    let mut states = threads
        .iter()
        .map(|thread| stat(&thread.path().join("stat")));
    threads.is_empty() || states.any(|stat| stat.is_none_or(|stat| stat.state == "D"))
}

/// The command line of a process; `None` if it is not readable or if reading it may block.
fn command_line(stat: &Stat) -> Option<String> {
    // A process in uninterruptible sleep may hold the lock that the kernel needs for reading its
    // command line.
    if stat.state == "D" {
        return None;
    }
    let text = fs::read_lossy(format!("/proc/{}/cmdline", stat.process).as_ref()).ok()?;
    let words = text.trim_end_matches('\0').replace('\0', " ");
    Some(shortened(&words)).filter(|text| !text.is_empty())
}

/// The text as one line of limited length.
fn shortened(text: &str) -> String {
    let printable = |character: char| match character.is_control() {
        true => ' ',
        false => character,
    };
    let mut characters = text.chars().map(printable);
    let mut short: String = characters.by_ref().take(COMMAND_LIMIT).collect();
    if characters.next().is_some() {
        short += "...";
    }
    short
}

/// Fields of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    process: i32,
    name: String,
    state: String,
    parent: i32,
    /// The time from boot to the start of the process.
    started: Duration,
}

impl Stat {
    /// Parses the text of `/proc/PID/stat`. `None` for a process that has ended.
    fn parse(text: &str) -> Option<Self> {
        // The program name in parentheses may itself contain spaces and parentheses.
        let (start, fields) = text.rsplit_once(')')?;
        let (process, name) = start.split_once('(')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks: u32 = fields.get(19)?.parse().unwrap_or(u32::MAX);
        let state = (*fields.first()?).to_owned();
        (state != "Z" && state != "X").then_some(Self {
            process: process.trim().parse().ok()?,
            name: name.to_owned(),
            state,
            parent: fields.get(1)?.parse().ok()?,
            started: TICK * ticks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(process: i32, parent: i32, name: &str) -> Stat {
        Stat::parse(&format!(
            "{process} ({name}) S {parent} 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 1500 9 9"
        ))
        .unwrap()
    }

    #[test]
    fn names_with_parentheses_are_parsed() {
        let parsed = stat(7, 3, "a) R (b");
        assert_eq!((parsed.process, parsed.parent), (7, 3));
        assert_eq!(parsed.name, "a) R (b");
        assert_eq!(parsed.started, Duration::from_secs(15));
        assert_eq!(Stat::parse("7 (x) Z 3 1"), None);
        assert_eq!(Stat::parse("7"), None);
    }

    #[test]
    fn each_process_follows_its_parent() {
        let all = [
            stat(2, 1, "helper"),
            stat(3, 2, "bash"),
            stat(4, 3, "make"),
            stat(5, 3, "tee"),
            stat(6, 4, "cc"),
            stat(8, 7, "other"),
        ];
        let found: Vec<(usize, &str)> = in_order(&all, 1, "helper")
            .into_iter()
            .map(|(depth, stat)| (depth, stat.name.as_str()))
            .collect();
        assert_eq!(found, [(0, "bash"), (1, "make"), (2, "cc"), (1, "tee")]);
        let circle = [stat(2, 3, "a"), stat(3, 2, "b")];
        assert!(in_order(&circle, 2, "").len() <= 3);
    }

    #[test]
    fn process_is_shown_in_one_indented_line() {
        let mut process = RunningProcess {
            depth: 1,
            process: 7,
            command: "make -j2".to_owned(),
            state: "S".to_owned(),
            elapsed: Duration::from_secs(90),
            waits_in: None,
        };
        assert_eq!(
            process.to_string(),
            "  7 make -j2 (state S, runs for 1m30s)"
        );
        process.waits_in = Some("do_wait".to_owned());
        assert_eq!(
            process.to_string(),
            "  7 make -j2 (state S, runs for 1m30s, in the kernel function do_wait)"
        );
        assert_eq!(shortened(&"x\n".repeat(80)).len(), COMMAND_LIMIT + 3);
    }

    #[test]
    fn own_process_is_below_its_parent() {
        let own = Pid::this();
        let found = processes_below(Pid::parent(), "", command_line);
        let found = found.iter().find(|it| it.process == own.as_raw());
        // Another test may have many processes.
        if let Some(found) = found {
            assert!(!found.command.is_empty() && found.state != "Z");
        }
    }
}
