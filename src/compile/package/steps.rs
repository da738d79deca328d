//! The steps of one run of a package, one after another.

use std::time::Instant;

use super::built::Built;
use super::work::{Work, stopped};
use crate::compile::check;
use crate::compile::error::CompileError;
use crate::compile::event::Phase;
use crate::fs;

impl Work {
    pub(super) async fn run_to_end(&self) -> Result<Built, CompileError> {
        check::report_copies(&self.context, &self.job, self.place.replaced());
        let result = self.run().await;
        result.map_err(|error| error.with_space(fs::parent(&self.job.blob)))
    }

    pub(super) async fn run(&self) -> Result<Built, CompileError> {
        let start = Instant::now();
        self.enter(Phase::Unpacking);
        // One step for both: each hand-over to another thread waits for its turn on a busy machine.
        let prepare = |work: &Self| {
            let compression = work.unpack_source()?;
            if work.cancel.is_cancelled() {
                return Err(stopped(&work.job));
            }
            work.enter(Phase::Installing);
            work.install()?;
            Ok((compression, work.named()))
        };
        let (compression, named) = self.blocking("prepare", prepare).await?;
        self.claim(&named).await?;
        let asked = Instant::now();
        let turn = self.turn().await?;
        let waited = asked.elapsed();
        self.enter(Phase::Packaging);
        let (script, mut findings) = self.run_script(turn).await?;
        self.enter(Phase::Packing);
        self.blocking("take", move |work| {
            let mounts = script.as_ref().map_or(&[][..], |end| &end.mounts);
            work.check_directories()?;
            if script.is_some() {
                findings.extend(work.findings_of_success(mounts)?);
            }
            let mut built = work.take(compression, mounts)?;
            built.findings = findings;
            built.script = script;
            built.elapsed = start.elapsed().saturating_sub(waited);
            Ok(built)
        })
        .await
    }
}
