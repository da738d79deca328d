//! Installed packages that the agent keeps between compile requests, so that a later request does
//! not have to install them again.

use crate::compile::Installed;
use crate::release::{MultiDigest, Name, Version};

/// Installed packages, the least recently used first.
#[derive(Debug, Default)]
pub(super) struct PackageCache {
    packages: Vec<Cached>,
    /// How many of the last packages in the list the current request needs.
    needed: usize,
}

#[derive(Debug)]
struct Cached {
    name: Name,
    version: Version,
    digest: MultiDigest,
    installed: Installed,
}

impl PackageCache {
    /// Begins a request that needs these packages. Other packages may be removed to free space.
    pub(super) fn begin(&mut self, needed: &[(&Name, &MultiDigest)]) {
        self.needed = 0;
        for (name, digest) in needed {
            self.get(name, digest);
        }
    }

    /// Finds an installed package, and keeps it until the next request.
    pub(super) fn get(&mut self, name: &Name, digest: &MultiDigest) -> Option<Installed> {
        let at = self
            .packages
            .iter()
            .position(|cached| cached.name == *name && cached.digest == *digest)?;
        if at < self.packages.len() - self.needed {
            let cached = self.packages.remove(at);
            self.packages.push(cached);
            self.needed += 1;
            return self.packages.last().map(|cached| cached.installed.clone());
        }
        Some(self.packages[at].installed.clone())
    }

    /// Adds a package, and keeps it until the next request. Drops an earlier result with the same
    /// name and version, because a Director uses the latest one.
    pub(super) fn insert(
        &mut self,
        name: &Name,
        version: &Version,
        digest: &MultiDigest,
        installed: Installed,
    ) {
        let unneeded = self.packages.len() - self.needed;
        // Keep the packages that the current request needs, which are the last ones.
        let mut at = 0;
        self.packages.retain(|cached| {
            at += 1;
            at > unneeded || cached.name != *name || cached.version != *version
        });
        self.packages.push(Cached {
            name: name.clone(),
            version: version.clone(),
            digest: digest.clone(),
            installed,
        });
        self.needed += 1;
    }

    /// Drops the least recently used package; `None` if the request needs all remaining packages.
    pub(super) fn forget(&mut self) -> Option<(Name, Installed)> {
        if self.packages.len() == self.needed {
            return None;
        }
        let cached = self.packages.remove(0);
        Some((cached.name, cached.installed))
    }

    /// Drops a package that the request needs, because its files were changed.
    pub(super) fn discard(&mut self, name: &Name, digest: &MultiDigest) -> Option<Installed> {
        let at = self
            .packages
            .iter()
            .position(|cached| cached.name == *name && cached.digest == *digest)?;
        if at >= self.packages.len() - self.needed {
            self.needed -= 1;
        }
        Some(self.packages.remove(at).installed)
    }

    /// Ends a request. Returns the packages that are kept.
    pub(super) fn end(&mut self) -> Vec<Installed> {
        self.needed = 0;
        let installed = self.packages.iter().map(|cached| cached.installed.clone());
        installed.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::Store;
    use crate::fs;

    struct Fixture {
        _scratch: tempfile::TempDir,
        store: Store,
        cache: PackageCache,
    }

    fn digest(number: u8) -> MultiDigest {
        MultiDigest::parse(&format!("{number:040}")).unwrap()
    }

    fn name(name: &str) -> Name {
        Name::parse(name).unwrap()
    }

    impl Fixture {
        fn new() -> Self {
            let scratch = tempfile::tempdir().unwrap();
            let store = Store::new(&scratch.path().join("store"));
            Self {
                _scratch: scratch,
                store,
                cache: PackageCache::default(),
            }
        }

        fn insert(&mut self, package: &str, version: &str, number: u8) -> Installed {
            let tree = self._scratch.path().join("tree");
            fs::create_dir(&tree).unwrap();
            let installed = self.store.seal(&name(package), &tree).unwrap();
            let version = Version::parse(version).unwrap();
            self.cache
                .insert(&name(package), &version, &digest(number), installed.clone());
            installed
        }
    }

    #[test]
    fn least_recently_used_package_is_dropped_first() {
        let mut made = Fixture::new();
        let a = made.insert("a", "1", 1);
        let b = made.insert("b", "1", 2);
        made.cache.end();
        made.cache.begin(&[(&name("a"), &digest(1))]);
        assert_eq!(made.cache.forget(), Some((name("b"), b)));
        assert_eq!(made.cache.forget(), None);
        assert_eq!(made.cache.get(&name("a"), &digest(1)), Some(a));
        assert_eq!(made.cache.get(&name("a"), &digest(2)), None);
        assert!(made.cache.discard(&name("a"), &digest(1)).is_some());
        assert_eq!(made.cache.discard(&name("a"), &digest(1)), None);
        assert_eq!(made.cache.end(), []);
    }

    #[test]
    fn newer_result_replaces_the_older_one() {
        let mut made = Fixture::new();
        made.insert("a", "1", 1);
        let other = made.insert("a", "2", 2);
        made.cache.end();
        made.cache.begin(&[]);
        let newer = made.insert("a", "1", 3);
        assert_eq!(made.cache.end(), [other, newer]);
        // A package that the request needs stays until its end.
        made.cache.begin(&[(&name("a"), &digest(3))]);
        made.insert("a", "1", 4);
        assert_eq!(made.cache.end().len(), 3);
    }
}
