//! The sources of settings: files, metadata services (web servers of a cloud), and disks.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;

use crate::config::{DiskSource, Environment, HttpSource, Settings, SettingsError, Source};
use crate::fs;

mod disk;
mod metadata;

pub(crate) use disk::DiskError;
pub(crate) use metadata::MetadataError;

/// The sources in the configured order. The source that last provided settings is tried first.
#[derive(Debug)]
pub struct Sources {
    list: Vec<Source>,
    /// The environment of programs that mount disks.
    environment: Environment,
    /// The index of the source that is tried first.
    first: AtomicUsize,
}

/// Why a configuration contains no usable source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSource {
    /// The configuration contains no source. The text is that of the Go agent.
    #[error("MultiSettingsSource requires to have at least one source")]
    None,
    /// A source of type `File` has no path.
    #[error("a settings source of type `File` has no `SettingsPath`")]
    Path,
    /// A source of type `ConfigDrive` or `CDROM` names no disk or no file.
    #[error("a settings source of type `{kind}` has no `{option}`")]
    Disk {
        /// The type.
        kind: &'static str,
        /// The missing member.
        option: &'static str,
    },
    /// This agent supports none of the sources.
    #[error(
        "this agent cannot read settings from a source of type `{kinds}`, and the configuration names no other source"
    )]
    Unsupported {
        /// The types of the sources, joined by commas.
        kinds: String,
    },
}

/// Why a source does not provide settings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// The file does not exist.
    #[error("`{}` does not exist", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("the settings cannot be read")]
    Unreadable(#[source] fs::Error),
    /// The settings are invalid, or incomplete.
    #[error("`{place}` cannot be used")]
    Invalid {
        /// The file's path, or the service's URL.
        place: String,
        /// Why the settings are invalid.
        source: SettingsError,
    },
    /// A metadata service failed.
    #[error("failed to get settings from the metadata service `{url}`")]
    Metadata {
        /// The service's URL, without userinfo and query.
        url: String,
        /// Why the service failed.
        source: MetadataError,
    },
    /// A disk could not be read.
    #[error("failed to read the settings of the source `{kind}`")]
    Disk {
        /// The type: `ConfigDrive` or `CDROM`.
        kind: &'static str,
        /// Why the disk could not be read.
        source: DiskError,
    },
    /// The source has a type that only the Go agent supports.
    #[error("this agent cannot read settings from a source of type `{kind}`")]
    Unsupported {
        /// The type: `VsphereGuestInfo`.
        kind: String,
    },
}

impl SourceError {
    /// Whether the source has no settings, as opposed to a source that fails. If no source has
    /// settings, the saved settings are used without further attempts.
    #[must_use]
    pub(crate) fn is_missing(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::Unsupported { .. } => true,
            Self::Disk { source, .. } => matches!(source, DiskError::Missing { .. }),
            Self::Unreadable(_) | Self::Invalid { .. } | Self::Metadata { .. } => false,
        }
    }

    /// Whether only the Go agent can read the source.
    #[must_use]
    pub(crate) fn is_unsupported(&self) -> bool {
        matches!(self, Self::Unsupported { .. })
    }

    /// Whether the source has invalid settings.
    #[must_use]
    pub(crate) fn is_invalid(&self) -> bool {
        matches!(self, Self::Invalid { .. })
    }
}

impl Sources {
    /// The sources in a configuration.
    ///
    /// # Errors
    /// If there is no source, a source lacks a path, or this agent supports none of the sources.
    pub fn new(list: &[Source], environment: &Environment) -> Result<Self, NoSource> {
        if list.is_empty() {
            return Err(NoSource::None);
        }
        list.iter().try_for_each(check)?;
        let kind = |source: &Source| match source {
            Source::Unsupported { kind } => Some(kind.clone()),
            Source::File { .. } | Source::Http(_) | Source::Disk(_) => None,
        };
        let unsupported: Vec<String> = list.iter().filter_map(kind).collect();
        if unsupported.len() == list.len() {
            let kinds = unsupported.join(", ");
            return Err(NoSource::Unsupported { kinds });
        }
        Ok(Self {
            list: list.to_vec(),
            environment: environment.clone(),
            first: AtomicUsize::new(0),
        })
    }

    /// Tries each source until one provides settings. Returns the settings, and the path or URL of
    /// the source.
    ///
    /// # Errors
    /// The errors of all sources that were tried before `cancel`.
    pub(crate) async fn load(
        &self,
        cancel: &CancellationToken,
    ) -> Result<(Settings, String), Vec<SourceError>> {
        let mut errors = Vec::new();
        let first = self.first.load(Ordering::Relaxed);
        let others = (0..self.list.len()).filter(|index| *index != first);
        for index in std::iter::once(first).chain(others) {
            let loaded = match &self.list[index] {
                Source::File { path } => file(path),
                Source::Http(source) => match cancel.run_until_cancelled(http(source)).await {
                    Some(loaded) => loaded,
                    None => break,
                },
                Source::Disk(source) => disk(source, &self.environment, cancel).await,
                Source::Unsupported { kind } => {
                    Err(SourceError::Unsupported { kind: kind.clone() })
                }
            };
            match loaded {
                Ok(found) => {
                    self.first.store(index, Ordering::Relaxed);
                    return Ok(found);
                }
                Err(error) => errors.push(error),
            }
        }
        Err(errors)
    }
}

/// Checks that a source has the members that it needs.
fn check(source: &Source) -> Result<(), NoSource> {
    match source {
        Source::File { path } if path.as_os_str().is_empty() => Err(NoSource::Path),
        Source::Disk(DiskSource { kind, disks, file }) => {
            let option = match (disks.is_empty(), file.as_os_str().is_empty()) {
                (true, _) => "DiskPaths",
                (false, true) if *kind == "CDROM" => "FileName",
                (false, true) => "UserDataPath",
                (false, false) => return Ok(()),
            };
            Err(NoSource::Disk { kind, option })
        }
        _ => Ok(()),
    }
}

async fn disk(
    source: &DiskSource,
    environment: &Environment,
    cancel: &CancellationToken,
) -> Result<(Settings, String), SourceError> {
    let kind = source.kind;
    let (text, place) = match disk::read(source, environment, cancel).await {
        Ok(read) => read,
        Err(source) => return Err(SourceError::Disk { kind, source }),
    };
    match Settings::parse(&text) {
        Ok(settings) => Ok((settings, place)),
        Err(source) => Err(SourceError::Invalid { place, source }),
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
        Err(source) => Err(SourceError::Invalid { place, source }),
    }
}

async fn http(source: &HttpSource) -> Result<(Settings, String), SourceError> {
    let url = metadata::shown(source);
    let text = match metadata::fetch(source).await {
        Ok(text) => text,
        Err(source) => return Err(SourceError::Metadata { url, source }),
    };
    let settings = match Settings::parse(&text) {
        // Some CPIs encode the settings in base64, because their clouds do not preserve all bytes
        // of user data.
        Err(SettingsError::Json(_)) => match metadata::decoded(&text) {
            Some(decoded) => Settings::parse(&decoded),
            None => Settings::parse(&text),
        },
        other => other,
    };
    match settings {
        Ok(settings) => Ok((settings, url)),
        Err(source) => Err(SourceError::Invalid { place: url, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn last_successful_source_is_tried_first() {
        let scratch = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| scratch.path().join(name));
        let list = [
            Source::Unsupported {
                kind: "VsphereGuestInfo".to_owned(),
            },
            Source::File { path: a.clone() },
            Source::File { path: b.clone() },
        ];
        let sources = Sources::new(&list, &Environment::default()).unwrap();
        let failures = sources.load(&CancellationToken::new()).await.unwrap_err();
        assert!(failures.iter().all(SourceError::is_missing));
        assert_eq!(failures.len(), 3);

        fs::write(&b, br#"{"agent_id":"b"}"#).unwrap();
        let (settings, place) = sources.load(&CancellationToken::new()).await.unwrap();
        assert_eq!(
            (settings.agent_id.as_str(), place.as_str()),
            ("b", b.to_str().unwrap())
        );
        fs::write(&a, br#"{"agent_id":"a"}"#).unwrap();
        assert_eq!(
            sources
                .load(&CancellationToken::new())
                .await
                .unwrap()
                .0
                .agent_id
                .as_str(),
            "b"
        );
    }

    fn problem(list: &[Source]) -> String {
        let sources = Sources::new(list, &Environment::default());
        sources.unwrap_err().to_string()
    }

    #[test]
    fn unsupported_source_is_refused_by_name_if_there_is_no_other() {
        let guest_info = Source::Unsupported {
            kind: "VsphereGuestInfo".to_owned(),
        };
        assert_eq!(
            problem(std::slice::from_ref(&guest_info)),
            "this agent cannot read settings from a source of type `VsphereGuestInfo`, and the configuration names no other source"
        );
        let path = PathBuf::from("/settings");
        Sources::new(
            &[guest_info, Source::File { path }],
            &Environment::default(),
        )
        .unwrap();
    }

    #[test]
    fn configuration_needs_a_source_and_files_a_path() {
        assert_eq!(
            problem(&[]),
            "MultiSettingsSource requires to have at least one source"
        );
        let nameless = Source::File {
            path: PathBuf::new(),
        };
        assert_eq!(
            problem(&[nameless]),
            "a settings source of type `File` has no `SettingsPath`"
        );
        for (kind, disks, option) in [
            ("CDROM", vec![PathBuf::from("/dev/sr0")], "FileName"),
            ("ConfigDrive", vec![], "DiskPaths"),
            (
                "ConfigDrive",
                vec![PathBuf::from("/dev/vdb")],
                "UserDataPath",
            ),
        ] {
            let file = PathBuf::new();
            let disk = Source::Disk(DiskSource { kind, disks, file });
            let text = format!("a settings source of type `{kind}` has no `{option}`");
            assert_eq!(problem(&[disk]), text);
        }
    }
}
