//! A Director's compile stage on several VMs at the same time.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::sync::watch;

use super::compile_stage::{CompiledPackages, result};
use super::{Director, Failure, PING_LIMIT};
use crate::support::blobstore::Blobstore;
use crate::support::source_release::{SourcePackage, SourceRelease};

/// The packages of a release, and what the Director knows about them.
pub(crate) struct Stage<'a> {
    /// Of those that are ready, the first one is compiled first.
    packages: Vec<SourcePackage>,
    blobs: &'a Blobstore,
    view: watch::Sender<View>,
}

/// What the Director knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// In the order of their start.
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) compiled: CompiledPackages,
}

/// A compile on a VM.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) package: String,
    /// The VM's index.
    pub(crate) vm: usize,
    pub(crate) state: State,
    /// The last phase in the task's progress.
    pub(crate) phase: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    Compiled,
    /// The VM was lost.
    Lost,
}

impl View {
    /// All compiles of a package.
    pub(crate) fn attempts_of(&self, package: &str) -> Vec<&Attempt> {
        let attempts = self.attempts.iter();
        attempts.filter(|it| it.package == package).collect()
    }

    /// The running compile of a package.
    pub(crate) fn running(&self, package: &str) -> Option<&Attempt> {
        let mut attempts = self.attempts.iter();
        attempts.find(|it| it.package == package && it.state == State::Running)
    }

    /// Whether the script of a package runs.
    pub(crate) fn runs_script(&self, package: &str) -> bool {
        self.running(package)
            .is_some_and(|attempt| attempt.phase == "packaging")
    }

    fn is_ready(&self, package: &SourcePackage) -> bool {
        let is_compiled = |name: &String| self.compiled.contains_key(name);
        !is_compiled(&package.name)
            && self.running(&package.name).is_none()
            && package.dependencies.iter().all(is_compiled)
    }
}

impl<'a> Stage<'a> {
    /// The stage for a release. The packages in `first` come first, if their dependencies permit.
    pub(crate) fn new(release: &SourceRelease, first: &[&str], blobs: &'a Blobstore) -> Self {
        let mut packages = release.packages.clone();
        packages.sort_by_key(|package| {
            let at = first.iter().position(|name| *name == package.name);
            at.unwrap_or(first.len())
        });
        Self {
            packages,
            blobs,
            view: watch::Sender::default(),
        }
    }

    /// Compiles all packages. A VM is lost if it answers neither `get_task` nor a ping: its package is compiled by another VM, as after
    /// a second deployment.
    pub(crate) async fn run(&self, vms: &[Director]) {
        join_all(
            vms.iter()
                .enumerate()
                .map(|(vm, director)| self.work(vm, director)),
        )
        .await;
        let view = self.view();
        assert!(self.is_complete(&view), "all VMs were lost: {view:#?}");
    }

    pub(crate) fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Waits until the Director knows something.
    pub(crate) async fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        is_known: impl Fn(&View) -> bool,
    ) {
        let mut view = self.view.subscribe();
        let known = tokio::time::timeout(limit, view.wait_for(|view| is_known(view))).await;
        let is_in_time = known.is_ok();
        // The view is locked meanwhile.
        drop(known);
        assert!(
            is_in_time,
            "waited {limit:?} for {what}: {:#?}",
            self.view()
        );
    }

    fn is_complete(&self, view: &View) -> bool {
        view.compiled.len() == self.packages.len()
    }

    /// Compiles one package after another on a VM, until all are compiled or the VM is lost.
    async fn work(&self, vm: usize, director: &Director) {
        let mut changes = self.view.subscribe();
        loop {
            // Before the next look at the packages, so that no change is missed.
            if self.is_complete(&changes.borrow_and_update()) {
                return;
            }
            let Some(package) = self.claim(vm) else {
                changes.changed().await.unwrap();
                continue;
            };
            if !self.compile(vm, director, package).await {
                return;
            }
        }
    }

    /// The next package that is ready.
    fn claim(&self, vm: usize) -> Option<&SourcePackage> {
        let mut claimed = None;
        self.view.send_if_modified(|view| {
            claimed = self.packages.iter().find(|package| view.is_ready(package));
            view.attempts.extend(claimed.map(|package| Attempt {
                package: package.name.clone(),
                vm,
                state: State::Running,
                phase: String::new(),
            }));
            claimed.is_some()
        });
        claimed
    }

    /// Compiles a package on a VM. Returns false if the VM was lost.
    async fn compile(&self, vm: usize, director: &Director, package: &SourcePackage) -> bool {
        let name = &package.name;
        let there = self.view().compiled;
        let (order, task) = director.start_compile(package, &there, self.blobs).await;
        let see_phase = |value: &serde_json::Value| {
            if let Some(phase) = value["progress"]["phase"].as_str() {
                self.change(name, |attempt| phase.clone_into(&mut attempt.phase));
            }
        };
        match director.follow_task(&task, see_phase).await {
            Ok(value) => {
                let compiled = result(package, &order, &value).unwrap();
                self.blobs.check(&compiled);
                self.view.send_modify(|view| {
                    view.compiled.insert(name.clone(), compiled);
                });
                self.change(name, |attempt| attempt.state = State::Compiled);
                true
            }
            Err(Failure::Timeout(_)) => {
                let answer = director.request("ping", json!([]), PING_LIMIT).await;
                let silence = Failure::Timeout("ping".to_owned());
                assert_eq!(answer, Err(silence), "VM {vm} does not answer get_task");
                self.change(name, |attempt| attempt.state = State::Lost);
                false
            }
            Err(failure) => panic!("{name} on VM {vm}: {failure:?}: {:#?}", self.view()),
        }
    }

    /// Changes the running compile of a package.
    fn change(&self, package: &str, change: impl FnOnce(&mut Attempt)) {
        self.view.send_modify(|view| {
            let mut attempts = view.attempts.iter_mut();
            let running = attempts.find(|it| it.package == package && it.state == State::Running);
            change(running.unwrap());
        });
    }
}
