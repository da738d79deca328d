//! Starts processes, reads their output and stops them; measures the CPUs and memory available to
//! them.
//!
//! Packaging scripts are not direct children of this process. A *fork server* forks a *child* for
//! each script. The child is the parent of the script, and owns all the script's descendants.
//!
//! ```text
//!   this process                         fork server (this program again, `sandbox::server`)
//!   fork_server ── descriptors ──────▶    forks a child for each script, reaps it
//!
//!                                        the child (`sandbox::child`)
//!   supervise  ── orders, stop ──────▶    subreaper: starts the script, owns all its descendants
//!              ◀── report ───────────         │
//!   output     ◀── a pipe or two ─────   script and all its descendants
//! ```
//!
//! A socket connects this process and the child. When this process dies for any reason, the socket
//! closes and the child stops the script. `tree` runs in the child.
//!
//! `run_to_end` runs other programs, such as the blobstore programs of a stemcell, without a child.

mod ask;
mod attend;
mod cgroup;
mod fork_server;
mod holders;
mod idle;
mod jobserver;
mod lines;
mod memory;
mod open_files;
mod open_lines;
mod orphans;
mod output;
mod processors;
mod relay;
mod run;
mod running;
mod status;
mod supervise;
mod tail;
mod terminal;
mod time_limits;
mod trace;
pub(crate) mod tree;
mod unkillable;

pub(crate) use ask::ask;
pub(crate) use attend::attend;
pub use fork_server::ForkServer;
pub(crate) use fork_server::{
    ARGUMENT as SERVER_ARGUMENT, DESCRIPTORS, Request, read_orders, receive,
};
#[cfg(test)]
pub(crate) use holders::start_holder;
pub(crate) use holders::{holder_except, kill_holders, other_holder};
pub(crate) use idle::IdleMeter;
pub(crate) use jobserver::{Jobserver, inherited as inherited_jobserver};
pub use lines::LineSink;
pub(crate) use memory::{Memory, MemoryOf, available_memory, memory, out_of_memory_kills};
pub(crate) use open_files::{
    LIMITED_ARGUMENT, become_limited, raise_limit_of_open_files,
    restore_inherited_limit_of_open_files, restore_limit_of_open_files,
};
pub(crate) use orphans::{adopt_orphans, end_orphans, kill_all_below};
pub use output::Output;
pub(crate) use output::{ENDING_LIMIT, Ending, OutputSummary};
pub(crate) use processors::processors;
pub(crate) use run::{Program, RunError, find_program, run_to_end};
pub use running::RunningProcess;
pub(crate) use running::running_below_this_process;
pub use status::Status;
pub(crate) use status::Usage;
pub(crate) use supervise::{ChildSpec, SuperviseError, Supervised, supervise};
pub use tail::LastLines;
pub(crate) use tail::{TAIL_LINES, printable};
pub use terminal::Terminal;
pub(crate) use terminal::restore_terminal;
pub use time_limits::{Exceeded, TimeLimits};
pub(crate) use trace::{LineKind, Trace, is_traced};
pub(crate) use unkillable::Unkillable;
