//! The dependency graph of a release: compile order and dependents.
//!
//! The compile order is the Go agent's. It is also the order of `compiled_packages` in the manifest, which must not differ from the Go
//! agent's manifest. It is the post-order of a depth-first walk, so each package follows its dependencies. The walk starts from each
//! package, in byte order of the names, and visits dependencies in manifest order.
//!
//! The walk is not recursive, because a long chain of dependencies would overflow the thread's stack.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::name::Name;

/// A package of the graph: its name and its direct dependencies in manifest order. Names must be distinct, as in a
/// [`Manifest`](super::Manifest).
pub(crate) type PackageNode<'a> = (&'a Name, &'a [Name]);

/// The maximum number of reported cycles.
const MAX_CYCLES: usize = 20;

/// Why the packages of a release have no compile order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphProblem {
    /// A dependency is not in the release.
    #[error("package `{package}` depends on `{dependency}`, which is not in the release")]
    UnknownDependency {
        /// The dependent package.
        package: Name,
        /// The name of the missing package.
        dependency: Name,
    },
    /// Packages depend on each other. The smallest name is first and is not repeated at the end.
    #[error("dependency cycle: {}", cycle_path(.0))]
    Cycle(Vec<Name>),
}

/// Prints a cycle as `a -> b -> a`.
fn cycle_path(names: &[Name]) -> String {
    let closed: Vec<&str> = names
        .iter()
        .chain(names.first())
        .map(Name::as_str)
        .collect();
    closed.join(" -> ")
}

/// The indices of `packages` in compile order.
///
/// # Errors
/// All missing dependencies in the order of the walk, then up to 20 distinct cycles. Not all cycles are found; but below this limit, at
/// least one cycle is reported for each group of packages that depend on each other.
pub(crate) fn compile_order(packages: &[PackageNode<'_>]) -> Result<Vec<usize>, Vec<GraphProblem>> {
    let walk = Walk::over(packages);
    let mut problems = walk.unknown;
    problems.extend(walk.cycles.into_iter().map(GraphProblem::Cycle));
    if problems.is_empty() {
        Ok(walk.order)
    } else {
        Err(problems)
    }
}

/// The direct and indirect dependents of the package at `index`, in compile order. Missing dependencies are ignored.
#[must_use]
pub(crate) fn dependents(packages: &[PackageNode<'_>], index: usize) -> Vec<usize> {
    let Some((name, _)) = packages.get(index) else {
        return Vec::new();
    };
    let mut dependents_of: HashMap<&Name, Vec<usize>> = HashMap::new();
    for (package, (_, dependencies)) in packages.iter().enumerate() {
        for dependency in *dependencies {
            dependents_of.entry(dependency).or_default().push(package);
        }
    }
    let mut reached = vec![false; packages.len()];
    let mut next: Vec<&Name> = vec![name];
    while let Some(name) = next.pop() {
        for &package in dependents_of.get(name).into_iter().flatten() {
            if !std::mem::replace(&mut reached[package], true) {
                next.push(packages[package].0);
            }
        }
    }
    reached[index] = false;
    let mut order = Walk::over(packages).order;
    order.retain(|&package| reached[package]);
    order
}

/// The packages of `wanted` and their direct and indirect dependencies, in the order of `packages`. Names without a package are ignored.
#[must_use]
pub(crate) fn closure<'a>(
    packages: &[PackageNode<'a>],
    wanted: &HashSet<&'a Name>,
) -> Vec<&'a Name> {
    let dependencies: HashMap<&Name, &[Name]> = packages.iter().copied().collect();
    let mut reached: HashSet<&Name> = wanted.clone();
    let mut next: Vec<&Name> = wanted.iter().copied().collect();
    while let Some(name) = next.pop() {
        for dependency in dependencies.get(name).copied().unwrap_or_default() {
            if reached.insert(dependency) {
                next.push(dependency);
            }
        }
    }
    let names = packages.iter().map(|(name, _)| *name);
    names.filter(|name| reached.contains(name)).collect()
}

/// The state of a package during the walk.
#[derive(Clone, Copy, PartialEq)]
enum Mark {
    New,
    /// The package is on the current path.
    Open,
    Done,
}

/// The results of a depth-first walk over all packages.
#[derive(Default)]
struct Walk {
    order: Vec<usize>,
    unknown: Vec<GraphProblem>,
    cycles: BTreeSet<Vec<Name>>,
}

impl Walk {
    fn over(packages: &[PackageNode<'_>]) -> Self {
        let index: HashMap<&Name, usize> = packages
            .iter()
            .enumerate()
            .map(|(index, (name, _))| (*name, index))
            .collect();
        let mut starts: Vec<usize> = (0..packages.len()).collect();
        starts.sort_by_key(|&package| packages[package].0);

        let mut walk = Self::default();
        let mut marks = vec![Mark::New; packages.len()];
        let mut reported = HashSet::new();
        for start in starts {
            if marks[start] != Mark::New {
                continue;
            }
            marks[start] = Mark::Open;
            // The packages from the start to the current one, each with its remaining dependencies.
            let mut path = vec![(start, packages[start].1.iter())];
            while let Some((package, dependencies)) = path.last_mut() {
                let package = *package;
                let Some(dependency) = dependencies.next() else {
                    marks[package] = Mark::Done;
                    walk.order.push(package);
                    path.pop();
                    continue;
                };
                match index.get(dependency).map(|&to| (to, marks[to])) {
                    // Report a duplicate dependency only once.
                    None if reported.insert((package, dependency)) => {
                        walk.unknown.push(GraphProblem::UnknownDependency {
                            package: packages[package].0.clone(),
                            dependency: dependency.clone(),
                        });
                    }
                    Some((to, Mark::New)) => {
                        marks[to] = Mark::Open;
                        path.push((to, packages[to].1.iter()));
                    }
                    Some((to, Mark::Open)) => {
                        let open = path.iter().map(|(package, _)| *package);
                        let cycle = open.skip_while(|&package| package != to);
                        walk.add_cycle(cycle.map(|package| packages[package].0));
                    }
                    None | Some((_, Mark::Done)) => {}
                }
            }
        }
        walk
    }

    fn add_cycle<'a>(&mut self, names: impl Iterator<Item = &'a Name>) {
        if self.cycles.len() >= MAX_CYCLES {
            return;
        }
        let mut cycle: Vec<Name> = names.cloned().collect();
        // Start with the smallest name, so that a cycle that is found from two packages is added once.
        let smallest = (0..cycle.len()).min_by_key(|&at| &cycle[at]).unwrap_or(0);
        cycle.rotate_left(smallest);
        self.cycles.insert(cycle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    /// Parses `m: z b, b: c, z, a, c`.
    fn packages(text: &str) -> Vec<(Name, Vec<Name>)> {
        text.split(", ")
            .map(|package| {
                let (package, dependencies) = package.split_once(':').unwrap_or((package, ""));
                let dependencies = dependencies.split_whitespace().map(name).collect();
                (name(package), dependencies)
            })
            .collect()
    }

    fn entries(packages: &[(Name, Vec<Name>)]) -> Vec<PackageNode<'_>> {
        packages
            .iter()
            .map(|(name, dependencies)| (name, dependencies.as_slice()))
            .collect()
    }

    fn order(text: &str) -> Result<String, Vec<String>> {
        let packages = packages(text);
        match compile_order(&entries(&packages)) {
            Ok(order) => Ok(order
                .into_iter()
                .map(|index| packages[index].0.as_str())
                .collect::<Vec<_>>()
                .join(" ")),
            Err(problems) => Err(problems.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn compile_order_is_the_go_agents() {
        for (text, expected) in [
            ("m: z b, b: c, z, a, c", "a c b z m"),
            ("a, _x, B", "B _x a"),
            ("app: lib base, lib: base, base", "base lib app"),
            ("a: b b, b", "b a"),
        ] {
            assert_eq!(order(text).unwrap(), expected);
        }
        assert_eq!(compile_order(&[]), Ok(vec![]));
    }

    #[test]
    fn missing_dependency_is_reported_with_its_dependent() {
        assert_eq!(
            order("app: gone lib lib gone, lib: other").unwrap_err(),
            [
                "package `app` depends on `gone`, which is not in the release",
                "package `lib` depends on `other`, which is not in the release",
            ]
        );
    }

    #[test]
    fn each_cycle_is_printed_once_as_a_path() {
        for (text, cycles) in [
            ("a: a a", &["a -> a"][..]),
            ("a: b, b: a a", &["a -> b -> a"]),
            ("x: z, z: y, y: z", &["y -> z -> y"]),
            ("a: b, b: c, c: a b", &["a -> b -> c -> a", "b -> c -> b"]),
            ("a: b, b: a, c: d, d: c", &["a -> b -> a", "c -> d -> c"]),
        ] {
            let expected: Vec<_> = cycles
                .iter()
                .map(|cycle| format!("dependency cycle: {cycle}"))
                .collect();
            assert_eq!(order(text).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn missing_dependencies_and_cycles_are_reported_together() {
        assert_eq!(order("a: b gone, b: a").unwrap_err().len(), 2);
    }

    #[test]
    fn chain_of_ten_thousand_packages_is_ordered() {
        let mut chain: Vec<(Name, Vec<Name>)> = (0..10_000)
            .map(|n| {
                (
                    name(&format!("p{n:05}")),
                    vec![name(&format!("p{:05}", n + 1))],
                )
            })
            .collect();
        chain.last_mut().unwrap().1.clear();
        let expected: Vec<usize> = (0..10_000).rev().collect();
        assert_eq!(compile_order(&entries(&chain)), Ok(expected.clone()));
        assert_eq!(dependents(&entries(&chain), 9_999), expected[1..]);
        chain.last_mut().unwrap().1.push(name("p00000"));
        assert_eq!(compile_order(&entries(&chain)).unwrap_err().len(), 1);
    }

    #[test]
    fn dependents_are_direct_and_indirect() {
        let packages = packages("app: lib, lib: base, base, tool: base, other, broken: gone");
        let of = |index| dependents(&entries(&packages), index);
        assert_eq!(of(2), [1, 0, 3], "base");
        assert_eq!(of(1), [0], "lib");
        assert_eq!(of(0), [0; 0], "app");
        assert_eq!(of(99), [0; 0], "no such package");
    }

    #[test]
    fn closure_has_direct_and_indirect_dependencies() {
        let packages = packages("app: lib, lib: base, base, tool: base, other");
        let of = |wanted: &[&str]| {
            let wanted: Vec<Name> = wanted.iter().map(|it| name(it)).collect();
            let entries = entries(&packages);
            let found = closure(&entries, &wanted.iter().collect());
            found.iter().map(|it| it.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of(&["lib"]), ["lib", "base"]);
        assert_eq!(of(&["other", "app"]), ["app", "lib", "base", "other"]);
        assert_eq!(of(&["gone"]), [""; 0]);
        assert_eq!(of(&[]), [""; 0]);
    }

    proptest! {
        #[test]
        fn each_package_is_ordered_once_after_its_dependencies(
            edges in prop::collection::vec((0..12_usize, 0..12_usize), 0..30),
            acyclic: bool,
        ) {
            let mut packages: Vec<(Name, Vec<Name>)> =
                (0..12).map(|n| (name(&format!("p{}", n * 7 % 12)), vec![])).collect();
            for (from, to) in edges {
                if !acyclic || from < to {
                    let dependency = packages[to].0.clone();
                    packages[from].1.push(dependency);
                }
            }
            match compile_order(&entries(&packages)) {
                Ok(order) => {
                    let place = |wanted: &Name| {
                        order.iter().position(|&at| packages[at].0 == *wanted).unwrap()
                    };
                    prop_assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), packages.len());
                    for (package, dependencies) in &packages {
                        for dependency in dependencies {
                            prop_assert!(place(dependency) < place(package));
                        }
                    }
                    for index in 0..packages.len() {
                        for dependent in dependents(&entries(&packages), index) {
                            prop_assert!(place(&packages[dependent].0) > place(&packages[index].0));
                        }
                    }
                }
                Err(problems) => {
                    prop_assert!(!acyclic);
                    // Each step of a cycle is a dependency.
                    for problem in problems {
                        let GraphProblem::Cycle(cycle) = problem else { panic!("{problem}") };
                        for (at, from) in cycle.iter().enumerate() {
                            let to = &cycle[(at + 1) % cycle.len()];
                            let (_, dependencies) =
                                packages.iter().find(|(name, _)| name == from).unwrap();
                            prop_assert!(dependencies.contains(to));
                        }
                    }
                }
            }
        }
    }
}
