//! Where settings come from, asked once.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::{HttpSource, Settings, SettingsError, Source};
use crate::fs;

mod metadata;

pub use metadata::MetadataError;

/// The places that settings may come from, in the order in which they are asked. Which of them had some is remembered and
/// asked first from then on.
#[derive(Debug)]
pub struct Sources {
    list: Vec<Source>,
    first: AtomicUsize,
}

/// Why there can be no settings at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSource {
    /// As the Go agent says it.
    #[error("MultiSettingsSource requires to have at least one source")]
    None,
    /// A source of type `File` that names none.
    #[error("a settings source of type `File` has no `SettingsPath`")]
    Path,
}

/// Why one source gave no settings.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file is not there.
    #[error("there is no file `{}`", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("the settings cannot be read")]
    Unreadable(#[source] fs::Error),
    /// What is there is not, or not yet, what it should be.
    #[error("`{place}` cannot be used")]
    Contents {
        /// The file's path, or the service's URL.
        place: String,
        /// What is wrong with it.
        source: SettingsError,
    },
    /// A metadata service did not give them.
    #[error("the metadata service at `{url}` gave no settings")]
    Metadata {
        /// Its URL, without userinfo and query.
        url: String,
        /// What went wrong.
        source: MetadataError,
    },
    /// A kind of source that only the Go agent reads.
    #[error("this agent cannot read settings from a source of type `{kind}`")]
    Unsupported {
        /// `ConfigDrive`, `CDROM` or `VsphereGuestInfo`.
        kind: String,
    },
}

impl SourceError {
    /// Whether the source has nothing, and asking it again at once would change nothing.
    #[must_use]
    pub fn is_nothing_there(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Unsupported { .. })
    }

    /// Whether the source has something that is no settings: half of them, or something else.
    #[must_use]
    pub fn is_contents(&self) -> bool {
        matches!(self, Self::Contents { .. })
    }

    /// Whether time may help.
    #[must_use]
    pub fn may_change(&self) -> bool {
        !matches!(self, Self::Unsupported { .. })
    }
}

impl Sources {
    /// The sources of a configuration.
    ///
    /// # Errors
    /// When there is none, or a file without a name.
    pub fn new(list: &[Source]) -> Result<Self, NoSource> {
        if list.is_empty() {
            return Err(NoSource::None);
        }
        let nameless = |source: &Source| matches!(source, Source::File { path } if path.as_os_str().is_empty());
        if list.iter().any(nameless) {
            return Err(NoSource::Path);
        }
        Ok(Self {
            list: list.to_vec(),
            first: AtomicUsize::new(0),
        })
    }

    /// Asks each source until one has settings. The text that comes with them says which one that was.
    ///
    /// # Errors
    /// What each of them answered, in the order in which they were asked.
    pub async fn ask(&self) -> Result<(Settings, String), Vec<SourceError>> {
        let mut failures = Vec::new();
        let first = self.first.load(Ordering::Relaxed);
        let others = (0..self.list.len()).filter(|index| *index != first);
        for index in std::iter::once(first).chain(others) {
            let answer = match &self.list[index] {
                Source::File { path } => file(path),
                Source::Http(source) => http(source).await,
                Source::Unsupported { kind } => {
                    Err(SourceError::Unsupported { kind: kind.clone() })
                }
            };
            match answer {
                Ok(found) => {
                    self.first.store(index, Ordering::Relaxed);
                    return Ok(found);
                }
                Err(failure) => failures.push(failure),
            }
        }
        Err(failures)
    }
}

fn file(path: &Path) -> Result<(Settings, String), SourceError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.is_not_found() => {
            return Err(SourceError::Missing {
                path: path.to_owned(),
            });
        }
        Err(error) => return Err(SourceError::Unreadable(error)),
    };
    let place = path.display().to_string();
    match Settings::parse(&text) {
        Ok(settings) => Ok((settings, place)),
        Err(source) => Err(SourceError::Contents { place, source }),
    }
}

async fn http(source: &HttpSource) -> Result<(Settings, String), SourceError> {
    let url = metadata::shown(source);
    let text = match metadata::fetch(source).await {
        Ok(text) => text,
        Err(source) => return Err(SourceError::Metadata { url, source }),
    };
    let settings = match Settings::parse(&text) {
        // Some CPIs encode the settings, since their clouds do not keep every byte of user data.
        Err(SettingsError::Json(_)) => match metadata::decoded(&text) {
            Some(decoded) => Settings::parse(&decoded),
            None => Settings::parse(&text),
        },
        other => other,
    };
    match settings {
        Ok(settings) => Ok((settings, url)),
        Err(source) => Err(SourceError::Contents { place: url, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_source_that_had_settings_is_asked_first_from_then_on() {
        let scratch = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| scratch.path().join(name));
        let list = [
            Source::Unsupported {
                kind: "CDROM".to_owned(),
            },
            Source::File { path: a.clone() },
            Source::File { path: b.clone() },
        ];
        let sources = Sources::new(&list).unwrap();
        let failures = sources.ask().await.unwrap_err();
        assert!(failures.iter().all(SourceError::is_nothing_there));
        assert_eq!(failures.len(), 3);

        fs::write(&b, br#"{"agent_id":"b"}"#).unwrap();
        let (settings, place) = sources.ask().await.unwrap();
        assert_eq!(
            (settings.agent_id.as_str(), place.as_str()),
            ("b", b.to_str().unwrap())
        );
        fs::write(&a, br#"{"agent_id":"a"}"#).unwrap();
        assert_eq!(sources.ask().await.unwrap().0.agent_id.as_str(), "b");
    }

    #[test]
    fn there_must_be_a_source_and_a_file_needs_a_name() {
        assert_eq!(
            Sources::new(&[]).unwrap_err().to_string(),
            "MultiSettingsSource requires to have at least one source"
        );
        let nameless = Source::File {
            path: PathBuf::new(),
        };
        assert_eq!(Sources::new(&[nameless]).unwrap_err(), NoSource::Path);
    }
}
