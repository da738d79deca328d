//! Flags of `compile`: limits of packaging scripts.

use std::time::Duration;

use clap::Args;

use crate::cli::values;

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(in crate::cli) struct LimitFlags {
    /// Raise the niceness of scripts by this much
    #[arg(long, value_name = "0..19", default_value_t = 0, value_parser = values::number_in::<i32>(0..=19))]
    pub nice: i32,

    /// Stop a script that runs longer than this, such as `90s`, `20m`, `1h30m` or a number of seconds
    /// [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = values::limit)]
    pub timeout: Option<Duration>,

    /// Stop a script that prints nothing for this long [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = values::limit)]
    pub silence_timeout: Option<Duration>,

    /// Time between SIGTERM and SIGKILL when a script is stopped
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = values::grace)]
    pub grace: Duration,
}
