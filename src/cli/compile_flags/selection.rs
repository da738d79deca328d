//! Flags of `compile`: which jobs and packages of the releases are compiled.

use clap::Args;

use crate::offline::Selection;
use crate::release::Name;

#[derive(Debug, Args)]
#[command(
    next_help_heading = "Selection (all of a release is checked, but only a part is compiled)"
)]
pub(in crate::cli) struct SelectionFlags {
    /// Compile only the packages that the releases' jobs need. The result's name ends in
    /// `.only-needed.tgz`
    #[arg(long, conflicts_with_all = ["job", "package"])]
    pub only_needed: bool,

    /// Compile only the packages of this job (can be repeated). The result's name ends
    /// in `.job=JOB.tgz`
    #[arg(long, value_name = "JOB", value_parser = name)]
    pub job: Vec<Name>,

    /// Compile only this package and its dependencies (can be repeated). The result's name
    /// ends in `.package=PACKAGE.tgz`
    #[arg(long, value_name = "PACKAGE", value_parser = name)]
    pub package: Vec<Name>,
}

impl SelectionFlags {
    /// The selection.
    pub(in crate::cli) fn selection(self) -> Selection {
        if self.only_needed {
            Selection::OnlyNeeded
        } else if self.job.is_empty() && self.package.is_empty() {
            Selection::All
        } else {
            Selection::Named {
                jobs: self.job.into_iter().collect(),
                packages: self.package.into_iter().collect(),
            }
        }
    }
}

fn name(text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|error| error.to_string())
}
