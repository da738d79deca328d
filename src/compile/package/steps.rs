//! The steps of one run of a package, from its source to its tree in the store.

use std::sync::Arc;
use std::time::Instant;

use super::built::Built;
use super::work::{Work, with_space};
use crate::compile::check;
use crate::compile::error::CompileError;
use crate::compile::event::Phase;

impl Work {
    /// Runs the script and moves the installed files into the store. Afterwards, the package's dependents can start.
    pub(super) async fn build(&self) -> Result<Built, CompileError> {
        check::report_replaced_copies(&self.context, &self.job, self.place.replaced());
        match self.run_steps().await {
            Ok(built) => Ok(built),
            Err(error) => Err(with_space(&self.job, error).await),
        }
    }

    async fn run_steps(&self) -> Result<Built, CompileError> {
        let start = Instant::now();
        self.enter_phase(Phase::Unpacking);
        let prepared = self.blocking("prepare", Self::prepare).await?;
        let (compression, confined) = (prepared.compression, Arc::new(prepared.confined));
        self.claim(&prepared.directories).await?;
        let waiting = Instant::now();
        let turn = self.wait_for_turn().await?;
        let waited = waiting.elapsed();
        if self.has_shell_instead() {
            return Err(self.shell_instead(&confined).await);
        }
        self.enter_phase(Phase::Packaging);
        let (script, mut findings) = self.run_script(&confined, turn).await?;
        self.enter_phase(Phase::Packing);
        self.blocking("store", move |work| {
            let mounts = script.as_ref().map_or(&[][..], |end| &end.mounts);
            work.check_directories(mounts)?;
            let mut printed = None;
            if script.is_some() {
                work.check_dependencies_in_use()?;
                printed = Some(work.check_success(&confined.spec)?);
            }
            let tree = work.installed_tree(mounts)?;
            if let Some(printed) = printed {
                findings.extend(work.findings_of_success(&confined.spec, &printed, &tree.path));
            }
            let stored = work.move_to_store(compression, &tree);
            tree.remove_copy();
            let mut built = stored?;
            built.findings = findings;
            built.unrestricted = work.was_denied();
            built.script = script;
            built.elapsed = start.elapsed().saturating_sub(waited);
            Ok(built)
        })
        .await
    }
}
