//! Flags of `compile`: isolation of packaging scripts.

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
#[command(next_help_heading = "Isolation")]
pub(in crate::cli) struct IsolationFlags {
    /// How packaging scripts are isolated from each other and from the host
    #[arg(long, value_enum, default_value_t = IsolationFlag::Auto)]
    pub isolation: IsolationFlag,

    /// With `landlock`: when to run a script a second time, alone and without restrictions. Never after
    /// a signal, a timeout, a stop, or a lack of memory or disk space
    #[arg(long, value_enum, default_value_t = SecondRunFlag::Auto)]
    pub second_run: SecondRunFlag,

    /// Make dependencies read-only for scripts (`namespace` and `userns`). By default, a script may
    /// change them, and its changes are discarded when it ends
    #[arg(long)]
    pub readonly_deps: bool,

    /// Make everything read-only for scripts except the package's directories below BASE, its scratch
    /// directories, an existing HOME, /tmp, /var/tmp and /dev/shm, and the paths in /tmp, /var/tmp and /dev/shm that
    /// environment variables name. Scripts can mount file systems only in a user namespace of their
    /// own. Needs `namespace` or `userns`
    #[arg(long)]
    pub protect_host: bool,

    /// Network access of packaging scripts
    #[arg(long, value_enum, default_value_t = NetworkFlag::Host)]
    pub network: NetworkFlag,
}

/// `--isolation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum IsolationFlag {
    /// The first of the following that passes a self-test. The output says which one; with
    /// BOSH_AGENT_LOG=debug, also why the ones before it failed
    Auto,
    /// Mount, process and IPC namespaces for each package; needs root or CAP_SYS_ADMIN
    Namespace,
    /// The same in a user namespace. An ordinary user needs newuidmap (package `uidmap`) and a range
    /// in /etc/subuid and /etc/subgid: without them, `auto` does not choose this tier, and with
    /// `userns`, scripts that change file owners fail
    Userns,
    /// Scripts use the real BASE, restricted by Landlock rules; needs Landlock (Linux 5.19), no privileges
    Landlock,
    /// Scripts use the real BASE without isolation, as with the Go agent; one package after another
    /// unless --jobs is given
    None,
}

/// `--second-run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum SecondRunFlag {
    /// If the script failed within 30 seconds or with exit code 126, or if its output shows a denied
    /// access, even if it succeeded
    Auto,
    /// Also after every other failure
    Always,
    /// No second run; if a script succeeds although an access was denied, a warning is printed
    Never,
}

/// `--network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum NetworkFlag {
    /// The network of bosh-agent, as with the Go agent
    Host,
    /// A private loopback interface only; needs `namespace` or `userns`
    None,
}
