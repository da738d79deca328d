//! Recognizes files that operating systems and tools leave in tarballs.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Names of files and directories that macOS and Windows create.
const NAMES: [&[u8]; 10] = [
    b".AppleDouble",
    b".DS_Store",
    b".LSOverride",
    b".Spotlight-V100",
    b".Trashes",
    b".fseventsd",
    b"Thumbs.db",
    b"__MACOSX",
    b"desktop.ini",
    b"ehthumbs.db",
];

/// Whether a path in a tarball, or one of its directories, is clutter: AppleDouble (`._NAME`), `.DS_Store`, `Thumbs.db`,
/// or an extended tar header that an old program unpacked as a file.
pub(crate) fn is_clutter(path: &Path) -> bool {
    path.iter().map(OsStr::as_bytes).any(is_clutter_name)
        || path.as_os_str().as_bytes() == b"pax_global_header"
}

fn is_clutter_name(name: &[u8]) -> bool {
    let is_pax = match name.strip_prefix(b"PaxHeader") {
        // `PaxHeader`, `PaxHeaders`, `PaxHeaders.123`
        Some(rest) => match rest.strip_prefix(b"s").unwrap_or(rest) {
            [] => true,
            [b'.', process @ ..] => process.iter().all(u8::is_ascii_digit),
            _ => false,
        },
        None => false,
    };
    is_pax || (name.starts_with(b"._") && name.len() > 2) || NAMES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_systems_and_tools_are_clutter() {
        for path in [
            "._release.MF",
            "._.",
            "packages/._a.tgz",
            "packages/.DS_Store",
            "__MACOSX",
            "__MACOSX/packages/a.tgz",
            "jobs/Thumbs.db",
            "PaxHeader/release.MF",
            "PaxHeaders.4711/release.MF",
            "packages/PaxHeaders/a.tgz",
            "pax_global_header",
        ] {
            assert!(is_clutter(Path::new(path)), "{path}");
        }
        for path in [
            "",
            "release.MF",
            "packages/a.tgz",
            "packages/_a.tgz",
            "packages/.hidden.tgz",
            "._",
            "docs/pax_global_header",
            "PaxHeaders.x",
            "PaxHeadersize",
            "macosx",
        ] {
            assert!(!is_clutter(Path::new(path)), "{path}");
        }
    }
}
