//! Finds undeclared dependencies: packages that a script tried to use although its package does not depend on them. No I/O.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::denials::{absolute_paths, is_trace};
use crate::release::Name;

/// Error messages of tools that cannot access a path, in lower case.
const FAILURES: [&str; 20] = [
    "permission denied",
    "operation not permitted",
    "invalid cross-device link",
    "read-only file system",
    "no such file",
    "not found",
    "not a directory",
    "not exist",
    "doesn't exist",
    "cannot open",
    "can't open",
    "could not open",
    "unable to open",
    "cannot find",
    "can't find",
    "could not find",
    "unable to find",
    "can't cd to",
    "no rule to make target",
    "enoent",
];

/// The packages to which error messages in a text refer, because a file of the package is missing or inaccessible. `directories` are the
/// directories that contain installed packages. Ignores paths in options and in commands that bash shows.
pub(super) fn inaccessible_packages(text: &str, directories: &[PathBuf]) -> BTreeSet<Name> {
    text.lines()
        .filter(|line| !is_trace(line))
        .filter(|line| {
            let line = line.to_lowercase();
            FAILURES.iter().any(|failure| line.contains(failure))
        })
        .flat_map(absolute_paths)
        .filter_map(|path| package(Path::new(path), directories))
        .collect()
}

fn package(path: &Path, directories: &[PathBuf]) -> Option<Name> {
    let below = directories
        .iter()
        .find_map(|directory| path.strip_prefix(directory).ok())?;
    let name = below.components().next()?.as_os_str().to_str()?;
    let name = Name::parse(name.trim_end_matches('.')).ok()?;
    // Names that begin with a dot belong to the agent.
    (!name.as_str().starts_with('.')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let directories = ["/var/vcap/packages", "/var/vcap/data/packages"].map(PathBuf::from);
        let found = inaccessible_packages(text, &directories);
        found.iter().map(Name::to_string).collect()
    }

    #[test]
    fn packages_of_failing_paths_are_found() {
        let text = "cat: /var/vcap/packages/zlib/x: Permission denied\n\
                    packaging: line 3: /var/vcap/packages/go-1.2/bin/go: No such file or directory\n\
                    gcc: error: /var/vcap/data/packages/lib_a/lib/a.a: No such file or directory\n\
                    ls: cannot access '/var/vcap/packages/libb': No such file or directory\n\
                    make: *** No rule to make target '/var/vcap/packages/libc/c.o', needed by 'all'.  Stop.\n\
                    sh: 1: cd: can't cd to /var/vcap/packages/libd\n\
                    open /var/vcap/packages/libe/go.mod: no such file or directory\n";
        assert_eq!(
            names(text),
            ["go-1.2", "lib_a", "libb", "libc", "libd", "libe", "zlib"]
        );
    }

    #[test]
    fn packages_without_a_failure_are_not_found() {
        let text = "+ /var/vcap/packages/go/bin/go build || echo not found\n\
                    ++ cat /var/vcap/packages/a: Permission denied\n\
                    gcc -L/var/vcap/packages/bpm/lib -o x x.o\n\
                    gcc -L/var/vcap/packages/bpm/lib -o x x.o || echo not found\n\
                    PATH=/var/vcap/packages/b/bin:/var/vcap/packages/c/bin ./configure || echo not found\n\
                    checking for /var/vcap/packages/d/lib... yes\n\
                    libtool: error: cannot find the library 'x.la' or unhandled argument '-L/var/vcap/packages/e'\n\
                    rm: /var/vcap/packages/.hidden: No such file or directory\n\
                    ls: /var/vcap/packages/: No such file or directory\n\
                    /var/vcap/packagesX/no: No such file or directory\n";
        assert_eq!(names(text), [""; 0]);
    }
}
