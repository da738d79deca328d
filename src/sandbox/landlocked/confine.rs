//! The rules of a script: they open its own directories, its dependencies, and everything that belongs to no package.

use std::path::{Path, PathBuf};

use super::{LandlockPlace, Landlocked};
use crate::config::{PackagePaths, Vcap, Visibility};
use crate::fs;
use crate::release::Name;
use crate::sandbox::rules::Rules;
use crate::sandbox::script::Script;

/// The prefix of the agent's own files in the data directory.
const AGENT_PREFIX: &str = ".bosh-agent-";

/// Entries of the data directory that rules never open as a whole: directories of packages, and blobs that were sent to the daemon.
const CLOSED: [&str; 4] = ["packages", "compile", "blobs", "sensitive_blobs"];

impl Landlocked {
    /// Gives a script its rules and a `TMPDIR` of its own. Does nothing in a place without rules.
    pub(in crate::sandbox) fn confine(
        &self,
        place: &LandlockPlace,
        script: &mut Script,
        own: &PackagePaths,
        dependencies: &[&PackagePaths],
    ) {
        if !place.has_rules {
            return;
        }
        let temporary = self.temporary(&place.package);
        let variable = ("TMPDIR", temporary.clone().into());
        script.environment = script.environment.with(&[variable]);
        let vcap = Vcap::new(self.tree.base());
        let data = vcap.data();
        let real = |path: &Path| match path.strip_prefix(&data) {
            Ok(below) => self.data.join(below),
            Err(_) => path.to_owned(),
        };
        let base = Vcap::new(&self.base);
        let mut guarded = vec![
            base.packages(),
            real(&vcap.data_packages()),
            real(&vcap.compile()),
            real(&self.tree.temporary()),
        ];
        guarded.extend(self.hidden.iter().cloned());
        guarded.push(base.bosh());
        let mut whole = vec![real(&own.compile), real(&own.packages), real(&temporary)];
        whole.extend(visible_entries(&base, &base.bosh()));
        let scratch = place.scratch.iter();
        whole.extend(scratch.map(|name| self.data.join(name.as_str())));
        whole.extend(self.unowned_data());
        // Keep hidden paths closed, such as a cache in the data directory.
        whole.retain(|path| !self.hidden.iter().any(|hidden| hidden.starts_with(path)));
        script.spec.rules = Some(Rules {
            guarded,
            listed: vec![self.data.clone()],
            whole,
            readable: dependencies
                .iter()
                .map(|paths| real(&paths.packages))
                .collect(),
        });
    }

    /// Gives a script access to the data directories that its package has [claimed](Self::claim).
    pub(in crate::sandbox) fn open(&self, place: &LandlockPlace, script: &mut Script) {
        if let Some(rules) = &mut script.spec.rules {
            let private = place.private.names();
            let paths = private.iter().map(|name| self.data.join(name.as_str()));
            rules.whole.extend(paths);
        }
    }

    /// The entries of the data directory that belong to no package. The rules list these entries, instead of the data directory, so that
    /// directories that are created for other packages later stay closed.
    fn unowned_data(&self) -> Vec<PathBuf> {
        let data_names = self.data_names();
        let is_owned = |name: &str| {
            name.starts_with(AGENT_PREFIX)
                || CLOSED.contains(&name)
                || Name::parse(name).is_ok_and(|name| data_names.contains(&name))
        };
        let entries = fs::list(&self.data).unwrap_or_default();
        let unowned = entries.iter().filter(|entry| {
            // A rule for a link would apply to its target.
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            let name = entry.file_name();
            !is_link && name.to_str().is_some_and(|name| !is_owned(name))
        });
        unowned.map(std::fs::DirEntry::path).collect()
    }
}

/// The visible entries of a directory of which scripts see only a part.
fn visible_entries(vcap: &Vcap, directory: &Path) -> Vec<PathBuf> {
    let entries = fs::list(directory).unwrap_or_default();
    let paths = entries.iter().map(std::fs::DirEntry::path);
    let visible = paths.flat_map(|path| match vcap.visibility(&path) {
        Visibility::Full => vec![path],
        Visibility::Partial => visible_entries(vcap, &path),
        Visibility::Hidden => Vec::new(),
    });
    visible.collect()
}
