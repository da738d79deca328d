//! Decides which package is compiled next: a plain data structure that starts no tasks and reads no clock.
//!
//! A package is ready when its dependencies are done. The ready package on the critical path starts first: its chain of dependents has
//! the longest total expected duration. Among equals, the package that was added first starts first.
//!
//! If a package gives its dependents an empty cache, one of them runs before the others and fills it. If they all ran at once, each
//! would do the same work. With few cores, the others then also run one at a time: two of them may share code that the first package did
//! not need, and both would compile it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// The number of a package in a [`Graph`] and its [`Queue`], in the order of adding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(usize);

impl Id {
    /// The number, from 0.
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }
}

/// A resource that a package uses while it is compiled, such as a name in a shared tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The number of the resource, which the caller chooses.
    pub place: usize,
    /// How the package uses it.
    pub holds: Holds,
}

/// How a package uses a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// No other package may use it.
    Exclusive,
    /// All packages that need the same contents may use it.
    Contents(usize),
}

/// Packages with their dependencies. A package can only depend on earlier ones, so there are no cycles.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    dependencies: Vec<Id>,
    dependents: Vec<Id>,
    /// Dependencies that are not done.
    missing: usize,
    expected: Duration,
    claims: Vec<Claim>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Done,
    Failed,
    Skipped,
}

impl Graph {
    /// Adds a package. Repeated dependencies count once.
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
            missing: dependencies.len(),
            dependencies,
            expected,
            claims,
            state: State::Waiting,
        });
        id
    }
}

/// The state of the packages of a graph.
#[derive(Debug)]
pub struct Queue {
    nodes: Vec<Node>,
    /// For each package, the expected duration of its longest chain of dependents, including the package itself.
    paths: Vec<Duration>,
    ready: BTreeSet<(Reverse<Duration>, Id)>,
    claimed: HashMap<usize, (Holds, usize)>,
    /// Packages whose dependents share an empty cache, each with the dependent that fills it.
    unfilled: BTreeMap<Id, Option<Id>>,
    /// Whether all dependents that share a cache run one after another, until it counts as filled.
    one_at_a_time: bool,
}

impl Queue {
    /// The queue of all packages of a graph.
    #[must_use]
    pub fn new(graph: Graph) -> Self {
        let nodes = graph.nodes;
        let mut paths = vec![Duration::ZERO; nodes.len()];
        // Dependents come later in the graph, so their paths are known.
        for (index, node) in nodes.iter().enumerate().rev() {
            let behind = node.dependents.iter().map(|dependent| paths[dependent.0]);
            paths[index] = node
                .expected
                .saturating_add(behind.max().unwrap_or_default());
        }
        let mut queue = Self {
            nodes,
            paths,
            ready: BTreeSet::new(),
            claimed: HashMap::new(),
            unfilled: BTreeMap::new(),
            one_at_a_time: false,
        };
        for index in 0..queue.nodes.len() {
            queue.offer(Id(index));
        }
        queue
    }

    /// The next package to start, which then counts as running. `None` if no package is ready, or if all ready ones claim places that
    /// are in use.
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
                .entry(claim.place)
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

    /// Sets whether dependents that share a cache run one after another until [`filled`](Self::filled) is called.
    #[must_use]
    pub fn filling_one_at_a_time(mut self, one_at_a_time: bool) -> Self {
        self.one_at_a_time = one_at_a_time;
        self
    }

    /// Records that the dependents of a package share an empty cache. Only one of them runs until it is done or
    /// [`filled`](Self::filled) is called. If it fails, the next one runs alone.
    pub fn fill_first(&mut self, dependency: Id) {
        self.unfilled.insert(dependency, None);
    }

    /// Records that a package's cache is filled: all its dependents may run.
    pub fn filled(&mut self, dependency: Id) {
        self.unfilled.remove(&dependency);
    }

    /// Records that the dependent that fills a package's cache leaves CPUs idle: the next one may start.
    pub fn let_next_fill(&mut self, dependency: Id) {
        if let Some(filler) = self.unfilled.get_mut(&dependency) {
            *filler = None;
        }
    }

    /// The packages for which one dependent fills the cache while the other dependents wait.
    #[must_use]
    pub fn filling(&self) -> Vec<Id> {
        let filling = self.unfilled.iter().filter(|(_, filler)| filler.is_some());
        filling.map(|(dependency, _)| *dependency).collect()
    }

    /// The next package to prepare while others run. Also returns `None` if a package with a longer path waits for a running package: a
    /// prepared package would delay it.
    pub fn next_ahead(&mut self) -> Option<Id> {
        let (Reverse(path), _) = self.ready.iter().find(|(_, id)| self.is_free(*id))?;
        let waiting = self
            .nodes
            .iter()
            .filter(|node| node.state == State::Running)
            .flat_map(|node| &node.dependents)
            .map(|dependent| self.paths[dependent.0]);
        if waiting.max().is_some_and(|longest| longest > *path) {
            return None;
        }
        self.next()
    }

    /// A running package is done: dependents without other missing dependencies become ready.
    pub fn done(&mut self, id: Id) {
        self.end(id, State::Done);
        for dependent in self.nodes[id.0].dependents.clone() {
            self.nodes[dependent.0].missing -= 1;
            self.offer(dependent);
        }
    }

    /// A running package has failed. Returns the packages that can no longer be compiled, in the order of adding, except those that
    /// were returned before.
    pub fn failed(&mut self, id: Id) -> Vec<Id> {
        self.end(id, State::Failed);
        let mut skipped = Vec::new();
        let mut next = self.nodes[id.0].dependents.clone();
        while let Some(id) = next.pop() {
            let node = &mut self.nodes[id.0];
            if node.state == State::Waiting {
                node.state = State::Skipped;
                skipped.push(id);
                next.extend(&node.dependents);
            }
        }
        skipped.sort_unstable();
        skipped
    }

    /// The packages that were neither started nor skipped, in the order of adding.
    #[must_use]
    pub fn not_started(&self) -> Vec<Id> {
        (0..self.nodes.len())
            .map(Id)
            .filter(|id| self.nodes[id.0].state == State::Waiting)
            .collect()
    }

    fn offer(&mut self, id: Id) {
        let node = &self.nodes[id.0];
        if node.missing == 0 && node.state == State::Waiting {
            self.ready.insert((Reverse(self.paths[id.0]), id));
        }
    }

    fn is_free(&self, id: Id) -> bool {
        let node = &self.nodes[id.0];
        let has_no_filler = |dependency| !matches!(self.unfilled.get(dependency), Some(Some(_)));
        node.dependencies.iter().all(has_no_filler)
            && node.claims.iter().all(
                |claim| match (self.claimed.get(&claim.place), claim.holds) {
                    (None, _) => true,
                    (Some((Holds::Contents(there), _)), Holds::Contents(wanted)) => {
                        *there == wanted
                    }
                    (Some(_), _) => false,
                },
            )
    }

    fn end(&mut self, id: Id, state: State) {
        let node = &mut self.nodes[id.0];
        debug_assert_eq!(node.state, State::Running, "{id:?} is not running");
        node.state = state;
        for claim in &node.claims {
            if let Some((_, count)) = self.claimed.get_mut(&claim.place) {
                *count -= 1;
                if *count == 0 {
                    self.claimed.remove(&claim.place);
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
        let behind = graph.add(&[long], seconds(9), Vec::new());
        let equal = graph.add(&[], seconds(5), Vec::new());
        let mut queue = Queue::new(graph);
        assert_eq!(queue.next(), Some(long));
        assert_eq!(queue.next(), Some(short));
        queue.done(long);
        assert_eq!(queue.next(), Some(behind));
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
    fn place_is_shared_for_the_same_contents_only() {
        let claim = |place, holds| Claim { place, holds };
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
    fn dependents_run_when_the_cache_counts_as_filled() {
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
        let claim = (0..4_usize, holds).prop_map(|(place, holds)| Claim { place, holds });
        let node = (
            prop::collection::vec(any::<prop::sample::Index>(), 0..4),
            0..20_u64,
            // One claim for each place: a package does not conflict with itself.
            prop::collection::vec(claim, 0..3).prop_map(|mut claims| {
                claims.sort_by_key(|claim| claim.place);
                claims.dedup_by_key(|claim| claim.place);
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
                one.place == other.place && !same
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
