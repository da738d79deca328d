//! The timeline in the HTML page of `--timings`: a bar for each package, divided into the package's phases. Packages whose times do not
//! overlap share a row.

use super::html::{duration, escaped, percent};
use super::layout::{assign_rows, label, ticks};
use super::table::status_text;
use crate::offline::call_report::{CallReport, Package, PackageStatus, Phase, PhaseName, Seconds};

/// The fraction of the axis after which there are no more ticks, because their labels would not fit.
const LAST_TICK: f64 = 0.95;

/// The final part of the axis, as a fraction. If the last bar of a row starts in this part, the name of its package
/// begins before the bar.
const END_OF_AXIS: f64 = 0.1;

/// The maximum space between the beginning of a name and its bar, as a fraction of the axis.
const NAME_SPACE: f64 = 0.2;

/// A package that was started.
struct Bar<'a> {
    package: &'a Package,
    start: f64,
    seconds: Seconds,
    is_critical: bool,
}

impl Bar<'_> {
    fn end(&self) -> f64 {
        self.start + self.seconds.total
    }
}

pub(super) fn section(report: &CallReport) -> String {
    let bars: Vec<Bar<'_>> = report
        .packages
        .iter()
        .filter_map(|it| bar(report, it))
        .collect();
    if bars.is_empty() {
        return String::new();
    }
    let end = bars.iter().map(Bar::end).fold(report.seconds, f64::max);
    let intervals: Vec<(f64, f64)> = bars.iter().map(|it| (it.start, it.end())).collect();
    let rows = assign_rows(&intervals);
    let rows: String = rows.iter().map(|it| row(it, &bars, end)).collect();
    let ticks = ticks(end).into_iter().filter(|it| *it <= end * LAST_TICK);
    let axis: String = ticks.map(|it| tick(it, end)).collect();
    format!(
        "<section class=\"card\" aria-labelledby=\"timeline\"><h2 id=\"timeline\">Timeline</h2>{LEGEND}\n\
         <div class=\"scroll\" role=\"group\" aria-label=\"Timeline of packages\" tabindex=\"0\"><div class=\"timeline\">\
         <div class=\"axis\" aria-hidden=\"true\">{axis}</div>\n{rows}</div></div></section>"
    )
}

const LEGEND: &str = "<ul class=\"legend\"><li><i class=\"wait\"></i>wait for other packages</li><li><i class=\"unpack\"></i>unpack</li>\
     <li><i class=\"script\"></i>script</li><li><i class=\"pack\"></i>pack</li><li><i class=\"path\"></i>critical path</li>\
     <li><i class=\"failure\"></i>failed</li></ul>";

fn bar<'a>(report: &CallReport, package: &'a Package) -> Option<Bar<'a>> {
    Some(Bar {
        package,
        start: package.started?,
        seconds: package.seconds?,
        is_critical: report.critical_path.contains(&package.id),
    })
}

fn tick(tick: f64, end: f64) -> String {
    let left = percent(tick, end);
    format!("<span style=\"left:{left}\">{}</span>", label(tick))
}

/// The HTML of a row. `packages` are indexes of `bars`.
fn row(packages: &[usize], bars: &[Bar<'_>], end: f64) -> String {
    let bars: Vec<&Bar<'_>> = packages.iter().map(|index| &bars[*index]).collect();
    let mut rooms: Vec<(f64, f64)> = bars.iter().map(|bar| (bar.start, end)).collect();
    for position in 1..bars.len() {
        rooms[position - 1].1 = bars[position].start;
    }
    // If the name of the last package begins before its bar, it uses a part of the space of the previous package.
    if let [.., last] = bars.as_slice()
        && end - last.start < END_OF_AXIS * end
    {
        let mut from = (last.start - NAME_SPACE * end).max(0.0);
        if let [.., previous, _] = bars.as_slice() {
            let middle = f64::midpoint(previous.start, last.start);
            from = from.max(middle).max(previous.end());
            rooms[bars.len() - 2].1 = from;
        }
        rooms[bars.len() - 1] = (from, last.end());
    }
    let slots = bars.iter().zip(rooms);
    let slots: String = slots.map(|(bar, room)| slot(bar, room, end)).collect();
    format!("<div class=\"lane\">{slots}</div>\n")
}

/// The HTML of a package: its name and, below, its bar. Both are between `from` and `until`, in seconds. Usually, this
/// space starts with the bar and ends at the next package. If the name begins before the bar, the space ends with the bar.
fn slot(bar: &Bar<'_>, (from, until): (f64, f64), end: f64) -> String {
    let package = bar.package;
    let is_failed = package.status == PackageStatus::Failed;
    let mut classes = "slot".to_owned();
    let marks = [
        (bar.is_critical, " critical"),
        (is_failed, " failed"),
        (from < bar.start, " before"),
    ];
    for (_, class) in marks.iter().filter(|(is_marked, _)| *is_marked) {
        classes.push_str(class);
    }
    let phases: String = package
        .phases
        .iter()
        .filter(|it| it.seconds > 0.0)
        .map(|it| phase(it, bar.seconds.total))
        .collect();
    let text = escaped(&description(bar));
    format!(
        "<a class=\"{classes}\" href=\"#package-{}\" style=\"left:{};width:{}\" title=\"{text}\" aria-label=\"{text}\">\
         <span class=\"name\">{}{}</span><span class=\"bar\" style=\"width:{}\">{phases}</span></a>",
        package.id,
        percent(from, end),
        percent(until - from, end),
        if is_failed { "✕ " } else { "" },
        escaped(&package.name),
        percent(bar.seconds.total, until - from),
    )
}

fn phase(phase: &Phase, total: f64) -> String {
    let width = percent(phase.seconds, total);
    let class = match phase.name {
        PhaseName::Wait => "wait",
        PhaseName::Unpack => "unpack",
        PhaseName::Script => "script",
        PhaseName::Pack => "pack",
    };
    format!("<i class=\"{class}\" style=\"width:{width}\"></i>")
}

/// The text of a package's tooltip, which screen readers also read.
fn description(bar: &Bar<'_>) -> String {
    let (package, seconds) = (bar.package, bar.seconds);
    let critical = match bar.is_critical {
        true => ", on the critical path",
        false => "",
    };
    let parts = [
        ("wait", seconds.wait),
        ("unpack", seconds.unpack),
        ("script", seconds.script),
        ("pack", seconds.pack),
    ];
    let parts = parts.map(|(name, seconds)| format!("{name} {}", duration(seconds)));
    format!(
        "{}/{}\n{}{critical}\n{} from {} to {}\n{}",
        package.name,
        package.version,
        status_text(package),
        duration(seconds.total),
        duration(bar.start),
        duration(bar.end()),
        parts.join(", "),
    )
}
