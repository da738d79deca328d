//! Flags of `compile`: directories for files other than results.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(next_help_heading = "Directories")]
pub(in crate::cli) struct DirectoryFlags {
    #[command(flatten)]
    pub work: WorkFlags,

    /// Directory for the logs of packaging scripts [default: BASE/sys/log/compilation; if it is not
    /// writable, a directory next to the work directory]
    #[arg(long, value_name = "DIR")]
    pub logs_dir: Option<PathBuf>,
}

// Flags for the directories of packages, also of a single one.
#[derive(Debug, Args)]
#[command(next_help_heading = "Directories")]
pub(in crate::cli) struct WorkFlags {
    /// Directory in which the run creates its work directory: its temporary files and, with `namespace` and `userns`, the
    /// directories of scripts [default: BASE/data, if it is writable, on a real disk (not a tmpfs, an overlay or FUSE) and not mounted
    /// noexec; otherwise the output directory; if that is mounted noexec, BASE/data or /var/tmp]
    #[arg(long, value_name = "DIR")]
    pub work_dir: Option<PathBuf>,

    /// Keep the scratch directories of packages (BASE/data/PACKAGE) in this directory for later runs;
    /// they hold Go's build cache, for example [default: they are removed at the end]
    #[arg(long, value_name = "DIR")]
    pub scratch_dir: Option<PathBuf>,

    /// Do not share scratch directories: each package has its own. With `landlock`, a script can then
    /// write only to the directory with the name of its own package, not to those of its dependencies
    #[arg(long, conflicts_with = "scratch_dir")]
    pub no_shared_scratch: bool,
}
