//! Resolves a path as a script sees it, while the agent sees the script's tree in another place: links are resolved one by one.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::wire;
use crate::fs;

/// The maximum number of links in a path, as in the kernel.
const MAX_LINKS: usize = 40;

/// Where the agent finds the files of a script's paths. The first entry that contains a path decides. Other paths are the same for the
/// agent and the script.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeenPaths(pub(crate) Vec<SeenPath>);

/// A directory as a script and as the agent see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeenPath {
    /// The script's path.
    #[serde(with = "wire")]
    pub(crate) seen: PathBuf,
    /// The agent's path.
    #[serde(with = "wire")]
    pub(crate) here: PathBuf,
    /// Whether it is a dependency.
    pub(crate) is_dependency: bool,
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resolved {
    /// The path without links, as the script sees it. `None` if it leads nowhere.
    #[serde(with = "wire")]
    pub(crate) seen: Option<PathBuf>,
    /// Whether a part of the path is in a dependency.
    pub(crate) is_through_dependency: bool,
}

impl SeenPaths {
    /// The agent's path of a script's path, and whether it is in a dependency.
    pub(crate) fn here(&self, path: &Path) -> (PathBuf, bool) {
        let mut entries = self.0.iter();
        let found = entries.find_map(|entry| {
            let below = path.strip_prefix(&entry.seen).ok()?;
            Some((joined(&entry.here, below), entry.is_dependency))
        });
        found.unwrap_or_else(|| (path.to_owned(), false))
    }
}

/// Follows every link in an absolute path of the script, and reports each path of the agent to `look_up` before it is looked up.
pub(super) fn resolve(
    path: &Path,
    paths: &SeenPaths,
    look_up: &dyn Fn(&Path),
) -> fs::Result<Resolved> {
    let is_through_dependency = Cell::new(false);
    let find = |seen: &Path| {
        let (here, is_dependency) = paths.here(seen);
        is_through_dependency.set(is_through_dependency.get() || is_dependency);
        look_up(&here);
        here
    };
    Ok(Resolved {
        seen: follow(path, &find)?,
        is_through_dependency: is_through_dependency.get(),
    })
}

/// Follows every link in an absolute path of the script. `here` translates a path of the script to one of the agent.
fn follow(path: &Path, here: &dyn Fn(&Path) -> PathBuf) -> fs::Result<Option<PathBuf>> {
    let mut seen = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = parts(path);
    let mut links = 0;
    while let Some(part) = rest.pop_front() {
        match Path::new(&part).components().next() {
            Some(Component::RootDir) => seen = PathBuf::from("/"),
            Some(Component::ParentDir) => {
                seen.pop();
            }
            Some(Component::Normal(name)) => {
                let next = seen.join(name);
                let here = here(&next);
                let found = match fs::lookup(&here) {
                    Err(error) if error.source.kind() == ErrorKind::NotADirectory => None,
                    other => other?,
                };
                let Some(metadata) = found else {
                    return Ok(None);
                };
                if !metadata.is_symlink() {
                    seen = next;
                    continue;
                }
                links += 1;
                if links > MAX_LINKS {
                    return Ok(None);
                }
                for part in parts(&fs::read_link(&here)?).into_iter().rev() {
                    rest.push_front(part);
                }
            }
            Some(Component::CurDir | Component::Prefix(_)) | None => {}
        }
    }
    Ok(Some(seen))
}

/// Like [`Path::join`], but without a trailing slash if `below` is empty.
fn joined(path: &Path, below: &Path) -> PathBuf {
    match below == Path::new("") {
        true => path.to_owned(),
        false => path.join(below),
    }
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let parts = path.components();
    parts.map(|part| part.as_os_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_as_the_script_sees_them() {
        let temporary = tempfile::tempdir().unwrap();
        let tree = fs::canonicalize(temporary.path()).unwrap();
        let base = Path::new("/no/such/base");
        fs::create_dir_all(&tree.join("data/own/deep")).unwrap();
        fs::write(&tree.join("data/file"), b"").unwrap();
        for (link, says) in [
            ("absolute", "/no/such/base/data/own"),
            ("relative", "data/../data/own/."),
            ("twice", "./relative/deep"),
            ("up", "../base/data"),
            ("loop", "loop"),
            ("dangling", "data/nothing"),
            ("through", "data/file/x"),
            ("system", "/dev/null"),
        ] {
            fs::symlink(says.as_ref(), &tree.join(link)).unwrap();
        }
        fs::create_dir_all(&tree.join("above/such")).unwrap();
        let entry = |seen: &str, here: PathBuf| SeenPath {
            seen: seen.into(),
            here,
            is_dependency: false,
        };
        // The agent's own `/no` does not exist.
        let paths = SeenPaths(vec![
            entry("/no/such/base", tree.clone()),
            entry("/no", tree.join("above")),
        ]);
        let of = |name: &str| {
            let resolved = resolve(&base.join(name), &paths, &|_| ()).unwrap();
            resolved.seen
        };
        for (link, leads) in [
            ("absolute", Some("data/own")),
            ("relative", Some("data/own")),
            ("twice", Some("data/own/deep")),
            ("up", Some("data")),
            ("loop", None),
            ("dangling", None),
            ("through", None),
        ] {
            assert_eq!(of(link), leads.map(|below| base.join(below)), "{link}");
        }
        assert_eq!(of("system"), Some(PathBuf::from("/dev/null")));
    }

    #[test]
    fn dangling_link_through_a_dependency_is_noticed() {
        let temporary = tempfile::tempdir().unwrap();
        let tree = fs::canonicalize(temporary.path()).unwrap();
        let base = Path::new("/no/such/base");
        for directory in ["own", "lib/inner", "above/such/base"] {
            fs::create_dir_all(&tree.join(directory)).unwrap();
        }
        let entry = |seen: PathBuf, here: &str| SeenPath {
            seen,
            here: tree.join(here),
            is_dependency: here == "lib",
        };
        // The agent's own `/no` does not exist.
        let paths = SeenPaths(vec![
            entry(base.join("lib"), "lib"),
            entry(base.join("own"), "own"),
            entry("/no".into(), "above"),
        ]);
        for (link, says, is_through, leads) in [
            ("dangling", "/no/such/base/lib/nothing", true, false),
            ("back", "/no/such/base/lib/inner/../../own", true, true),
            (
                "out",
                "/no/such/base/lib/inner/../../own/nothing",
                true,
                false,
            ),
            ("in", "/no/such/base/lib/inner", true, true),
            ("nowhere", "/no/such/base/own/nothing", false, false),
        ] {
            fs::symlink(says.as_ref(), &tree.join("own").join(link)).unwrap();
            let resolved = resolve(&base.join("own").join(link), &paths, &|_| ()).unwrap();
            assert_eq!(resolved.is_through_dependency, is_through, "{link}");
            assert_eq!(resolved.seen.is_some(), leads, "{link}");
        }
    }
}
