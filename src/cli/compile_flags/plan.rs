//! Flags of `compile`: runs that compile nothing and say what a compilation would do, and the graph of packages.

use std::path::PathBuf;

use clap::Args;

use crate::cli::values;
use crate::offline::Purpose;

#[derive(Debug, Args)]
#[command(next_help_heading = "Plan")]
pub(in crate::cli) struct PlanFlags {
    /// Make all checks that precede the first packaging script, print what would be compiled, and
    /// compile nothing. No file is left behind, except those that other flags name. Without a stemcell, everything is checked that does
    /// not depend on it
    #[arg(long, conflicts_with_all = ["shell", "shell_on_failure"])]
    pub check: bool,

    /// Make the checks of --check, and print the order in which packages would be compiled, how long each
    /// and all of them are expected to take, and the critical path. The times are those of earlier
    /// runs (`durations.json` in the directory of logs) or estimates by size
    #[arg(long, conflicts_with_all = ["check", "shell", "shell_on_failure"])]
    pub dry_run: bool,

    /// Print the paths of the results to stdout, one a line, and compile nothing. The agent reads
    /// each tarball only up to its manifest
    #[arg(long, conflicts_with_all = ["check", "dry_run", "shell", "shell_on_failure"])]
    pub print_output_names: bool,

    /// Write the dependency graph of all packages to this file, for Graphviz (`dot -Tsvg FILE.dot`).
    /// Packages that are already compiled are gray, the critical path is red. The name must end in
    /// `.dot` or `.gv`
    #[arg(long, value_name = "FILE.dot", value_parser = values::graph_file, conflicts_with = "print_output_names")]
    pub graph: Option<PathBuf>,
}

impl PlanFlags {
    /// What the run does.
    pub(in crate::cli) fn purpose(&self) -> Purpose {
        if self.print_output_names {
            Purpose::NameResults
        } else if self.check {
            Purpose::Check
        } else if self.dry_run {
            Purpose::DryRun
        } else {
            Purpose::Compile
        }
    }
}
