//! Builds the heartbeats for the health monitor, which is the part of BOSH that monitors VMs.

use super::{Agent, JOB_STATE};
use crate::diag::Chain;
use crate::machine::vitals::Heartbeat;
use crate::runtime;

impl Agent {
    /// The next heartbeat as JSON; `None` if the machine's vitals (load, memory and disks) cannot
    /// be read. Also updates the machine's health file.
    pub(crate) async fn heartbeat(&self) -> Option<Vec<u8>> {
        let agent = self.clone();
        // Collect on another thread, because a disk that does not respond must not block requests.
        let collecting = runtime::spawn_blocking("heartbeat", move || agent.collect_heartbeat());
        match collecting.await {
            Ok(beat) => beat,
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "skipped a heartbeat");
                None
            }
        }
    }

    fn collect_heartbeat(&self) -> Option<Vec<u8>> {
        let state = &self.state;
        if let Err(error) = state.instance.write_health(JOB_STATE) {
            tracing::warn!(error = %Chain(&error), "failed to write the health file");
        }
        let spec = state.instance.spec().unwrap_or_else(|error| {
            tracing::warn!(error = %Chain(&error), "failed to read the applied spec");
            None
        });
        match state.vitals.collect() {
            Ok(vitals) => Some(Heartbeat::new(spec.as_ref(), vitals, JOB_STATE).to_bytes()),
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "skipped a heartbeat");
                None
            }
        }
    }
}
