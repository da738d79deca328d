//! The paths that a file uses: in `use` declarations, and those that begin with `crate`, `self` or `super`.

use std::collections::BTreeMap;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Item, ItemMod, ItemUse, UseTree, Visibility};

use super::source::{SourceFile, is_for_tests};

/// The paths of a file, absolute in the crate: `["fs", "Error"]` for `crate::fs::Error`.
#[derive(Default)]
pub(crate) struct Imports {
    pub(crate) used: Vec<Vec<String>>,
    /// Re-exports of the file: the new name, and the path.
    pub(crate) exported: BTreeMap<String, Vec<String>>,
}

impl Imports {
    pub(crate) fn of(file: &SourceFile) -> Self {
        let mut reader = Reader {
            module: file.module.clone(),
            depth: 0,
            children: children(&file.syntax.items),
            found: Self::default(),
        };
        reader.visit_file(&file.syntax);
        reader.found
    }
}

fn children(items: &[Item]) -> Vec<String> {
    let modules = items.iter().filter_map(|item| match item {
        Item::Mod(module) => Some(module.ident.to_string()),
        _ => None,
    });
    modules.collect()
}

struct Reader {
    /// The module of the item that is read.
    module: Vec<String>,
    /// The number of inline modules around the item.
    depth: usize,
    /// The modules that the file declares.
    children: Vec<String>,
    found: Imports,
}

impl Reader {
    /// The absolute form of a path, if it is in this crate.
    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        let mut base = self.module.clone();
        let mut rest = path;
        let first = path.first()?;
        match first.as_str() {
            "crate" => base.clear(),
            "self" => {}
            "super" => {
                base.pop();
            }
            child if self.depth == 0 && self.children.iter().any(|it| it == child) => {
                base.extend_from_slice(path);
                return Some(base);
            }
            _ => return None,
        }
        rest = &rest[1..];
        while rest.first().is_some_and(|it| it == "super") {
            base.pop();
            rest = &rest[1..];
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    fn add(&mut self, path: &[String]) {
        if let Some(path) = self.absolute(path) {
            self.found.used.push(path);
        }
    }

    /// Adds the paths in the arguments of a macro.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if path.is_empty() || colons == 2 => {
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                }
                other => {
                    self.add_rooted(&path);
                    path.clear();
                    colons = 0;
                    match other {
                        TokenTree::Group(group) => self.add_tokens(group.stream()),
                        TokenTree::Ident(ident) => path.push(ident.to_string()),
                        TokenTree::Punct(_) | TokenTree::Literal(_) => {}
                    }
                }
            }
        }
        self.add_rooted(&path);
    }

    /// Adds a path in code that starts with `crate`, `self` or `super`.
    fn add_rooted(&mut self, path: &[String]) {
        let is_rooted = matches!(path.first().map(String::as_str), Some("crate" | "super"))
            || (path.len() > 1 && path[0] == "self");
        if is_rooted {
            self.add(path);
        }
    }
}

impl<'a> Visit<'a> for Reader {
    fn visit_item(&mut self, item: &'a Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'a ItemMod) {
        self.module.push(module.ident.to_string());
        self.depth += 1;
        visit::visit_item_mod(self, module);
        self.depth -= 1;
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'a ItemUse) {
        let mut paths = Vec::new();
        flatten(&item.tree, &mut Vec::new(), &mut paths);
        let is_private = matches!(item.vis, Visibility::Inherited);
        for (name, path) in paths {
            if is_private {
                self.add(&path);
            } else if let Some(path) = self.absolute(&path) {
                self.found.exported.insert(name, path);
            }
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let segments: Vec<String> = path
            .segments
            .iter()
            .map(|it| it.ident.to_string())
            .collect();
        self.add_rooted(&segments);
        visit::visit_path(self, path);
    }

    fn visit_visibility(&mut self, _: &'a Visibility) {
        // `pub(in super::super)` imports nothing.
    }

    fn visit_attribute(&mut self, _: &'a syn::Attribute) {}

    fn visit_macro(&mut self, called: &'a syn::Macro) {
        visit::visit_macro(self, called);
        self.add_tokens(called.tokens.clone());
    }
}

fn attributes(item: &Item) -> &[syn::Attribute] {
    match item {
        Item::Fn(it) => &it.attrs,
        Item::Impl(it) => &it.attrs,
        Item::Mod(it) => &it.attrs,
        Item::Use(it) => &it.attrs,
        Item::Struct(it) => &it.attrs,
        Item::Enum(it) => &it.attrs,
        Item::Const(it) => &it.attrs,
        Item::Static(it) => &it.attrs,
        _ => &[],
    }
}

/// The names of a `use` declaration, each with its path.
fn flatten(tree: &UseTree, path: &mut Vec<String>, found: &mut Vec<(String, Vec<String>)>) {
    let with = |path: &[String], last: String| {
        let mut path = path.to_vec();
        // `use a::{self}` is `use a`.
        if last != "self" || path.is_empty() {
            path.push(last);
        }
        path
    };
    match tree {
        UseTree::Path(tree) => {
            path.push(tree.ident.to_string());
            flatten(&tree.tree, path, found);
            path.pop();
        }
        UseTree::Name(name) => {
            found.push((name.ident.to_string(), with(path, name.ident.to_string())));
        }
        UseTree::Rename(name) => {
            found.push((name.rename.to_string(), with(path, name.ident.to_string())));
        }
        UseTree::Glob(_) => found.push(("*".to_owned(), path.clone())),
        UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, path, found);
            }
        }
    }
}

#[test]
fn paths_are_found_in_declarations_code_and_macros() {
    let text = "
        use std::fmt;
        use super::{other::{self, Thing as Renamed}, more::*};
        use child::Inner;
        pub use child::Outer;
        mod child;
        fn call() -> crate::fs::Result<()> {
            super::other::run(format!(\"{}\", self::value(crate::diag::Bytes(1))));
            unrelated::call();
        }
        #[cfg(test)]
        mod tests { use crate::cli; }
    ";
    let file = super::source::product(vec![("src/a/b.rs".to_owned(), text.to_owned())]).remove(0);
    let imports = Imports::of(&file);
    let mut used: Vec<String> = imports.used.iter().map(|path| path.join("::")).collect();
    used.sort();
    assert_eq!(
        used,
        [
            "a::b::child::Inner",
            "a::b::value",
            "a::more",
            "a::other",
            "a::other::Thing",
            "a::other::run",
            "diag::Bytes",
            "fs::Result",
        ]
    );
    let exported: Vec<String> = imports.exported.values().map(|it| it.join("::")).collect();
    assert_eq!(exported, ["a::b::child::Outer"]);
}
