//! Flags of `compile`: calls that compile nothing and say what a compilation would do.

use clap::Args;

use crate::offline::Purpose;

#[derive(Debug, Args)]
#[command(next_help_heading = "Plan")]
pub(in crate::cli) struct PlanFlags {
    /// Make all checks that precede the first packaging script, print what would be compiled, and
    /// compile nothing. No file is left behind. Without a stemcell, everything is checked that does
    /// not depend on it
    #[arg(long, conflicts_with_all = ["shell", "shell_on_failure"])]
    pub check: bool,

    /// Print the paths of the results to stdout, one a line, and compile nothing. The agent reads
    /// each tarball only up to its manifest
    #[arg(long, conflicts_with_all = ["check", "shell", "shell_on_failure"])]
    pub print_output_names: bool,
}

impl PlanFlags {
    /// What the call does.
    pub(in crate::cli) fn purpose(&self) -> Purpose {
        if self.print_output_names {
            Purpose::NameResults
        } else if self.check {
            Purpose::Check
        } else {
            Purpose::Compile
        }
    }
}
