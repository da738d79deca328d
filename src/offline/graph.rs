//! One graph for all releases of a call: a package that several of them have is one node.
//!
//! Packages are the same when nothing tells them apart that shapes what they install: name and version, which a script is told,
//! what the source unpacks to, and the dependencies, which are the same in the same sense.

use std::collections::HashMap;

use super::inspect::{Listed, Member};
use crate::release::{Name, Version};

/// A member of a release, with what tells it from members of others.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    pub member: &'a Member,
    pub version: &'a Version,
    /// What its blob is known by: see [`identity`](super::identity).
    pub digest: &'a str,
}

/// A package of a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// The releases that have it, each with the member that it is there; the first in input order first.
    pub uses: Vec<(usize, usize)>,
    /// The nodes of its direct dependencies, in manifest order, each once. All come before it.
    pub dependencies: Vec<usize>,
}

/// Puts the releases of a call together. Each is given with its members and their compile order. A package that is compiled
/// already is a node only where one that is to be compiled needs it.
pub(super) fn merge(releases: &[(Vec<Candidate<'_>>, &[usize])]) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    let mut known: HashMap<(&Name, &Version, bool, &str, Vec<usize>), usize> = HashMap::new();
    for (release, (candidates, order)) in releases.iter().enumerate() {
        let mut positions: HashMap<&Name, usize> = HashMap::new();
        for index in order.iter().copied() {
            let candidate = &candidates[index];
            let member = candidate.member;
            let is_source = matches!(member.listed, Listed::Source(_));
            if !is_source && !is_needed(&member.name, candidates) {
                continue;
            }
            let mut dependencies = Vec::new();
            // What is compiled already is only installed.
            for name in member.dependencies.iter().filter(|_| is_source) {
                if let Some(node) = positions.get(name)
                    && !dependencies.contains(node)
                {
                    dependencies.push(*node);
                }
            }
            let mut sorted = dependencies.clone();
            sorted.sort_unstable();
            let key = (
                &member.name,
                candidate.version,
                is_source,
                candidate.digest,
                sorted,
            );
            let node = *known.entry(key).or_insert_with(|| {
                nodes.push(Node {
                    uses: Vec::new(),
                    dependencies,
                });
                nodes.len() - 1
            });
            nodes[node].uses.push((release, index));
            positions.insert(&member.name, node);
        }
    }
    nodes
}

fn is_needed(name: &Name, candidates: &[Candidate<'_>]) -> bool {
    candidates.iter().any(|candidate| {
        matches!(candidate.member.listed, Listed::Source(_))
            && candidate.member.dependencies.contains(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `app@1=source: lib base`; a compiled package has `~` for `=`.
    fn release(text: &str) -> Vec<(Member, Version, String)> {
        text.split(", ")
            .enumerate()
            .map(|(index, package)| {
                let (package, dependencies) = package.split_once(": ").unwrap_or((package, ""));
                let (name, rest) = package.split_once('@').unwrap();
                let (version, digest) = rest.split_once(['=', '~']).unwrap();
                let listed = match rest.contains('=') {
                    true => Listed::Source(index),
                    false => Listed::Compiled(index),
                };
                let parse = |name: &str| Name::parse(name).unwrap();
                let member = Member {
                    name: parse(name),
                    dependencies: dependencies.split_whitespace().map(parse).collect(),
                    listed,
                };
                (member, Version::parse(version).unwrap(), digest.to_owned())
            })
            .collect()
    }

    /// Uses and dependencies of a node.
    type Merged = (Vec<(usize, usize)>, Vec<usize>);

    /// Releases whose packages are written in compile order.
    fn merged(texts: &[&str]) -> Vec<Merged> {
        let releases: Vec<_> = texts.iter().map(|text| release(text)).collect();
        let orders: Vec<Vec<usize>> = releases.iter().map(|it| (0..it.len()).collect()).collect();
        let candidates: Vec<_> = releases
            .iter()
            .zip(&orders)
            .map(|(release, order)| {
                let candidates = release
                    .iter()
                    .map(|(member, version, digest)| Candidate {
                        member,
                        version,
                        digest,
                    })
                    .collect();
                (candidates, order.as_slice())
            })
            .collect();
        merge(&candidates)
            .into_iter()
            .map(|node| (node.uses, node.dependencies))
            .collect()
    }

    #[test]
    fn the_same_package_of_two_releases_is_one_node() {
        assert_eq!(
            merged(&["go@1=g, a@1=a: go", "go@1=g, b@1=b: go go"]),
            [
                (vec![(0, 0), (1, 0)], vec![]),
                (vec![(0, 1)], vec![0]),
                (vec![(1, 1)], vec![0]),
            ]
        );
    }

    #[test]
    fn whatever_shapes_a_package_makes_it_another() {
        for (one, other) in [
            ("go@1=g", "go@2=g"),
            ("go@1=g", "go@1=h"),
            ("go@1=g", "og@1=g"),
        ] {
            assert_eq!(merged(&[one, other]).len(), 2, "{one} and {other}");
        }
        // The same package over another dependency, and over none.
        let over = merged(&["go@1=g, a@1=a: go", "go@1=h, a@1=a: go", "go@1=g, a@1=a"]);
        assert_eq!(over.len(), 5);
        assert_eq!(over[0].0, [(0, 0), (2, 0)]);
        // The order of dependencies shapes nothing.
        let orders = ["a@1=a, b@1=b, c@1=c: a b", "a@1=a, b@1=b, c@1=c: b a"];
        assert_eq!(merged(&orders).len(), 3);
    }

    #[test]
    fn what_is_compiled_already_is_there_for_those_that_need_it_only() {
        assert_eq!(
            merged(&["base@1~b, lib@1~l: base, app@1=a: lib", "lib@1=l"]),
            [
                (vec![(0, 1)], vec![]),
                (vec![(0, 2)], vec![0]),
                (vec![(1, 0)], vec![]),
            ]
        );
    }
}
