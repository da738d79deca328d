//! Decides which package is compiled next: a plain data structure that starts no tasks and reads no clock.
//!
//! A package is ready when its dependencies are done. The ready package with the longest chain starts first (critical path first). A chain
//! consists of the package itself, one of its dependents, a dependent of that dependent, and so on; its length is the total expected
//! duration. If the chains of several packages are equally long, the package that was added first starts first.
//!
//! A package that an earlier run compiled is not compiled again. It is installed if a package that this run compiles depends on it. If its
//! blob is in a shared cache, the blob is fetched first, while other packages run. If the fetch fails, this run compiles the package.
//!
//! If the dependents of a package share an empty build cache, such as Go's, the caller can let one dependent run first and fill it
//! ([`Queue::fill_first`]): if all ran at once, each would do the same work. The caller can also let the next dependents run one at a time
//! ([`Queue::filling_one_at_a_time`]): two of them may share code that the first one did not need, and both would compile this code.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// The number of a package in a [`Graph`] and its [`Queue`]. Packages are numbered in the order in which they are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(usize);

impl Id {
    /// The number, from 0.
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }
}

/// A resource that a package uses while it is compiled or installed, such as a directory in a base directory that scripts share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The number of the resource, which the caller chooses.
    pub resource: usize,
    /// How the package uses the resource.
    pub holds: Holds,
}

/// How a package uses a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// No other package may use the resource at the same time.
    Exclusive,
    /// Other packages may use the resource at the same time if they need the same contents, which have this number.
    Contents(usize),
}

/// Where a package comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supply {
    /// This run compiles the package, after its dependencies.
    Compiled,
    /// The compiled blob exists on this machine. The package is installed if this run compiles one of its dependents.
    Here,
    /// The compiled blob can be fetched. It is fetched if the caller needs it, or if this run compiles a dependent of the package.
    Remote {
        /// Whether the caller needs the compiled blob.
        is_result: bool,
    },
    /// The package failed before the queue was created. Dependents that this run would compile must have this supply, too.
    Lost,
}

/// Packages with their dependencies. A package can only depend on packages that were added before it, so there are no cycles.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    dependencies: Vec<Id>,
    dependents: Vec<Id>,
    supply: Supply,
    /// The number of dependents that this run compiles, except those that are skipped.
    users: usize,
    /// The number of dependencies that are not done. Only a package that this run compiles waits for its dependencies.
    missing: usize,
    expected: Duration,
    claims: Vec<Claim>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Fetching,
    Running,
    Done,
    Failed,
    Skipped,
}

impl Graph {
    /// Adds a package. Ignores repetitions of a dependency.
    pub fn add(&mut self, dependencies: &[Id], expected: Duration, claims: Vec<Claim>) -> Id {
        let id = Id(self.nodes.len());
        let mut dependencies = dependencies.to_vec();
        dependencies.sort_unstable();
        dependencies.dedup();
        for dependency in &dependencies {
            self.nodes[dependency.0].dependents.push(id);
        }
        self.nodes.push(Node {
            dependents: Vec::new(),
            supply: Supply::Compiled,
            users: 0,
            missing: dependencies.len(),
            dependencies,
            expected,
            claims,
            state: State::Waiting,
        });
        id
    }

    /// Sets where a package comes from. The default is [`Supply::Compiled`].
    pub fn set_supply(&mut self, id: Id, supply: Supply) {
        self.nodes[id.0].supply = supply;
    }
}

/// The state of the packages of a graph.
#[derive(Debug)]
pub struct Queue {
    nodes: Vec<Node>,
    /// For each package, the duration of its longest chain (see [`longest_chains`]).
    chains: Vec<Duration>,
    /// The ready packages, the longest chain first.
    ready: BTreeSet<(Reverse<Duration>, Id)>,
    /// The resources in use, how they are used, and by how many packages.
    claimed: HashMap<usize, (Holds, usize)>,
    /// The packages whose dependents share an empty build cache, each with the running dependent that fills it, if there is one.
    unfilled: BTreeMap<Id, Option<Id>>,
    /// Whether dependents that share a build cache run one after another until [`filled`](Self::filled) is called.
    one_at_a_time: bool,
}

impl Queue {
    /// The queue of all packages of a graph.
    #[must_use]
    pub fn new(graph: Graph) -> Self {
        let mut nodes = graph.nodes;
        for index in 0..nodes.len() {
            if nodes[index].supply == Supply::Compiled {
                for dependency in nodes[index].dependencies.clone() {
                    nodes[dependency.0].users += 1;
                }
            }
        }
        for node in &mut nodes {
            if node.supply == Supply::Lost {
                node.state = State::Failed;
            }
        }
        let mut queue = Self {
            chains: longest_chains(&nodes),
            nodes,
            ready: BTreeSet::new(),
            claimed: HashMap::new(),
            unfilled: BTreeMap::new(),
            one_at_a_time: false,
        };
        for index in 0..queue.nodes.len() {
            queue.add_if_ready(Id(index));
        }
        queue
    }

    /// Chooses the next package to start and marks it as running. Returns `None` if no package is ready, or if all ready packages wait for
    /// resources or for build caches that are being filled.
    #[expect(
        clippy::should_implement_trait,
        reason = "unlike an iterator, it can return `Some` again after `None`"
    )]
    pub fn next(&mut self) -> Option<Id> {
        let entry = self
            .ready
            .iter()
            .find(|(_, id)| self.is_free(*id))
            .copied()?;
        self.ready.remove(&entry);
        let (_, id) = entry;
        self.nodes[id.0].state = State::Running;
        for claim in &self.nodes[id.0].claims {
            self.claimed
                .entry(claim.resource)
                .or_insert((claim.holds, 0))
                .1 += 1;
        }
        for dependency in &self.nodes[id.0].dependencies {
            if let Some(filler) = self.unfilled.get_mut(dependency) {
                *filler = Some(id);
            }
        }
        Some(id)
    }

    /// Chooses the next package to fetch, among those that `is_wanted` accepts, and marks it as being fetched. Packages for which other
    /// packages wait come first, the longest chain first.
    pub fn next_fetch(&mut self, is_wanted: impl Fn(Id) -> bool) -> Option<Id> {
        let wanted = self.nodes.iter().enumerate().filter(|(index, node)| {
            let is_needed = match node.supply {
                Supply::Remote { is_result } => is_result || node.users > 0,
                Supply::Compiled | Supply::Here | Supply::Lost => false,
            };
            is_needed && node.state == State::Waiting && is_wanted(Id(*index))
        });
        let first = wanted
            .min_by_key(|(index, node)| (node.users == 0, Reverse(self.chains[*index]), *index));
        let (index, _) = first?;
        self.nodes[index].state = State::Fetching;
        Some(Id(index))
    }

    /// Records that the blob of a package was fetched. The package no longer needs its dependencies.
    pub fn fetched(&mut self, id: Id) {
        let node = &mut self.nodes[id.0];
        debug_assert_eq!(node.state, State::Fetching, "{id:?} is not being fetched");
        node.state = State::Waiting;
        node.supply = Supply::Here;
        node.expected = Duration::ZERO;
        node.dependencies.clear();
        // Claims on contents are for dependencies, which the package no longer needs.
        node.claims.retain(|claim| claim.holds == Holds::Exclusive);
        self.add_if_ready(id);
    }

    /// Records that the blob of a package cannot be fetched, so that the package is compiled after its dependencies. If a dependency has
    /// failed, returns the packages that can no longer be compiled, as [`failed`](Self::failed) does.
    pub fn not_fetched(&mut self, id: Id) -> Vec<Id> {
        let node = &mut self.nodes[id.0];
        debug_assert_eq!(node.state, State::Fetching, "{id:?} is not being fetched");
        node.state = State::Waiting;
        node.supply = Supply::Compiled;
        let dependencies = node.dependencies.clone();
        for dependency in &dependencies {
            self.nodes[dependency.0].users += 1;
        }
        let state = |dependency: &Id| self.nodes[dependency.0].state;
        let has_no_result = |it| matches!(it, State::Failed | State::Skipped);
        if dependencies.iter().map(state).any(has_no_result) {
            return self.skip(vec![id]);
        }
        let missing = dependencies.iter().map(state);
        self.nodes[id.0].missing = missing.filter(|it| *it != State::Done).count();
        self.chains = longest_chains(&self.nodes);
        // Sort the ready packages by their new chains.
        let ready = std::mem::take(&mut self.ready);
        let ready = ready.into_iter().map(|(_, id)| id);
        for candidate in ready.chain(dependencies).chain([id]) {
            self.add_if_ready(candidate);
        }
        Vec::new()
    }

    /// Sets whether dependents that share a build cache run one after another until [`filled`](Self::filled) is called.
    #[must_use]
    pub fn filling_one_at_a_time(mut self, one_at_a_time: bool) -> Self {
        self.one_at_a_time = one_at_a_time;
        self
    }

    /// Records that the dependents of a package share an empty build cache. From now on, they run one at a time, until one is done or
    /// [`filled`](Self::filled) is called; with [`filling_one_at_a_time`](Self::filling_one_at_a_time), only until `filled` is called.
    pub fn fill_first(&mut self, dependency: Id) {
        self.unfilled.insert(dependency, None);
    }

    /// Records that the build cache of a package's dependents is filled, so that all dependents may run.
    pub fn filled(&mut self, dependency: Id) {
        self.unfilled.remove(&dependency);
    }

    /// Records that the dependent that fills the build cache leaves CPUs idle, so that the next dependent may start.
    pub fn let_next_fill(&mut self, dependency: Id) {
        if let Some(filler) = self.unfilled.get_mut(&dependency) {
            *filler = None;
        }
    }

    /// The packages whose build cache is being filled by one dependent, while the other dependents wait.
    #[must_use]
    pub fn filling(&self) -> Vec<Id> {
        let filling = self.unfilled.iter().filter(|(_, filler)| filler.is_some());
        filling.map(|(dependency, _)| *dependency).collect()
    }

    /// Like [`next`](Self::next), for a package that is prepared while all jobs are in use: its script can then start as soon as a job ends.
    /// Also returns `None` if a dependent of a running package has a longer chain: it may become ready soon, and should start first.
    pub fn next_ahead(&mut self) -> Option<Id> {
        let (Reverse(chain), _) = self.ready.iter().find(|(_, id)| self.is_free(*id))?;
        let waiting = self
            .nodes
            .iter()
            .filter(|node| node.state == State::Running)
            .flat_map(|node| &node.dependents)
            .filter(|dependent| self.nodes[dependent.0].supply == Supply::Compiled)
            .map(|dependent| self.chains[dependent.0]);
        if waiting.max().is_some_and(|longest| longest > *chain) {
            return None;
        }
        self.next()
    }

    /// Records that a running package is done. Dependents whose dependencies are all done become ready.
    pub fn done(&mut self, id: Id) {
        self.end(id, State::Done);
        for dependent in self.nodes[id.0].dependents.clone() {
            if self.nodes[dependent.0].supply == Supply::Compiled {
                self.nodes[dependent.0].missing -= 1;
                self.add_if_ready(dependent);
            }
        }
    }

    /// Records that a running package has failed. Returns the packages that can no longer be compiled because of this failure, in the order
    /// of adding. Returns each package only once.
    pub fn failed(&mut self, id: Id) -> Vec<Id> {
        self.end(id, State::Failed);
        self.skip(self.nodes[id.0].dependents.clone())
    }

    /// Skips the packages in `next` that wait to be compiled, and in the same way the dependents of each skipped package. Returns the skipped
    /// packages.
    fn skip(&mut self, mut next: Vec<Id>) -> Vec<Id> {
        let mut skipped = Vec::new();
        while let Some(id) = next.pop() {
            let node = &mut self.nodes[id.0];
            if node.state == State::Waiting && node.supply == Supply::Compiled {
                node.state = State::Skipped;
                skipped.push(id);
                next.extend(&node.dependents);
                for dependency in node.dependencies.clone() {
                    self.nodes[dependency.0].users -= 1;
                }
            }
        }
        skipped.sort_unstable();
        skipped
    }

    /// The packages that still wait, in the order of adding. Those that are being fetched do not count.
    #[must_use]
    pub fn not_started(&self) -> Vec<Id> {
        (0..self.nodes.len())
            .map(Id)
            .filter(|id| self.nodes[id.0].state == State::Waiting)
            .collect()
    }

    fn add_if_ready(&mut self, id: Id) {
        let node = &self.nodes[id.0];
        let is_ready = match node.supply {
            Supply::Compiled => node.missing == 0,
            Supply::Here => node.users > 0,
            Supply::Remote { .. } | Supply::Lost => false,
        };
        if is_ready && node.state == State::Waiting {
            self.ready.insert((Reverse(self.chains[id.0]), id));
        }
    }

    /// Whether no other package prevents the start of a ready package.
    fn is_free(&self, id: Id) -> bool {
        let node = &self.nodes[id.0];
        let has_no_filler = |dependency| !matches!(self.unfilled.get(dependency), Some(Some(_)));
        node.dependencies.iter().all(has_no_filler)
            && node.claims.iter().all(|claim| {
                match (self.claimed.get(&claim.resource), claim.holds) {
                    (None, _) => true,
                    (Some((Holds::Contents(present), _)), Holds::Contents(wanted)) => {
                        *present == wanted
                    }
                    (Some(_), _) => false,
                }
            })
    }

    fn end(&mut self, id: Id, state: State) {
        let node = &mut self.nodes[id.0];
        debug_assert_eq!(node.state, State::Running, "{id:?} is not running");
        node.state = state;
        for claim in &node.claims {
            if let Some((_, count)) = self.claimed.get_mut(&claim.resource) {
                *count -= 1;
                if *count == 0 {
                    self.claimed.remove(&claim.resource);
                }
            }
        }
        for dependency in &node.dependencies {
            if let Some(filler) = self.unfilled.get_mut(dependency)
                && *filler == Some(id)
            {
                *filler = None;
            }
            if state == State::Done && !self.one_at_a_time {
                self.unfilled.remove(dependency);
            }
        }
    }
}

/// For each package, the expected duration of its longest chain: of the package itself, a dependent that this run compiles, a dependent of
/// that dependent, and so on.
fn longest_chains(nodes: &[Node]) -> Vec<Duration> {
    let mut chains = vec![Duration::ZERO; nodes.len()];
    // Go backward: dependents come later in the graph, so their chains are known.
    for (index, node) in nodes.iter().enumerate().rev() {
        let dependents = node.dependents.iter();
        let compiled = dependents.filter(|it| nodes[it.0].supply == Supply::Compiled);
        let longest = compiled.map(|dependent| chains[dependent.0]).max();
        let own = match node.supply {
            Supply::Compiled | Supply::Here => node.expected,
            Supply::Remote { .. } | Supply::Lost => Duration::ZERO,
        };
        chains[index] = own.saturating_add(longest.unwrap_or_default());
    }
    chains
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn package_on_the_critical_path_comes_first() {
        let mut graph = Graph::default();
        let short = graph.add(&[], seconds(5), Vec::new());
        let long = graph.add(&[], seconds(1), Vec::new());
        let dependent = graph.add(&[long], seconds(9), Vec::new());
        let equal = graph.add(&[], seconds(5), Vec::new());
        let mut queue = Queue::new(graph);
        assert_eq!(queue.next(), Some(long));
        assert_eq!(queue.next(), Some(short));
        queue.done(long);
        assert_eq!(queue.next(), Some(dependent));
        assert_eq!(queue.next(), Some(equal));
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn prepared_package_does_not_delay_a_more_urgent_one() {
        let mut graph = Graph::default();
        let long = graph.add(&[], seconds(1), Vec::new());
        graph.add(&[long], seconds(9), Vec::new());
        let short = graph.add(&[], seconds(5), Vec::new());
        let other = graph.add(&[], seconds(4), Vec::new());
        let mut queue = Queue::new(graph);
        assert_eq!(queue.next(), Some(long));
        assert_eq!(queue.next_ahead(), None);
        assert_eq!(queue.next(), Some(short));
        queue.done(long);
        assert!(queue.next().is_some());
        assert_eq!(queue.next_ahead(), Some(other));
        assert_eq!(queue.next_ahead(), None);
    }

    #[test]
    fn without_durations_packages_run_in_the_order_of_adding() {
        let mut graph = Graph::default();
        let a = graph.add(&[], Duration::ZERO, Vec::new());
        let b = graph.add(&[a], Duration::ZERO, Vec::new());
        let c = graph.add(&[], Duration::ZERO, Vec::new());
        let mut queue = Queue::new(graph);
        assert_eq!(queue.next(), Some(a));
        queue.done(a);
        assert_eq!(queue.next(), Some(b));
        assert_eq!(queue.next(), Some(c));
    }

    #[test]
    fn resource_is_shared_for_the_same_contents_only() {
        let claim = |resource, holds| Claim { resource, holds };
        let mut graph = Graph::default();
        let first = vec![claim(0, Holds::Exclusive), claim(9, Holds::Contents(1))];
        let first = graph.add(&[], seconds(4), first);
        let other = graph.add(&[], seconds(3), vec![claim(9, Holds::Contents(2))]);
        let same = graph.add(&[], seconds(2), vec![claim(9, Holds::Contents(1))]);
        let namesake = graph.add(&[], seconds(1), vec![claim(0, Holds::Contents(1))]);
        let mut queue = Queue::new(graph);
        assert_eq!(queue.next(), Some(first));
        assert_eq!(queue.next(), Some(same));
        assert_eq!(queue.next(), None);
        assert!(queue.failed(first).is_empty());
        assert_eq!(queue.next(), Some(namesake));
        queue.done(same);
        assert_eq!(queue.next(), Some(other));
    }

    #[test]
    fn one_dependent_fills_an_empty_cache_before_the_others_run() {
        let mut graph = Graph::default();
        let golang = graph.add(&[], seconds(9), Vec::new());
        let failing = graph.add(&[golang], seconds(5), Vec::new());
        let filling = graph.add(&[golang], seconds(4), Vec::new());
        let other = graph.add(&[golang], seconds(3), Vec::new());
        let unrelated = graph.add(&[], seconds(1), Vec::new());
        let last = graph.add(&[golang], seconds(1), Vec::new());
        let mut queue = Queue::new(graph);
        assert_eq!(queue.next(), Some(golang));
        queue.done(golang);
        queue.fill_first(golang);
        assert!(queue.filling().is_empty());
        assert_eq!(queue.next(), Some(failing));
        assert_eq!(queue.filling(), [golang]);
        assert_eq!(queue.next(), Some(unrelated));
        assert_eq!(queue.next(), None);
        queue.failed(failing);
        assert_eq!(queue.next(), Some(filling));
        assert_eq!(queue.next(), None);
        queue.done(filling);
        assert!(queue.filling().is_empty());
        assert_eq!(queue.next(), Some(other));
        assert_eq!(queue.next(), Some(last));
    }

    #[test]
    fn dependents_run_when_the_cache_is_filled() {
        let mut graph = Graph::default();
        let golang = graph.add(&[], seconds(1), Vec::new());
        let filling = graph.add(&[golang], seconds(1), Vec::new());
        let other = graph.add(&[golang], seconds(1), Vec::new());
        let mut queue = Queue::new(graph);
        assert_eq!(queue.next(), Some(golang));
        queue.done(golang);
        queue.fill_first(golang);
        assert_eq!(queue.next(), Some(filling));
        assert_eq!(queue.next(), None);
        queue.filled(golang);
        assert_eq!(queue.next(), Some(other));
    }

    #[test]
    fn dependents_that_share_a_cache_follow_one_after_another() {
        let mut graph = Graph::default();
        let golang = graph.add(&[], seconds(1), Vec::new());
        let first = graph.add(&[golang], seconds(4), Vec::new());
        let second = graph.add(&[golang], seconds(3), Vec::new());
        let third = graph.add(&[golang], seconds(2), Vec::new());
        let fourth = graph.add(&[golang], seconds(1), Vec::new());
        let mut queue = Queue::new(graph).filling_one_at_a_time(true);
        assert_eq!(queue.next(), Some(golang));
        queue.done(golang);
        queue.fill_first(golang);
        assert_eq!(queue.next(), Some(first));
        assert_eq!(queue.next(), None);
        queue.done(first);
        assert_eq!(queue.next(), Some(second));
        assert_eq!(queue.next(), None);
        assert_eq!(queue.next_ahead(), None);
        queue.filled(golang);
        assert_eq!(queue.next(), Some(third));
        assert_eq!(queue.next(), Some(fourth));
    }

    #[test]
    fn next_dependent_starts_when_the_one_that_fills_leaves_cpus_idle() {
        for one_at_a_time in [true, false] {
            let mut graph = Graph::default();
            let golang = graph.add(&[], seconds(1), Vec::new());
            let first = graph.add(&[golang], seconds(4), Vec::new());
            let second = graph.add(&[golang], seconds(3), Vec::new());
            let third = graph.add(&[golang], seconds(2), Vec::new());
            let mut queue = Queue::new(graph).filling_one_at_a_time(one_at_a_time);
            assert_eq!(queue.next(), Some(golang));
            queue.done(golang);
            queue.fill_first(golang);
            assert_eq!(queue.next(), Some(first));
            queue.let_next_fill(golang);
            assert_eq!(queue.next(), Some(second));
            assert_eq!(queue.next(), None);
            queue.done(first);
            assert_eq!(queue.next(), (!one_at_a_time).then_some(third));
            queue.done(second);
            assert_eq!(queue.next(), one_at_a_time.then_some(third));
        }
    }

    const RESULT: Supply = Supply::Remote { is_result: true };
    const DEPENDENCY: Supply = Supply::Remote { is_result: false };

    /// Packages of equal duration, as `supply: dependencies`.
    fn supplied(packages: &[(Supply, &[usize])]) -> (Queue, Vec<Id>) {
        let mut graph = Graph::default();
        let mut ids: Vec<Id> = Vec::new();
        for (supply, dependencies) in packages {
            let dependencies: Vec<Id> = dependencies.iter().map(|&it| ids[it]).collect();
            let id = graph.add(&dependencies, seconds(1), Vec::new());
            graph.set_supply(id, *supply);
            ids.push(id);
        }
        (Queue::new(graph), ids)
    }

    #[test]
    fn dependent_of_a_fetched_package_waits_for_it_alone() {
        let (mut queue, ids) = supplied(&[
            (RESULT, &[]),
            (RESULT, &[0]),
            (Supply::Compiled, &[1]),
            (Supply::Compiled, &[]),
        ]);
        assert_eq!(
            queue.next_fetch(|_| true),
            Some(ids[1]),
            "a package waits for it"
        );
        assert_eq!(queue.next_fetch(|_| true), Some(ids[0]));
        assert_eq!(queue.next_fetch(|_| true), None);
        assert_eq!(queue.next(), Some(ids[3]));
        assert_eq!(queue.next(), None);
        queue.fetched(ids[1]);
        assert_eq!(queue.next(), Some(ids[1]), "it is installed");
        queue.done(ids[1]);
        assert_eq!(queue.next(), Some(ids[2]));
        queue.fetched(ids[0]);
        assert_eq!(queue.next(), None, "no package needs it");
    }

    #[test]
    fn package_that_cannot_be_fetched_is_compiled_after_its_dependencies() {
        let (mut queue, ids) = supplied(&[
            (Supply::Here, &[]),
            (DEPENDENCY, &[]),
            (RESULT, &[0, 1]),
            (Supply::Compiled, &[2]),
        ]);
        assert_eq!(queue.next_fetch(|_| true), Some(ids[2]));
        assert_eq!((queue.next_fetch(|_| true), queue.next()), (None, None));
        assert!(queue.not_fetched(ids[2]).is_empty());
        assert_eq!(queue.next_fetch(|_| true), Some(ids[1]), "now it is needed");
        assert_eq!(queue.next(), Some(ids[0]));
        queue.done(ids[0]);
        assert_eq!(queue.next(), None);
        queue.fetched(ids[1]);
        for id in &ids[1..] {
            assert_eq!(queue.next(), Some(*id));
            queue.done(*id);
        }
    }

    #[test]
    fn package_of_a_failed_dependency_can_still_be_fetched() {
        for is_fetched in [true, false] {
            let (mut queue, ids) = supplied(&[
                (Supply::Compiled, &[]),
                (RESULT, &[0]),
                (Supply::Compiled, &[1]),
            ]);
            assert_eq!(queue.next(), Some(ids[0]));
            assert_eq!(queue.next_fetch(|_| true), Some(ids[1]));
            assert!(queue.failed(ids[0]).is_empty());
            if is_fetched {
                queue.fetched(ids[1]);
                assert_eq!(queue.next(), Some(ids[1]));
            } else {
                assert_eq!(queue.not_fetched(ids[1]), ids[1..]);
                assert_eq!(queue.next(), None);
            }
        }
    }

    #[test]
    fn fetched_package_does_not_claim_its_dependencies() {
        let claim = |resource, holds| Claim { resource, holds };
        let mut graph = Graph::default();
        let claims = vec![claim(0, Holds::Exclusive), claim(1, Holds::Contents(1))];
        let lib = graph.add(&[], seconds(1), claims);
        graph.set_supply(lib, RESULT);
        graph.add(&[lib], seconds(1), Vec::new());
        let other = graph.add(&[], seconds(1), vec![claim(1, Holds::Exclusive)]);
        let mut queue = Queue::new(graph);
        assert_eq!(queue.next_fetch(|_| true), Some(lib));
        assert_eq!(queue.next(), Some(other));
        queue.fetched(lib);
        assert_eq!(queue.next(), Some(lib));
    }

    #[derive(Debug, Clone)]
    struct Shape {
        nodes: Vec<(Vec<usize>, u64, Vec<Claim>)>,
        /// Random numbers that choose the next package to end, used cyclically.
        chances: Vec<usize>,
        jobs: usize,
        failing: Vec<bool>,
    }

    fn shape() -> impl Strategy<Value = Shape> {
        let holds = prop_oneof![
            Just(Holds::Exclusive),
            (0..2_usize).prop_map(Holds::Contents)
        ];
        let claim = (0..4_usize, holds).prop_map(|(resource, holds)| Claim { resource, holds });
        let node = (
            prop::collection::vec(any::<prop::sample::Index>(), 0..4),
            0..20_u64,
            // At most one claim for each resource, because a package does not conflict with itself.
            prop::collection::vec(claim, 0..3).prop_map(|mut claims| {
                claims.sort_by_key(|claim| claim.resource);
                claims.dedup_by_key(|claim| claim.resource);
                claims
            }),
        );
        (
            prop::collection::vec(node, 0..40),
            prop::collection::vec(0..100_usize, 1..50),
            1..6_usize,
            prop::collection::vec(prop::bool::weighted(0.1), 40),
        )
            .prop_map(|(nodes, chances, jobs, failing)| Shape {
                nodes: nodes
                    .into_iter()
                    .enumerate()
                    .map(|(index, (dependencies, expected, claims))| {
                        let dependencies = match index {
                            0 => Vec::new(),
                            _ => dependencies.iter().map(|it| it.index(index)).collect(),
                        };
                        (dependencies, expected, claims)
                    })
                    .collect(),
                chances,
                jobs,
                failing,
            })
    }

    fn conflict(one: &[Claim], other: &[Claim]) -> bool {
        one.iter().any(|one| {
            other.iter().any(|other| {
                let same = match (one.holds, other.holds) {
                    (Holds::Contents(one), Holds::Contents(other)) => one == other,
                    _ => false,
                };
                one.resource == other.resource && !same
            })
        })
    }

    proptest! {
        #[test]
        fn every_package_runs_once_after_its_dependencies_or_is_skipped(shape in shape()) {
            let mut graph = Graph::default();
            let mut ids = Vec::new();
            for (dependencies, expected, claims) in &shape.nodes {
                let dependencies: Vec<Id> = dependencies.iter().map(|index| ids[*index]).collect();
                ids.push(graph.add(&dependencies, seconds(*expected), claims.clone()));
            }
            let mut queue = Queue::new(graph);
            let count = shape.nodes.len();
            let (mut started, mut done) = (vec![false; count], vec![false; count]);
            let (mut failed, mut skipped) = (vec![false; count], vec![false; count]);
            let mut running: Vec<usize> = Vec::new();
            for step in 0.. {
                while running.len() < shape.jobs && let Some(id) = queue.next() {
                    let index = id.index();
                    prop_assert!(!std::mem::replace(&mut started[index], true), "{index} runs twice");
                    prop_assert!(!skipped[index]);
                    prop_assert!(shape.nodes[index].0.iter().all(|needed| done[*needed]));
                    for other in &running {
                        prop_assert!(!conflict(&shape.nodes[index].2, &shape.nodes[*other].2));
                    }
                    running.push(index);
                }
                if running.is_empty() {
                    break;
                }
                let chance = shape.chances[step % shape.chances.len()];
                let index = running.swap_remove(chance % running.len());
                if shape.failing[index] {
                    failed[index] = true;
                    for id in queue.failed(ids[index]) {
                        prop_assert!(!std::mem::replace(&mut skipped[id.index()], true));
                    }
                } else {
                    done[index] = true;
                    queue.done(ids[index]);
                }
            }
            prop_assert_eq!(queue.not_started(), vec![]);
            // The expected result, computed independently.
            let mut lost = vec![false; count];
            for index in 0..count {
                lost[index] = shape.nodes[index].0.iter().any(|needed| failed[*needed] || lost[*needed]);
                prop_assert_eq!(skipped[index], lost[index]);
                prop_assert_eq!(started[index], !lost[index]);
            }
        }

        #[test]
        fn every_package_is_fetched_or_compiled_or_unneeded(
            shape in shape(),
            supplies in prop::collection::vec(0..4_usize, 40),
            arriving in prop::collection::vec(prop::bool::weighted(0.7), 40),
        ) {
            let mut graph = Graph::default();
            let mut ids = Vec::new();
            let all = [Supply::Compiled, Supply::Here, RESULT, DEPENDENCY];
            let supplies: Vec<Supply> = supplies.iter().map(|it| all[*it]).collect();
            for (index, (dependencies, expected, claims)) in shape.nodes.iter().enumerate() {
                let dependencies: Vec<Id> = match supplies[index] {
                    Supply::Here => Vec::new(),
                    _ => dependencies.iter().map(|index| ids[*index]).collect(),
                };
                let id = graph.add(&dependencies, seconds(*expected), claims.clone());
                graph.set_supply(id, supplies[index]);
                ids.push(id);
            }
            let mut queue = Queue::new(graph);
            let count = shape.nodes.len();
            let mut is_compiled: Vec<bool> = supplies[..count].iter().map(|it| *it == Supply::Compiled).collect();
            let (mut fetched, mut done) = (vec![false; count], vec![false; count]);
            let (mut started, mut lost) = (vec![false; count], vec![false; count]);
            // The index of each running package, and whether it is being fetched.
            let mut running: Vec<(usize, bool)> = Vec::new();
            for step in 0.. {
                while let Some(id) = queue.next_fetch(|_| true) {
                    prop_assert!(!std::mem::replace(&mut fetched[id.index()], true), "fetched twice");
                    running.push((id.index(), true));
                }
                while running.len() < shape.jobs && let Some(id) = queue.next() {
                    let index = id.index();
                    prop_assert!(!std::mem::replace(&mut started[index], true), "{index} runs twice");
                    prop_assert!(!lost[index]);
                    if is_compiled[index] {
                        prop_assert!(shape.nodes[index].0.iter().all(|needed| done[*needed]));
                    } else {
                        prop_assert!(supplies[index] == Supply::Here || fetched[index]);
                    }
                    running.push((index, false));
                }
                if running.is_empty() {
                    break;
                }
                let chance = shape.chances[step % shape.chances.len()];
                let (index, is_fetch) = running.swap_remove(chance % running.len());
                match (is_fetch, arriving[index], shape.failing[index]) {
                    (true, true, _) => queue.fetched(ids[index]),
                    (true, false, _) => {
                        is_compiled[index] = true;
                        queue.not_fetched(ids[index]).iter().for_each(|it| lost[it.index()] = true);
                    }
                    (false, _, true) => {
                        lost[index] = true;
                        queue.failed(ids[index]).iter().for_each(|it| lost[it.index()] = true);
                    }
                    (false, _, false) => {
                        done[index] = true;
                        queue.done(ids[index]);
                    }
                }
            }
            for index in 0..count {
                let dependents = (0..count).filter(|it| is_compiled[*it] && shape.nodes[*it].0.contains(&index));
                let is_used = dependents.clone().any(|it| started[it] || !lost[it]);
                match supplies[index] {
                    Supply::Compiled => prop_assert!(done[index] || lost[index]),
                    Supply::Here => prop_assert!(!is_used || done[index] || lost[index]),
                    Supply::Remote { is_result } => {
                        prop_assert!(fetched[index] || !is_result && !is_used);
                        let is_ended = done[index] || lost[index];
                        prop_assert!(is_ended || !is_compiled[index] && !is_used);
                        prop_assert!(!started[index] || is_compiled[index] || dependents.count() > 0);
                    }
                    Supply::Lost => prop_assert!(!started[index]),
                }
            }
        }

        #[test]
        fn the_same_graph_gives_the_same_order(shape in shape()) {
            let order = || {
                let mut graph = Graph::default();
                let mut ids = Vec::new();
                for (dependencies, expected, claims) in &shape.nodes {
                    let dependencies: Vec<Id> = dependencies.iter().map(|index| ids[*index]).collect();
                    ids.push(graph.add(&dependencies, seconds(*expected), claims.clone()));
                }
                let mut queue = Queue::new(graph);
                let mut order = Vec::new();
                while let Some(id) = queue.next() {
                    order.push(id);
                    queue.done(id);
                }
                order
            };
            prop_assert_eq!(order(), order());
        }
    }
}
