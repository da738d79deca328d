//! The command that the user runs, because messages name its flags and results.

/// A command that compiles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Command {
    /// `bosh-agent compile`
    #[default]
    Compile,
    /// `bosh-agent compile-package`
    CompilePackage,
}

impl Command {
    /// The hint for a disk that is too small.
    pub(super) fn larger_disk(self) -> &'static str {
        match self {
            Self::Compile => {
                "choose a larger disk with --work-dir, --output-directory or --base-directory"
            }
            Self::CompilePackage => {
                "choose a larger disk with --work-dir, --output or the base directory"
            }
        }
    }

    /// The hint for a directory to which nothing can be written.
    pub(super) fn writable_directory(self) -> &'static str {
        match self {
            Self::Compile => {
                "choose a writable directory with --work-dir, --output-directory, --logs-dir or --base-directory"
            }
            Self::CompilePackage => {
                "choose a writable directory with --work-dir, --output, --log, --report or the base directory"
            }
        }
    }

    /// The files whose paths are printed to stdout.
    #[must_use]
    pub fn paths(self) -> &'static str {
        match self {
            Self::Compile => "paths of the compiled releases",
            Self::CompilePackage => "path of the compiled package",
        }
    }
}
