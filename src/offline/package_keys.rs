//! Computes the keys of packages in the cache. A key is a digest of everything that affects the compiled package: source, dependencies,
//! stemcell and options.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::checked::CheckedPackage;
use super::error::OfflineError;
use super::graph::PackageNode;
use super::options::{Options, Purpose};
use crate::archive::{Compression, Decoder};
use crate::cache::{self, Damage, FORMAT, Form, KeyParts, LocalCache, SCRIPT_USER};
use crate::compile::{CONTENT_FORM, SecondRun, SourceDates, content_digest};
use crate::diag::Chain;
use crate::fs;
use crate::process;
use crate::release::Slug;
use crate::runtime::{self, Cancellable};
use crate::sandbox::{Isolation, Sharing};

/// The parts of the key that all packages of a run share.
#[derive(Debug)]
pub(super) struct CommonParts {
    stemcell: String,
    root: BTreeMap<String, String>,
    base: String,
    options: BTreeMap<String, String>,
    variables: BTreeMap<String, String>,
    /// Whether the times in a source affect the compiled package, so that its files alone do not identify it.
    has_source_dates: bool,
}

/// The source of a package.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// The source's part of the key.
    identity: String,
    /// How the compiled blob is compressed.
    pub form: Form,
}

/// A source package with the parts of its key.
#[derive(Debug, Clone)]
pub(super) struct Keyed {
    pub parts: KeyParts,
    pub form: Form,
}

impl CommonParts {
    /// Reads the files that identify the root file system.
    pub(super) fn of(options: &Options, stemcell: &Slug) -> fs::Result<Self> {
        let search = options.script_environment().get("PATH");
        Ok(Self {
            stemcell: stemcell.to_string(),
            root: match options.image().and_then(|it| it.digest.clone()) {
                Some(digest) => BTreeMap::from([("stemcell image".to_owned(), digest)]),
                None => cache::root_identity(&options.vcap.etc(), search)?,
            },
            base: options.vcap.base().to_string_lossy().into_owned(),
            options: flags(options),
            variables: cache::variable_digests(options.script_environment()),
            has_source_dates: options.source_dates.are_used(),
        })
    }

    fn parts(
        &self,
        package: &CheckedPackage,
        source: &Source,
        dependencies: BTreeMap<String, String>,
    ) -> KeyParts {
        KeyParts {
            format: FORMAT,
            name: package.name().to_string(),
            version: package.version().to_string(),
            source: match self.has_source_dates {
                true => by_archive(package),
                false => source.identity.clone(),
            },
            dependencies,
            stemcell: self.stemcell.clone(),
            architecture: std::env::consts::ARCH.to_owned(),
            root: self.root.clone(),
            base: self.base.clone(),
            options: self.options.clone(),
            variables: self.variables.clone(),
        }
    }
}

/// The values of the flags that affect what a script can do or see, and the user. With other values, a script may fail or build something
/// else. The isolation tier is not included, because all tiers give the same package.
fn flags(options: &Options) -> BTreeMap<String, String> {
    check_fields(options);
    let scratch = &options.scratch;
    named([
        ("--make-jobserver", switch(options.make_jobserver)),
        ("--network", hosts(options.network)),
        ("--no-shared-scratch", switch(*scratch == Sharing::Off)),
        ("--protect-host", switch(options.protect_host)),
        ("--readonly-deps", switch(options.readonly_dependencies)),
        ("--reproducible", of_each_source(options.source_dates)),
        ("--scratch-dir", scratch_directory(scratch)),
        ("--second-run", when(options.second_run)),
        (SCRIPT_USER, user(options)),
    ])
}

/// Does nothing. It lists all fields, without `..`, so that the compiler reports a new option that is forgotten in [`flags`].
fn check_fields(options: &Options) {
    let Options {
        // These options are in the key.
        readonly_dependencies: _,
        protect_host: _,
        network: _,
        make_jobserver: _,
        scratch: _,
        second_run: _,
        source_dates: _,
        // The other options affect the user, other parts of the key, or what is compiled and reported, and where. A shell stores nothing.
        purpose: _,
        isolation: _,
        stemcell: _,
        stemcell_images: _,
        stemcell_image: _,
        is_one_of_several: _,
        silent: _,
        documents: _,
        vcap: _,
        environment: _,
        inputs: _,
        reuse: _,
        verify_rebuild: _,
        selection: _,
        output_directory: _,
        work_directory: _,
        logs_directory: _,
        user_namespace: _,
        jobs: _,
        memory_per_job: _,
        nice: _,
        force: _,
        grace: _,
        limits: _,
        keep_going: _,
        cache: _,
        remote: _,
        compression_level: _,
        log_lines: _,
        report: _,
        timings: _,
        graph: _,
        keep_failed: _,
        shell: _,
        fork_server: _,
        program: _,
        who: _,
    } = options;
}

fn named<const COUNT: usize>(values: [(&str, String); COUNT]) -> BTreeMap<String, String> {
    values.map(|(name, value)| (name.to_owned(), value)).into()
}

fn hosts(is_hosts: bool) -> String {
    if is_hosts { "host" } else { "none" }.to_owned()
}

fn of_each_source(dates: SourceDates) -> String {
    switch(dates == SourceDates::OfEachSource)
}

fn switch(is_on: bool) -> String {
    if is_on { "on" } else { "off" }.to_owned()
}

/// The host's directory whose contents scripts see in their scratch directories.
fn scratch_directory(scratch: &Sharing) -> String {
    match scratch {
        Sharing::Kept(directory) => directory.to_string_lossy().into_owned(),
        Sharing::Run | Sharing::Off => switch(false),
    }
}

fn when(second_run: SecondRun) -> String {
    let when = match second_run {
        SecondRun::Never => "never",
        SecondRun::Auto(_) | SecondRun::Always => "auto",
    };
    when.to_owned()
}

/// The user who runs scripts. It matters because `tar` and `install` set owners only as root. In a user namespace, it is the namespace's
/// root.
fn user(options: &Options) -> String {
    // A run that compiles nothing has not entered the user namespace that a compilation would enter.
    let would_enter = options.purpose != Purpose::Compile
        && !matches!(options.isolation, Isolation::Landlock | Isolation::None);
    let user = match nix::unistd::geteuid().is_root() || would_enter {
        true => "root",
        false => "an ordinary user",
    };
    user.to_owned()
}

/// How the remembered digests of sources in the cache are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    /// Remembered digests are read.
    Read,
    /// Remembered digests are read, and new ones are written.
    ReadAndWrite,
}

/// The sources of packages, in their order. `None` for a package that is compiled already. A source is not hashed if the local cache
/// remembers its digest. Also returns damaged files of the cache.
pub(super) async fn sources(
    remembered: Option<(&Arc<LocalCache>, Memory)>,
    packages: Vec<Arc<CheckedPackage>>,
    level: u32,
    cancel: &CancellationToken,
) -> Result<(Vec<Option<Source>>, Vec<Damage>), OfflineError> {
    let remembered = remembered.map(|(cache, memory)| (Arc::clone(cache), memory));
    let cancel = cancel.clone();
    let read = move |package: Arc<CheckedPackage>| {
        let source = package.is_source();
        let remembered = remembered.as_ref();
        let remembered = remembered.map(|(cache, memory)| (cache.as_ref(), *memory));
        source.then(|| source_of(remembered, &package, level, &cancel))
    };
    let threads = process::processors();
    let read = runtime::map_blocking("sources", threads, packages, read).await?;
    let mut damaged = Vec::new();
    let sources = read.into_iter().map(|source| {
        let (source, damage) = source?;
        damaged.extend(damage);
        Some(source)
    });
    let sources = sources.collect();
    Ok((sources, damaged))
}

/// The identity of a source by the bytes of its archive.
fn by_archive(package: &CheckedPackage) -> String {
    format!("archive {}", package.blob.digests.sha256())
}

fn source_of(
    remembered: Option<(&LocalCache, Memory)>,
    package: &CheckedPackage,
    level: u32,
    cancel: &CancellationToken,
) -> (Source, Option<Damage>) {
    let archive = package.blob.digests.sha256();
    let open = || Some(Cancellable::new(fs::open(&package.blob.file).ok()?, cancel));
    let (known, damage) = match remembered.map(|(cache, _)| cache.source(archive, CONTENT_FORM)) {
        Some(Ok(known)) => (known, None),
        Some(Err(damage)) => (None, Some(damage)),
        None => (None, None),
    };
    let identity = known.unwrap_or_else(|| {
        let by_archive = by_archive(package);
        // A source that cannot be read is reported when it is compiled.
        let Some(Ok(content)) = open().map(content_digest) else {
            return by_archive;
        };
        let identity = content.map_or(by_archive, |content| format!("content {content}"));
        if let Some((cache, Memory::ReadAndWrite)) = remembered
            && let Err(error) = cache.remember_source(archive, CONTENT_FORM, &identity)
        {
            tracing::debug!(error = %Chain(&error), "could not remember the digest of a source");
        }
        identity
    });
    let compression = open().and_then(|opened| Some(Decoder::new(opened).ok()?.compression()));
    let form = match compression {
        Some(Compression::None) => Form::Plain,
        Some(_) | None => Form::Gzip(level),
    };
    (Source { identity, form }, damage)
}

/// The key parts of each source package of a graph. `None` for a package that is compiled already.
pub(super) fn keyed<'a>(
    nodes: impl Iterator<Item = &'a PackageNode>,
    sources: &[Option<Source>],
    common: &CommonParts,
) -> Vec<Option<Keyed>> {
    // A dependency is identified by its key, or by its blob if it is compiled already.
    let mut identities: Vec<(String, String)> = Vec::new();
    let mut keyed = Vec::new();
    for (node, source) in nodes.zip(sources) {
        let package = node.package();
        let own = source.as_ref().map(|source| {
            let dependencies = node.dependencies.iter().rev();
            let dependencies = dependencies.map(|it| identities[it.index()].clone());
            Keyed {
                parts: common.parts(package, source, dependencies.collect()),
                form: source.form,
            }
        });
        let identity = match &own {
            Some(own) => own.parts.key().to_string(),
            None => format!("compiled {}", package.blob.digests.sha256()),
        };
        identities.push((package.name().to_string(), identity));
        keyed.push(own);
    }
    keyed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::graph::{Include, merge, tests::releases};
    use crate::offline::identity::Identities;

    fn keys(text: &str, changed: usize) -> Vec<Option<String>> {
        let nodes = merge(
            &releases(&[text]),
            &Identities::default(),
            Include::Compilation,
        );
        let sources: Vec<Option<Source>> = nodes
            .iter()
            .enumerate()
            .map(|(index, node)| {
                node.package().is_source().then(|| Source {
                    identity: format!("content {}", index == changed),
                    form: Form::Gzip(6),
                })
            })
            .collect();
        let common = CommonParts {
            stemcell: "ubuntu-noble/1".to_owned(),
            root: BTreeMap::new(),
            base: "/var/vcap".to_owned(),
            options: BTreeMap::new(),
            variables: BTreeMap::new(),
            has_source_dates: false,
        };
        let keyed = keyed(nodes.iter(), &sources, &common).into_iter();
        keyed
            .map(|it| it.map(|it| it.parts.key().to_string()))
            .collect()
    }

    #[test]
    fn changed_package_changes_the_keys_of_its_dependents_only() {
        let text = "base@1~x, a@1=a, b@1=b: a base, c@1=c: b, d@1=d: base";
        let (before, after) = (keys(text, usize::MAX), keys(text, 1));
        let is_same: Vec<bool> = before.iter().zip(&after).map(|(b, a)| b == a).collect();
        assert_eq!(is_same, [true, false, false, false, true]);
        assert!(before[0].is_none() && before[1].is_some());

        let other = keys(&text.replace("base@1~x", "base@1~y"), usize::MAX);
        let is_same: Vec<bool> = before.iter().zip(&other).map(|(b, a)| b == a).collect();
        assert_eq!(is_same, [true, true, false, false, false]);
    }
}
