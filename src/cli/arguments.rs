//! What the command line asks for.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, FromArgMatches, Parser, ValueEnum};

use super::daemon_flags::{self, Daemon};
use super::flags;
use crate::config::Vcap;
use crate::release::Slug;

/// What the program is to do.
#[derive(Debug)]
pub(super) enum Command {
    Compile(Box<Compile>),
    Daemon(Daemon),
    /// The version, and for `true` what it was built from.
    Version {
        verbose: bool,
    },
    Help(String),
}

const USAGE: &str = "\
Usage:

  bosh-agent compile [FLAGS] TARBALL...   compile the packages of BOSH releases
  bosh-agent compile --help               all flags of it
  bosh-agent -P PLATFORM -C AGENT.JSON    serve a Director on a compilation VM
                                          (-P ubuntu or dummy; -b BASE instead of /var/vcap)
  bosh-agent -v                           print the version
  bosh-agent --version                    print the version, the commit and the target
  bosh-agent -h                           print this text
";

/// Creates BOSH release tarballs with compiled packages from tarballs with source packages.
///
/// The result of each is NAME-VERSION-OS-STEMCELLVERSION.tgz.
#[derive(Debug, Args)]
pub(super) struct Compile {
    /// Release tarballs
    #[arg(value_name = "TARBALL", required = true)]
    pub tarballs: Vec<PathBuf>,

    /// The directory to put the compiled releases in [default: that of each tarball]
    #[arg(long, value_name = "DIR")]
    pub output_directory: Option<PathBuf>,

    /// How packages are kept apart
    #[arg(long, value_enum, default_value_t = Isolation::Auto)]
    pub isolation: Isolation,

    /// Whether a script that fails with Landlock is run a second time, alone and without restrictions
    #[arg(long, value_enum, default_value_t = SecondRun::Auto)]
    pub second_run: SecondRun,

    /// How many packages are compiled at once, at the most [default: as many as there are processors for us; 1 with
    /// --isolation=none, which keeps nothing apart]. While less than 256 MiB of memory is available none is started beside another
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,

    /// Have all scripts share one pool of jobs for GNU make, as large as there are processors. A bare `make` becomes parallel
    /// by that, which not every package bears; `make -jN` does as it did
    #[arg(long)]
    pub make_jobserver: bool,

    /// Have writes into dependencies fail, where packages are kept apart; otherwise they are dropped with the script
    #[arg(long)]
    pub readonly_deps: bool,

    /// Have writes to everything fail that is not the package's own: all but its directories below BASE, its scratch directories,
    /// /tmp, /var/tmp, /dev/shm and HOME is read-only for scripts, and they cannot mount file systems. Needs `namespace` or `userns`
    #[arg(long)]
    pub protect_host: bool,

    /// The network that packaging scripts have
    #[arg(long, value_enum, default_value_t = Network::Host)]
    pub network: Network,

    /// How much nicer than this program packaging scripts are
    #[arg(long, value_name = "0..19", default_value_t = 0, value_parser = clap::value_parser!(i32).range(0..=19))]
    pub nice: i32,

    /// Compile even where another agent has left packages; they are removed
    #[arg(long)]
    pub force: bool,

    /// Compile for this stemcell, as `ubuntu-noble/1.406` [default: what os-release and stemcell_version say]
    #[arg(long, value_name = "OS/VERSION", value_parser = stemcell)]
    pub stemcell: Option<Slug>,

    /// The directory for temporary files, in which scripts run where packages have namespaces [default: BASE/data where that is
    /// a real disk, else the output directory; one that is mounted noexec only where there is no other]
    #[arg(long, value_name = "DIR")]
    pub work_dir: Option<PathBuf>,

    /// Keep the scratch directories of packages (BASE/data/NAME) in this directory, for later runs. They hold Go's build cache, for
    /// example [default: they are removed at the end]
    #[arg(long, value_name = "DIR")]
    pub scratch_dir: Option<PathBuf>,

    /// Share no scratch directories: each package creates its own, with `landlock` only the one of its own name
    #[arg(long, conflicts_with = "scratch_dir")]
    pub no_shared_scratch: bool,

    /// The directory for logs of packaging scripts [default: BASE/sys/log/compilation, else beside the work directory]
    #[arg(long, value_name = "DIR")]
    pub logs_dir: Option<PathBuf>,

    /// The directory below which packages are compiled; what is compiled runs only there
    #[arg(long, value_name = "BASE", default_value = Vcap::BASE)]
    pub base_directory: PathBuf,

    /// Seconds that the processes of a script get to end by themselves when it is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub grace: u64,

    /// Seconds that a packaging script may run [default: as long as it takes]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub timeout: Option<u64>,

    /// The gzip level of compiled packages
    #[arg(long, value_name = "1..9", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=9))]
    pub compression_level: u32,
}

/// How packages are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Isolation {
    /// The first of the following that works; a line says which, and why none before it
    Auto,
    /// Each package in its own mount, process and IPC namespace; needs root or CAP_SYS_ADMIN
    Namespace,
    /// The same in a user namespace; an ordinary user needs newuidmap and a range in /etc/subuid, or gets a single owner
    Userns,
    /// In place, by rules on what a script may reach; needs Landlock (Linux 5.19) and no rights
    Landlock,
    /// In place, one package after another, as the Go agent does
    None,
}

/// Whether a script that fails with Landlock is run a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum SecondRun {
    /// If it failed within 30 seconds, or its output shows that it was denied something
    Auto,
    /// After every failure but a signal, a timeout, or a lack of memory or disk space
    Always,
    /// Not even if it succeeded although it was denied something: that is a warning then
    Never,
}

/// The network that packaging scripts have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Network {
    /// That of this program, as with the Go agent
    Host,
    /// A loopback of their own and nothing else; needs `namespace` or `userns`
    None,
}

#[derive(Debug, Parser)]
#[command(
    name = "bosh-agent compile",
    args_override_self = true,
    max_term_width = 110,
    override_usage = "bosh-agent compile [FLAGS] [TARBALL...]",
    next_help_heading = "Flags",
    disable_version_flag = true
)]
struct CompileCommand {
    #[command(flatten)]
    compile: Compile,
}

fn stemcell(text: &str) -> Result<Slug, String> {
    Slug::parse(text).map_err(|error| error.to_string())
}

/// Reads the arguments behind the program's name. The error is the text for the user.
pub(super) fn parse(arguments: &[OsString]) -> Result<Command, String> {
    let Some((first, rest)) = arguments.split_first() else {
        return Err(format!("Error: no command is given\n\n{USAGE}"));
    };
    match first.to_str() {
        Some("compile") => compile(rest),
        Some("-v" | "--v") => Ok(Command::Version { verbose: false }),
        Some("-version" | "--version") => Ok(Command::Version { verbose: true }),
        Some("-h" | "--h" | "-help" | "--help") => Ok(Command::Help(USAGE.to_owned())),
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
        flags::normalise(&built, arguments).map_err(|error| format!("Error: {error}"))?;
    let with_name = std::iter::once(OsString::from("bosh-agent compile")).chain(arguments);
    let matches = match command.try_get_matches_from(with_name) {
        Ok(matches) => matches,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            return Ok(Command::Help(error.to_string()));
        }
        Err(error) => return Err(capitalised(&error.to_string())),
    };
    let parsed = CompileCommand::from_arg_matches(&matches)
        .map_err(|error| capitalised(&error.to_string()))?
        .compile;
    let directories = [
        ("--output-directory", &parsed.output_directory),
        ("--scratch-dir", &parsed.scratch_dir),
    ];
    for (flag, directory) in directories {
        if directory
            .as_ref()
            .is_some_and(|path| path.as_os_str().is_empty())
        {
            return Err(format!("Error: {flag} needs a directory"));
        }
    }
    if parsed.base_directory.to_str().is_none() {
        return Err(format!(
            "Error: --base-directory `{}` is not UTF-8 text",
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

/// Our own errors begin with a capital letter, clap's do not.
fn capitalised(text: &str) -> String {
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
    fn the_go_agents_command_line_is_understood() {
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
    fn mistakes_are_usage_errors_that_name_them() {
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
    fn help_and_version_are_no_errors() {
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
