//! Merges the packages of all releases of a run into one graph, in which a package that several releases have is one node.
//!
//! Two packages are the same if everything that affects their installed files is the same: the name and the version, which the script can
//! read, the files of the source, and the dependencies, which must in turn be the same.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::checked::{CheckedPackage, CheckedRelease};
use super::identity::Identities;
use super::ids::{NodeId, ReleaseId};
use crate::release::{Name, Version};

/// A package of a run.
#[derive(Debug)]
pub(super) struct PackageNode {
    /// The package in the first release that has it. This one is compiled or installed.
    pub first: PackageUse,
    /// The same package in later releases.
    pub others: Vec<PackageUse>,
    /// Direct dependencies, in manifest order, each once. Dependencies have smaller ids than their dependents.
    pub dependencies: Vec<NodeId>,
}

/// A package in one of the releases that have it.
#[derive(Debug, Clone)]
pub(super) struct PackageUse {
    pub release: ReleaseId,
    pub package: Arc<CheckedPackage>,
}

impl PackageNode {
    /// The package in each release that has it, in input order.
    pub(super) fn uses(&self) -> impl Iterator<Item = &PackageUse> {
        std::iter::once(&self.first).chain(&self.others)
    }

    pub(super) fn package(&self) -> &CheckedPackage {
        &self.first.package
    }
}

/// Two packages with equal keys are the same: name, version, whether it is a source package, identity of the blob, sorted dependencies.
type Key<'a> = (&'a Name, &'a Version, bool, &'a str, Vec<NodeId>);

/// Which packages are nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Include {
    /// Packages that take part in a compilation: source packages and their compiled dependencies. A compiled package is only installed,
    /// without its own dependencies.
    Compilation,
    /// All of them, with all dependencies.
    All,
}

/// Merges the packages of all releases. The index of a node is its [`NodeId`].
pub(super) fn merge(
    releases: &BTreeMap<ReleaseId, Arc<CheckedRelease>>,
    identities: &Identities,
    include: Include,
) -> Vec<PackageNode> {
    let mut nodes: Vec<PackageNode> = Vec::new();
    let mut known: HashMap<Key<'_>, NodeId> = HashMap::new();
    for (id, release) in releases {
        let mut positions: HashMap<&Name, NodeId> = HashMap::new();
        for package in &release.packages {
            let is_whole = include == Include::All || package.is_source();
            if !is_whole && !is_dependency_of_source(package.name(), release) {
                continue;
            }
            let dependencies = match is_whole {
                true => dependencies(package, &positions),
                false => Vec::new(),
            };
            let mut sorted = dependencies.clone();
            sorted.sort_unstable();
            let key = (
                package.name(),
                package.version(),
                package.is_source(),
                identities.of(*id, package),
                sorted,
            );
            let place = PackageUse {
                release: *id,
                package: Arc::clone(package),
            };
            let node = match known.get(&key) {
                Some(node) => {
                    nodes[node.index()].others.push(place);
                    *node
                }
                None => {
                    let node = NodeId::from_index(nodes.len());
                    nodes.push(PackageNode {
                        first: place,
                        others: Vec::new(),
                        dependencies,
                    });
                    known.insert(key, node);
                    node
                }
            };
            positions.insert(package.name(), node);
        }
    }
    nodes
}

/// The nodes of a package's dependencies.
fn dependencies(package: &CheckedPackage, positions: &HashMap<&Name, NodeId>) -> Vec<NodeId> {
    let mut dependencies = Vec::new();
    let nodes = package.dependencies().iter();
    for node in nodes.filter_map(|it| positions.get(it)) {
        if !dependencies.contains(node) {
            dependencies.push(*node);
        }
    }
    dependencies
}

fn is_dependency_of_source(name: &Name, release: &CheckedRelease) -> bool {
    let mut packages = release.packages.iter();
    packages.any(|other| other.is_source() && other.dependencies().contains(name))
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::offline::checked::Listed;
    use crate::offline::tarball::Blob;
    use crate::release::digest::BlobHasher;
    use crate::release::{
        Algorithm, CompiledPackage, Digests, Manifest, MultiDigest, Package, Slug,
    };

    /// Parses `NAME@VERSION=SOURCE: DEPENDENCY DEPENDENCY, …`, in compile order. A compiled package has `~` instead of `=`.
    pub(in super::super) fn release(text: &str) -> Arc<CheckedRelease> {
        let packages = text.split(", ").filter(|it| !it.is_empty()).map(package);
        let manifest = "name: demo\nversion: 1\npackages: []\njobs: []\n";
        Arc::new(CheckedRelease {
            tarball: PathBuf::from("demo.tgz"),
            digests: BlobHasher::new(&[]).finish(),
            manifest: Manifest::parse(manifest.as_bytes()).unwrap(),
            carried: Vec::new(),
            packages: packages.map(Arc::new).collect(),
        })
    }

    fn package(text: &str) -> CheckedPackage {
        let (package, dependencies) = text.split_once(": ").unwrap_or((text, ""));
        let (name, rest) = package.split_once('@').unwrap();
        let (version, content) = rest.split_once(['=', '~']).unwrap();
        let parse = |name: &str| Name::parse(name).unwrap();
        let (name, version) = (parse(name), Version::parse(version).unwrap());
        let dependencies = dependencies.split_whitespace().map(parse).collect();
        let digests = Digests::of(content.as_bytes(), &[Algorithm::Sha1]);
        let digest = MultiDigest::of(&digests, &[Algorithm::Sha1]).unwrap();
        let fingerprint = content.to_owned();
        let listed = match rest.contains('=') {
            true => Listed::Source(Package {
                name,
                version,
                fingerprint,
                digest,
                dependencies,
            }),
            false => Listed::Compiled(CompiledPackage {
                name,
                version,
                fingerprint,
                digest,
                stemcell: Slug::new("ubuntu-noble", "1.1").unwrap(),
                dependencies,
            }),
        };
        let mut hasher = BlobHasher::new(&[]);
        hasher.update(content.as_bytes());
        CheckedPackage {
            path: PathBuf::from(format!("packages/{}.tgz", listed.name())),
            listed,
            blob: Blob {
                file: PathBuf::new(),
                size: 1,
                digests: hasher.finish(),
            },
            reused_from: None,
            replaced: None,
        }
    }

    pub(in super::super) fn releases(texts: &[&str]) -> BTreeMap<ReleaseId, Arc<CheckedRelease>> {
        let numbered = texts.iter().enumerate();
        numbered
            .map(|(position, text)| (ReleaseId::from_position(position), release(text)))
            .collect()
    }

    /// The uses of a node, each as the release's position and the package's name, and the indices of its dependencies.
    type Merged = (Vec<(usize, String)>, Vec<usize>);

    fn merged(texts: &[&str]) -> Vec<Merged> {
        merge(
            &releases(texts),
            &Identities::default(),
            Include::Compilation,
        )
        .iter()
        .map(|node| {
            let uses = node.uses();
            let uses = uses.map(|it| (it.release.position(), it.package.name().to_string()));
            let dependencies = node.dependencies.iter().map(|it| it.index());
            (uses.collect(), dependencies.collect())
        })
        .collect()
    }

    fn uses(uses: &[(usize, &str)]) -> Vec<(usize, String)> {
        let uses = uses.iter();
        uses.map(|(release, name)| (*release, (*name).to_owned()))
            .collect()
    }

    #[test]
    fn same_package_of_two_releases_is_one_node() {
        assert_eq!(
            merged(&["go@1=g, a@1=a: go", "go@1=g, b@1=b: go go"]),
            [
                (uses(&[(0, "go"), (1, "go")]), vec![]),
                (uses(&[(0, "a")]), vec![0]),
                (uses(&[(1, "b")]), vec![0]),
            ]
        );
    }

    #[test]
    fn everything_that_affects_a_package_distinguishes_it() {
        for (one, other) in [
            ("go@1=g", "go@2=g"),
            ("go@1=g", "go@1=h"),
            ("go@1=g", "og@1=g"),
        ] {
            assert_eq!(merged(&[one, other]).len(), 2, "{one} and {other}");
        }
        // The same package with another dependency, and without one.
        let over = merged(&["go@1=g, a@1=a: go", "go@1=h, a@1=a: go", "go@1=g, a@1=a"]);
        assert_eq!(over.len(), 5);
        assert_eq!(over[0].0, uses(&[(0, "go"), (2, "go")]));
        // The order of dependencies does not matter.
        let orders = ["a@1=a, b@1=b, c@1=c: a b", "a@1=a, b@1=b, c@1=c: b a"];
        assert_eq!(merged(&orders).len(), 3);
    }

    #[test]
    fn compiled_package_is_a_node_only_for_sources_that_need_it() {
        assert_eq!(
            merged(&["base@1~b, lib@1~l: base, app@1=a: lib", "lib@1=l"]),
            [
                (uses(&[(0, "lib")]), vec![]),
                (uses(&[(0, "app")]), vec![0]),
                (uses(&[(1, "lib")]), vec![]),
            ]
        );
    }

    #[test]
    fn all_packages_have_all_dependencies() {
        let releases = releases(&["base@1~b, lib@1~l: base, app@1=a: lib, other@1~o"]);
        let nodes = merge(&releases, &Identities::default(), Include::All);
        let dependencies = nodes.iter().map(|node| node.dependencies.len());
        assert_eq!(dependencies.collect::<Vec<_>>(), [0, 1, 1, 0]);
    }
}
