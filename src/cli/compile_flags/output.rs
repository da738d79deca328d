//! Flags of `compile`: what is printed.

use clap::Args;

#[derive(Debug, Args)]
#[command(next_help_heading = "Messages")]
pub(in crate::cli) struct OutputFlags {
    /// Number of last lines to print of a failed packaging script; commands that `bash -x` traces
    /// are only in the log. 0 prints none
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub log_lines: u32,
}
