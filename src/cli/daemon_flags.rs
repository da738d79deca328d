//! The daemon's command line: the Go agent's flags, in Go's syntax, and patience with those that we do not know.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::config::Vcap;

/// What the daemon is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Daemon {
    /// The kind of machine: `ubuntu`, or `dummy` for a machine whose own settings are left alone.
    pub platform: String,
    /// The agent's configuration, `agent.json`.
    pub config: Option<PathBuf>,
    /// The supervisor of jobs. A compilation VM has no jobs, so only its name is taken.
    pub supervisor: String,
    /// The base directory.
    pub base: PathBuf,
    /// What was not understood, for the log.
    pub ignored: Vec<String>,
}

/// Flags that take a value: one letter, and what it sets.
const VALUES: [&str; 4] = ["P", "C", "M", "b"];

/// Flags of the Go agent that change nothing here.
const SILENT: [&str; 2] = ["r", "no-alerts"];

/// Reads the flags. `-x value`, `-x=value` and the same with two dashes are one.
///
/// # Errors
/// A text for the user, where a flag lacks its value or the base directory is no absolute path.
pub(super) fn parse(arguments: &[OsString]) -> Result<Daemon, String> {
    let mut daemon = Daemon {
        platform: String::new(),
        config: None,
        supervisor: "monit".to_owned(),
        base: PathBuf::from(Vcap::BASE),
        ignored: Vec::new(),
    };
    let mut rest = arguments.iter().peekable();
    while let Some(argument) = rest.next() {
        let shown = argument.to_string_lossy();
        let Some(flag) = argument.to_str().and_then(flag) else {
            daemon.ignored.push(shown.into_owned());
            continue;
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (flag, None),
        };
        if SILENT.contains(&name) {
            continue;
        }
        if !VALUES.contains(&name) {
            daemon.ignored.push(shown.into_owned());
            // Its value, as in `-I warden` of old agents.
            if value.is_none()
                && let Some(next) = rest.next_if(|next| !is_flag(next))
            {
                daemon.ignored.push(next.to_string_lossy().into_owned());
            }
            continue;
        }
        let value = value
            .or_else(|| rest.next().cloned())
            .ok_or_else(|| format!("Error: the flag -{name} needs a value"))?;
        match name {
            "P" => daemon.platform = value.to_string_lossy().into_owned(),
            "C" => daemon.config = Some(value.into()),
            "M" => daemon.supervisor = value.to_string_lossy().into_owned(),
            _ => daemon.base = value.into(),
        }
    }
    if !daemon.base.is_absolute() || daemon.base.to_str().is_none() {
        return Err(format!(
            "Error: the base directory `{}` (-b) is no absolute path",
            daemon.base.display()
        ));
    }
    match daemon.platform.as_str() {
        "ubuntu" | "dummy" => Ok(daemon),
        "" => Err("Error: the flag -P is missing: the platform, `ubuntu` or `dummy`".to_owned()),
        other => Err(format!(
            "Error: the platform `{other}` (-P) is none of `ubuntu` and `dummy`"
        )),
    }
}

/// Whether these arguments are meant for the daemon.
pub(super) fn is_for_daemon(arguments: &[OsString]) -> bool {
    arguments.first().is_some_and(|first| is_flag(first))
}

fn is_flag(argument: &OsStr) -> bool {
    argument.to_str().is_some_and(|text| flag(text).is_some())
}

/// A flag without its dashes.
fn flag(text: &str) -> Option<&str> {
    let text = text.strip_prefix("--").or(text.strip_prefix('-'))?;
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Daemon, String> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        parse(&arguments)
    }

    #[test]
    fn a_stemcells_command_line_is_understood() {
        for given in [
            &["-P", "ubuntu", "-C", "/var/vcap/bosh/agent.json"][..],
            &[
                "--P=ubuntu",
                "-C=/var/vcap/bosh/agent.json",
                "-no-alerts",
                "-r",
            ],
        ] {
            let daemon = parsed(given).unwrap();
            assert_eq!(daemon.platform, "ubuntu");
            assert_eq!(
                daemon.config,
                Some(PathBuf::from("/var/vcap/bosh/agent.json"))
            );
            assert_eq!(daemon.base, PathBuf::from("/var/vcap"));
            assert!(daemon.ignored.is_empty());
        }
        let daemon = parsed(&["-P", "dummy", "-M", "dummy", "-b", "/tmp/base"]).unwrap();
        assert_eq!(daemon.supervisor, "dummy");
        assert_eq!(daemon.base, PathBuf::from("/tmp/base"));
    }

    #[test]
    fn what_is_not_known_is_noted_and_passed_over() {
        let daemon = parsed(&["-I", "warden", "-P", "ubuntu", "stray", "-x=1"]).unwrap();
        assert_eq!(daemon.platform, "ubuntu");
        assert_eq!(daemon.ignored, ["-I", "warden", "stray", "-x=1"]);
    }

    #[test]
    fn mistakes_are_named() {
        for (given, named) in [
            (&["-P", "windows"][..], "windows"),
            (&["-C", "agent.json"], "-P"),
            (&["-P"], "-P"),
            (&["-P", "ubuntu", "-b", "vcap"], "vcap"),
        ] {
            let text = parsed(given).unwrap_err();
            assert!(text.contains(named), "{given:?}: {text}");
        }
    }
}
