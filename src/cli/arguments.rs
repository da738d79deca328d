//! The command line, parsed.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, FromArgMatches, Parser, ValueEnum};

use super::daemon_flags::{self, Daemon};
use super::flags;
use crate::config::Vcap;
use crate::diag::Chain;
use crate::release::Slug;

/// A parsed command line.
#[derive(Debug)]
pub(super) enum Command {
    Compile(Box<Compile>),
    Daemon(Daemon),
    Version {
        /// Also print the commit and the target.
        verbose: bool,
    },
    Help(String),
}

const USAGE: &str = "\
Usage:

  bosh-agent compile [FLAGS] TARBALL...   compile the packages of BOSH releases
  bosh-agent compile --help               show all flags of `compile`
  bosh-agent -P PLATFORM -C AGENT.JSON    run the agent of a compilation VM
                                          (-P ubuntu or dummy; -b BASE: use it, not /var/vcap)
  bosh-agent -v                           print the version
  bosh-agent --version                    print the version, the commit and the target
  bosh-agent -h                           print this help
";

/// Compiles the packages of BOSH releases for one stemcell and writes compiled releases.
///
/// Each compiled release is named NAME-VERSION-OS-STEMCELLVERSION.tgz.
#[derive(Debug, Args)]
pub(super) struct Compile {
    /// Release tarballs
    #[arg(value_name = "TARBALL", required = true)]
    pub tarballs: Vec<PathBuf>,

    /// Directory for the compiled releases [default: the directory of each tarball]
    #[arg(long, value_name = "DIR")]
    pub output_directory: Option<PathBuf>,

    /// How packaging scripts are isolated from each other and from the host
    #[arg(long, value_enum, default_value_t = Isolation::Auto)]
    pub isolation: Isolation,

    /// When to run a script a second time, alone and without the restrictions of Landlock
    #[arg(long, value_enum, default_value_t = SecondRun::Auto)]
    pub second_run: SecondRun,

    /// Maximum number of packages to compile concurrently [default: the available CPUs (cgroup
    /// limits are honored), or 1 with --isolation=none]. With less than 256 MiB of available
    /// memory, no script starts while another one runs
    #[arg(long, value_name = "N", value_parser = jobs)]
    pub jobs: Option<NonZeroUsize>,

    /// Share one GNU make jobserver between all scripts, with a job per available CPU. A plain
    /// `make` then runs in parallel, which some packages do not support; `make -jN` is not affected
    #[arg(long)]
    pub make_jobserver: bool,

    /// Make dependencies read-only for scripts (`namespace` and `userns`). By default, a script may
    /// change them, and its changes are discarded when it ends
    #[arg(long)]
    pub readonly_deps: bool,

    /// Make everything read-only for scripts except the package's directories below BASE, its
    /// scratch directories, /tmp, /var/tmp, /dev/shm and HOME. Scripts cannot mount file systems.
    /// Needs `namespace` or `userns`
    #[arg(long)]
    pub protect_host: bool,

    /// Network access of packaging scripts
    #[arg(long, value_enum, default_value_t = Network::Host)]
    pub network: Network,

    /// Raise the niceness of packaging scripts by this much
    #[arg(long, value_name = "0..19", default_value_t = 0, value_parser = clap::value_parser!(i32).range(0..=19))]
    pub nice: i32,

    /// After a failure, continue with the packages that do not depend on the failed one. Releases
    /// whose packages are all compiled are written
    #[arg(long)]
    pub keep_going: bool,

    /// Compile even if another agent left packages below BASE, and remove them
    #[arg(long)]
    pub force: bool,

    /// Stemcell to compile for, such as `ubuntu-noble/1.406` [default: read from os-release and
    /// stemcell_version]
    #[arg(long, value_name = "OS/VERSION", value_parser = stemcell)]
    pub stemcell: Option<Slug>,

    /// Directory for temporary files; with `namespace` and `userns`, scripts also run in it
    /// [default: BASE/data if it is on a disk, otherwise the output directory; a directory that is
    /// mounted noexec is used only if there is no other]
    #[arg(long, value_name = "DIR")]
    pub work_dir: Option<PathBuf>,

    /// Keep the scratch directories of packages (BASE/data/NAME) in this directory for later runs;
    /// they hold Go's build cache, for example [default: they are removed at the end]
    #[arg(long, value_name = "DIR")]
    pub scratch_dir: Option<PathBuf>,

    /// Do not share scratch directories: each package has its own. With `landlock`, a script can use only
    /// BASE/data/NAME for the name of its own package
    #[arg(long, conflicts_with = "scratch_dir")]
    pub no_shared_scratch: bool,

    /// Directory for the logs of packaging scripts [default: BASE/sys/log/compilation; if it is not
    /// writable, a directory next to the work directory]
    #[arg(long, value_name = "DIR")]
    pub logs_dir: Option<PathBuf>,

    /// Base directory to compile in; compiled packages work only on machines with the same base
    /// directory
    #[arg(long, value_name = "BASE", default_value = Vcap::BASE)]
    pub base_directory: PathBuf,

    /// Seconds between SIGTERM and SIGKILL when a script is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub grace: u64,

    /// Seconds after which a packaging script is stopped and fails [default: no limit]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub timeout: Option<u64>,

    /// Gzip level of compiled packages
    #[arg(long, value_name = "1..9", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=9))]
    pub compression_level: u32,
}

/// `--isolation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Isolation {
    /// The first of the following that passes a trial run; the output says which one, and why the
    /// ones before it failed
    Auto,
    /// Mount, process and IPC namespaces for each package; needs root or CAP_SYS_ADMIN
    Namespace,
    /// The same in a user namespace; without root, scripts can change file owners only with
    /// newuidmap and a range in /etc/subuid
    Userns,
    /// Scripts use the real BASE, restricted by Landlock rules; needs Landlock (Linux 5.19), no privileges
    Landlock,
    /// Scripts use the real BASE without isolation, one package after another, as the Go agent does
    None,
}

/// `--second-run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum SecondRun {
    /// If the script failed within 30 seconds, or its output shows a denied access
    Auto,
    /// Also after every other failure except a signal, a timeout, or a lack of memory or disk space
    Always,
    /// No second run; if a script succeeds although an access was denied, a warning is printed
    Never,
}

/// `--network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Network {
    /// The network of bosh-agent, as with the Go agent
    Host,
    /// A private loopback interface only; needs `namespace` or `userns`
    None,
}

#[derive(Debug, Parser)]
#[command(
    name = "bosh-agent compile",
    args_override_self = true,
    max_term_width = 110,
    override_usage = "bosh-agent compile [FLAGS] TARBALL...",
    next_help_heading = "Flags",
    disable_version_flag = true
)]
struct CompileCommand {
    #[command(flatten)]
    compile: Compile,
}

fn stemcell(text: &str) -> Result<Slug, String> {
    Slug::parse(text).map_err(|error| Chain(&error).to_string())
}

fn jobs(text: &str) -> Result<NonZeroUsize, String> {
    text.parse()
        .map_err(|_| "expected a number of at least 1".to_owned())
}

/// Parses the arguments after the program's name. The error is a text for the user.
pub(super) fn parse(arguments: &[OsString]) -> Result<Command, String> {
    let Some((first, rest)) = arguments.split_first() else {
        return Err(format!("Error: no command is given\n\n{USAGE}"));
    };
    match first.to_str() {
        Some("compile") => compile(rest),
        Some("-v" | "--v") => Ok(Command::Version { verbose: false }),
        Some("-version" | "--version") => Ok(Command::Version { verbose: true }),
        Some("help" | "-h" | "--h" | "-help" | "--help") => Ok(Command::Help(USAGE.to_owned())),
        _ if daemon_flags::is_for_daemon(arguments) => {
            daemon_flags::parse(arguments).map(Command::Daemon)
        }
        _ => Err(format!(
            "Error: unknown command `{}`\n\n{USAGE}",
            first.to_string_lossy()
        )),
    }
}

fn compile(arguments: &[OsString]) -> Result<Command, String> {
    let command = <CompileCommand as clap::CommandFactory>::command();
    let mut built = command.clone();
    built.build();
    let arguments =
        flags::normalize(&built, arguments).map_err(|error| format!("Error: {error}"))?;
    let with_name = std::iter::once(OsString::from("bosh-agent compile")).chain(arguments);
    let matches = match command.try_get_matches_from(with_name) {
        Ok(matches) => matches,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            return Ok(Command::Help(error.to_string()));
        }
        Err(error) => return Err(capitalized(&error.to_string())),
    };
    let parsed = CompileCommand::from_arg_matches(&matches)
        .map_err(|error| capitalized(&error.to_string()))?
        .compile;
    if parsed.base_directory.to_str().is_none() {
        return Err(format!(
            "Error: --base-directory `{}` is not valid UTF-8",
            parsed.base_directory.display()
        ));
    }
    if !parsed.base_directory.is_absolute() {
        return Err(format!(
            "Error: --base-directory `{}` is not an absolute path",
            parsed.base_directory.display()
        ));
    }
    Ok(Command::Compile(Box::new(parsed)))
}

/// clap starts its errors in lower case; ours start with a capital letter.
fn capitalized(text: &str) -> String {
    match text.strip_prefix("error:") {
        Some(rest) => format!("Error:{rest}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Command, String> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        parse(&arguments)
    }

    fn compile(arguments: &[&str]) -> Compile {
        match parsed(&[&["compile"], arguments].concat()) {
            Ok(Command::Compile(compile)) => *compile,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn go_agents_command_line_is_accepted() {
        for given in [
            &["-output-directory", "out", "a.tgz", "b.tgz"][..],
            &["--output-directory=out", "a.tgz", "b.tgz"],
            &[
                "-output-directory=first",
                "-output-directory=out",
                "--",
                "a.tgz",
                "b.tgz",
            ],
        ] {
            let compile = compile(given);
            assert_eq!(compile.output_directory, Some(PathBuf::from("out")));
            assert_eq!(compile.tarballs, ["a.tgz", "b.tgz"].map(PathBuf::from));
        }
    }

    #[test]
    fn usage_errors_name_the_mistake() {
        for (given, named) in [
            (&[][..], "no command"),
            (&["compiel"], "compiel"),
            (&["compile"], "TARBALL"),
            (&["compile", "-x", "a.tgz"], "-x"),
            (&["compile", "--output-directory"], "--output-directory"),
            (
                &["compile", "--output-directory=", "a.tgz"],
                "--output-directory",
            ),
            (&["compile", "--scratch-dir=", "a.tgz"], "--scratch-dir"),
            (
                &["compile", "--scratch-dir=d", "--no-shared-scratch", "a.tgz"],
                "--no-shared-scratch",
            ),
            (&["compile", "a.tgz", "-force"], "-force"),
            (&["compile", "--stemcell", "noble", "a.tgz"], "noble"),
            (&["compile", "--base-directory=vcap", "a.tgz"], "vcap"),
            (&["compile", "--jobs=0", "a.tgz"], "--jobs"),
        ] {
            let text = parsed(given).unwrap_err();
            assert!(
                text.starts_with("Error: ") && text.contains(named),
                "{given:?}: {text}"
            );
        }
    }

    #[test]
    fn help_and_version_are_not_errors() {
        for given in [
            &["-h"][..],
            &["--help"],
            &["compile", "-h"],
            &["compile", "-help"],
        ] {
            assert!(matches!(parsed(given), Ok(Command::Help(_))), "{given:?}");
        }
        for (given, expected) in [("-v", false), ("--version", true)] {
            assert!(
                matches!(parsed(&[given]), Ok(Command::Version { verbose }) if verbose == expected)
            );
        }
        let Ok(Command::Help(text)) = parsed(&["compile", "--help"]) else {
            panic!("no help");
        };
        for flag in [
            "--output-directory",
            "--work-dir",
            "--logs-dir",
            "--scratch-dir",
            "--no-shared-scratch",
            "--stemcell",
            "--isolation",
            "--protect-host",
            "--second-run",
            "--jobs",
            "256 MiB",
        ] {
            assert!(text.contains(flag), "{flag} is missing:\n{text}");
        }
    }
}
