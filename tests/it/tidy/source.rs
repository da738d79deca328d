//! Source files, and their modules.

use std::collections::BTreeSet;

use syn::spanned::Spanned;
use syn::{Attribute, Item};

/// A file of the product.
pub(crate) struct SourceFile {
    /// For example `src/offline/run.rs`.
    pub(crate) path: String,
    /// For example `["offline", "run"]`; empty for `src/lib.rs`.
    pub(crate) module: Vec<String>,
    pub(crate) syntax: syn::File,
    /// The number of lines before the tests.
    pub(crate) lines: usize,
}

/// Parses the files, given by path and text. Leaves out the binary's file, and modules that are compiled for tests only.
pub(crate) fn product(texts: Vec<(String, String)>) -> Vec<SourceFile> {
    let files: Vec<SourceFile> = texts
        .into_iter()
        .filter(|(path, _)| path != "src/main.rs")
        .map(|(path, text)| parse(path, &text))
        .collect();
    let mut of_tests: BTreeSet<Vec<String>> = BTreeSet::new();
    for file in &files {
        for item in &file.syntax.items {
            if let Item::Mod(module) = item
                && is_for_tests(&module.attrs)
            {
                let mut path = file.module.clone();
                path.push(module.ident.to_string());
                of_tests.insert(path);
            }
        }
    }
    let is_for_tests =
        |file: &SourceFile| (1..=file.module.len()).any(|it| of_tests.contains(&file.module[..it]));
    files.into_iter().filter(|it| !is_for_tests(it)).collect()
}

fn parse(path: String, text: &str) -> SourceFile {
    let syntax = syn::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}"));
    // A module in a file of its own may be declared before the product's code.
    let is_tests = |item: &&Item| matches!(item, Item::Mod(it) if it.content.is_some() && is_for_tests(&it.attrs));
    let tests = syntax.items.iter().find(is_tests);
    let lines = match tests {
        Some(tests) => tests.span().start().line - 1,
        None => text.lines().count(),
    };
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    let module = match inner {
        "lib" => Vec::new(),
        inner => inner.split('/').map(str::to_owned).collect(),
    };
    SourceFile {
        path,
        module,
        syntax,
        lines,
    }
}

/// Whether an item has `#[cfg(test)]`, alone or with other conditions.
pub(crate) fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_test = |it: proc_macro2::TokenTree| it.to_string() == "test";
        match &attribute.meta {
            syn::Meta::List(list) if list.path.is_ident("cfg") => {
                list.tokens.clone().into_iter().next().is_some_and(is_test)
            }
            _ => false,
        }
    })
}

#[test]
fn tests_do_not_count() {
    let text = "#[cfg(test)]\nmod tests;\n#[cfg(unix)]\nmod unix;\n#[cfg(test)]\nmod more {}\n";
    let files = product(vec![
        ("src/lib.rs".to_owned(), "mod a;".to_owned()),
        ("src/main.rs".to_owned(), String::new()),
        ("src/a.rs".to_owned(), text.to_owned()),
        ("src/a/tests.rs".to_owned(), String::new()),
        ("src/a/tests/more.rs".to_owned(), String::new()),
        ("src/a/unix.rs".to_owned(), String::new()),
    ]);
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["src/lib.rs", "src/a.rs", "src/a/unix.rs"]);
    assert_eq!(files[1].lines, 4);
}
