//! Loads the settings of this machine from their sources, and saves them for a start at which no
//! source is available.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::sources::{NoSource, SourceError, Sources};
use crate::config::json::JsonError;
use crate::config::{AgentConfig, Environment, Hidden, Settings, UpdateSettings, Vcap};
use crate::diag::Chain;
use crate::{fs, runtime};

/// The mode of files with settings: only the owner may read them, because they contain keys and passwords.
const MODE: u32 = 0o600;

/// The time limits and intervals of attempts to load settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetryLimits {
    /// The pause between two attempts.
    pub interval: Duration,
    /// The number of failed attempts after which saved settings are used, or the load fails because only
    /// the Go agent can read one of the sources.
    pub tries: u32,
    /// How long invalid settings are retried if none are saved. Another program may still be
    /// writing them.
    pub invalid: Duration,
    /// The interval of log messages about failed attempts.
    pub(crate) reminder: Duration,
}

impl Default for RetryLimits {
    /// Ten attempts, one second apart, as the Go agent makes for a metadata service.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            tries: 10,
            invalid: Duration::from_secs(60),
            reminder: Duration::from_secs(60),
        }
    }
}

/// Loads and saves the settings.
#[derive(Debug)]
pub struct SettingsStore {
    vcap: Vcap,
    sources: Sources,
    limits: RetryLimits,
}

/// The loaded settings, and where they came from.
#[derive(Debug, Clone)]
pub(crate) struct LoadedSettings {
    /// The settings from the CPI.
    pub settings: Settings,
    /// The Director's changes to the CPI's settings.
    pub update: UpdateSettings,
    /// The path of the file, or the URL without its secrets.
    pub(crate) origin: String,
}

/// Why settings could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The configuration contains no usable source.
    #[error(transparent)]
    NoSource(#[from] NoSource),
    /// No source provides settings.
    #[error("no settings can be loaded: {0}")]
    Failed(SourceErrors),
    /// The sources that this agent supports have provided no settings in ten attempts, and there is a source that only the Go agent can
    /// read.
    #[error("no settings can be loaded: {0}")]
    Unsupported(SourceErrors),
    /// `update_settings.json` cannot be read.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// `update_settings.json` is invalid.
    #[error("`{}` cannot be used", path.display())]
    Update {
        /// The file.
        path: PathBuf,
        /// Why the file is invalid.
        source: JsonError,
    },
    /// A task panicked.
    #[error(transparent)]
    Task(#[from] runtime::TaskFailed),
    /// The daemon was stopped.
    #[error("stopped while waiting for settings")]
    Stopped,
}

/// The errors of all sources.
#[derive(Debug)]
pub struct SourceErrors(pub(crate) Vec<SourceError>);

impl fmt::Display for SourceErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, failure) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}", Chain(failure))?;
        }
        Ok(())
    }
}

impl SettingsStore {
    /// Creates a store with the sources in a configuration. `environment` is for the programs that mount disks.
    ///
    /// # Errors
    /// If the configuration contains no usable source.
    pub fn new(
        vcap: &Vcap,
        config: &AgentConfig,
        environment: &Environment,
    ) -> Result<Self, NoSource> {
        Ok(Self {
            vcap: vcap.clone(),
            sources: Sources::new(&config.sources, environment)?,
            limits: RetryLimits::default(),
        })
    }

    /// Sets other retry limits.
    #[cfg(test)]
    pub(crate) fn with_limits(mut self, limits: RetryLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Loads the CPI's settings and the Director's changes to them.
    ///
    /// Without saved settings, waits for a source that is missing or fails: a container may start before
    /// its settings are provided. There is no time limit, unless only the Go agent can read one of the
    /// sources. With settings that an earlier load has saved, uses these instead: at once if no source has
    /// settings, and after ten attempts if a source fails.
    ///
    /// # Errors
    /// If settings stay invalid, only the Go agent can read one of the sources and the others have no settings
    /// after ten attempts, `update_settings.json` is invalid, or `cancel` is canceled.
    pub(crate) async fn load(
        &self,
        cancel: &CancellationToken,
    ) -> Result<LoadedSettings, LoadError> {
        let (settings, origin) = self.find(cancel).await?;
        if !self.is_saved(&origin) {
            self.save(&settings).await?;
        }
        Ok(LoadedSettings {
            settings,
            update: self.update()?,
            origin,
        })
    }

    /// Finds the CPI's settings as [`load`](Self::load) does, but saves nothing. Returns the settings, and the path or URL of their source.
    ///
    /// # Errors
    /// As [`load`](Self::load), except for `update_settings.json`.
    pub(crate) async fn find(
        &self,
        cancel: &CancellationToken,
    ) -> Result<(Settings, String), LoadError> {
        let found = self.find_or_wait(cancel).await;
        match cancel.is_cancelled() {
            true => Err(LoadError::Stopped),
            false => found,
        }
    }

    /// Whether this is the path of settings that an earlier load has saved.
    fn is_saved(&self, origin: &str) -> bool {
        let places = [self.vcap.settings_in_memory(), self.vcap.settings()];
        places.iter().any(|place| place.as_os_str() == origin)
    }

    /// Returns soon after `cancel`. Callers must not drop the future before that, because a disk may have to be unmounted.
    async fn find_or_wait(
        &self,
        cancel: &CancellationToken,
    ) -> Result<(Settings, String), LoadError> {
        let start = Instant::now();
        let mut reminded: Option<Instant> = None;
        for round in 1_u32.. {
            let errors = match self.sources.load(cancel).await {
                Ok(found) => return Ok(found),
                Err(errors) => SourceErrors(errors),
            };
            if cancel.is_cancelled() {
                break;
            }
            let may_use_saved =
                round >= self.limits.tries || errors.0.iter().all(SourceError::is_missing);
            if may_use_saved && let Some((settings, path)) = self.saved() {
                let path = path.display().to_string();
                tracing::warn!(reason = %errors, path, "no settings could be loaded; using those of an earlier start");
                return Ok((settings, path));
            }
            let stays_invalid = errors.0.iter().any(SourceError::is_invalid)
                && start.elapsed() >= self.limits.invalid;
            if stays_invalid {
                return Err(LoadError::Failed(errors));
            }
            // The settings are probably in the source that this agent cannot read.
            let may_be_elsewhere = errors.0.iter().any(SourceError::is_unsupported);
            if may_be_elsewhere && round >= self.limits.tries {
                return Err(LoadError::Unsupported(errors));
            }
            if reminded.is_none_or(|reminded| reminded.elapsed() >= self.limits.reminder) {
                tracing::warn!(reason = %errors, "waiting for settings");
                reminded = Some(Instant::now());
            }
            let waiting = tokio::time::sleep(self.limits.interval);
            cancel.run_until_cancelled(waiting).await;
        }
        Err(LoadError::Stopped)
    }

    /// Loads the Director's changes. A missing file means no changes.
    ///
    /// # Errors
    /// If the file cannot be read or is invalid.
    pub fn update(&self) -> Result<UpdateSettings, LoadError> {
        let path = self.vcap.update_settings();
        match fs::if_there(fs::read(&path))? {
            Some(text) => {
                UpdateSettings::parse(&text).map_err(|source| LoadError::Update { path, source })
            }
            None => Ok(UpdateSettings::default()),
        }
    }

    /// Saves the Director's changes, and flushes them to the disk.
    ///
    /// # Errors
    /// If the file cannot be written. The previous file is then unchanged.
    pub(crate) async fn save_update(&self, update: &UpdateSettings) -> Result<(), LoadError> {
        write(self.vcap.update_settings(), update.to_json()).await
    }

    /// The path for saved settings. `None` if the settings must not be saved on a disk and the
    /// directory of a memory file system for them is missing.
    ///
    /// The Go agent mounts a tmpfs at this directory when it starts. This agent mounts nothing, so
    /// the directory exists only if the image contains it or a Go agent ran before.
    fn save_path(&self, settings: &Settings) -> Option<PathBuf> {
        if !settings.bosh.settings_in_memory {
            return Some(self.vcap.settings());
        }
        let path = self.vcap.settings_in_memory();
        fs::parent(&path).is_dir().then_some(path)
    }

    async fn save(&self, settings: &Settings) -> Result<(), LoadError> {
        let Some(path) = self.save_path(settings) else {
            tracing::info!(
                "the settings must stay in memory, but no directory is mounted for them; not saving them"
            );
            return Ok(());
        };
        match write(path, settings.document().clone()).await {
            Err(LoadError::File(error)) => {
                tracing::warn!(error = %Chain(&error), "failed to save the settings for the next start");
                Ok(())
            }
            other => other,
        }
    }

    /// The settings that an earlier load has saved, and their path.
    fn saved(&self) -> Option<(Settings, PathBuf)> {
        [self.vcap.settings_in_memory(), self.vcap.settings()]
            .into_iter()
            .find_map(|path| {
                let text = fs::read(&path).ok()?;
                match Settings::parse(&text) {
                    Ok(settings) => Some((settings, path)),
                    Err(error) => {
                        let path = path.display().to_string();
                        // Do not warn, because this happens in each attempt.
                        tracing::debug!(path, error = %Chain(&error), "the saved settings are invalid");
                        None
                    }
                }
            })
    }
}

/// Writes a document with secrets. Runs on a thread for blocking operations.
async fn write(path: PathBuf, document: Hidden<Value>) -> Result<(), LoadError> {
    let written = runtime::spawn_blocking("write settings", move || write_now(&path, &document));
    Ok(written.await??)
}

fn write_now(path: &Path, document: &Hidden<Value>) -> fs::Result<()> {
    fs::create_dir_all(fs::parent(path))?;
    fs::write_atomic(path, document.expose().to_string().as_bytes(), MODE)
}

#[cfg(test)]
mod tests;
