//! Flags of `compile`: looking into packages that fail.

use std::path::PathBuf;

use clap::Args;

use crate::release::Name;

#[derive(Debug, Args)]
#[command(next_help_heading = "Failed packages")]
pub(in crate::cli) struct InspectionFlags {
    #[command(flatten)]
    pub keep: KeepFlags,

    /// Compile the dependencies of this package, and then open an interactive bash in its sandbox
    /// instead of running its packaging script. No release is written. Needs a terminal and one tarball
    #[arg(long, value_name = "PACKAGE", value_parser = package, conflicts_with = "shell_on_failure")]
    pub shell: Option<Name>,

    /// When a packaging script fails, open an interactive bash in its sandbox as the script left it.
    /// Without a terminal, this has no effect
    #[arg(long)]
    pub shell_on_failure: bool,
}

// Flags for a failed package, also of a single one.
#[derive(Debug, Args)]
#[command(next_help_heading = "Failed packages")]
pub(in crate::cli) struct KeepFlags {
    /// Keep the sources, install target (the directory with the installed files), dependencies and
    /// environment of each failed package in DIR/PACKAGE-VERSION. The script `enter` there opens a
    /// shell in a sandbox of the same kind. Later runs remove and overwrite nothing in DIR
    #[arg(long, value_name = "DIR")]
    pub keep_failed: Option<PathBuf>,
}

fn package(text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|error| error.to_string())
}
