//! The table of packages in the page. Each cell has its value in `data-value`, by which the page's script sorts.

use super::html::{duration, escaped, percent};
use crate::diag::Bytes;
use crate::offline::call_report::{CallReport, Package, PackageStatus, Script, Seconds};
use crate::offline::package_events::rounded;

/// The columns: title, whether they are sorted as numbers, explanation.
const COLUMNS: [(&str, bool, &str); 12] = [
    ("Package", false, ""),
    ("Version", false, ""),
    ("Release", false, ""),
    ("Status", false, ""),
    ("Start", true, "After the start of the run"),
    ("Total", true, "All phases, with waiting"),
    ("Wait", true, "Waiting for other packages"),
    (
        "Unpack",
        true,
        "Unpacking the source, installing dependencies",
    ),
    ("Script", true, "Running the packaging script"),
    ("Pack", true, "Packing, concurrently with dependents"),
    ("CPU", true, "CPU seconds of the last run of the script"),
    ("Memory", true, "The largest resident memory of one process"),
];

/// The column by which the table is sorted at first, with the largest value at the top.
const FIRST: &str = "Total";

/// Times below this, in seconds, are shown as `0.0s`.
const SHOWN: f64 = 0.05;

/// The maximum length of a version, in characters. A fingerprint has 40 or 64.
const VERSION: usize = 12;

pub(super) fn section(report: &CallReport) -> String {
    if report.packages.is_empty() {
        return String::new();
    }
    let total = |package: &Package| package.seconds.map(|it| it.total);
    let mut packages: Vec<&Package> = report.packages.iter().collect();
    packages.sort_by(|one, other| {
        let (one, other) = (total(one).unwrap_or(-1.0), total(other).unwrap_or(-1.0));
        other.total_cmp(&one)
    });
    let longest = packages.iter().filter_map(|it| total(it));
    let longest = longest.fold(0.0, f64::max);
    let rows: String = packages.iter().map(|it| row(it, longest, report)).collect();
    let head: String = COLUMNS.iter().map(column).collect();
    format!(
        "<section class=\"card\" aria-labelledby=\"packages\"><h2 id=\"packages\">Packages</h2>\n\
         <table role=\"table\" aria-labelledby=\"packages\"><thead role=\"rowgroup\"><tr role=\"row\">{head}</tr></thead>\n\
         <tbody role=\"rowgroup\">\n{rows}</tbody></table></section>"
    )
}

/// The text of a package's status.
pub(super) fn status_text(package: &Package) -> &'static str {
    match package.status {
        PackageStatus::Compiled if package.cached => "from the cache",
        PackageStatus::Compiled => "compiled",
        PackageStatus::Installed => "installed",
        PackageStatus::Failed => "failed",
        PackageStatus::Skipped => "skipped",
        PackageStatus::Stopped => "stopped",
        PackageStatus::NotStarted => "not started",
    }
}

fn column((title, is_number, explanation): &(&str, bool, &str)) -> String {
    let kind = if *is_number { " class=\"number\"" } else { "" };
    let sorted = match *title == FIRST {
        true => " aria-sort=\"descending\"",
        false => "",
    };
    let explained = match *explanation {
        "" => String::new(),
        text => format!(" title=\"{text}\""),
    };
    format!("<th role=\"columnheader\" scope=\"col\"{kind}{sorted}{explained}>{title}</th>")
}

fn row(package: &Package, longest: f64, report: &CallReport) -> String {
    let name = escaped(&package.name);
    let is_critical = report.critical_path.contains(&package.id);
    let critical = match is_critical {
        true => {
            "<span class=\"path\" title=\"On the critical path\"></span><span class=\"hidden\"> on the critical path</span>"
        }
        false => "",
    };
    let releases = package.releases.join(", ");
    let status = status_text(package);
    let class = match package.status {
        PackageStatus::Compiled | PackageStatus::Installed => "good",
        PackageStatus::Failed => "bad",
        PackageStatus::Skipped | PackageStatus::Stopped | PackageStatus::NotStarted => "odd",
    };
    format!(
        "<tr role=\"row\" id=\"package-{id}\"><th role=\"rowheader\" scope=\"row\" data-value=\"{name}\">\
         <a href=\"#log-{id}\">{name}</a>{critical}</th>{}\
         <td role=\"cell\" data-label=\"Release\" data-value=\"{releases}\">{releases}</td>\
         <td role=\"cell\" data-label=\"Status\" data-value=\"{status}\"><span class=\"badge {class}\">{status}</span></td>{}</tr>\n",
        version(&package.version),
        numbers(package, longest),
        id = package.id,
        releases = escaped(&releases),
    )
}

fn version(version: &str) -> String {
    let shown = match version.char_indices().nth(VERSION) {
        Some((end, _)) if version.len() > end + 1 => format!("{}…", &version[..end]),
        _ => version.to_owned(),
    };
    let (version, shown) = (escaped(version), escaped(&shown));
    format!(
        "<td role=\"cell\" data-label=\"Version\" data-value=\"{version}\"><code title=\"{version}\">{shown}</code></td>"
    )
}

fn numbers(package: &Package, longest: f64) -> String {
    let of = |part: fn(&Seconds) -> f64| package.seconds.as_ref().map(part);
    let script = package.script.as_ref();
    let total = of(|it| it.total);
    let share = total.map(|total| percent(total, longest));
    let cells = [
        time("Start", package.started, None),
        time("Total", total, share),
        time("Wait", of(|it| it.wait), None),
        time("Unpack", of(|it| it.unpack), None),
        time("Script", of(|it| it.script), None),
        time("Pack", of(|it| it.pack), None),
        time("CPU", script.map(cpu), None),
        memory(script),
    ];
    cells.concat()
}

/// A cell with seconds. `share` is the length of the bar behind it.
fn time(label: &str, seconds: Option<f64>, share: Option<String>) -> String {
    let class = match seconds {
        Some(seconds) if seconds < SHOWN => "number zero",
        _ if share.is_some() => "number share",
        _ => "number",
    };
    let share = share.map(|it| format!(" style=\"--share:{it}\""));
    let (value, shown) = (seconds.map(|it| it.to_string()), seconds.map(duration));
    cell(label, class, &share.unwrap_or_default(), value.zip(shown))
}

fn memory(script: Option<&Script>) -> String {
    let bytes = script.map(|it| it.max_memory);
    let texts = bytes.map(|it| (it.to_string(), Bytes(it).to_string()));
    cell("Memory", "number", "", texts)
}

/// A cell with a value and the text that shows it.
fn cell(label: &str, class: &str, style: &str, texts: Option<(String, String)>) -> String {
    let (value, shown) = texts.unwrap_or_else(|| (String::new(), "–".to_owned()));
    format!(
        "<td role=\"cell\" class=\"{class}\" data-label=\"{label}\" data-value=\"{value}\"{style}>{shown}</td>"
    )
}

/// CPU seconds of a script and its descendants.
fn cpu(script: &Script) -> f64 {
    rounded(script.user_seconds + script.system_seconds)
}
