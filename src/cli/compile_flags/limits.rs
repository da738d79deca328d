//! Flags of `compile`: limits of packaging scripts.

use clap::Args;

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(in crate::cli) struct LimitFlags {
    /// Raise the niceness of packaging scripts by this much
    #[arg(long, value_name = "0..19", default_value_t = 0, value_parser = clap::value_parser!(i32).range(0..=19))]
    pub nice: i32,

    /// Seconds after which a packaging script is stopped and fails [default: no limit]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub timeout: Option<u64>,

    /// Seconds between SIGTERM and SIGKILL when a script is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub grace: u64,
}
