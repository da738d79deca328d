//! Looks up the results of packages in the server's action cache, without executing actions.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::action::{self, Inputs};
use super::attempt::{Built, Cluster};
use super::calls::repeat;
use super::error::RemoteFailure;
use super::plan::{Plan, Supply};
use super::storing::Storing;
use super::tasks::{Available, Shared};
use crate::compile::{Id, Queue};
use crate::runtime::TaskSet;

/// The maximum number of concurrent searches.
const SEARCHES: usize = 16;

/// The time limit of all searches together. Packages without an answer are compiled.
pub(crate) const SEARCH_LIMIT: Duration = Duration::from_secs(30);

/// The result of the search for a package.
#[derive(Debug, Clone)]
pub(crate) enum LookedUp {
    /// The package was compiled before the search.
    Provided,
    /// The server has the package.
    Found(Box<Built>),
    /// The server has no result that can be used.
    Missing,
    /// The server has not answered within [`SEARCH_LIMIT`].
    Unanswered,
    /// A dependency has no result or no answer. The package was not searched: its action names the blobs of all dependencies, and one of
    /// them is unknown.
    Behind,
}

impl Plan {
    /// Searches the results of all packages, dependencies first, for a limited time. Also returns the [`Storing`] that can store the
    /// results of packages that this machine compiles.
    ///
    /// # Errors
    /// If the server cannot be used, or the search is stopped.
    pub(crate) async fn look_up(
        self,
        cluster: &Arc<Cluster>,
        stop: &CancellationToken,
    ) -> Result<(Vec<LookedUp>, Storing), RemoteFailure> {
        let (end, mut is_late) = (Instant::now() + SEARCH_LIMIT, false);
        let (graph, shared, _) = self.into_shared(cluster, (stop, stop));
        let mut queue = Queue::new(graph);
        let is_compiled = |it: &Supply| matches!(it, Supply::Compiled(_));
        let supplies = shared.packages.iter().map(|it| &it.supply);
        let mut found: Vec<LookedUp> = supplies
            .map(|supply| match is_compiled(supply) {
                true => LookedUp::Provided,
                false => LookedUp::Behind,
            })
            .collect();
        let mut searching = TaskSet::new("look up");
        loop {
            while (is_late || searching.len() < SEARCHES)
                && let Some(id) = queue.next()
            {
                if shared.provide(id) {
                    queue.done(id);
                    continue;
                }
                if is_late {
                    found[id.index()] = LookedUp::Unanswered;
                    continue;
                }
                let shared = Arc::clone(&shared);
                searching.spawn(id, async move { shared.find(id).await });
            }
            let next = match tokio::time::timeout_at(end, searching.next()).await {
                Ok(next) => next,
                Err(_) => {
                    for id in searching.keys() {
                        found[id.index()] = LookedUp::Unanswered;
                    }
                    searching = TaskSet::new("look up");
                    is_late = true;
                    continue;
                }
            };
            let Some((id, searched)) = next else { break };
            match searched?? {
                Some(built) => {
                    queue.done(id);
                    found[id.index()] = LookedUp::Found(Box::new(built));
                }
                None => {
                    queue.failed(id);
                    found[id.index()] = LookedUp::Missing;
                }
            }
        }
        Ok((found, Storing::new(shared)))
    }
}

impl Shared {
    /// Searches the result of a package, whose dependencies are available.
    async fn find(&self, id: Id) -> Result<Option<Built>, RemoteFailure> {
        let (inputs, _) = self.inputs(id)?;
        let built = self.cluster.find(&inputs, &self.stop).await?;
        if let Some(built) = &built {
            let available = Available {
                digest: built.package.clone(),
                is_unrestricted: built.report.unrestricted || inputs.is_unrestricted,
            };
            self.available().insert(id, available);
        }
        Ok(built)
    }
}

impl Cluster {
    /// The result of an earlier execution of a package's action, if there is one that can be used.
    async fn find(
        &self,
        inputs: &Inputs,
        stop: &CancellationToken,
    ) -> Result<Option<Built>, RemoteFailure> {
        let common = self.common();
        if inputs.is_unrestricted && !common.accepts_unrestricted {
            return Ok(None);
        }
        let digest = action::action(common, inputs)?.digest;
        let asking = repeat((common.server.pauses(), stop), 0, || async {
            Ok(common.server.action_result(&digest).await?)
        });
        let Some(result) = asking.await? else {
            return Ok(None);
        };
        match self.files(&result, true, inputs, stop).await {
            Ok(files) => files.built().map(Some),
            Err(failure) if failure.is_bad_result() => {
                let package = &inputs.name;
                tracing::debug!(%package, %failure, "a result of the server is not used");
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::cluster::action::tests::common;
    use crate::cluster::{Common, KnownFile, PlannedPackage};
    use crate::reapi::testing::{Reply, TestServer};
    use crate::reapi::{Code, Digest};
    use crate::release::{Name, Version};

    fn package(number: usize) -> PlannedPackage {
        PlannedPackage {
            name: Name::parse(&format!("package-{number}")).unwrap(),
            version: Version::parse("1").unwrap(),
            supply: Supply::Source {
                source: KnownFile {
                    path: PathBuf::new(),
                    digest: Digest::of(b"source"),
                },
                blob: PathBuf::new(),
                log: PathBuf::new(),
            },
            dependencies: Vec::new(),
            expected: Duration::ZERO,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silent_server_costs_one_time_limit_and_no_answer() {
        let is_first = std::sync::atomic::AtomicBool::new(true);
        let server = TestServer::start(move |_, _| {
            match is_first.swap(false, std::sync::atomic::Ordering::Relaxed) {
                true => Reply::status(Code::NotFound),
                false => Reply::messages(&[(); 0]).silent(),
            }
        })
        .await;
        let cluster = Arc::new(Cluster::new(Common {
            server: Arc::new(server.client()),
            ..common()
        }));
        let mut plan = Plan::default();
        for number in 0..2 * SEARCHES {
            plan.add(package(number));
        }
        let start = Instant::now();
        let searched = plan.look_up(&cluster, &CancellationToken::new()).await;
        let (found, _) = searched.unwrap();
        assert_eq!(start.elapsed(), SEARCH_LIMIT);
        let count = |is: fn(&LookedUp) -> bool| found.iter().filter(|it| is(it)).count();
        assert_eq!(count(|it| matches!(it, LookedUp::Missing)), 1);
        let unanswered = count(|it| matches!(it, LookedUp::Unanswered));
        assert_eq!(unanswered, 2 * SEARCHES - 1);
        assert_eq!(server.calls_of("GetActionResult").len(), SEARCHES + 1);
    }
}
