//! The rules. Each returns its violations as text.

use std::collections::{BTreeMap, BTreeSet};

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{ImplItemFn, Item, ItemFn, ItemImpl, ItemMod, TraitItemFn};

use super::imports::Imports;
use super::source::{SourceFile, is_for_tests};

/// The modules of the code map in `architecture.md`, from the top down.
pub(crate) fn module_order(architecture: &str) -> Vec<String> {
    let (_, map) = architecture.split_once("\n## Code map\n").unwrap();
    let map = map.split("\n## ").next().unwrap();
    let rows = map.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split('`').next().unwrap().to_owned())
        .collect()
}

/// The modules that either `lib.rs` or the code map lacks.
pub(crate) fn undocumented_modules(lib: &str, order: &[String]) -> Vec<String> {
    let declared: BTreeSet<String> = syn::parse_file(lib)
        .unwrap()
        .items
        .iter()
        .filter_map(|item| match item {
            Item::Mod(module) if !is_for_tests(&module.attrs) => Some(module.ident.to_string()),
            _ => None,
        })
        .collect();
    let listed: BTreeSet<String> = order.iter().cloned().collect();
    declared.symmetric_difference(&listed).cloned().collect()
}

/// Imports of modules that stand above the importing one.
pub(crate) fn upward_imports(files: &[SourceFile], order: &[String]) -> BTreeSet<String> {
    let position = |module: &String| order.iter().position(|it| it == module);
    let mut found = BTreeSet::new();
    for file in files {
        let Some(own) = file.module.first().and_then(position) else {
            continue;
        };
        for path in Imports::of(file).used {
            if path.first().and_then(position).is_some_and(|it| it < own) {
                found.insert(format!("{}: crate::{}", file.path, path.join("::")));
            }
        }
    }
    found
}

/// Files that import each other, directly or through other files of their module: each with all files of the circle.
pub(crate) fn import_circles(files: &[SourceFile]) -> BTreeMap<String, Vec<String>> {
    let graph = Graph::of(files);
    let mut found = BTreeMap::new();
    for (index, file) in files.iter().enumerate() {
        let circle: Vec<String> = graph.reachable[index]
            .iter()
            .filter(|other| graph.reachable[**other].contains(&index))
            .map(|other| files[*other].path.clone())
            .collect();
        if !circle.is_empty() {
            found.insert(file.path.clone(), circle);
        }
    }
    found
}

/// The imports between files.
struct Graph {
    /// For each file those that it imports, directly or through others.
    reachable: Vec<BTreeSet<usize>>,
}

impl Graph {
    fn of(files: &[SourceFile]) -> Self {
        let imports: Vec<Imports> = files.iter().map(Imports::of).collect();
        let modules = files.iter().enumerate();
        let modules: BTreeMap<&[String], usize> = modules
            .map(|(index, file)| (file.module.as_slice(), index))
            .collect();
        let direct: Vec<BTreeSet<usize>> = files
            .iter()
            .enumerate()
            .map(|(index, file)| {
                let targets = imports[index].used.iter();
                targets
                    .filter_map(|path| target(path, &modules, &imports))
                    .filter(|it| *it != index && files[*it].module.first() == file.module.first())
                    .collect()
            })
            .collect();
        let reachable = (0..files.len()).map(|start| {
            let mut reached = BTreeSet::new();
            let mut next: Vec<usize> = direct[start].iter().copied().collect();
            while let Some(file) = next.pop() {
                if reached.insert(file) {
                    next.extend(&direct[file]);
                }
            }
            reached
        });
        Self {
            reachable: reachable.collect(),
        }
    }
}

/// The file that a path leads to, through re-exports.
fn target(
    path: &[String],
    modules: &BTreeMap<&[String], usize>,
    imports: &[Imports],
) -> Option<usize> {
    let mut path = path.to_vec();
    // Re-exports of re-exports, and no longer chains.
    for _ in 0..4 {
        let length = (0..=path.len())
            .rev()
            .find(|it| modules.contains_key(&path[..*it]))?;
        let file = modules[&path[..length]];
        let exported = path
            .get(length)
            .and_then(|name| imports[file].exported.get(name));
        let Some(exported) = exported else {
            return Some(file);
        };
        let rest = path.split_off(length + 1);
        path = exported.iter().cloned().chain(rest).collect();
    }
    None
}

/// Files with more lines than `limit`.
pub(crate) fn long_files(files: &[SourceFile], limit: usize) -> BTreeSet<String> {
    let long = files.iter().filter(|file| file.lines > limit);
    long.map(|file| file.path.clone()).collect()
}

/// Functions with more lines than `limit`, from the signature to the closing brace.
pub(crate) fn long_functions(files: &[SourceFile], limit: usize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in files {
        let mut functions = Functions {
            of: String::new(),
            limit,
            long: Vec::new(),
        };
        functions.visit_file(&file.syntax);
        let long = functions.long.into_iter();
        found.extend(long.map(|name| format!("{}: {name}", file.path)));
    }
    found
}

struct Functions {
    /// The type whose methods are visited, with `::`.
    of: String,
    limit: usize,
    long: Vec<String>,
}

impl Functions {
    fn check(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let lines = block.span().end().line - signature.span().start().line + 1;
        if lines > self.limit {
            self.long.push(format!("{}{}", self.of, signature.ident));
        }
    }
}

impl<'a> Visit<'a> for Functions {
    fn visit_item_mod(&mut self, module: &'a ItemMod) {
        if !is_for_tests(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_impl(&mut self, item: &'a ItemImpl) {
        let name = match item.self_ty.as_ref() {
            syn::Type::Path(path) => path.path.segments.last().map(|it| it.ident.to_string()),
            _ => None,
        };
        self.of = name.map_or_else(String::new, |name| format!("{name}::"));
        visit::visit_item_impl(self, item);
        self.of.clear();
    }

    fn visit_item_fn(&mut self, function: &'a ItemFn) {
        if !is_for_tests(&function.attrs) {
            self.check(&function.sig, &function.block);
            visit::visit_item_fn(self, function);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'a ImplItemFn) {
        if !is_for_tests(&function.attrs) {
            self.check(&function.sig, &function.block);
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_trait_item_fn(&mut self, function: &'a TraitItemFn) {
        if let Some(block) = &function.default {
            self.check(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(texts: &[(&str, &str)]) -> Vec<SourceFile> {
        let texts = texts.iter();
        let texts = texts.map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
        crate::tidy::source::product(texts.collect())
    }

    fn list(found: BTreeSet<String>) -> Vec<String> {
        found.into_iter().collect()
    }

    const MAP: &str = "# Architecture\n| `not` | this |\n\n## Code map\n\n| module | owns |\n|---|---|\n| `cli` | \
                       arguments |\n| `fs` | files: `std::fs` |\n\n## Invariants\n| `nor` | that |\n";

    #[test]
    fn code_map_is_read_in_its_order() {
        assert_eq!(module_order(MAP), ["cli", "fs"]);
    }

    #[test]
    fn module_missing_on_either_side_is_found() {
        let order = module_order(MAP);
        assert!(
            undocumented_modules("pub mod cli; mod fs; #[cfg(test)] mod texts;", &order).is_empty()
        );
        assert_eq!(
            undocumented_modules("mod cli; mod http;", &order),
            ["fs", "http"]
        );
    }

    #[test]
    fn upward_import_is_found() {
        let files = files(&[
            ("src/cli.rs", "use crate::fs;"),
            (
                "src/fs/walk.rs",
                "use crate::fs::Error; fn run() { crate::cli::run() }",
            ),
        ]);
        assert_eq!(
            list(upward_imports(&files, &module_order(MAP))),
            ["src/fs/walk.rs: crate::cli::run"]
        );
    }

    #[test]
    fn circle_is_found_through_other_files_and_re_exports() {
        let files = files(&[
            (
                "src/a.rs",
                "mod one; mod two; mod three; mod four; pub use three::Three;",
            ),
            ("src/a/one.rs", "use super::two;"),
            ("src/a/two.rs", "use super::Three;"),
            ("src/a/three.rs", "use crate::a::one::One;"),
            ("src/a/four.rs", "use super::one; use crate::b;"),
            ("src/b.rs", "use crate::a::four;"),
        ]);
        let circles = import_circles(&files);
        let paths: Vec<&String> = circles.keys().collect();
        assert_eq!(paths, ["src/a/one.rs", "src/a/three.rs", "src/a/two.rs"]);
        assert_eq!(circles["src/a/one.rs"].len(), 3);
    }

    #[test]
    fn long_function_is_found_in_every_place() {
        let body = "{\n\n\n}";
        let text = format!(
            "/// Documentation\n/// does not\n/// count.\nfn short() {{\n\n}}\nfn long() {body}\nimpl A {{ fn method() {body} }}\n\
             trait B {{ fn default() {body} }}\n#[cfg(test)]\nmod tests {{ fn test() {body} }}"
        );
        let files = files(&[("src/a.rs", text.as_str())]);
        assert_eq!(
            list(long_functions(&files, 3)),
            ["src/a.rs: A::method", "src/a.rs: default", "src/a.rs: long"]
        );
    }

    #[test]
    fn long_file_is_found_without_its_tests() {
        let long = "\n".repeat(4);
        let tests = format!("fn a() {{}}\n#[cfg(test)]\nmod tests {{{long}}}");
        let files = files(&[("src/a.rs", long.as_str()), ("src/b.rs", tests.as_str())]);
        assert_eq!(list(long_files(&files, 3)), ["src/a.rs"]);
    }
}
