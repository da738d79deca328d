//! The top of the page of timings: what was compiled, how the run ended, its times, its errors.

use super::html::{counted, duration, escaped};
use crate::offline::call_report::{CallReport, CallResult, PackageStatus, Release};

/// If the critical path has more packages than this, only the first and the last are named.
const NAMED: usize = 3;

/// The title of the page.
pub(super) fn title(report: &CallReport) -> String {
    match report.releases.as_slice() {
        [] => "Releases".to_owned(),
        [only] => label(only),
        [first, .., last] => match report.releases.len() {
            2 => format!("{} and {}", label(first), label(last)),
            count => format!("{} and {} more releases", label(first), count - 1),
        },
    }
}

/// Names the program that wrote the page.
pub(super) fn agent(report: &CallReport) -> String {
    let agent = &report.agent;
    format!(
        "bosh-agent {} ({}, {})",
        agent.version, agent.commit, agent.target
    )
}

pub(super) fn header(report: &CallReport) -> String {
    let (class, result) = match report.result {
        CallResult::Written => ("good", "Compiled"),
        CallResult::Failed => ("bad", "Failed"),
        CallResult::Stopped => ("odd", "Stopped"),
    };
    let stemcell = report.stemcell.as_deref();
    let stemcell = stemcell.map(|it| fact("Stemcell", it)).unwrap_or_default();
    let isolation = report.isolation.map(|it| fact("Isolation", it));
    let releases = match report.releases.as_slice() {
        [] => inputs(report),
        [_] => String::new(),
        several => {
            let releases: Vec<String> = several.iter().map(label).collect();
            fact("Releases", &releases.join(", "))
        }
    };
    format!(
        "<div class=\"title\"><h1>{}</h1><span class=\"badge {class}\">{result}</span></div>\n\
         <dl class=\"facts\">{releases}{stemcell}{}{}</dl>\n<dl class=\"figures\">{}</dl>",
        escaped(&title(report)),
        isolation.unwrap_or_default(),
        fact("Started", &date(&report.started)),
        figures(report),
    )
}

/// The errors of a run that has failed.
pub(super) fn errors(report: &CallReport) -> String {
    if report.errors.is_empty() {
        return String::new();
    }
    let errors = report.errors.iter();
    let errors: String = errors
        .map(|it| format!("<li>{}</li>", escaped(it)))
        .collect();
    let title = match report.errors.len() {
        1 => "Error".to_owned(),
        count => counted(count, "error"),
    };
    format!(
        "<section class=\"card errors\" aria-labelledby=\"errors\"><h2 id=\"errors\">{title}</h2><ul>{errors}</ul></section>"
    )
}

fn figures(report: &CallReport) -> String {
    let mut figures = vec![figure("Total time", &duration(report.seconds), "")];
    let Some(summary) = &report.summary else {
        return figures.concat();
    };
    let is_failed = |status| status == PackageStatus::Failed;
    let failed = report.packages.iter().filter(|it| is_failed(it.status));
    let rest = match failed.count() {
        0 => String::new(),
        count => format!("{count} failed"),
    };
    let compiled = match summary.compiled == summary.to_compile {
        true => summary.compiled.to_string(),
        false => format!("{} of {}", summary.compiled, summary.to_compile),
    };
    figures.push(figure("Packages compiled", &compiled, &rest));
    if let Some(jobs) = report.jobs {
        figures.push(figure("Concurrent packages", &jobs.to_string(), "at most"));
    }
    let work = duration(summary.seconds.work());
    if let Some(gain) = summary.gain {
        let note = format!("{work} of work in {}", duration(summary.elapsed));
        figures.push(figure("Parallel gain", &format!("{gain:.1}×"), &note));
    }
    let path_time = duration(summary.critical_path_seconds);
    figures.push(figure("Critical path", &path_time, &path(report)));
    figures.concat()
}

/// A date for people: `2026-01-31 12:00:00 UTC` for `2026-01-31T12:00:00.123Z`.
fn date(timestamp: &str) -> String {
    let seconds = timestamp.split(['.', 'Z']).next().unwrap_or(timestamp);
    format!("{} UTC", seconds.replace('T', " "))
}

/// The packages on the critical path, by name if they are few.
fn path(report: &CallReport) -> String {
    let ids = report.critical_path.iter();
    let packages = ids.filter_map(|id| report.packages.get(*id));
    let names: Vec<&str> = packages.map(|it| it.name.as_str()).collect();
    match names.as_slice() {
        [first, .., last] if names.len() > NAMED => {
            let between = counted(names.len() - 2, "package");
            format!("{first} → {between} → {last}")
        }
        few => few.join(" → "),
    }
}

/// The tarballs, for a run that has read none of them.
fn inputs(report: &CallReport) -> String {
    let paths: Vec<&str> = report.inputs.iter().map(|it| it.path.as_str()).collect();
    fact("Tarballs", &paths.join(", "))
}

fn fact(name: &str, value: &str) -> String {
    format!("<div><dt>{name}</dt><dd>{}</dd></div>", escaped(value))
}

fn figure(name: &str, value: &str, note: &str) -> String {
    let note = match note {
        "" => String::new(),
        note => format!("<dd class=\"note\">{}</dd>", escaped(note)),
    };
    format!(
        "<div><dt>{name}</dt><dd>{}</dd>{note}</div>",
        escaped(value)
    )
}

fn label(release: &Release) -> String {
    format!("{}/{}", release.name, release.version)
}
