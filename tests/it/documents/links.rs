//! Links between documents, and documents that are named without a link.

use std::collections::BTreeMap;

use super::markdown::Document;

/// The links that lead nowhere, and the documents between backticks that do not exist. `exists` gets paths from the root.
pub(super) fn broken(
    documents: &BTreeMap<String, Document>,
    exists: &dyn Fn(&str) -> bool,
) -> Vec<String> {
    let mut broken = Vec::new();
    for (path, document) in documents {
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        for (line, target) in &document.links {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = match file {
                "" => path.clone(),
                file => resolved(directory, file),
            };
            let has_anchor = match documents.get(&file) {
                Some(page) => anchor.is_empty() || page.anchors.iter().any(|it| it == anchor),
                None => anchor.is_empty(),
            };
            if !exists(&file) || !has_anchor {
                broken.push(format!("{path}:{line}: {target}"));
            }
        }
        for (line, code) in &document.code {
            // Plans name documents that do not exist yet.
            let is_document = code.ends_with(".md")
                && !code.contains([' ', '*', '<', '>'])
                && directory != "docs/plans";
            if is_document && !exists(code) && !exists(&resolved(directory, code)) {
                broken.push(format!("{path}:{line}: {code}"));
            }
        }
    }
    broken
}

/// `target` from `directory`, without `..`.
fn resolved(directory: &str, target: &str) -> String {
    let mut parts: Vec<&str> = directory.split('/').filter(|it| !it.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The documents in `docs` that a source file names.
pub(super) fn documents_in(text: &str) -> Vec<&str> {
    let starts = text.match_indices("docs/").map(|(at, _)| &text[at..]);
    let paths = starts.map(|rest| {
        let end = rest.find(|it: char| !it.is_ascii_alphanumeric() && !"/.-_".contains(it));
        rest[..end.unwrap_or(rest.len())].trim_end_matches('.')
    });
    paths.filter(|path| path.ends_with(".md")).collect()
}

#[test]
fn planted_links_are_found() {
    let page = |text: &str| Document::parse(text);
    let documents = BTreeMap::from([
        (
            "README.md".to_owned(),
            page(
                "# A\n[ok](docs/b.md#c), [gone](docs/d.md), [no heading](docs/b.md#x), `docs/e.md`\n",
            ),
        ),
        (
            "docs/b.md".to_owned(),
            page(
                "# C\n[ok](../README.md#a) `README.md` `b.md` `*.md` [web](https://x.y/z)\n[own](#c) [none](#d)\n",
            ),
        ),
    ]);
    let exists = |path: &str| documents.contains_key(path);
    let expected = [
        "README.md:2: docs/d.md",
        "README.md:2: docs/b.md#x",
        "README.md:2: docs/e.md",
        "docs/b.md:3: #d",
    ];
    assert_eq!(broken(&documents, &exists), expected);
}

#[test]
fn documents_in_sources_are_found() {
    let text = "see docs/a.md, (docs/adr/0001-b.md). docs/x and docs/r.json";
    assert_eq!(documents_in(text), ["docs/a.md", "docs/adr/0001-b.md"]);
}
