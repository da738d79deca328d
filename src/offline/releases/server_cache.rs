//! Takes packages from the action cache of a server, and stores those that this machine compiles there.

use std::sync::Arc;

use super::Run;
use crate::cluster::{LookedUp, RemoteFailure, SEARCH_LIMIT};
use crate::compile::Compiled;
use crate::diag::{Chain, Elapsed};
use crate::offline::compiled_release::CompiledBlob;
use crate::offline::ids::NodeId;
use crate::offline::local_result::LocalPackage;
use crate::offline::on_server::Downloads;
use crate::offline::server_cache::ServerCache;
use crate::offline::shared_caches::LONGEST_WAIT;

impl Run<'_> {
    /// Searches the server for the results of all packages, before the first script starts.
    pub(super) async fn look_up(&mut self, server: &ServerCache) {
        let (plan, ids) = self.plan();
        let progress = self.target.progress;
        let searching = plan.look_up(&server.cluster, &self.stop);
        let (found, storing) = match searching.await {
            Ok(found) => found,
            Err(RemoteFailure::Stopped) => return,
            Err(failure) => {
                progress.warn(&format!(
                    "Warning: the action cache of {} is not used: {}",
                    server.server,
                    Chain(&failure)
                ));
                return;
            }
        };
        let is_unanswered = |it: &LookedUp| matches!(it, LookedUp::Unanswered);
        let is_late = found.iter().any(is_unanswered);
        if is_late {
            progress.warn(&format!(
                "Warning: {} has not answered all searches for results within {}: packages without an answer are compiled",
                server.server,
                Elapsed(SEARCH_LIMIT)
            ));
        }
        let downloads = Downloads::new(&server.cluster);
        let mut count = 0;
        for (index, found) in found.into_iter().enumerate() {
            let LookedUp::Found(built) = found else {
                continue;
            };
            count += 1;
            self.download_later(NodeId::from_index(index), *built, &downloads);
        }
        let sources = self.ledger.sources();
        progress.expect(sources - count);
        progress.line(&format!(
            "{} has the results of {count} of {sources} packages",
            server.server
        ));
        self.elsewhere.ids = ids;
        // A server that has answered nothing would only delay the end of the run.
        let stores = server.stores && (count > 0 || !is_late);
        self.elsewhere.storing = stores.then_some(storing);
    }

    /// Starts to store a package that this machine has compiled.
    pub(super) fn store_on_server(
        &mut self,
        node: NodeId,
        compiled: &Compiled,
        blob: &Arc<CompiledBlob>,
        warnings: &[String],
    ) {
        let Some(storing) = &mut self.elsewhere.storing else {
            return;
        };
        if compiled.unrestricted {
            return;
        }
        let record = self.ledger.record(node);
        let package = record.node.package();
        let (isolation, _) = self.target.record.compiler();
        let package_here = LocalPackage {
            name: package.name().to_string(),
            version: package.version().to_string(),
            stemcell: self.target.stemcell.to_string(),
            isolation: isolation.unwrap_or_default(),
            started: self.target.record.started(),
            source: package.blob.clone(),
            compiled: Arc::clone(blob),
            log: record.logs.own.clone(),
            warnings: warnings.to_vec(),
            times: self.target.record.times(node),
        };
        let files = Arc::clone(blob);
        let prepare = move || package_here.result();
        storing.store(self.elsewhere.ids[node.index()], prepare, files);
    }

    /// Records that a package of the server could not be downloaded.
    pub(super) fn forget_on_server(&self, node: NodeId) {
        if let Some(storing) = &self.elsewhere.storing {
            storing.forget(self.elsewhere.ids[node.index()]);
        }
    }

    /// Waits until the packages of this machine are stored. A failure is only a warning, because it affects no result.
    pub(super) async fn finish_storing(&mut self) {
        let Some(storing) = self.elsewhere.storing.take() else {
            return;
        };
        let finishing = storing.finish(LONGEST_WAIT);
        let Some(end) = self.target.cancel.run_until_cancelled(finishing).await else {
            return;
        };
        let progress = self.target.progress;
        let reason = match end.failure {
            Some(failure) => Chain(&failure).to_string(),
            None if end.is_late => "the server is too slow".to_owned(),
            None => {
                let plural = if end.stored == 1 { "" } else { "s" };
                progress.line(&format!(
                    "Stored the result{plural} of {} package{plural} on the server",
                    end.stored
                ));
                return;
            }
        };
        progress.warn(&format!(
            "Warning: not all packages were stored as results on the server: {reason}"
        ));
    }
}
