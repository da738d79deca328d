//! The flags of `bosh-agent compile`, one file for each heading of the help.

mod cache;
mod compilation;
mod directories;
mod inspection;
mod isolation;
mod limits;
mod output;
mod plan;
mod remote;
mod results;
mod selection;

use std::path::PathBuf;

use clap::{Args, Parser};

pub(super) use cache::{CacheFlags, directory as cache_directory};
pub(super) use compilation::{CompilationFlags, JobsFlag, ScriptFlags, stemcell, with_path};
pub(super) use directories::{DirectoryFlags, WorkFlags};
pub(super) use inspection::{InspectionFlags, KeepFlags};
pub(super) use isolation::{IsolationFlag, IsolationFlags, NetworkFlag, SecondRunFlag};
pub(super) use limits::LimitFlags;
pub(super) use output::{AnnotationsFor, OutputFlags};
pub(super) use results::{PackingFlags, ResultFlags};

/// Compiles BOSH releases.
///
/// For each stemcell, a release becomes one file, the result: RELEASE-VERSION-OS-STEMCELLVERSION.tgz. Each package is compiled
/// by its packaging script. Each script runs in a sandbox: an environment with the directories of the script's package and of the
/// package's dependencies. docs/compile.md explains the flags.
#[derive(Debug, Args)]
pub(super) struct Compile {
    /// Releases to compile: paths or glob patterns. All flags must precede them
    #[arg(value_name = "TARBALL", required = true)]
    pub tarballs: Vec<PathBuf>,

    #[command(flatten)]
    pub results: ResultFlags,

    #[command(flatten)]
    pub compilation: CompilationFlags,

    #[command(flatten)]
    pub selection: selection::SelectionFlags,

    #[command(flatten)]
    pub plan: plan::PlanFlags,

    #[command(flatten)]
    pub cache: CacheFlags,

    #[command(flatten)]
    pub isolation: IsolationFlags,

    #[command(flatten)]
    pub limits: LimitFlags,

    #[command(flatten)]
    pub directories: DirectoryFlags,

    #[command(flatten)]
    pub inspection: InspectionFlags,

    #[command(flatten)]
    pub remote: remote::RemoteFlags,

    #[command(flatten)]
    pub output: OutputFlags,
}

impl Compile {
    /// A flag that was given and that makes sense for one stemcell only.
    pub(super) fn flag_for_one_stemcell(&self) -> Option<&'static str> {
        let flags = [
            (self.compilation.stemcell.is_some(), "--stemcell"),
            (self.inspection.shell.is_some(), "--shell"),
        ];
        let mut given = flags.into_iter().filter(|(is_given, _)| *is_given);
        given.next().map(|(_, flag)| flag)
    }
}

#[derive(Debug, Parser)]
#[command(
    name = "bosh-agent compile",
    args_override_self = true,
    max_term_width = 110,
    override_usage = "bosh-agent compile [FLAGS] TARBALL...",
    disable_version_flag = true
)]
pub(super) struct CompileCommand {
    #[command(flatten)]
    pub compile: Compile,
}
