//! Flags of `compile`: what is printed.

use clap::{Args, ValueEnum};

use crate::cli::colors::Color;
use crate::cli::values;

#[derive(Debug, Args)]
#[command(next_help_heading = "Messages")]
pub(in crate::cli) struct OutputFlags {
    /// How many lines to print from the end of a failed script's output
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = values::number_in::<u32>(0..=10_000))]
    pub log_lines: u32,

    /// Print the output of all scripts while they run, each line with the name of its package
    #[arg(long)]
    pub verbose: bool,

    /// Print only warnings, errors, the plan of --dry-run and, to stdout, the paths of the results
    #[arg(long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Colors in messages
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Color::Auto)]
    pub color: Color,

    /// Also print commands that the CI system understands, such as error annotations
    #[arg(long, value_enum, value_name = "SYSTEM", default_value_t = AnnotationsFor::Auto)]
    pub annotations: AnnotationsFor,
}

/// `--annotations`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum AnnotationsFor {
    /// `github` if the variable GITHUB_ACTIONS is `true`, otherwise `none`
    Auto,
    /// GitHub Actions: an error annotation for each failed package, and a group for the output of each
    /// script. Workflow commands (`::NAME::`) that a script prints itself have no effect
    Github,
    /// No commands
    None,
}
