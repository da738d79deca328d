//! The documents agree with the repository and the program: their links lead somewhere, their flags exist, and they explain every flag
//! of `compile`. Each rule is a function of texts, tested with planted violations.

mod commands;
mod flags;
mod links;
mod markdown;
mod trial;

use std::collections::BTreeMap;
use std::path::Path;

use markdown::Document;

use crate::support::require_root;

/// Pages for users. They must explain the flags.
const PAGES: [&str; 13] = [
    "README.md",
    "SECURITY.md",
    "docs/cache.md",
    "docs/ci.md",
    "docs/cluster.md",
    "docs/compile.md",
    "docs/daemon.md",
    "docs/failures.md",
    "docs/inspect.md",
    "docs/isolation.md",
    "docs/operators.md",
    "docs/stemcell-image.md",
    "docs/supply-chain.md",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The repository's files whose names end in `ending`, by path. Without what builds and tests create.
fn files(ending: &str) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut directories = vec![root().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root()).unwrap().display().to_string();
            let is_generated = [
                "target",
                ".cache",
                ".git",
                "dist",
                "fuzz/target",
                "fuzz/corpus",
            ];
            if path.is_dir() && !path.is_symlink() && !is_generated.contains(&name.as_str()) {
                directories.push(path);
            } else if name.ends_with(ending) {
                files.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    files
}

fn documents() -> BTreeMap<String, Document> {
    let parsed = |(path, text): (String, String)| (path, Document::parse(&text));
    files(".md").into_iter().map(parsed).collect()
}

#[test]
fn links_lead_to_existing_files_and_headings() {
    let broken = links::broken(&documents(), &|path| root().join(path).exists());
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn documents_that_the_sources_name_exist() {
    let mut missing = Vec::new();
    for (path, text) in files(".rs") {
        for named in links::documents_in(&text) {
            if !root().join(named).exists() && path != "tests/it/documents/links.rs" {
                missing.push(format!("{path} names {named}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn flags_in_documents_exist() {
    let documents = documents();
    let known = flags::of_all_commands();
    let mut unknown = Vec::new();
    for page in PAGES {
        let flags = flags::unknown(&documents[page], &known);
        unknown.extend(flags.into_iter().map(|flag| format!("{page}: {flag}")));
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn documents_explain_every_flag_of_compile() {
    let documents = documents();
    let pages = PAGES.map(|page| &documents[page]);
    let missing = flags::unexplained(&pages, &flags::of_command("compile"));
    assert!(missing.is_empty(), "in no page: {missing:?}");
}

/// The tests of a page that do not exist: names with `::` whose last part is no function.
fn missing_tests(page: &Document, sources: &str) -> Vec<String> {
    let names = page.code.iter().map(|(_, code)| code);
    let tests = names.filter(|code| code.contains("::") && !code.contains(char::is_whitespace));
    tests
        .filter(|test| {
            let function = test.rsplit("::").next().unwrap();
            !sources.contains(&format!("fn {function}("))
        })
        .cloned()
        .collect()
}

#[test]
fn tests_of_the_protocols_traps_exist() {
    let sources: Vec<String> = files(".rs").into_values().collect();
    let documents = documents();
    let page = &documents["docs/protocol-traps.md"];
    assert_eq!(missing_tests(page, &sources.concat()), [""; 0]);
    assert!(page.code.len() > 35);
    let planted = Document::parse("`a::b`, `a::c`");
    assert_eq!(missing_tests(&planted, "fn b() {}"), ["a::c"]);
}

#[test]
fn page_of_the_daemon_names_every_method() {
    let methods = std::fs::read_to_string(root().join("src/agent/method.rs")).unwrap();
    let (_, list) = methods.split_once("\nmethods! {\n").unwrap();
    let (list, _) = list.split_once('}').unwrap();
    let names = list
        .lines()
        .filter_map(|line| line.trim_end_matches(',').split_once(" = "));
    let page = &documents()["docs/daemon.md"];
    let missing = names
        .map(|(_, name)| name)
        .filter(|name| !page.code.iter().any(|(_, code)| code == name));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn commands_of_the_guides_work() {
    if !require_root() {
        return;
    }
    let documents = documents();
    for page in ["docs/ci.md", "docs/operators.md", "docs/supply-chain.md"] {
        commands::run(page, &documents[page]);
    }
}

#[test]
fn trial_of_the_daemon_works_as_written() {
    if !require_root() {
        return;
    }
    let page = std::fs::read_to_string(root().join("docs/daemon.md")).unwrap();
    trial::run(&trial::script(&page, "## Try it without a Director"));
}

#[test]
fn messages_in_the_tables_of_messages_exist() {
    let sources = files(".rs")
        .into_iter()
        .filter(|(path, _)| path.starts_with("src/"));
    let texts: String = files(".snap")
        .into_iter()
        .chain(sources)
        .map(|(_, text)| text)
        .collect();
    for page in ["docs/operators.md", "docs/daemon.md"] {
        let text = std::fs::read_to_string(root().join(page)).unwrap();
        let missing = commands::unknown_messages(&text, &texts);
        assert_eq!(missing, Vec::<String>::new(), "{page}");
    }
}
