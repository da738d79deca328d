//! The findings of an inspection: problems and notes. A finding's *code* identifies its kind.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::rules::{Rule, Severity};

/// The maximum number of findings with the same code that are listed.
const LISTED: usize = 100;

/// One problem or note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) rule: &'static Rule,
    pub(super) text: String,
}

/// The findings of an inspection, in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct Findings {
    list: Vec<Finding>,
    counts: HashMap<&'static str, usize>,
}

impl Findings {
    pub(super) fn add(&mut self, rule: &'static Rule, text: impl Into<String>) {
        let count = self.counts.entry(rule.code).or_default();
        *count += 1;
        if *count <= LISTED {
            let text = text.into();
            self.list.push(Finding { rule, text });
        }
    }

    /// Adds a finding about several names, if there are any. The text becomes `TEXT: a, b, c`.
    pub(super) fn add_list(&mut self, rule: &'static Rule, text: &str, names: &[String]) {
        if !names.is_empty() {
            self.add(rule, format!("{text}: {}", shortened(names)));
        }
    }

    /// The number of problems so far.
    pub(super) fn problems(&self) -> usize {
        let problems = self.list.iter();
        problems
            .filter(|it| it.rule.severity == Severity::Problem)
            .count()
    }

    /// The list of findings, problems first. If there are too many findings with one code, the text of
    /// the last listed one also says how many are not listed.
    pub(super) fn finish(mut self) -> Vec<Finding> {
        for (code, count) in self.counts {
            let last = self.list.iter_mut().rfind(|it| it.rule.code == code);
            if let Some(last) = last.filter(|_| count > LISTED) {
                let _ = write!(last.text, " (and {} more of this kind)", count - LISTED);
            }
        }
        self.list.sort_by_key(|it| it.rule.severity);
        self.list
    }
}

/// Names joined by commas. Only the first names are included if there are many.
fn shortened(names: &[String]) -> String {
    match names.get(..LISTED) {
        Some(first) if names.len() > LISTED => {
            format!("{} and {} more", first.join(", "), names.len() - LISTED)
        }
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::rules::{CLUTTER, DIGEST_MISMATCH};

    #[test]
    fn problems_precede_notes_and_are_limited() {
        let mut findings = Findings::default();
        findings.add_list(&CLUTTER, "ignored", &["a".to_owned(), "b".to_owned()]);
        findings.add_list(&CLUTTER, "ignored", &[]);
        for number in 0..103 {
            findings.add(&DIGEST_MISMATCH, number.to_string());
        }
        let found = findings.finish();
        assert_eq!(found.len(), 101);
        assert_eq!(found[0].text, "0");
        assert_eq!(found[99].text, "99 (and 3 more of this kind)");
        assert_eq!(found[100].text, "ignored: a, b");
    }

    #[test]
    fn long_lists_are_shortened() {
        let names: Vec<String> = (0..102).map(|it| it.to_string()).collect();
        assert!(shortened(&names).ends_with("98, 99 and 2 more"));
        assert!(shortened(&names[..100]).ends_with("98, 99"));
    }
}
