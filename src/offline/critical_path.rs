//! Finds the critical path of packages: the chain of dependencies that takes longest. A higher `--jobs` cannot make it faster. No I/O.

use std::time::Duration;

/// The times of a package.
#[derive(Debug, Clone)]
pub(super) struct Timed {
    /// The indices of the direct dependencies, which are smaller than the package's own index.
    pub dependencies: Vec<usize>,
    /// The time from the package's start until dependents can start.
    pub until_installed: Duration,
    /// The time from the package's start until it is done.
    pub total: Duration,
}

/// The critical path.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct CriticalPath {
    /// The indices of the packages on the path. Each package follows its dependency.
    pub packages: Vec<usize>,
    /// The total time of the path.
    pub time: Duration,
}

/// The critical path of a graph; empty if no package takes time. Of several paths with the same time, the one whose last package has the
/// smallest index.
pub(super) fn of(packages: &[Timed]) -> CriticalPath {
    // For each package, the earliest time at which it can be installed, and the dependency that determines this time.
    let mut earliest: Vec<(Duration, Option<usize>)> = Vec::with_capacity(packages.len());
    let mut last: Option<(Duration, usize)> = None;
    for (index, package) in packages.iter().enumerate() {
        let mut start: (Duration, Option<usize>) = (Duration::ZERO, None);
        for &dependency in &package.dependencies {
            if let Some((installed, _)) = earliest.get(dependency)
                && (start.1.is_none() || *installed > start.0)
            {
                start = (*installed, Some(dependency));
            }
        }
        let end = start.0.saturating_add(package.total);
        if !package.total.is_zero() && last.is_none_or(|(latest, _)| end > latest) {
            last = Some((end, index));
        }
        earliest.push((start.0.saturating_add(package.until_installed), start.1));
    }
    let mut path = CriticalPath::default();
    let mut next = last.map(|(time, index)| {
        path.time = time;
        index
    });
    while let Some(index) = next {
        path.packages.push(index);
        next = earliest[index].1;
    }
    path.packages.reverse();
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packages as the seconds until they are installed, the seconds until they are done, and their dependencies.
    fn path(packages: &[(u64, u64, &[usize])]) -> (Vec<usize>, u64) {
        let packages: Vec<Timed> = packages
            .iter()
            .map(|(installed, total, dependencies)| Timed {
                dependencies: dependencies.to_vec(),
                until_installed: Duration::from_secs(*installed),
                total: Duration::from_secs(*total),
            })
            .collect();
        let path = of(&packages);
        (path.packages, path.time.as_secs())
    }

    #[test]
    fn critical_path_is_the_longest_chain() {
        let chain: [(u64, u64, &[usize]); 5] = [
            (2, 2, &[]),
            (3, 3, &[]),
            (10, 10, &[0]),
            (4, 4, &[1, 0]),
            (1, 1, &[2, 3]),
        ];
        assert_eq!(path(&chain), (vec![0, 2, 4], 13));
        assert_eq!(
            path(&[(9, 9, &[]), (3, 3, &[]), (4, 4, &[1])]),
            (vec![0], 9)
        );
        assert_eq!(path(&[(1, 1, &[]), (1, 1, &[])]), (vec![0], 1));
        assert_eq!(path(&[(0, 0, &[]), (0, 0, &[0])]), (vec![], 0));
        assert_eq!(path(&[]), (vec![], 0));
    }

    #[test]
    fn packing_delays_no_dependent() {
        assert_eq!(path(&[(2, 9, &[]), (3, 4, &[0])]), (vec![0], 9));
        assert_eq!(path(&[(2, 9, &[]), (3, 8, &[0])]), (vec![0, 1], 10));
    }
}
