//! Stores in the directory of logs how long packages took, so that later runs can compute their critical path.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fs::{self, Context, LeasedFile};
use crate::release::{Name, Version};

/// The file's name in the directory of logs.
const FILE: &str = "durations.json";

/// The prefix of a partial file.
const PARTIAL_PREFIX: &str = ".bosh-agent-durations-";

/// How long a run waits for another one that writes the file.
const TURN: Duration = Duration::from_secs(2);

/// The maximum number of versions of a package in the file.
const VERSIONS: usize = 8;

/// The estimated time of everything except the script, in seconds.
const BASE: f64 = 0.2;

/// The estimated time of a script if no duration is known, in seconds per byte of compressed source: 1 MB/s.
const PER_BYTE: f64 = 1e-6;

/// The durations of earlier runs, and those of this run.
#[derive(Debug, Default)]
pub(super) struct Durations {
    earlier: Remembered,
    new: Vec<(Name, Version, Duration)>,
}

/// A package whose duration is estimated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured<'a> {
    pub name: &'a Name,
    pub version: &'a Version,
    /// The size of the package's compressed source, in bytes.
    pub bytes: u64,
}

/// How long a package is expected to take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    pub time: Duration,
    /// Whether a run has measured the package. Otherwise, the time is estimated from the package's size.
    pub is_measured: bool,
}

/// The contents of the file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Remembered {
    /// The durations by package name. The version that was compiled last comes first.
    packages: BTreeMap<String, Vec<RecordedDuration>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RecordedDuration {
    version: String,
    seconds: f64,
}

/// Why the file of durations cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error(transparent)]
    Files(#[from] fs::Error),
    #[error("`{}` is damaged", path.display())]
    Damaged {
        path: PathBuf,
        source: serde_json::Error,
    },
}

impl Durations {
    /// The path of the file in a directory.
    pub(super) fn path(directory: &Path) -> PathBuf {
        directory.join(FILE)
    }

    /// Reads the durations in a directory. Without a file, there are none.
    pub(super) fn read(directory: &Path) -> Result<Self, Unusable> {
        let path = Self::path(directory);
        let text = match fs::read(&path) {
            Err(error) if error.is_not_found() => return Ok(Self::default()),
            other => other?,
        };
        let remembered: Remembered =
            serde_json::from_slice(&text).map_err(|source| Unusable::Damaged { path, source })?;
        Ok(Self {
            earlier: remembered,
            new: Vec::new(),
        })
    }

    /// Estimates how long each package will take: from its own durations, or else from the size of its source and the durations of the
    /// other packages.
    pub(super) fn expect(&self, packages: &[Measured<'_>]) -> Vec<Expected> {
        let new = self.new.iter();
        let new: BTreeMap<_, _> = new
            .map(|(name, version, took)| ((name.as_str(), version.as_str()), took.as_secs_f64()))
            .collect();
        let known = packages.iter().map(|package| {
            let added = new.get(&(package.name.as_str(), package.version.as_str()));
            added.copied().or_else(|| self.earlier_seconds(package))
        });
        let known: Vec<Option<f64>> = known.collect();
        let (mut seconds, mut bytes) = (0.0, 0.0);
        for (known, package) in known.iter().zip(packages) {
            if let Some(known) = known {
                seconds += known;
                bytes += package.bytes as f64;
            }
        }
        // The speed of compilation, if a package of this run was measured.
        let per_byte = if bytes > 0.0 {
            seconds / bytes
        } else {
            PER_BYTE
        };
        known
            .into_iter()
            .zip(packages)
            .map(|(known, package)| {
                let seconds = known.unwrap_or(package.bytes as f64 * per_byte);
                Expected {
                    time: Duration::try_from_secs_f64(BASE + seconds).unwrap_or_default(),
                    is_measured: known.is_some(),
                }
            })
            .collect()
    }

    /// How many seconds the same version took in an earlier run or, if it was never compiled, the version that was compiled last.
    fn earlier_seconds(&self, package: &Measured<'_>) -> Option<f64> {
        let entries = self.earlier.packages.get(package.name.as_str())?;
        let same = entries
            .iter()
            .find(|entry| entry.version == package.version.as_str());
        let seconds = same.or(entries.first())?.seconds;
        (seconds.is_finite() && seconds >= 0.0).then_some(seconds)
    }

    /// Adds the duration of a package that was compiled in this run, or that a cache has with its duration.
    pub(super) fn add(&mut self, name: &Name, version: &Version, took: Duration) {
        self.new.push((name.clone(), version.clone(), took));
    }

    /// Writes the durations. Durations that another run has written in the meantime are kept.
    pub(super) fn write(self, directory: &Path) -> Result<(), Unusable> {
        self.write_within(directory, TURN)
    }

    /// Does the same after waiting for other runs up to this limit.
    fn write_within(self, directory: &Path, limit: Duration) -> Result<(), Unusable> {
        if self.new.is_empty() {
            return Ok(());
        }
        let path = Self::path(directory);
        // Without the lock, a run that reads the file now would lose what this run writes. This only makes estimates worse, so a lock that
        // is held for long or not supported is no error.
        let lock = fs::lock_directory(directory, limit);
        if lock.is_none() {
            tracing::debug!("the directory of logs could not be locked");
        }
        let mut remembered = Self::read(directory).map_or(self.earlier, |now| now.earlier);
        for (name, version, took) in self.new {
            let entries = remembered
                .packages
                .entry(name.as_str().to_owned())
                .or_default();
            entries.retain(|entry| entry.version != version.as_str());
            let entry = RecordedDuration {
                version: version.as_str().to_owned(),
                // Milliseconds are precise enough.
                seconds: (took.as_secs_f64() * 1000.0).round() / 1000.0,
            };
            entries.insert(0, entry);
            entries.truncate(VERSIONS);
        }
        let damaged = |source| Unusable::Damaged {
            path: path.clone(),
            source,
        };
        let text = serde_json::to_vec_pretty(&remembered).map_err(damaged)?;
        fs::remove_abandoned(directory, PARTIAL_PREFIX, None);
        let file = LeasedFile::create(directory, PARTIAL_PREFIX, "")?;
        file.file().write_all(&text).at("write", file.path())?;
        Ok(file.persist(&path)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> (Name, Version) {
        (Name::parse(name).unwrap(), Version::parse(version).unwrap())
    }

    fn expected(durations: &Durations, packages: &[(&str, &str, u64)]) -> Vec<f64> {
        let named: Vec<_> = packages
            .iter()
            .map(|(name, version, _)| package(name, version))
            .collect();
        let asked: Vec<_> = named
            .iter()
            .zip(packages)
            .map(|((name, version), (_, _, bytes))| Measured {
                name,
                version,
                bytes: *bytes,
            })
            .collect();
        let found = durations.expect(&asked);
        found
            .iter()
            .map(|it| (it.time.as_secs_f64() * 10.0).round() / 10.0)
            .collect()
    }

    #[test]
    fn durations_of_earlier_runs_are_expected() {
        let directory = tempfile::tempdir().unwrap();
        let mut durations = Durations::read(directory.path()).unwrap();
        let (name, old) = package("lib", "old");
        durations.add(&name, &old, Duration::from_secs(100));
        durations.add(
            &name,
            &package("lib", "new").1,
            Duration::from_millis(3_000),
        );
        durations.write(directory.path()).unwrap();
        let durations = Durations::read(directory.path()).unwrap();
        assert_eq!(
            expected(&durations, &[("lib", "old", 9), ("lib", "next", 9)]),
            [100.2, 3.2]
        );
        // An unknown package is estimated by its size, at the speed of the known ones.
        assert_eq!(
            expected(&durations, &[("lib", "new", 1000), ("app", "1", 2000)]),
            [3.2, 6.2]
        );
        assert_eq!(
            expected(&Durations::default(), &[("app", "1", 5_000_000)]),
            [5.2]
        );
        assert_eq!(fs::list(directory.path()).unwrap().len(), 1);
    }

    #[test]
    fn durations_of_concurrent_runs_are_kept_for_a_few_versions() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = Durations::read(directory.path()).unwrap();
        let mut second = Durations::read(directory.path()).unwrap();
        for number in 0..20 {
            let (name, version) = package("lib", &number.to_string());
            first.add(&name, &version, Duration::from_secs(number));
        }
        let (name, version) = package("app", "1");
        second.add(&name, &version, Duration::from_secs(1));
        first.write(directory.path()).unwrap();
        second.write(directory.path()).unwrap();
        let both = Durations::read(directory.path()).unwrap();
        assert_eq!(both.earlier.packages["lib"].len(), VERSIONS);
        assert_eq!(both.earlier.packages["lib"][0].seconds, 19.0);
        assert_eq!(both.earlier.packages["app"].len(), 1);
    }

    #[test]
    fn runs_that_end_at_the_same_time_lose_nothing() {
        let directory = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for run in 0..4 {
                let directory = directory.path();
                scope.spawn(move || {
                    for number in 0..4 {
                        let mut durations = Durations::read(directory).unwrap();
                        let (name, version) = package(&format!("p{run}-{number}"), "1");
                        durations.add(&name, &version, Duration::from_secs(1));
                        let limit = Duration::from_secs(60);
                        durations.write_within(directory, limit).unwrap();
                    }
                });
            }
        });
        let all = Durations::read(directory.path()).unwrap();
        assert_eq!(all.earlier.packages.len(), 16);
    }

    #[test]
    fn durations_of_this_run_are_expected() {
        let mut durations = Durations::default();
        let (name, version) = package("lib", "1");
        durations.add(&name, &version, Duration::from_secs(3));
        // `app` is estimated at the speed of `lib`.
        assert_eq!(
            expected(&durations, &[("lib", "1", 1000), ("app", "1", 2000)]),
            [3.2, 6.2]
        );
        let (name, version) = (&name, &version);
        let asked = [Measured {
            name,
            version,
            bytes: 1,
        }];
        assert!(durations.expect(&asked)[0].is_measured);
    }

    #[test]
    fn damaged_file_is_reported_and_replaced() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(&directory.path().join(FILE), b"{\"packages\": 7").unwrap();
        let error = Durations::read(directory.path()).unwrap_err();
        assert!(error.to_string().contains(FILE), "{error}");
        let mut durations = Durations::default();
        let (name, version) = package("lib", "1");
        durations.add(&name, &version, Duration::from_secs(1));
        durations.write(directory.path()).unwrap();
        assert!(Durations::read(directory.path()).is_ok());
        // A negative duration is ignored.
        fs::write(
            &directory.path().join(FILE),
            br#"{"packages": {"lib": [{"version": "1", "seconds": -5}]}}"#,
        )
        .unwrap();
        let odd = Durations::read(directory.path()).unwrap();
        assert_eq!(expected(&odd, &[("lib", "1", 1_000_000)]), [1.2]);
    }
}
