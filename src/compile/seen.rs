//! Resolves a path as a script sees it, while the agent sees the script's tree in another place: links are resolved one by one.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use crate::fs;

/// The kernel's limit of links in a path.
const MAX_LINKS: usize = 40;

/// Follows every link in an absolute path of the script. `outside` translates a path of the script to one of the agent. `None` if
/// the path does not exist.
pub(super) fn resolve(
    path: &Path,
    outside: &dyn Fn(&Path) -> PathBuf,
) -> fs::Result<Option<PathBuf>> {
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
                let here = outside(&next);
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
        let outside = |path: &Path| match path.strip_prefix(base) {
            Ok(below) if below == Path::new("") => tree.clone(),
            Ok(below) => tree.join(below),
            Err(_) if base.starts_with(path) => tree.join("above"),
            Err(_) => path.to_owned(),
        };
        let of = |name: &str| resolve(&base.join(name), &outside).unwrap();
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
}
