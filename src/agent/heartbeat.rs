//! What a Director's health monitor hears of this machine.

use super::{Agent, JOB_STATE};
use crate::diag::Chain;
use crate::machine::vitals::Heartbeat;
use crate::runtime;

impl Agent {
    /// The next heartbeat, in JSON; `None` where the kernel tells nothing. The machine's health is told to its jobs as well.
    pub async fn heartbeat(&self) -> Option<Vec<u8>> {
        let agent = self.clone();
        // A disk that hangs must not hold up requests.
        let looking = runtime::spawn_blocking("heartbeat", move || agent.look());
        match looking.await {
            Ok(beat) => beat,
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "no heartbeat");
                None
            }
        }
    }

    fn look(&self) -> Option<Vec<u8>> {
        let inner = &self.inner;
        if let Err(error) = inner.instance.tell_health(JOB_STATE) {
            tracing::warn!(error = %Chain(&error), "the machine's health is not written");
        }
        let spec = inner.instance.spec().unwrap_or_else(|error| {
            tracing::warn!(error = %Chain(&error), "it is not known what was applied");
            None
        });
        match inner.vitals.collect() {
            Ok(vitals) => Some(Heartbeat::new(spec.as_ref(), vitals, JOB_STATE).to_bytes()),
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "no heartbeat");
                None
            }
        }
    }
}
