//! Which package is compiled next: a plain data structure that starts nothing and knows no clock.
//!
//! A package is ready when its dependencies are done. Of those that are ready the one comes first behind which the most work
//! waits: the longest way from it to the end, by the expected durations. Where that is equal, the one that was added first.
//!
//! Where a package gives its dependents a cache that is still empty, one of them runs before the others do: it fills the cache, and
//! the others would only do the same work at the same time. On few cores the others follow one after another, because two that run
//! at the same time also compile twice what they have in common and the first one did not compile.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// A package in a [`Graph`] and its [`Queue`]: its number, in the order of adding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(usize);

impl Id {
    /// The number, from 0.
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }
}

/// A place that a package uses while it is compiled, such as a name in a tree that several packages share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The place, by a number that the caller gives.
    pub place: usize,
    /// What for.
    pub holds: Holds,
}

/// What a place is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// Something that nobody else may meet there.
    Exclusive,
    /// These contents, which everybody who wants the same may use at the same time.
    Contents(usize),
}

/// Packages with what they need. A package can only depend on earlier ones, so there are no cycles.
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
    /// Adds a package. Dependencies that are named twice count once.
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

/// What of a graph is ready, running, done.
#[derive(Debug)]
pub struct Queue {
    nodes: Vec<Node>,
    /// The longest way from each package to the end, its own duration included.
    ways: Vec<Duration>,
    ready: BTreeSet<(Reverse<Duration>, Id)>,
    claimed: HashMap<usize, (Holds, usize)>,
    /// Packages whose dependents share a cache that is empty, and the dependent that fills it.
    unfilled: BTreeMap<Id, Option<Id>>,
    /// Whether all dependents that share a cache run one after another, until it counts as filled.
    one_at_a_time: bool,
}

impl Queue {
    /// The queue of all packages of a graph.
    #[must_use]
    pub fn new(graph: Graph) -> Self {
        let nodes = graph.nodes;
        let mut ways = vec![Duration::ZERO; nodes.len()];
        // Dependents come later in the graph, so their ways are known.
        for (index, node) in nodes.iter().enumerate().rev() {
            let behind = node.dependents.iter().map(|dependent| ways[dependent.0]);
            ways[index] = node
                .expected
                .saturating_add(behind.max().unwrap_or_default());
        }
        let mut queue = Self {
            nodes,
            ways,
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

    /// The next package to start, which counts as running from now on. `None` when none is ready, or what is ready claims
    /// places that are in use: then there will be one when something that runs has ended.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator that says `None` would be over"
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

    /// The queue in which dependents that share a cache run one after another until [`filled`](Self::filled) is called.
    #[must_use]
    pub fn filling_one_at_a_time(mut self, one_at_a_time: bool) -> Self {
        self.one_at_a_time = one_at_a_time;
        self
    }

    /// The dependents of a package share a cache that is empty: one of them runs first, until it is done or
    /// [`filled`](Self::filled) is called. If it fails, another one follows.
    pub fn fill_first(&mut self, dependency: Id) {
        self.unfilled.insert(dependency, None);
    }

    /// The other dependents need not wait any longer.
    pub fn filled(&mut self, dependency: Id) {
        self.unfilled.remove(&dependency);
    }

    /// The packages whose dependents wait for one of them.
    #[must_use]
    pub fn filling(&self) -> Vec<Id> {
        let filling = self.unfilled.iter().filter(|(_, filler)| filler.is_some());
        filling.map(|(dependency, _)| *dependency).collect()
    }

    /// The same for one that is only made ready while others run: `None`, too, where something that has a longer way to the end
    /// waits for one of those, for its turn would come later then.
    pub fn next_ahead(&mut self) -> Option<Id> {
        let (Reverse(way), _) = self.ready.iter().find(|(_, id)| self.is_free(*id))?;
        let waiting = self
            .nodes
            .iter()
            .filter(|node| node.state == State::Running)
            .flat_map(|node| &node.dependents)
            .map(|dependent| self.ways[dependent.0]);
        if waiting.max().is_some_and(|longest| longest > *way) {
            return None;
        }
        self.next()
    }

    /// A running package is done: those that waited for it alone become ready.
    pub fn done(&mut self, id: Id) {
        self.end(id, State::Done);
        for dependent in self.nodes[id.0].dependents.clone() {
            self.nodes[dependent.0].missing -= 1;
            self.offer(dependent);
        }
    }

    /// A running package has failed. Returns what can no longer be compiled because of it, in the order of adding, but for
    /// what was returned before.
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

    /// The packages that nothing keeps from being compiled but that they have not been started, in the order of adding.
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
            self.ready.insert((Reverse(self.ways[id.0]), id));
        }
    }

    fn is_free(&self, id: Id) -> bool {
        let node = &self.nodes[id.0];
        let is_filled = |dependency| !matches!(self.unfilled.get(dependency), Some(Some(_)));
        node.dependencies.iter().all(is_filled)
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
        debug_assert_eq!(node.state, State::Running, "{id:?} does not run");
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
                if state == State::Done && !self.one_at_a_time {
                    self.unfilled.remove(dependency);
                }
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
    fn what_the_longest_way_leads_through_comes_first() {
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
    fn what_is_made_ready_holds_up_nothing_more_urgent() {
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
    fn without_durations_packages_come_as_they_were_added() {
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
    fn a_place_is_shared_for_the_same_contents_only() {
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

    #[derive(Debug, Clone)]
    struct Shape {
        nodes: Vec<(Vec<usize>, u64, Vec<Claim>)>,
        /// Drawn from, again and again, for what happens next.
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
            // One claim for a place: a package does not stand in its own way.
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

    fn meet(one: &[Claim], other: &[Claim]) -> bool {
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
        fn every_package_runs_once_behind_its_dependencies_or_is_skipped(shape in shape()) {
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
                        prop_assert!(!meet(&shape.nodes[index].2, &shape.nodes[*other].2));
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
            // The same once more, by definition.
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
