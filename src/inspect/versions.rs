//! Interprets versions of releases and stemcells as a Director does. No I/O.

/// Whether a Director can parse a version. The format is `RELEASE[-PRERELEASE][+POSTRELEASE]`,
/// where each part has components separated by dots.
pub(super) fn is_semi_semantic(version: &str) -> bool {
    let (rest, post_release) = match version.split_once('+') {
        Some((rest, post_release)) => (rest, Some(post_release)),
        None => (version, None),
    };
    let (release, pre_release) = match rest.split_once('-') {
        Some((release, pre_release)) => (release, Some(pre_release)),
        None => (rest, None),
    };
    let is_segment = |segment: &str| {
        // Dots at the end are ignored, as by Ruby's `split`.
        let components = segment.trim_end_matches('.');
        !segment.contains('+') && components.split('.').all(|it| !it.is_empty())
    };
    is_segment(release) && pre_release.is_none_or(is_segment) && post_release.is_none_or(is_segment)
}

/// The major version of a stemcell, which is the first component of its release segment. A Director
/// treats `_` as a dot.
pub(super) fn major(version: &str) -> &str {
    version
        .split(['.', '_', '-', '+'])
        .next()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_three_segments_at_most() {
        for version in [
            "1", "1.406", "1.2-rc.1", "1+dev.2", "1-rc+dev", "1.", "2026_1",
        ] {
            assert!(is_semi_semantic(version), "{version}");
        }
        for version in ["", "+1", "1+", "1-", ".1", "1..2", "1+2+3", "..", "1-.a"] {
            assert!(!is_semi_semantic(version), "{version}");
        }
    }

    #[test]
    fn major_line_is_the_first_component() {
        for (version, line) in [
            ("1.406", "1"),
            ("3233.10", "3233"),
            ("3233", "3233"),
            ("3312_1.2", "3312"),
            ("2.x", "2"),
            ("1-rc.1", "1"),
            ("1+dev.2", "1"),
        ] {
            assert_eq!(major(version), line);
        }
    }
}
