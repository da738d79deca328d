//! Merges the reports of the parts of a run, one for each stemcell, into one. No I/O.

use super::call_report::CallReport;
use super::summary;

/// The report of all parts; `None` without parts.
pub(super) fn merge(reports: Vec<CallReport>) -> Option<CallReport> {
    let mut reports = reports.into_iter();
    let mut merged = reports.next()?;
    let mut is_one = true;
    for report in reports {
        is_one = false;
        let offset = merged.packages.len();
        merged.isolation = merged.isolation.or(report.isolation);
        merged.jobs = merged.jobs.or(report.jobs);
        merged.fallback = merged.fallback.or(report.fallback);
        merged.outputs.extend(report.outputs);
        merged.releases.extend(report.releases);
        // A part that was not started has no inputs.
        if merged.inputs.is_empty() {
            merged.inputs = report.inputs;
        }
        let packages = report.packages.into_iter().map(|mut package| {
            package.id += offset;
            package.dependencies.iter_mut().for_each(|id| *id += offset);
            package
        });
        merged.packages.extend(packages);
    }
    if !is_one {
        merged.stemcell = None;
        merged.critical_path = summary::critical_path(&merged.packages);
        merged.summary = summary::of(&merged.packages);
    }
    Some(merged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::call_report::fixtures::{package, report};

    #[test]
    fn packages_of_later_parts_get_other_ids() {
        let part = |started| {
            let first = package(0, started, [0.0, 1.0, 2.0, 1.0], &[]);
            let second = package(1, started + 4.0, [0.0, 1.0, 2.0, 1.0], &[0]);
            report(vec![first, second])
        };
        let merged = merge(vec![part(0.0), part(10.0)]).unwrap();
        let ids: Vec<usize> = merged.packages.iter().map(|it| it.id).collect();
        assert_eq!(ids, [0, 1, 2, 3]);
        assert_eq!(merged.packages[3].dependencies, [2]);
        assert_eq!(merged.summary.map(|it| it.compiled), Some(4));
        assert!(merge(Vec::new()).is_none());
    }
}
