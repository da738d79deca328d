//! Flags of `compile`: directories for files other than results.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(next_help_heading = "Directories")]
pub(in crate::cli) struct DirectoryFlags {
    #[command(flatten)]
    pub work: WorkFlags,

    /// Directory for the logs of scripts [default: BASE/sys/log/compilation or, if it is not writable, a
    /// directory next to the work directory]
    #[arg(long, value_name = "DIR")]
    pub logs_dir: Option<PathBuf>,
}

// Flags for the directories of packages. `compile-package` has them, too.
#[derive(Debug, Args)]
#[command(next_help_heading = "Directories")]
pub(in crate::cli) struct WorkFlags {
    /// Create the work directory, which contains all temporary files, in this directory [default:
    /// BASE/data; the output directory if BASE/data is not writable, is mounted noexec, or is on a tmpfs,
    /// an overlay or FUSE; /var/tmp if neither can be used]
    #[arg(long, value_name = "DIR")]
    pub work_dir: Option<PathBuf>,

    /// Keep the scratch directories of packages (BASE/data/PACKAGE, for example with Go's build cache) in
    /// this directory for later runs [default: they are removed at the end of the run]
    #[arg(long, value_name = "DIR")]
    pub scratch_dir: Option<PathBuf>,

    /// Give each package a scratch directory that no other package uses. By default, a package
    /// can also use the scratch directories of its direct dependencies
    #[arg(long, conflicts_with = "scratch_dir")]
    pub no_shared_scratch: bool,
}
