//! Records when packaging scripts run. If an installed package was changed, the scripts that ran since its last check may have changed it.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::release::Name;

/// The packaging scripts of one run, or of a daemon. Clones share their state.
#[derive(Debug, Clone, Default)]
pub(super) struct ScriptRuns(Arc<Mutex<HashMap<Name, Runs>>>);

/// The runs of scripts of one package name.
#[derive(Debug, Default)]
struct Runs {
    running: usize,
    last_end: Option<Instant>,
}

/// A running script. Dropping this value records its end.
#[derive(Debug)]
pub(super) struct ScriptRun {
    runs: ScriptRuns,
    package: Name,
}

/// Packages whose scripts may have changed a tree. `Display` completes a sentence that begins with `since its last check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspects(pub Vec<Name>);

impl ScriptRuns {
    /// Records that a script starts.
    pub(super) fn begin(&self, package: &Name) -> ScriptRun {
        self.known().entry(package.clone()).or_default().running += 1;
        ScriptRun {
            runs: self.clone(),
            package: package.clone(),
        }
    }

    /// The packages whose scripts have run since `moment`, sorted by name.
    pub(super) fn since(&self, moment: Instant) -> Suspects {
        let known = self.known();
        let ran = known
            .iter()
            .filter(|(_, runs)| runs.running > 0 || runs.last_end.is_some_and(|end| end >= moment));
        let names: BTreeSet<&Name> = ran.map(|(name, _)| name).collect();
        Suspects(names.into_iter().cloned().collect())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Name, Runs>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Suspects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(|it| format!("`{it}`")).collect();
        match names.as_slice() {
            [] => write!(
                f,
                "no packaging script ran: another process on this machine has changed it"
            ),
            [one] => write!(f, "the packaging script of {one} ran"),
            several => write!(f, "the packaging scripts of {} ran", several.join(", ")),
        }
    }
}

impl Drop for ScriptRun {
    fn drop(&mut self) {
        if let Some(runs) = self.runs.known().get_mut(&self.package) {
            runs.running -= 1;
            runs.last_end = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_that_ended_before_are_not_suspects() {
        let runs = ScriptRuns::default();
        let name = |text| Name::parse(text).unwrap();
        drop(runs.begin(&name("before")));
        let running = runs.begin(&name("running"));
        let moment = Instant::now();
        assert_eq!(runs.since(moment).0, [name("running")]);
        drop(running);
        drop(runs.begin(&name("after")));
        let suspects = runs.since(moment);
        assert_eq!(
            suspects.to_string(),
            "the packaging scripts of `after`, `running` ran"
        );
        assert_eq!(runs.since(Instant::now()), Suspects(Vec::new()));
    }
}
