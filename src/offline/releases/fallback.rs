//! Compiles the rest of a run on this machine, after a server of the Remote Execution API was given up.
//!
//! Packages that the server has compiled are used: those that were downloaded, and those that can still be downloaded. No package is
//! compiled on this machine before the schedule of the server has ended.

use std::sync::Arc;

use super::Run;
use crate::cluster::Built;
use crate::compile::Origin;
use crate::diag::Chain;
use crate::offline::error::OfflineError;
use crate::offline::ids::NodeId;
use crate::offline::ledger::{PackageRecord, PackageState};
use crate::offline::machines::Compiler;
use crate::offline::on_server::{Downloads, OnServer};
use crate::offline::remote::RemoteCompiler;
use crate::offline::setup;

impl Run<'_> {
    /// Compiles the rest on this machine, if the server was given up and the user wants that.
    pub(super) async fn fall_back(&mut self, compiler: &RemoteCompiler<'_>) {
        let Some(failure) = self.elsewhere.given_up.take() else {
            return;
        };
        let may_continue = self.failures.is_empty() || self.keep_going;
        let Some(local) = compiler.local.as_ref().filter(|_| may_continue) else {
            return;
        };
        if self.stop.is_cancelled() {
            return;
        }
        let progress = self.target.progress;
        let left = self.take_results(compiler);
        let others = match left {
            1 => "package".to_owned(),
            more => format!("{more} packages"),
        };
        progress.warn(&format!(
            "Warning: the server {} is given up: {}. The remaining {others} will be compiled on this machine",
            compiler.server,
            Chain(&failure)
        ));
        self.target.record.set_given_up(Chain(&failure).to_string());
        match setup::compiler(*local).await {
            Ok(here) => {
                progress.expect(left);
                self.run_here(&here).await;
                if let Err(error) = setup::close(here.context, progress).await {
                    self.failures.push(error);
                }
            }
            Err(error) => {
                self.failures.push(OfflineError::Remote {
                    server: compiler.server.clone(),
                    source: Box::new(failure),
                });
                self.failures.push(error);
            }
        }
    }

    /// Prepares the packages that the server has compiled. Returns how many packages are to be compiled on this machine.
    fn take_results(&mut self, compiler: &RemoteCompiler<'_>) -> usize {
        let downloads = Downloads::new(&compiler.cluster);
        for (node, built) in std::mem::take(&mut self.elsewhere.built) {
            self.download_later(node, *built, &downloads);
        }
        for node in self.elsewhere.downloaded.keys() {
            self.ledger.set_taken(*node);
        }
        let mut is_lost: Vec<bool> = Vec::new();
        let mut left = 0;
        for (index, record) in self.ledger.packages().iter().enumerate() {
            let node = NodeId::from_index(index);
            let is_on_server = self.elsewhere.on_server.contains_key(&node);
            // Dependencies have smaller ids.
            let mut dependencies = record.node.dependencies.iter();
            let has_failed = record.state() == PackageState::Failed
                || dependencies.any(|it| is_lost[it.index()]);
            let is_left = record.is_compiled_here() && !is_on_server;
            left += usize::from(is_left && !has_failed);
            is_lost.push(is_left && has_failed);
        }
        left
    }

    /// Lets the local schedule download a package that the server has compiled.
    pub(super) fn download_later(&mut self, node: NodeId, built: Built, from: &Arc<Downloads>) {
        let record = self.ledger.record(node);
        let job = self.ledger.job(record.node.first.release);
        let to = (job.blob(&record.node), record.logs.own.clone());
        let package = OnServer::new(from, built, to);
        self.elsewhere.on_server.insert(node, package);
    }

    /// How the schedule obtains a package that the server has compiled or that has failed there; `None` for another package.
    pub(super) fn origin_elsewhere(&self, node: NodeId, record: &PackageRecord) -> Option<Origin> {
        if let Some((blob, digests)) = self.elsewhere.downloaded.get(&node) {
            let (blob, digests) = (blob.clone(), digests.clone());
            return Some(Origin::Compiled { blob, digests });
        }
        if let Some(package) = self.elsewhere.on_server.get(&node) {
            return Some(Origin::Fetched {
                fetch: package.fetch(),
                is_result: true,
                source: self.source(record),
            });
        }
        (record.state() == PackageState::Failed).then_some(Origin::Lost)
    }

    /// Handles the end of a download: uses the package, or prepares for its compilation. Returns `false` for another package.
    pub(super) fn take_downloaded(&mut self, node: NodeId) -> bool {
        let Some(package) = self.elsewhere.on_server.remove(&node) else {
            return false;
        };
        match package.take() {
            Some(fetched) => {
                self.ledger.set_taken(node);
                self.target.record.set_downloaded(node, &fetched);
                self.end_elsewhere(node, Ok(fetched), None);
            }
            None => {
                self.forget_on_server(node);
                self.target.progress.expect_another();
            }
        }
        true
    }

    /// Whether a package that is being installed was compiled on the server.
    pub(super) fn is_from_server(&self, node: NodeId) -> bool {
        self.elsewhere.downloaded.contains_key(&node)
    }
}

impl Run<'_> {
    /// Compiles the remaining packages on this machine.
    async fn run_here(&mut self, compiler: &Compiler) {
        let schedule = self.schedule(compiler);
        self.run_schedule(schedule, compiler).await;
    }
}
