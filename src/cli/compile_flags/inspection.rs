//! Flags of `compile`: how to examine packages that fail.

use std::path::PathBuf;

use clap::Args;

use crate::release::Name;

#[derive(Debug, Args)]
#[command(next_help_heading = "Failed packages")]
pub(in crate::cli) struct InspectionFlags {
    #[command(flatten)]
    pub keep: KeepFlags,

    /// Compile only the dependencies of this package, then open a shell in its sandbox instead of running
    /// its script. Needs a terminal and exactly one tarball
    #[arg(long, value_name = "PACKAGE", value_parser = package, conflicts_with = "shell_on_failure")]
    pub shell: Option<Name>,

    /// When a script fails, open a shell in its sandbox. Without a terminal, this has no effect
    #[arg(long)]
    pub shell_on_failure: bool,
}

// Flags for failed packages. `compile-package` has them, too.
#[derive(Debug, Args)]
#[command(next_help_heading = "Failed packages")]
pub(in crate::cli) struct KeepFlags {
    /// Keep the files of a package that fails, in DIR/PACKAGE-VERSION. `bosh-agent enter
    /// DIR/PACKAGE-VERSION` then opens a shell in the package's sandbox
    #[arg(long, value_name = "DIR")]
    pub keep_failed: Option<PathBuf>,
}

fn package(text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|error| error.to_string())
}
