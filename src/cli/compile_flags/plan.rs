//! Flags of `compile`: runs that only print what a compilation would do, and the graph of packages.

use std::path::PathBuf;

use clap::Args;

use crate::cli::values;
use crate::offline::Purpose;

#[derive(Debug, Args)]
#[command(next_help_heading = "Plan")]
pub(in crate::cli) struct PlanFlags {
    /// Check the releases, but compile nothing. Print which of them would be compiled, and which would be
    /// copied because they are compiled already. If no stemcell is known (see --stemcell), the checks that
    /// depend on it are skipped
    #[arg(long, conflicts_with_all = ["shell", "shell_on_failure"])]
    pub check: bool,

    /// Like --check, and also print the plan: the order of the packages, their expected times and, with a
    /// cache, which packages are not in it and why
    #[arg(long, conflicts_with_all = ["check", "shell", "shell_on_failure"])]
    pub dry_run: bool,

    /// Print the paths that the results would have, and do nothing else. This is fast, because each
    /// tarball is read only up to its manifest
    #[arg(long, conflicts_with_all = ["check", "dry_run", "shell", "shell_on_failure"])]
    pub print_output_names: bool,

    /// Write the dependency graph of all packages to this file, for Graphviz. Its name must end in
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
