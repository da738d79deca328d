//! The settings of this machine: loaded from wherever they are, kept for a time when they are nowhere.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::sources::{NoSource, SourceError, Sources};
use crate::config::json::JsonError;
use crate::config::{AgentConfig, Hidden, Settings, UpdateSettings, Vcap};
use crate::diag::Chain;
use crate::{fs, runtime};

/// Settings hold keys and passwords.
const MODE: u32 = 0o600;

/// How long settings are waited for, and how often they are looked for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Between two looks at all sources.
    pub interval: Duration,
    /// How many looks a source that fails gets before the kept settings count.
    pub tries: u32,
    /// How long contents that are no settings may stay so, where nothing is kept: whoever writes them may not be done.
    pub unfinished: Duration,
    /// Between two lines in the log.
    pub reminder: Duration,
}

impl Default for Patience {
    /// The Go agent asks a metadata service ten times, a second apart.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            tries: 10,
            unfinished: Duration::from_secs(60),
            reminder: Duration::from_secs(60),
        }
    }
}

/// Loads settings and keeps them.
#[derive(Debug)]
pub struct SettingsStore {
    vcap: Vcap,
    sources: Sources,
    patience: Patience,
}

/// What holds now.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What the CPI said.
    pub settings: Settings,
    /// What a Director has changed since.
    pub update: UpdateSettings,
    /// Where the settings came from: a path, or a URL without its secrets.
    pub origin: String,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The configuration names no source that could be used.
    #[error(transparent)]
    NoSource(#[from] NoSource),
    /// No source has settings, and none will.
    #[error("no settings can be loaded: {0}")]
    Failed(Failures),
    /// `update_settings.json` cannot be read.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// `update_settings.json` is not what it should be.
    #[error("`{}` cannot be used", path.display())]
    Update {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: JsonError,
    },
    /// The machinery failed.
    #[error(transparent)]
    Task(#[from] runtime::TaskFailed),
    /// We were asked to stop.
    #[error("stopped while waiting for settings")]
    Stopped,
}

/// What each source answered.
#[derive(Debug)]
pub struct Failures(pub Vec<SourceError>);

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, failure) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}", Chain(failure))?;
        }
        Ok(())
    }
}

impl SettingsStore {
    /// The settings that a configuration names.
    ///
    /// # Errors
    /// When it names no source.
    pub fn new(vcap: &Vcap, config: &AgentConfig) -> Result<Self, NoSource> {
        Ok(Self {
            vcap: vcap.clone(),
            sources: Sources::new(&config.sources)?,
            patience: Patience::default(),
        })
    }

    /// The same with another patience.
    #[must_use]
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// Loads the settings and what a Director has changed in them.
    ///
    /// Waits without limit for a source that has nothing yet (a container may be started before its settings are provided), and
    /// for one that fails. Settings that were kept from an earlier load spare the waiting: they count at once when no
    /// source has anything, and after some tries when one fails.
    ///
    /// # Errors
    /// When no source can ever have settings, when contents stay unusable, when `update_settings.json` is broken, and when
    /// we are asked to stop.
    pub async fn load(&self, cancel: &CancellationToken) -> Result<Loaded, LoadError> {
        // Dropping what was begun ends it.
        let (settings, origin) = cancel
            .run_until_cancelled(self.wait())
            .await
            .unwrap_or(Err(LoadError::Stopped))?;
        Ok(Loaded {
            settings,
            update: self.update()?,
            origin,
        })
    }

    async fn wait(&self) -> Result<(Settings, String), LoadError> {
        let start = Instant::now();
        let mut told: Option<Instant> = None;
        for round in 1_u32.. {
            let failures = match self.sources.ask().await {
                Ok((settings, origin)) => {
                    tracing::info!(from = origin, "settings loaded");
                    self.keep(&settings).await?;
                    return Ok((settings, origin));
                }
                Err(failures) => Failures(failures),
            };
            let patience_ends = round >= self.patience.tries
                || failures.0.iter().all(SourceError::is_nothing_there);
            if patience_ends && let Some((settings, path)) = self.kept() {
                let path = path.display().to_string();
                tracing::warn!(why = %failures, path, "no source has settings: those of an earlier load are used");
                return Ok((settings, path));
            }
            let hopeless = !failures.0.iter().any(SourceError::may_change);
            let finished = failures.0.iter().any(SourceError::is_contents)
                && start.elapsed() >= self.patience.unfinished;
            if hopeless || finished {
                return Err(LoadError::Failed(failures));
            }
            if told.is_none_or(|told| told.elapsed() >= self.patience.reminder) {
                tracing::warn!(why = %failures, "waiting for settings");
                told = Some(Instant::now());
            }
            tokio::time::sleep(self.patience.interval).await;
        }
        Err(LoadError::Stopped)
    }

    /// What a Director has changed, as it was last saved.
    ///
    /// # Errors
    /// When the file cannot be read or is broken. One that is not there says nothing.
    pub fn update(&self) -> Result<UpdateSettings, LoadError> {
        let path = self.vcap.update_settings();
        match fs::read(&path) {
            Ok(text) => {
                UpdateSettings::parse(&text).map_err(|source| LoadError::Update { path, source })
            }
            Err(error) if error.is_not_found() => Ok(UpdateSettings::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Saves what a Director has changed. When this returns it is on the disk.
    ///
    /// # Errors
    /// What the system answered; then the file is as it was.
    pub async fn save_update(&self, update: &UpdateSettings) -> Result<(), LoadError> {
        write(self.vcap.update_settings(), update.to_json()).await
    }

    /// Where settings are kept: nowhere where they must stay in memory and there is no such place.
    ///
    /// The Go agent mounts a small tmpfs there at its start. This one mounts nothing; the directory is there when the image
    /// or an earlier start of the Go agent made it.
    fn place(&self, settings: &Settings) -> Option<PathBuf> {
        if !settings.bosh.settings_in_memory {
            return Some(self.vcap.settings());
        }
        let path = self.vcap.settings_in_memory();
        fs::parent(&path).is_dir().then_some(path)
    }

    async fn keep(&self, settings: &Settings) -> Result<(), LoadError> {
        let Some(path) = self.place(settings) else {
            tracing::info!(
                "settings must stay in memory, and nothing is mounted for them: they are not kept"
            );
            return Ok(());
        };
        match write(path, settings.document().clone()).await {
            Err(LoadError::File(error)) => {
                tracing::warn!(error = %Chain(&error), "the settings are not kept for a later start");
                Ok(())
            }
            other => other,
        }
    }

    /// The settings of an earlier load, with their path.
    fn kept(&self) -> Option<(Settings, PathBuf)> {
        [self.vcap.settings_in_memory(), self.vcap.settings()]
            .into_iter()
            .find_map(|path| {
                let text = fs::read(&path).ok()?;
                match Settings::parse(&text) {
                    Ok(settings) => Some((settings, path)),
                    Err(error) => {
                        let path = path.display().to_string();
                        // Asked for again and again while we wait, so not a warning each time.
                        tracing::debug!(path, error = %Chain(&error), "kept settings cannot be used");
                        None
                    }
                }
            })
    }
}

/// Writes a document with secrets. It goes to the disk beside the tasks.
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
