//! Flags of `compile`: isolation of packaging scripts.

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
#[command(next_help_heading = "Isolation")]
pub(in crate::cli) struct IsolationFlags {
    /// How scripts are isolated from each other and from the machine
    #[arg(long, value_enum, default_value_t = IsolationFlag::Auto)]
    pub isolation: IsolationFlag,

    /// With `landlock`, a script that is denied access to a file may fail, or may succeed with a different
    /// result. This flag says which scripts run a second time, alone and without restrictions. A script
    /// that failed because of a signal, a timeout, or a lack of memory or disk space is never repeated
    #[arg(long, value_enum, default_value_t = SecondRunFlag::Auto)]
    pub second_run: SecondRunFlag,

    /// With `namespace` and `userns`: make dependencies read-only for scripts. By default, a script can
    /// write to the directories of its dependencies, but its changes are discarded when it ends
    #[arg(long)]
    pub readonly_deps: bool,

    /// Make everything read-only for scripts, except their own directories, HOME and temporary
    /// directories. Needs `namespace` or `userns`
    #[arg(long)]
    pub protect_host: bool,

    /// Network of scripts
    #[arg(long, value_enum, default_value_t = NetworkFlag::Host)]
    pub network: NetworkFlag,
}

/// `--isolation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum IsolationFlag {
    /// The first of the following tiers that passes a self-test; a message names it
    Auto,
    /// Namespaces for mounts, processes and IPC; needs root or CAP_SYS_ADMIN
    Namespace,
    /// The same in a user namespace. An ordinary user should have newuidmap (package `uidmap`) and ranges
    /// in /etc/subuid and /etc/subgid: without them, all files have one owner, and `auto` skips this tier
    Userns,
    /// The real BASE, restricted by Landlock rules; needs Linux 5.19, but no privileges
    Landlock,
    /// The real BASE without isolation, as with the Go agent; `compile` then runs one script at a time,
    /// unless --jobs is given
    None,
}

/// `--second-run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum SecondRunFlag {
    /// Scripts that failed within 30 seconds or with exit code 126, and scripts whose output shows a
    /// denied access, whether they failed or succeeded
    Auto,
    /// Scripts that succeeded although their output shows a denied access, and all scripts that failed,
    /// except those that are never repeated
    Always,
    /// No scripts; a warning names those that succeeded although their output shows a denied access
    Never,
}

/// `--network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum NetworkFlag {
    /// The network of the machine, as with the Go agent
    Host,
    /// Only a private loopback interface; needs `namespace` or `userns`
    None,
}
