//! The rules on the source code that the compiler and Clippy do not check: the order of modules, circles of imports, and the
//! length of functions and files. Each rule is a function of the source files' texts, tested with planted violations.

mod imports;
mod rules;
mod source;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rules::{
    import_circles, long_files, long_functions, module_order, undocumented_modules, upward_imports,
};
use source::SourceFile;

/// Imports against the order of modules, not yet fixed. Stale entries fail the test, as in the lists below.
const UPWARD_IMPORTS: &[&str] = &[];

/// Files that import each other, not yet separated.
const IMPORT_CIRCLES: &[&str] = &[];

/// Functions not yet split.
const LONG_FUNCTIONS: &[&str] = &[];

/// Files not yet split.
const LONG_FILES: &[&str] = &[];

/// Fails with the violations that are not in `known`, and with the entries of `known` that are no longer violations.
#[track_caller]
fn assert_only_known(found: &BTreeSet<String>, known: &[&str]) {
    let known: BTreeSet<String> = known.iter().map(|&it| it.to_owned()).collect();
    let new: Vec<&String> = found.difference(&known).collect();
    let stale: Vec<&String> = known.difference(found).collect();
    assert!(
        new.is_empty() && stale.is_empty(),
        "new violations: {new:#?}\nno violations any more, remove from the list: {stale:#?}"
    );
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files of `src`, without modules for tests.
fn product() -> Vec<SourceFile> {
    let mut paths = Vec::new();
    find(&root().join("src"), &mut paths);
    paths.sort();
    let texts = paths.iter().map(|path| {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        (name, read(path))
    });
    source::product(texts.collect())
}

fn find(directory: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, paths);
        } else if path.extension().is_some_and(|it| it == "rs") {
            paths.push(path);
        }
    }
}

fn architecture() -> Vec<String> {
    module_order(&read(&root().join("docs/architecture.md")))
}

#[test]
fn modules_import_only_modules_below_them() {
    assert_only_known(&upward_imports(&product(), &architecture()), UPWARD_IMPORTS);
}

#[test]
fn files_of_a_module_import_each_other_in_one_direction() {
    let circles = import_circles(&product());
    assert_only_known(&circles.keys().cloned().collect(), IMPORT_CIRCLES);
}

#[test]
fn functions_have_at_most_60_lines() {
    assert_only_known(&long_functions(&product(), 60), LONG_FUNCTIONS);
}

#[test]
fn files_have_at_most_500_lines_before_their_tests() {
    assert_only_known(&long_files(&product(), 500), LONG_FILES);
}

#[test]
fn code_map_lists_the_modules_of_the_crate() {
    let differences = undocumented_modules(&read(&root().join("src/lib.rs")), &architecture());
    assert!(differences.is_empty(), "{differences:?}");
}
