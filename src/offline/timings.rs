//! Formats the report of a run as an HTML page: a timeline, the times of all packages, and the last lines of their output. The page loads
//! no other files, and works without its script, which sorts the table.

mod header;
mod html;
mod layout;
mod logs;
mod table;
mod timeline;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use self::html::{escaped, filled};
use super::call_report::CallReport;

const PAGE: &str = include_str!("timings/page.html");
const STYLE: &str = include_str!("timings/style.css");
const SCRIPT: &str = include_str!("timings/script.js");

/// The page.
///
/// # Errors
/// The report cannot be represented as JSON.
pub(super) fn page(report: &CallReport) -> serde_json::Result<String> {
    let json = serde_json::to_string(report)?;
    // With this digest in the page, a browser runs no other script, even if a text in the page were not escaped.
    let digest = STANDARD.encode(Sha256::digest(SCRIPT));
    let page = filled(
        PAGE,
        &[
            ("title", escaped(&header::title(report))),
            ("digest", digest),
            ("style", STYLE.to_owned()),
            ("header", header::header(report)),
            ("errors", header::errors(report)),
            ("timeline", timeline::section(report)),
            ("packages", table::section(report)),
            ("logs", logs::section(report)),
            ("agent", escaped(&header::agent(report))),
            ("report", html::json(&json)),
            ("script", SCRIPT.to_owned()),
        ],
    );
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::call_report::fixtures::{package, report};
    use crate::offline::call_report::{CallResult, PackageStatus};

    #[test]
    fn hostile_texts_are_escaped_everywhere() {
        const HOSTILE: &str = "</script><script>alert(1)</script><!--\"'{{style}}";
        let mut hostile = package(0, 0.0, [0.0, 1.0, 2.0, 3.0], &[]);
        hostile.name = HOSTILE.to_owned();
        hostile.version = HOSTILE.to_owned();
        hostile.releases = vec![HOSTILE.to_owned()];
        hostile.last_lines = vec![HOSTILE.to_owned()];
        hostile.log = Some(HOSTILE.to_owned());
        let mut report = report(vec![hostile]);
        report.result = CallResult::Failed;
        report.errors = vec![HOSTILE.to_owned()];
        report.stemcell = Some(HOSTILE.to_owned());
        let page = page(&report).unwrap();
        assert_eq!(page.matches("<script").count(), 2, "{page}");
        assert_eq!(page.matches("</script>").count(), 2);
        assert_eq!(page.matches("<!--").count(), 0);
        assert_eq!(page.matches("<style>").count(), 1);
        assert_eq!(
            page.matches("{{style}}").count(),
            page.matches("{{").count()
        );
    }

    #[test]
    fn page_contains_the_report_and_loads_nothing() {
        let report = report(vec![package(0, 0.0, [0.0, 1.0, 2.0, 3.0], &[])]);
        let page = page(&report).unwrap();
        let (_, json) = page.split_once("id=\"report\">").unwrap();
        let (json, _) = json.split_once("</script>").unwrap();
        assert_eq!(json, serde_json::to_string(&report).unwrap());
        for word in ["src=", "http:", "https:", "url(", "@import", "<link"] {
            assert!(!page.contains(word), "{word}");
        }
    }

    #[test]
    fn call_without_packages_has_a_page() {
        let mut report = report(Vec::new());
        report.errors = vec!["not a release".to_owned()];
        let page = page(&report).unwrap();
        assert!(page.contains("<li>not a release</li>"));
        assert!(!page.contains("<table"));
    }

    #[test]
    fn package_that_did_not_start_has_empty_cells() {
        let mut packages = vec![package(0, 0.0, [0.0, 1.0, 2.0, 3.0], &[])];
        packages.push(package(1, 0.0, [0.0; 4], &[0]));
        packages[1].status = PackageStatus::Skipped;
        (packages[1].started, packages[1].seconds) = (None, None);
        packages[1].phases.clear();
        let page = page(&report(packages)).unwrap();
        assert!(page.contains("data-label=\"Total\" data-value=\"\">–</td>"));
        assert_eq!(page.matches("class=\"slot").count(), 1);
    }
}
