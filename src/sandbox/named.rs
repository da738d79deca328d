//! Finds the files and directories below the private directories of scripts that variables name: `HOME=/tmp/home`, a cache, a tool in
//! `PATH`. They are mounted into the private directory, at the path that they have on the host.
//!
//! A variable names a path when its whole value, or one of its elements between colons, is the absolute path of a directory
//! or a regular file that exists. Links are resolved as the kernel does; those in a private directory are created there, too.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::config::Environment;
use crate::fs;

/// The maximum number of links in a path, as in the kernel.
const LINK_LIMIT: usize = 40;

/// The working directories and the last command of the caller's shell. A script's own shell sets these variables.
const OF_THE_SHELL: [&str; 3] = ["PWD", "OLDPWD", "_"];

/// Paths on the host, absolute. Only the last component may be a link.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    /// Directories and files. None is below another one.
    pub(super) paths: Vec<PathBuf>,
    /// Links on the way to them, and their targets.
    pub(super) links: Vec<(PathBuf, PathBuf)>,
}

/// Finds what an environment names below `private` directories, except `hidden` directories and what is below them.
pub(super) fn find(environment: &Environment, private: &[PathBuf], hidden: &[&Path]) -> Named {
    let is_private = |path: &Path| private.iter().any(|it| path.starts_with(it) && path != it);
    let is_hidden = |path: &Path| hidden.iter().any(|it| path.starts_with(it));
    let mut named = Named::default();
    let mut seen: Vec<&OsStr> = Vec::new();
    for (name, value) in environment.iter() {
        if OF_THE_SHELL.iter().any(|shell| name == *shell) {
            continue;
        }
        let elements = value.as_bytes().split(|byte| *byte == b':');
        for element in std::iter::once(value.as_bytes()).chain(elements) {
            let element = OsStr::from_bytes(element);
            if !element.as_bytes().starts_with(b"/") || seen.contains(&element) {
                continue;
            }
            seen.push(element);
            let Some((path, links)) = resolve(Path::new(element)) else {
                continue;
            };
            if is_hidden(&path) {
                continue;
            }
            if is_private(&path) {
                named.paths.push(path);
            }
            for link in links {
                if is_private(&link.0) && !is_hidden(&link.0) && !named.links.contains(&link) {
                    named.links.push(link);
                }
            }
        }
    }
    named.paths.sort();
    // In this order, a path is followed by everything below it.
    named.paths.dedup_by(|path, above| path.starts_with(above));
    let paths = &named.paths;
    named
        .links
        .retain(|(link, _)| !paths.iter().any(|above| link.starts_with(above)));
    named
}

/// The directory or regular file that a path leads to, and the links on the way. `None` if it leads to nothing or to another type.
fn resolve(path: &Path) -> Option<(PathBuf, Vec<(PathBuf, PathBuf)>)> {
    let mut links = Vec::new();
    let mut rest: VecDeque<OsString> = components(path).collect();
    let mut current = PathBuf::from("/");
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            current.pop();
            continue;
        }
        let next = current.join(&name);
        if !fs::lookup(&next).ok()??.is_symlink() {
            current = next;
            continue;
        }
        if links.len() == LINK_LIMIT {
            return None;
        }
        let target = fs::read_link(&next).ok()?;
        if target.is_absolute() {
            current = PathBuf::from("/");
        }
        for name in components(&target).rev().collect::<Vec<_>>() {
            rest.push_front(name);
        }
        links.push((next, target));
    }
    let metadata = fs::lookup(&current).ok()??;
    (metadata.is_dir() || metadata.is_file()).then_some((current, links))
}

fn components(path: &Path) -> impl DoubleEndedIterator<Item = OsString> + '_ {
    path.components()
        .filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir))
        .map(|component| component.as_os_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect()
    }

    #[test]
    fn existing_values_and_elements_are_found() {
        let scratch = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(scratch.path()).unwrap();
        let (tmp, other) = (root.join("tmp"), root.join("other"));
        for directory in [
            "tmp/home/cache",
            "tmp/a:b",
            "tmp/work",
            "tmp/tools",
            "other/real",
        ] {
            fs::create_dir_all(&root.join(directory)).unwrap();
        }
        fs::write(&tmp.join("ca.pem"), b"").unwrap();
        fs::symlink(Path::new("home"), &tmp.join("link")).unwrap();
        fs::symlink(&other.join("real"), &tmp.join("out")).unwrap();
        fs::symlink(Path::new("../tmp/tools"), &other.join("in")).unwrap();
        fs::symlink(Path::new("loop"), &tmp.join("loop")).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let path = format!(
            "/usr/bin:{}:relative:{}",
            text(&other.join("in")),
            text(&tmp)
        );
        let environment = environment(&[
            ("HOME", &text(&tmp.join("home/cache"))),
            ("CACHE", &text(&tmp.join("link"))),
            ("COLON", &text(&tmp.join("a:b"))),
            ("PATH", &path),
            ("CERT", &text(&tmp.join("ca.pem"))),
            ("OUT", &text(&tmp.join("out"))),
            ("ALL", &text(&tmp)),
            ("WORK", &text(&tmp.join("work"))),
            ("LOOP", &text(&tmp.join("loop"))),
            ("NONE", &text(&tmp.join("none"))),
            ("PWD", &text(&tmp.join("pwd"))),
            ("FLAG", &format!("-I{}", text(&tmp.join("none")))),
        ]);
        let found = find(
            &environment,
            std::slice::from_ref(&tmp),
            &[&tmp.join("work")],
        );
        assert_eq!(
            found.paths,
            ["a:b", "ca.pem", "home", "tools"].map(|name| tmp.join(name))
        );
        assert_eq!(
            found.links,
            [
                (tmp.join("link"), PathBuf::from("home")),
                (tmp.join("out"), other.join("real")),
            ]
        );
    }
}
