//! `bosh-agent compile-package`: one package, without a release.

mod job;
mod options;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, FromArgMatches, Parser};

use super::compile::{has_proc, messages, supervised};
use super::compile_flags::{
    IsolationFlags, KeepFlags, LimitFlags, OutputFlags, PackingFlags, ScriptFlags, WorkFlags,
    stemcell,
};
use super::{MACHINE, USAGE, on_threads, print_error, values};
use crate::config::Environment;
use crate::offline::{self, Command, PackageFiles};
use crate::package_job::JobDependency;
use crate::release::{Name, Slug, Version};
use crate::sandbox;

/// The flags that cannot be combined with `--job`, because the job file contains their values.
const IN_JOB: [&str; 17] = [
    "source",
    "name",
    "version",
    "dependency",
    "stemcell",
    "reproducible",
    "compression_level",
    "make_jobserver",
    "env",
    "base_directory",
    "isolation",
    "second_run",
    "readonly_deps",
    "protect_host",
    "network",
    "no_shared_scratch",
    "scratch_dir",
];

/// The help of `--env`. It differs from that of `compile`: this command passes on only few variables, as `compile` does with a cache.
const ENV: &str = "Pass a variable to the script. Without VALUE, the value is taken from the environment of bosh-agent (can be \
                   repeated). Apart from these, the script inherits only the variables that docs/compile-package.md lists";

/// The help of `--make-jobserver`.
const JOBSERVER: &str = "Give the script a pool of GNU make jobs. A `make` without `-j` then builds in parallel, which some \
                         packages do not support";

/// The help of `--no-shared-scratch`.
const NO_SHARED_SCRATCH: &str = "Let the script use only the scratch directory of its own package. By default, it can also use those of \
                                 its direct dependencies";

/// The help of `--verbose`.
const VERBOSE: &str =
    "Print the output of the script while it runs, each line with the name of the package";

/// The help of `--quiet`.
const QUIET: &str = "Print only warnings and errors";

/// Compiles one package from its source blob and its compiled dependencies, without a release.
///
/// The package is compiled in the same way as by `bosh-agent compile`, with the same isolation tiers and the same exit codes. The inputs
/// are not changed. docs/compile-package.md describes the files, and says after which exit codes another attempt can succeed.
#[derive(Debug, Parser)]
#[command(
    name = "bosh-agent compile-package",
    args_override_self = true,
    max_term_width = 110,
    override_usage = "bosh-agent compile-package --source SOURCE.tgz --name NAME --version VERSION
         [--dependency NAME=VERSION=BLOB.tgz]... --output OUT.tgz [FLAGS]
       bosh-agent compile-package --job FILE.json --output OUT.tgz [FLAGS]",
    disable_version_flag = true,
    mut_arg("env", |it| it.help(ENV)),
    mut_arg("make_jobserver", |it| it.help(JOBSERVER)),
    mut_arg("no_shared_scratch", |it| it.help(NO_SHARED_SCRATCH)),
    mut_arg("quiet", |it| it.help(QUIET)),
    mut_arg("verbose", |it| it.help(VERBOSE))
)]
pub(super) struct CompilePackage {
    #[command(flatten)]
    package: PackageFlags,

    #[command(flatten)]
    packing: PackingFlags,

    #[command(flatten)]
    script: ScriptFlags,

    #[command(flatten)]
    isolation: IsolationFlags,

    #[command(flatten)]
    limits: LimitFlags,

    #[command(flatten)]
    keep: KeepFlags,

    #[command(flatten)]
    work: WorkFlags,

    #[command(flatten)]
    messages: OutputFlags,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Package")]
struct PackageFlags {
    /// Source blob of the package: a tar archive, compressed or not
    #[arg(long, value_name = "SOURCE.tgz", required_unless_present = "job")]
    source: Option<PathBuf>,

    /// Name of the package
    #[arg(long, value_name = "NAME", value_parser = name, required_unless_present = "job")]
    name: Option<Name>,

    /// Version of the package, usually its fingerprint
    #[arg(long, value_name = "VERSION", value_parser = version, required_unless_present = "job")]
    version: Option<Version>,

    /// Direct dependency of the package: its name, its version and its compiled blob (can be repeated)
    #[arg(long, value_name = "NAME=VERSION=BLOB.tgz", value_parser = OsStringValueParser::new().try_map(dependency))]
    dependency: Vec<JobDependency>,

    /// Stemcell to name in the report, such as `ubuntu-noble/1.406`. It does not affect how the package is
    /// compiled [default: the stemcell of this machine]
    #[arg(long, value_name = "OS/VERSION", value_parser = stemcell)]
    stemcell: Option<Slug>,

    /// JSON file with all values that affect the result. It replaces flags such as --source, --name, --version
    /// and --dependency (docs/compile-package.md). It is not a job of BOSH. Relative paths in the file start
    /// at the file's directory
    #[arg(long, value_name = "FILE.json", conflicts_with_all = IN_JOB)]
    job: Option<PathBuf>,

    /// Path of the compiled package. It is compressed with gzip, unless the source is a plain tar archive
    #[arg(long, value_name = "OUT.tgz", value_parser = OsStringValueParser::new().try_map(values::written_file))]
    output: PathBuf,

    /// Path of the log of the packaging script [default: OUT.tgz.log]
    #[arg(long, value_name = "FILE", value_parser = OsStringValueParser::new().try_map(values::written_file))]
    log: Option<PathBuf>,

    /// Write a report of the run as JSON to this file, also after a failure
    #[arg(long, value_name = "FILE.json", value_parser = values::report_file)]
    report: Option<PathBuf>,
}

/// Parses the arguments after `compile-package`. The error is a text for the user. Its second part is true if the text is the help.
pub(super) fn parse(arguments: &[OsString]) -> Result<CompilePackage, (String, bool)> {
    let command = <CompilePackage as clap::CommandFactory>::command();
    let program = OsString::from("bosh-agent compile-package");
    let with_name = std::iter::once(program).chain(arguments.to_vec());
    let matches = command.try_get_matches_from(with_name);
    matches
        .and_then(|matches| CompilePackage::from_arg_matches(&matches))
        .map_err(|error| (error.to_string(), !error.use_stderr()))
}

pub(super) fn main(command: CompilePackage, environment: Environment) -> u8 {
    sandbox::shorten_slices_before_threads();
    if !has_proc() {
        return MACHINE;
    }
    let job = match job::of(&command, &environment) {
        Ok(job) => job,
        Err((text, code)) => {
            print_error(&format!("Error: {text}"));
            return code;
        }
    };
    let files = files(&command.package);
    if let Some(text) = job::given_twice(&job, &files) {
        print_error(&format!("Error: {text}"));
        return USAGE;
    }
    let messages = messages(&command.messages, &environment, Command::CompilePackage);
    let options = match options::options(&command, &job, &environment) {
        Ok(options) => options,
        Err(error) => {
            let (text, code) = job::wrong_source_date(&job, &files, &error);
            print_error(&format!("Error: {text}"));
            return code;
        }
    };
    let grace = options.grace;
    on_threads(
        1,
        supervised(grace, messages, move |progress, cancel| async move {
            offline::compile_package(job, files, options, progress, &cancel).await
        }),
    )
}

/// The absolute paths of the job file and of the files that the run writes.
fn files(flags: &PackageFlags) -> PackageFiles {
    let log = flags.log.clone().unwrap_or_else(|| {
        let mut log = flags.output.clone().into_os_string();
        log.push(".log");
        log.into()
    });
    PackageFiles {
        job: flags.job.as_deref().map(absolute),
        output: absolute(&flags.output),
        log: absolute(&log),
        report: flags.report.as_deref().map(absolute),
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn name(text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|error| error.to_string())
}

fn version(text: &str) -> Result<Version, String> {
    Version::parse(text).map_err(|error| error.to_string())
}

/// Parses `NAME=VERSION=BLOB`. Names and versions contain no `=`, but paths may.
fn dependency(text: OsString) -> Result<JobDependency, String> {
    let mut parts = text.as_bytes().splitn(3, |byte| *byte == b'=');
    let (Some(given_name), Some(given_version), Some(blob)) =
        (parts.next(), parts.next(), parts.next())
    else {
        return Err("expected NAME=VERSION=BLOB".to_owned());
    };
    if blob.is_empty() {
        return Err("expected NAME=VERSION=BLOB; the path of the blob is empty".to_owned());
    }
    Ok(JobDependency {
        name: name(&String::from_utf8_lossy(given_name))?,
        version: version(&String::from_utf8_lossy(given_version))?,
        blob: OsStr::from_bytes(blob).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(String, String, PathBuf), String> {
        let found = dependency(text.into())?;
        Ok((
            found.name.to_string(),
            found.version.to_string(),
            found.blob,
        ))
    }

    #[test]
    fn dependency_has_name_version_and_path() {
        assert_eq!(
            parsed("lib=1.2+dev=blobs/a=b.tgz"),
            Ok((
                "lib".to_owned(),
                "1.2+dev".to_owned(),
                "blobs/a=b.tgz".into()
            ))
        );
        for wrong in ["", "lib", "lib=1", "lib=1=", "=1=a", "lib==a", "../a=1=b"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn flags_that_a_job_gives_are_refused_with_one() {
        use clap::CommandFactory;
        let command = CompilePackage::command();
        for id in IN_JOB {
            let flag = command.get_arguments().find(|it| it.get_id() == id);
            let flag = flag.unwrap_or_else(|| panic!("{id} is no flag"));
            let name = format!("--{}", flag.get_long().unwrap_or_default());
            let value = match id {
                "dependency" => Some("lib=1=b"),
                "stemcell" => Some("a/1"),
                "isolation" | "network" => Some("none"),
                "second_run" => Some("never"),
                "compression_level" => Some("1"),
                _ if flag.get_action().takes_values() => Some("/a"),
                _ => None,
            };
            let value = match id {
                "name" | "version" | "env" => Some("a"),
                _ => value,
            };
            let mut arguments = vec!["--job", "j.json", "--output", "o", &name];
            arguments.extend(value);
            let arguments: Vec<OsString> = arguments.into_iter().map(OsString::from).collect();
            let (text, _) = parse(&arguments).unwrap_err();
            assert!(text.contains("cannot be used with"), "{name}: {text}");
        }
    }
}
