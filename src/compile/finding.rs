//! Findings: problems that were detected while a package was compiled. They are reported as warnings if the compilation succeeded, and as
//! hints if it failed.

use std::fmt;
use std::path::{Path, PathBuf};

use super::printed::PrintedLine;
use super::references::{Reference, ReferenceKind};

/// A problem that was detected while a package was compiled. `Display` gives it as a sentence without the package's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The source has no packaging script, so the package is empty.
    NoScript {
        /// Names in the source that resemble `packaging`.
        similar: Vec<String>,
        /// Names in the source.
        entries: Vec<String>,
        /// The number of further names.
        others: usize,
    },
    /// Lines of the packaging script have Windows line ends.
    CarriageReturns {
        /// The number of the first of these lines.
        first: usize,
        /// How many lines have them.
        lines: usize,
    },
    /// The packaging script begins with a byte order mark.
    ByteOrderMark,
    /// The script printed errors and installed nothing, but succeeded.
    NothingInstalled {
        /// The first lines that report errors.
        lines: Vec<PrintedLine>,
        /// The log that contains them.
        log: PathBuf,
    },
    /// Installed files refer to the directory in which packages are compiled, which does not exist on the VM.
    CompileDirectory {
        /// The path of the directory.
        directory: PathBuf,
        /// The first references.
        references: Vec<Reference>,
        /// The number of further files.
        others: usize,
    },
    /// A program could not set an owner that does not exist in this user namespace.
    NoSuchOwner {
        /// The first output line that reports this.
        line: PrintedLine,
        /// The highest owner that exists in the user namespace.
        highest: u32,
    },
    /// The script failed while scripts of other packages ran.
    RanConcurrently {
        /// An output line that may report a conflict with another script.
        line: Option<PrintedLine>,
    },
    /// A write was refused because the host is protected.
    ProtectedHost {
        /// The output line that reports this.
        line: PrintedLine,
        /// The file or directory, if the line contains its path.
        path: Option<PathBuf>,
    },
    /// A mount was refused because the host is protected.
    NoMounts {
        /// The output line that reports this.
        line: PrintedLine,
    },
    /// Scripts cannot run the programs that they build, because these programs are on a file system that is mounted noexec.
    NoExecution {
        /// The mount point.
        directory: PathBuf,
    },
}

impl Finding {
    /// Whether an output line indicates a conflict with a script that ran at the same time.
    #[must_use]
    pub fn is_a_collision(&self) -> bool {
        matches!(self, Self::RanConcurrently { line: Some(_) })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoScript {
                similar,
                entries,
                others,
            } => no_script(f, similar, entries, *others),
            Self::CarriageReturns { first, lines } => carriage_returns(f, *first, *lines),
            Self::ByteOrderMark => write!(
                f,
                "its `packaging` script begins with a byte order mark, which bash reads as a part of the first line. Save the \
                 script as UTF-8 without it"
            ),
            Self::NothingInstalled { lines, log } => nothing_installed(f, lines, log),
            Self::CompileDirectory {
                directory,
                references,
                others,
            } => compile_directory(f, directory, references, *others),
            Self::NoSuchOwner { line, highest } => no_such_owner(f, line, *highest),
            Self::RanConcurrently { line } => ran_concurrently(f, line.as_ref()),
            Self::ProtectedHost { line, path } => protected_host(f, line, path.as_deref()),
            Self::NoMounts { line } => write!(
                f,
                "`{}`: with --protect-host scripts can mount file systems only in a user namespace of their own \
                 (`unshare --user --map-root-user --mount`). Compile without --protect-host if the package needs it",
                line.text
            ),
            Self::NoExecution { directory } => write!(
                f,
                "`{}` is on a file system that is mounted noexec, so the packaging script cannot run programs that it builds there. \
                 Choose another directory: with --work-dir or, if the isolation tier is `landlock` or `none`, with \
                 --base-directory. Or mount the file system with exec (docker: `--tmpfs PATH:exec`)",
                directory.display()
            ),
        }
    }
}

fn carriage_returns(f: &mut fmt::Formatter<'_>, first: usize, lines: usize) -> fmt::Result {
    let (noun, verb) = match lines {
        1 => ("line", "ends"),
        _ => ("lines", "end"),
    };
    write!(
        f,
        "{lines} {noun} of its `packaging` script {verb} with a carriage return, the first is line {first}: bash reads it as a part \
         of the command (`$'\\r': command not found`). Convert the script to Unix line ends (dos2unix)"
    )
}

fn nothing_installed(f: &mut fmt::Formatter<'_>, lines: &[PrintedLine], log: &Path) -> fmt::Result {
    write!(
        f,
        "it is empty: its script continued after errors (with `set -e` it would stop) and installed nothing"
    )?;
    for PrintedLine { number, text } in lines {
        write!(f, "\n  line {number}: {text}")?;
    }
    write!(f, "\n  in {}", log.display())
}

fn compile_directory(
    f: &mut fmt::Formatter<'_>,
    directory: &Path,
    references: &[Reference],
    others: usize,
) -> fmt::Result {
    write!(
        f,
        "what it installed refers to `{}`, which does not exist on the VM",
        directory.display()
    )?;
    for reference in references {
        write!(f, "\n  {reference}")?;
    }
    match others {
        0 => Ok(()),
        others => write!(f, "\n  and {others} more"),
    }
}

fn no_such_owner(f: &mut fmt::Formatter<'_>, line: &PrintedLine, highest: u32) -> fmt::Result {
    match highest {
        0 => write!(
            f,
            "`{}`: scripts can use only one owner here. Extract with `tar --no-same-owner`, or install the package `uidmap` and give \
             this user a range in /etc/subuid and /etc/subgid",
            line.text
        ),
        highest => write!(
            f,
            "`{}`: the highest owner that scripts can use here is {highest}. Extract with `tar --no-same-owner`, or give this user a \
             larger range in /etc/subuid and /etc/subgid, or compile as root",
            line.text
        ),
    }
}

fn ran_concurrently(f: &mut fmt::Formatter<'_>, line: Option<&PrintedLine>) -> fmt::Result {
    match line {
        None => write!(
            f,
            "other packaging scripts ran at the same time. If it passes with `--jobs 1`, they conflict with it"
        ),
        Some(line) => write!(
            f,
            "`{}`, while other packaging scripts ran, which share the network, abstract sockets and HOME. Try `--jobs 1`",
            line.text
        ),
    }
}

fn protected_host(
    f: &mut fmt::Formatter<'_>,
    line: &PrintedLine,
    path: Option<&Path>,
) -> fmt::Result {
    match path {
        Some(path) => write!(
            f,
            "`{}` is protected from writes by --protect-host. {INSTEAD}",
            path.display()
        ),
        None => write!(
            f,
            "`{}`: --protect-host protects everything from writes except the package's own directories. {INSTEAD}",
            line.text
        ),
    }
}

/// The advice for scripts that write to the protected host.
const INSTEAD: &str = "Have the script write to $BOSH_COMPILE_TARGET, $BOSH_INSTALL_TARGET, $HOME or /tmp, or compile without \
                       --protect-host";

fn no_script(
    f: &mut fmt::Formatter<'_>,
    similar: &[String],
    entries: &[String],
    others: usize,
) -> fmt::Result {
    write!(
        f,
        "its source has no `packaging` script, so the compiled package is empty, as with the Go agent"
    )?;
    if !similar.is_empty() {
        write!(
            f,
            ". The script must be called `packaging`, not {}",
            quoted(similar)
        )?;
    }
    match (entries, others) {
        ([], _) => write!(f, ". The source is empty"),
        (entries, 0) => write!(f, ". The source has {}", quoted(entries)),
        (entries, others) => write!(f, ". The source has {} and {others} more", quoted(entries)),
    }
}

fn quoted(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ReferenceKind::Interpreter => "its interpreter is",
            ReferenceKind::Libraries => "it looks for libraries in",
            ReferenceKind::Link => "it is a link to",
            ReferenceKind::Description => "it says",
        };
        write!(f, "{}: {kind} `{}`", self.path.display(), self.target)
    }
}
