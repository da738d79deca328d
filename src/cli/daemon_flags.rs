//! The daemon's command line: the Go agent's flags, in Go's syntax. Unknown flags are ignored,
//! because stemcells of several generations start the agent with different flags.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::config::Vcap;

/// The daemon's parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Daemon {
    /// `ubuntu`, or `dummy` for a machine whose settings are not changed.
    pub platform: String,
    /// The path of `agent.json`.
    pub config: PathBuf,
    /// The supervisor of BOSH jobs. It is not used, because a compilation VM runs no BOSH jobs.
    pub supervisor: String,
    /// The base directory.
    pub base: PathBuf,
    /// Unknown arguments, for the log.
    pub ignored: Vec<String>,
}

/// Flags that take a value.
const WITH_VALUE: [&str; 4] = ["P", "C", "M", "b"];

/// Flags of the Go agent that have no effect here. They take no value.
const WITHOUT_EFFECT: [&str; 2] = ["r", "no-alerts"];

/// Parses the flags. `-x value`, `-x=value` and the same with two dashes are equivalent.
///
/// # Errors
/// A text for the user if a flag has no value, the base directory is not an absolute path, the
/// platform is missing or unknown, or there is no configuration.
pub(super) fn parse(arguments: &[OsString]) -> Result<Daemon, String> {
    let mut daemon = Daemon {
        platform: String::new(),
        config: PathBuf::new(),
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
        if WITHOUT_EFFECT.contains(&name) {
            continue;
        }
        if !WITH_VALUE.contains(&name) {
            daemon.ignored.push(shown.into_owned());
            // Also ignore the flag's value, as in `-I warden` of old stemcells.
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
            "C" => daemon.config = value.into(),
            "M" => daemon.supervisor = value.to_string_lossy().into_owned(),
            _ => daemon.base = value.into(),
        }
    }
    check(&daemon)?;
    Ok(daemon)
}

fn check(daemon: &Daemon) -> Result<(), String> {
    if !daemon.base.is_absolute() || daemon.base.to_str().is_none() {
        return Err(format!(
            "Error: the base directory `{}` (-b) is not an absolute path",
            daemon.base.display()
        ));
    }
    match daemon.platform.as_str() {
        "ubuntu" | "dummy" if daemon.config.as_os_str().is_empty() => Err(
            "Error: the flag -C is missing: pass the path of the agent's configuration, `agent.json`"
                .to_owned(),
        ),
        "ubuntu" | "dummy" => Ok(()),
        "" => {
            Err("Error: the flag -P is missing: pass the platform, `ubuntu` or `dummy`".to_owned())
        }
        other => Err(format!(
            "Error: `{other}` is not a platform (-P): use `ubuntu` or `dummy`"
        )),
    }
}

/// Whether the first argument is a flag, which means that these arguments are the daemon's.
pub(super) fn is_for_daemon(arguments: &[OsString]) -> bool {
    arguments.first().is_some_and(|first| is_flag(first))
}

fn is_flag(argument: &OsStr) -> bool {
    argument.to_str().is_some_and(|text| flag(text).is_some())
}

/// The flag without its dashes.
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
    fn stemcells_command_line_is_accepted() {
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
            assert_eq!(daemon.config, PathBuf::from("/var/vcap/bosh/agent.json"));
            assert_eq!(daemon.base, PathBuf::from("/var/vcap"));
            assert!(daemon.ignored.is_empty());
        }
        let daemon = parsed(&["-P", "dummy", "-M", "dummy", "-b", "/tmp/base", "-C", "x"]).unwrap();
        assert_eq!(daemon.supervisor, "dummy");
        assert_eq!(daemon.base, PathBuf::from("/tmp/base"));
    }

    #[test]
    fn unknown_arguments_are_ignored_and_kept_for_the_log() {
        let daemon = parsed(&["-I", "warden", "-P", "ubuntu", "stray", "-C=x", "-x=1"]).unwrap();
        assert_eq!(daemon.platform, "ubuntu");
        assert_eq!(daemon.ignored, ["-I", "warden", "stray", "-x=1"]);
    }

    #[test]
    fn usage_errors_name_the_mistake() {
        for (given, named) in [
            (&["-P", "windows"][..], "windows"),
            (&["-C", "agent.json"], "-P"),
            (&["-P"], "-P"),
            (&["-P", "ubuntu"], "-C"),
            (&["-P", "dummy", "-b", "/tmp/base"], "-C"),
            (&["-P", "ubuntu", "-b", "vcap"], "vcap"),
        ] {
            let text = parsed(given).unwrap_err();
            assert!(text.contains(named), "{given:?}: {text}");
        }
    }
}
