//! The methods for disks. This agent neither mounts nor partitions disks: it refuses requests to add,
//! mount or migrate a disk, and confirms the removal of a disk, because it knows none.

use serde_json::Value;

use super::{ActionError, ActionResult};
use crate::agent::arguments::{first, text};

/// A request that needs a disk.
#[derive(Debug, thiserror::Error)]
#[error(
    "this agent only compiles packages and cannot {0}: use a stemcell with the Go agent for instances with disks"
)]
struct NoDisks(&'static str);

fn refused(work: &'static str) -> ActionResult {
    Err(ActionError::new(NoDisks(work)))
}

/// Confirms that the agent does not know the disk. Without this reply, a Director could not delete
/// an instance whose disk it has already detached.
fn forgotten(arguments: &[Value]) -> ActionResult {
    let [disk] = first(arguments)?;
    text(disk, "disk")?;
    Ok(serde_json::json!({}))
}

/// Declares a module for each method, with an action that is a task that fails.
macro_rules! refused_tasks {
    ($($method:ident: $work:literal,)*) => {
        $(
            #[doc = concat!("`", stringify!($method), "`: refused.")]
            pub(in crate::agent) mod $method {
                use futures_util::FutureExt as _;

                use crate::agent::actions::Action;
                use crate::agent::tasks::Cancellation;

                pub(in crate::agent) const ACTION: Action = Action::Task {
                    run: |_, _, _| std::future::ready(super::refused($work)).boxed(),
                    cancellation: Cancellation::Unsupported,
                    resumes: false,
                };
            }
        )*
    };
}

refused_tasks! {
    add_dynamic_disk: "use a dynamic disk",
    add_persistent_disk: "use a persistent disk",
    migrate_disk: "migrate a disk",
    mount_disk: "mount a disk",
    unmount_disk: "unmount a disk",
}

/// `remove_persistent_disk`: confirmed.
pub(in crate::agent) mod remove_persistent_disk {
    use futures_util::FutureExt as _;

    use crate::agent::actions::Action;
    use crate::agent::tasks::Cancellation;

    pub(in crate::agent) const ACTION: Action = Action::Task {
        run: |_, arguments, _| std::future::ready(super::forgotten(arguments)).boxed(),
        cancellation: Cancellation::Unsupported,
        resumes: false,
    };
}

/// `remove_dynamic_disk`: confirmed.
pub(in crate::agent) mod remove_dynamic_disk {
    use futures_util::FutureExt as _;

    use crate::agent::actions::Action;

    pub(in crate::agent) const ACTION: Action =
        Action::Immediate(|_, arguments| std::future::ready(super::forgotten(arguments)).boxed());
}
