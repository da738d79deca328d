//! Summarizes the packages of a run: the slowest ones, the critical path, and the gain from compiling concurrently.

use std::time::Duration;

use super::call_report::{Package, PackageStatus, Seconds, Summary};
use super::critical_path::{self, Timed};
use super::package_events::rounded;
use crate::diag::Elapsed;

/// The maximum number of slowest packages that are printed.
const SLOWEST: usize = 5;

/// The maximum number of packages of the critical path that are printed with their times.
const PATH: usize = 5;

/// The minimum time of a package that gets a line, in seconds.
const NOTABLE: f64 = 1.0;

/// The summary of the packages; `None` if none was started.
pub(super) fn of(packages: &[Package]) -> Option<Summary> {
    let runs = packages.iter().filter_map(|it| it.started.zip(it.seconds));
    let (mut first, mut last, mut sums) = (f64::INFINITY, 0.0_f64, Seconds::default());
    for (started, seconds) in runs {
        first = first.min(started);
        last = last.max(started + seconds.total);
        sums = added(sums, seconds);
    }
    if first.is_infinite() {
        return None;
    }
    let elapsed = rounded(last - first);
    let path = critical_path(packages);
    let sources = packages.iter().filter(|it| !it.precompiled && !it.cached);
    let compiled = packages.iter().filter(|it| is_compiled(it));
    Some(Summary {
        compiled: compiled.count(),
        to_compile: sources.count(),
        seconds: sums,
        elapsed,
        gain: (elapsed > 0.0).then(|| rounded(sums.work() / elapsed)),
        critical_path_seconds: rounded(
            times_on(&path, packages).iter().map(|(_, time)| time).sum(),
        ),
    })
}

/// The ids of the packages on the critical path. Waiting times do not count. In `packages`, each package must follow its dependencies.
pub(super) fn critical_path(packages: &[Package]) -> Vec<usize> {
    let time = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let timed = packages.iter().map(|package| {
        let seconds = package.seconds.unwrap_or_default();
        Timed {
            dependencies: package.dependencies.clone(),
            until_installed: time(until_installed(&seconds)),
            total: time(seconds.work()),
        }
    });
    critical_path::of(&timed.collect::<Vec<_>>()).packages
}

/// The summary as text: at most eight lines, none for fewer than two compiled packages. `run` is the time of the whole run.
/// `is_complete` is whether the run succeeded. After a failure, there is only one line, about the compiled packages.
pub(super) fn lines(
    packages: &[Package],
    jobs: Option<usize>,
    run: Duration,
    is_complete: bool,
) -> Vec<String> {
    let Some(summary) = of(packages).filter(|it| it.compiled > 1) else {
        return Vec::new();
    };
    let mut lines = vec![first_line(&summary, jobs, run)];
    if is_complete {
        lines.extend(path_line(&summary, packages));
        lines.extend(slowest_lines(&summary, packages));
    }
    lines
}

fn first_line(summary: &Summary, jobs: Option<usize>, run: Duration) -> String {
    let compiled = match summary.compiled == summary.to_compile {
        true => summary.compiled.to_string(),
        false => format!("{} of {}", summary.compiled, summary.to_compile),
    };
    let jobs = jobs.map_or_else(String::new, |jobs| format!(" with --jobs {jobs}"));
    let elapsed = shown(summary.elapsed);
    let whole = match run.as_secs_f64() - summary.elapsed >= NOTABLE {
        true => format!(" (whole run: {})", Elapsed(run)),
        false => String::new(),
    };
    let work = summary.seconds.work();
    let gain = match summary.gain {
        Some(gain) if gain >= 1.05 && work >= NOTABLE => format!(
            "; their times add up to {}, {gain:.1} times as much",
            shown(work)
        ),
        _ => String::new(),
    };
    format!("Compiled {compiled} packages{jobs} in {elapsed}{whole}{gain}")
}

/// The critical path, if it has more than one package.
fn path_line(summary: &Summary, packages: &[Package]) -> Option<String> {
    let path = critical_path(packages);
    if path.len() < 2 || summary.critical_path_seconds < NOTABLE {
        return None;
    }
    let times = times_on(&path, packages);
    let mut longest: Vec<f64> = times.iter().map(|(_, time)| *time).collect();
    longest.sort_by(|one, other| other.total_cmp(one));
    let least = longest.get(PATH - 1).copied().unwrap_or(0.0);
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for (id, time) in times {
        if time >= least && named.len() < PATH {
            named.push(format!("{} {}", packages[id].name, shown(time)));
        } else {
            others.push(time);
        }
    }
    let rest = match others.len() {
        0 => String::new(),
        count => format!(", {count} more {}", shown(others.iter().sum())),
    };
    Some(format!(
        "Critical path, which a higher --jobs does not shorten: {} ({}{rest})",
        shown(summary.critical_path_seconds),
        named.join(", "),
    ))
}

/// The slowest packages, at most half of the compiled ones.
fn slowest_lines(summary: &Summary, packages: &[Package]) -> Vec<String> {
    let compiled = packages.iter().filter(|it| is_compiled(it));
    let timed = compiled.filter_map(|package| Some((package, package.seconds?)));
    let mut slowest: Vec<(&Package, Seconds)> = timed
        .filter(|(_, seconds)| seconds.work() >= NOTABLE)
        .collect();
    slowest.sort_by(|(_, one), (_, other)| other.work().total_cmp(&one.work()));
    slowest.truncate(SLOWEST.min(summary.compiled.div_ceil(2)));
    let times: Vec<String> = slowest.iter().map(|(_, it)| shown(it.work())).collect();
    let width = times.iter().map(String::len).max().unwrap_or_default();
    let lines = slowest
        .iter()
        .zip(&times)
        .map(|((package, seconds), time)| {
            let waited = match seconds.wait >= NOTABLE {
                true => format!(", after {} of waiting", shown(seconds.wait)),
                false => String::new(),
            };
            format!(
                "  {time:>width$}  {}/{}{waited}",
                package.name, package.version
            )
        });
    let lines: Vec<String> = lines.collect();
    let title = match lines.len() {
        0 => return lines,
        1 => "Slowest package:",
        _ => "Slowest packages:",
    };
    std::iter::once(title.to_owned()).chain(lines).collect()
}

/// The packages of a critical path with the seconds that each adds to the path. Packing counts only for the last package.
fn times_on(path: &[usize], packages: &[Package]) -> Vec<(usize, f64)> {
    let last = path.last().copied();
    let times = path.iter().map(|id| {
        let seconds = packages[*id].seconds.unwrap_or_default();
        let time = match Some(*id) == last {
            true => seconds.work(),
            false => until_installed(&seconds),
        };
        (*id, time)
    });
    times.collect()
}

/// The seconds of work until dependents can start. They do not wait for packing.
fn until_installed(seconds: &Seconds) -> f64 {
    seconds.unpack + seconds.script
}

fn is_compiled(package: &Package) -> bool {
    package.status == PackageStatus::Compiled && !package.cached
}

fn added(one: Seconds, other: Seconds) -> Seconds {
    Seconds {
        total: rounded(one.total + other.total),
        wait: rounded(one.wait + other.wait),
        unpack: rounded(one.unpack + other.unpack),
        script: rounded(one.script + other.script),
        pack: rounded(one.pack + other.pack),
    }
}

fn shown(seconds: f64) -> String {
    Elapsed(Duration::try_from_secs_f64(seconds).unwrap_or_default()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::call_report::fixtures::package;

    fn lines_of(packages: &[Package]) -> Vec<String> {
        lines(packages, Some(2), Duration::from_secs(130), true)
    }

    /// A chain of two, and two packages next to it.
    fn four() -> Vec<Package> {
        vec![
            package(0, 10.0, [0.0, 1.0, 59.0, 20.0], &[]),
            package(1, 10.0, [0.0, 1.0, 29.0, 0.0], &[]),
            package(2, 70.0, [5.0, 2.0, 30.0, 3.0], &[0, 1]),
            package(3, 40.0, [0.0, 0.0, 0.5, 0.0], &[]),
        ]
    }

    #[test]
    fn critical_path_leaves_out_waits_and_concurrent_packing() {
        let packages = four();
        assert_eq!(critical_path(&packages), [0, 2]);
        let summary = of(&packages).unwrap();
        assert_eq!(summary.critical_path_seconds, 95.0);
        assert_eq!(summary.elapsed, 100.0);
        assert_eq!((summary.seconds.total, summary.seconds.wait), (150.5, 5.0));
        assert_eq!(summary.gain, Some(1.455));
    }

    #[test]
    fn packing_of_a_dependency_can_end_the_critical_path() {
        let packages = [
            package(0, 0.0, [0.0, 0.0, 5.0, 60.0], &[]),
            package(1, 5.0, [0.0, 0.0, 5.0, 0.0], &[0]),
        ];
        assert_eq!(critical_path(&packages), [0]);
        assert_eq!(of(&packages).unwrap().critical_path_seconds, 65.0);
        assert!(critical_path(&[]).is_empty());
    }

    #[test]
    fn summary_names_path_and_slowest_packages() {
        assert_eq!(
            lines_of(&four()),
            [
                "Compiled 4 packages with --jobs 2 in 1m40s (whole run: 2m10s); their times add up to 2m25s, 1.5 times as much",
                "Critical path, which a higher --jobs does not shorten: 1m35s (p0 1m00s, p2 35.0s)",
                "Slowest packages:",
                "  1m20s  p0/v0",
                "  35.0s  p2/v2, after 5.0s of waiting",
            ]
        );
    }

    #[test]
    fn summary_has_at_most_eight_lines() {
        let mut packages = vec![package(0, 0.0, [0.0, 0.0, 1.0, 0.0], &[])];
        for id in 1..30 {
            packages.push(package(id, 2.0, [2.0, 0.0, id as f64, 0.0], &[id - 1]));
        }
        let lines = lines_of(&packages);
        assert_eq!(lines.len(), 8, "{lines:#?}");
        assert_eq!(
            lines[1],
            "Critical path, which a higher --jobs does not shorten: 7m16s (p25 25.0s, p26 26.0s, p27 27.0s, p28 28.0s, p29 29.0s, 25 more 5m01s)"
        );
    }

    #[test]
    fn small_runs_have_short_summaries() {
        let one = [package(0, 0.0, [0.0, 0.0, 99.0, 0.0], &[])];
        assert!(lines_of(&one).is_empty());
        let two = [
            package(0, 0.0, [0.0, 0.0, 0.4, 0.0], &[]),
            package(1, 0.6, [0.0, 0.0, 0.4, 0.0], &[0]),
        ];
        assert_eq!(
            lines(&two, Some(1), Duration::from_secs(1), true),
            ["Compiled 2 packages with --jobs 1 in 1.0s"]
        );
    }

    #[test]
    fn failed_call_has_one_line() {
        let mut packages = four();
        packages[2].status = PackageStatus::Failed;
        assert_eq!(
            lines(&packages, None, Duration::from_secs(100), false),
            ["Compiled 3 of 4 packages in 1m40s; their times add up to 2m25s, 1.5 times as much"]
        );
    }
}
