//! The Go agent's flag syntax on top of clap's: one dash means the same as two, and flags end at
//! the first tarball.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::{ArgAction, Command};

/// A flag after a tarball. The Go agent treats it as another tarball and writes results to /tmp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the flag `{flag}` follows a tarball\nHint: pass flags first: bosh-agent compile [FLAGS] TARBALL..."
)]
pub(super) struct MisplacedFlag {
    flag: String,
}

/// Gives flags two dashes and inserts `--` where they end.
///
/// `-output-directory DIR`, `-output-directory=DIR` and the same with two dashes are equivalent. A
/// single `-` is a file name, and `--` ends the flags.
pub(super) fn normalize(
    command: &Command,
    arguments: &[OsString],
) -> Result<Vec<OsString>, MisplacedFlag> {
    let mut normal = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            normal.push(argument.clone());
            normal.extend(rest.cloned());
            return Ok(normal);
        }
        if !is_flag(argument) {
            if let Some(flag) = rest.clone().find(|later| is_flag(later)) {
                return Err(MisplacedFlag {
                    flag: flag.to_string_lossy().into_owned(),
                });
            }
            normal.push("--".into());
            normal.push(argument.clone());
            normal.extend(rest.cloned());
            return Ok(normal);
        }
        let bytes = argument.as_bytes();
        let (name, has_value) = match bytes.iter().position(|byte| *byte == b'=') {
            Some(end) => (&bytes[..end], true),
            None => (bytes, false),
        };
        let takes_value = flag_takes_value(command, name);
        normal.push(match takes_value {
            // `-abc` is one long flag, perhaps misspelled, and not a group of flags with one letter.
            _ if !bytes.starts_with(b"--") && name.len() > 2 => {
                OsString::from_vec([b"-".as_slice(), bytes].concat())
            }
            _ => argument.clone(),
        });
        if takes_value == Some(true)
            && !has_value
            && let Some(value) = rest.next()
        {
            normal.push(value.clone());
        }
    }
    Ok(normal)
}

/// The flag that asks for help, if there is one before `--`.
pub(super) fn help(arguments: &[OsString]) -> Option<&[OsString]> {
    let mut flags = arguments.iter().take_while(|argument| *argument != "--");
    let asks = |flag: &OsString| ["-h", "--h", "-help", "--help"].iter().any(|it| flag == it);
    let at = flags.position(asks)?;
    arguments.get(at..=at)
}

fn is_flag(argument: &OsStr) -> bool {
    argument.as_bytes().starts_with(b"-") && argument != "-"
}

/// Whether the flag with this name (dashes included) takes a value; `None` if it does not exist.
fn flag_takes_value(command: &Command, name: &[u8]) -> Option<bool> {
    let name = name.strip_prefix(b"--").or(name.strip_prefix(b"-"))?;
    command
        .get_arguments()
        .find(|known| known.get_long().is_some_and(|long| long.as_bytes() == name))
        .map(|known| matches!(known.get_action(), ArgAction::Set | ArgAction::Append))
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn normal(arguments: &[&str]) -> Result<Vec<String>, MisplacedFlag> {
        let command = Command::new("compile")
            .arg(Arg::new("output").long("output-directory").num_args(1))
            .arg(Arg::new("force").long("force").action(ArgAction::SetTrue));
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let normal = normalize(&command, &arguments)?;
        Ok(normal
            .into_iter()
            .map(|argument| argument.into_string().unwrap())
            .collect())
    }

    #[test]
    fn one_dash_means_two() {
        for given in [
            &["-output-directory", "-dir", "a.tgz"],
            &["--output-directory", "-dir", "a.tgz"],
        ] {
            assert_eq!(
                normal(given).unwrap(),
                ["--output-directory", "-dir", "--", "a.tgz"]
            );
        }
        assert_eq!(
            normal(&["-output-directory=dir", "-force", "a.tgz", "b.tgz"]).unwrap(),
            ["--output-directory=dir", "--force", "--", "a.tgz", "b.tgz"]
        );
    }

    #[test]
    fn double_dash_ends_flags_and_single_dash_is_a_name() {
        assert_eq!(
            normal(&["--", "-x.tgz", "--y"]).unwrap(),
            ["--", "-x.tgz", "--y"]
        );
        assert_eq!(normal(&["-", "a.tgz"]).unwrap(), ["--", "-", "a.tgz"]);
    }

    #[test]
    fn flag_after_a_tarball_is_refused() {
        let error = normal(&["a.tgz", "-output-directory", "dir"]).unwrap_err();
        assert!(error.to_string().contains("-output-directory"), "{error}");
    }

    #[test]
    fn unknown_flags_are_left_to_clap() {
        assert_eq!(normal(&["-x", "---y"]).unwrap(), ["-x", "---y"]);
        assert_eq!(
            normal(&["--output-directory"]).unwrap(),
            ["--output-directory"]
        );
    }
}
