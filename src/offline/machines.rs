//! Where packages are compiled: on this machine, or on the machines of a server of the Remote Execution API.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::caching::CallCache;
use super::remote::RemoteCompiler;
use super::server_cache::ServerCache;
use crate::compile::{Context, SourceDates};

/// The settings for compiling packages.
#[derive(Debug)]
pub(super) struct Compiler {
    pub context: Arc<Context>,
    /// How many packages are compiled concurrently, at most.
    pub jobs: NonZeroUsize,
    /// The directory of the logs of packaging scripts.
    pub logs: PathBuf,
    /// Whether the logs of failed packages are copied to the output directory.
    pub copies_failed_logs: bool,
    /// Whether packages that do not depend on a failed one are still compiled.
    pub keep_going: bool,
    /// The cache with packages of earlier runs.
    pub cache: Option<CallCache>,
    /// The action cache of a server.
    pub server: Option<ServerCache>,
}

/// Where packages are compiled.
#[derive(Debug, Clone, Copy)]
pub(super) enum Machines<'a> {
    /// On this machine.
    Here(&'a Compiler),
    /// On the machines of a server.
    Elsewhere(&'a RemoteCompiler<'a>),
}

impl<'a> Machines<'a> {
    /// The directory of the logs of packaging scripts.
    pub(super) fn logs(self) -> &'a Path {
        match self {
            Self::Here(compiler) => &compiler.logs,
            Self::Elsewhere(compiler) => &compiler.logs,
        }
    }

    pub(super) fn source_dates(self) -> SourceDates {
        match self {
            Self::Here(compiler) => compiler.context.source_dates,
            Self::Elsewhere(compiler) => compiler.source_dates,
        }
    }

    /// The cache with packages of earlier runs. `None` for a server, which has its own cache.
    pub(super) fn cache(self) -> Option<&'a CallCache> {
        match self {
            Self::Here(compiler) => compiler.cache.as_ref(),
            Self::Elsewhere(_) => None,
        }
    }

    /// Whether the logs of failed packages are copied to the output directory.
    pub(super) fn copies_failed_logs(self) -> bool {
        match self {
            Self::Here(compiler) => compiler.copies_failed_logs,
            Self::Elsewhere(compiler) => compiler.copies_failed_logs,
        }
    }

    /// Whether packages that do not depend on a failed one are still compiled.
    pub(super) fn keep_going(self) -> bool {
        match self {
            Self::Here(compiler) => compiler.keep_going,
            Self::Elsewhere(compiler) => compiler.limits.keep_going,
        }
    }
}
