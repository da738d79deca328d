//! The part of the page with the last lines of each package's script, and why a package failed or ran twice.

use super::html::{counted, escaped};
use crate::offline::call_report::{
    CallReport, Failure, Package, PackageStatus, SecondRun, SecondRunWith,
};

pub(super) fn section(report: &CallReport) -> String {
    if report.packages.is_empty() {
        return String::new();
    }
    let (silent, others): (Vec<&Package>, Vec<&Package>) =
        report.packages.iter().partition(|it| is_silent(it));
    // Failed packages come first.
    let (failed, others): (Vec<&Package>, Vec<&Package>) = others
        .into_iter()
        .partition(|it| it.status == PackageStatus::Failed);
    let logs: String = failed.into_iter().chain(others).map(log).collect();
    format!(
        "<section class=\"card\" aria-labelledby=\"logs\"><h2 id=\"logs\">Last lines of the logs</h2>\n{logs}{}</section>",
        without_output(&silent)
    )
}

/// Whether there is nothing to show about a package.
fn is_silent(package: &Package) -> bool {
    package.last_lines.is_empty() && package.failure.is_none() && package.second_run.is_none()
}

/// A line with the packages without output. Each has the path of its log as a tooltip.
fn without_output(packages: &[&Package]) -> String {
    if packages.is_empty() {
        return String::new();
    }
    let names = packages.iter().map(|package| {
        let log = package.log.as_deref().unwrap_or("no log");
        let (name, log) = (escaped(&package.name), escaped(log));
        format!(
            "<span id=\"log-{}\" title=\"{log}\">{name}</span>",
            package.id
        )
    });
    let names: Vec<String> = names.collect();
    format!(
        "<p class=\"note silent\">No output, except traced commands: {}</p>",
        names.join(", ")
    )
}

fn log(package: &Package) -> String {
    let failure = package.failure.as_ref();
    let lines = failure.map_or(&package.last_lines, |it| &it.last_lines);
    let (class, open) = match package.status == PackageStatus::Failed {
        true => (" class=\"failed\"", " open"),
        false => ("", ""),
    };
    let count = match lines.len() {
        0 => "no output".to_owned(),
        count => counted(count, "line"),
    };
    let second_run = package.second_run.as_ref();
    let path = failure
        .and_then(|it| it.log.as_deref())
        .or(package.log.as_deref());
    let path = path.map(|it| format!("<p class=\"note\">Log: <code>{}</code></p>", escaped(it)));
    let text = match lines.is_empty() {
        true => String::new(),
        // An HTML parser removes the first line end.
        false => format!("<pre>\n{}</pre>", escaped(&lines.join("\n"))),
    };
    format!(
        "<details{class}{open}><summary>{} <span class=\"note\">{count}</span></summary><div id=\"log-{}\">{}{}{text}{}</div></details>\n",
        escaped(&package.name),
        package.id,
        failure.map(message).unwrap_or_default(),
        second_run.map(reason).unwrap_or_default(),
        path.unwrap_or_default(),
    )
}

/// Why a package failed.
fn message(failure: &Failure) -> String {
    let line = failure.error_line.as_ref();
    let line = line.map(|line| {
        let text = escaped(&line.text);
        format!("<p>Line {} of the log:</p><pre>\n{text}</pre>", line.number)
    });
    let message = escaped(&failure.message);
    format!(
        "<p class=\"message\">{message}</p>{}",
        line.unwrap_or_default()
    )
}

/// Why a package ran twice.
fn reason(second: &SecondRun) -> String {
    let how = match second.with {
        SecondRunWith::NoRestrictions => "without restrictions",
        SecondRunWith::CopiedDependencies => "with copies of its dependencies",
    };
    let reason = escaped(&second.reason);
    format!("<p class=\"message\">The script ran again {how}. The first run: {reason}</p>")
}
