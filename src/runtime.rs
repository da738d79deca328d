//! Tasks with names, signals that stop the program, logging, and I/O that can be canceled or runs
//! in the background.

mod ahead;
mod cancellable;
mod isolated;
mod parallel;
mod retry;
mod signals;
mod task;
mod telemetry;
mod warnings;

pub use ahead::ReadAhead;
pub use cancellable::Cancellable;
pub(crate) use isolated::IsolatedTasks;
pub use parallel::map_blocking;
pub(crate) use retry::{GivenUp, retry};
pub use signals::{Signals, StopSignal};
pub use task::{Task, TaskFailed, TaskSet, spawn, spawn_blocking};
pub use telemetry::{InvalidLevel, LogFormat, check_level, init as init_telemetry};
pub use warnings::print_warnings_by;
