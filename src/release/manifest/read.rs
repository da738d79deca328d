//! Reads a manifest and lists everything that is wrong with it.
//!
//! Every field is read even after one was wrong: whoever mends a manifest wants to mend it once.

use std::collections::HashMap;

use super::{
    CompiledPackage, Job, License, MAX_BYTES, Manifest, ManifestProblem, Owner, Package, Problem,
};
use crate::release::digest::MultiDigest;
use crate::release::name::{InvalidName, Name, Version, shown};
use crate::release::stemcell::Slug;
use crate::release::yaml::{self, Mapping, Node, Scalar};

impl Manifest {
    /// Reads the bytes of a `release.MF`.
    ///
    /// # Errors
    /// Every problem of the manifest, in the order of its fields; only one where it is not YAML at all.
    pub fn parse(bytes: &[u8]) -> Result<Self, Vec<ManifestProblem>> {
        if bytes.len() > MAX_BYTES {
            let bytes = bytes.len();
            return Err(vec![ManifestProblem::TooLarge { bytes }]);
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let offset = error.valid_up_to();
            vec![ManifestProblem::NotUtf8 { offset }]
        })?;
        let root = yaml::parse(text).map_err(|error| vec![ManifestProblem::Yaml(error)])?;
        let mut problems = Problems::default();
        match manifest(&root, &mut problems) {
            Some(manifest) if problems.list.is_empty() => Ok(manifest),
            _ => Err(problems.list),
        }
    }
}

fn manifest(root: &Node, problems: &mut Problems) -> Option<Manifest> {
    let Node::Mapping(mapping) = root else {
        let found = match root.is_null() {
            true => "empty",
            false => root.kind(),
        };
        problems.add(root.line(), &Owner::Release, Problem::NotAMapping { found });
        return None;
    };
    let mut fields = Fields {
        mapping,
        owner: Owner::Release,
        problems,
    };
    // Read before they are put together, so that none of them is skipped.
    let name = fields.checked("name", Name::parse);
    let version = fields.checked("version", Version::parse);
    let commit_hash = fields.optional_text("commit_hash");
    let uncommitted_changes = fields.flag("uncommitted_changes");
    let jobs = fields.entries("jobs", "job", &mut HashMap::new(), job);
    // One set for both lists: they become directories of the same parent.
    let mut packages_seen = HashMap::new();
    let packages = fields.entries("packages", "package", &mut packages_seen, package);
    let compiled_packages = fields.entries(
        "compiled_packages",
        "compiled package",
        &mut packages_seen,
        compiled_package,
    );
    let license = fields.license();
    let no_compression = fields.flag("no_compression");
    Some(Manifest {
        name: name?,
        version: version?,
        commit_hash,
        uncommitted_changes,
        jobs: jobs.unwrap_or_default(),
        packages: packages.unwrap_or_default(),
        compiled_packages,
        license,
        no_compression,
    })
}

fn job(fields: &mut Fields<'_, '_>) -> Option<Job> {
    let name = fields.checked("name", Name::parse);
    let version = fields.checked("version", Version::parse);
    let fingerprint = fields.text("fingerprint");
    let digest = fields.digest();
    let packages = fields.names("packages");
    Some(Job {
        name: name?,
        version: version?,
        fingerprint,
        digest: digest?,
        packages,
    })
}

fn package(fields: &mut Fields<'_, '_>) -> Option<Package> {
    let name = fields.checked("name", Name::parse);
    let version = fields.checked("version", Version::parse);
    let fingerprint = fields.text("fingerprint");
    let digest = fields.digest();
    let dependencies = fields.names("dependencies").unwrap_or_default();
    Some(Package {
        name: name?,
        version: version?,
        fingerprint,
        digest: digest?,
        dependencies,
    })
}

fn compiled_package(fields: &mut Fields<'_, '_>) -> Option<CompiledPackage> {
    let package = package(fields);
    let stemcell = fields.stemcell();
    let package = package?;
    Some(CompiledPackage {
        name: package.name,
        version: package.version,
        fingerprint: package.fingerprint,
        digest: package.digest,
        stemcell: stemcell?,
        dependencies: package.dependencies,
    })
}

/// The problems so far.
#[derive(Default)]
struct Problems {
    list: Vec<ManifestProblem>,
}

impl Problems {
    fn add(&mut self, line: usize, owner: &Owner, problem: Problem) {
        self.list.push(ManifestProblem::Content {
            line,
            owner: owner.clone(),
            problem,
        });
    }
}

/// The fields of one mapping. Reading one that is wrong adds to the problems and gives nothing.
struct Fields<'m, 'p> {
    mapping: &'m Mapping,
    owner: Owner,
    problems: &'p mut Problems,
}

impl<'m> Fields<'m, '_> {
    fn add(&mut self, line: usize, problem: Problem) {
        self.problems.add(line, &self.owner, problem);
    }

    fn add_kind(&mut self, key: &'static str, expected: &'static str, node: &Node) {
        let found = node.kind();
        self.add(
            node.line(),
            Problem::Kind {
                key,
                expected,
                found,
            },
        );
    }

    /// The value of a key; a null is as good as none.
    fn value(&self, key: &str) -> Option<&'m Node> {
        self.mapping.get(key).filter(|node| !node.is_null())
    }

    fn scalar(&mut self, key: &'static str) -> Option<&'m Scalar> {
        let node = self.value(key)?;
        let Node::Scalar(scalar) = node else {
            self.add_kind(key, "a text", node);
            return None;
        };
        Some(scalar)
    }

    fn optional_text(&mut self, key: &'static str) -> Option<String> {
        self.scalar(key).map(|scalar| scalar.text.clone())
    }

    fn text(&mut self, key: &'static str) -> String {
        self.optional_text(key).unwrap_or_default()
    }

    /// A text that must be there. One of the wrong kind is reported as that and not as missing.
    fn required(&mut self, key: &'static str) -> Option<&'m Scalar> {
        if self.value(key).is_none() {
            let line = self.mapping.get(key).map_or(self.mapping.line, Node::line);
            self.add(line, Problem::Missing { key });
        }
        self.scalar(key)
    }

    fn checked<T>(
        &mut self,
        key: &'static str,
        parse: fn(&str) -> Result<T, InvalidName>,
    ) -> Option<T> {
        let scalar = self.required(key)?;
        parse(&scalar.text)
            .map_err(|error| self.add(scalar.line, Problem::Name { key, error }))
            .ok()
    }

    fn digest(&mut self) -> Option<MultiDigest> {
        let key = "sha1";
        let scalar = self.required(key)?;
        MultiDigest::parse(&scalar.text)
            .map_err(|error| {
                let text = shown(&scalar.text);
                self.add(scalar.line, Problem::Digest { key, text, error });
            })
            .ok()
    }

    fn stemcell(&mut self) -> Option<Slug> {
        let key = "stemcell";
        let scalar = self.required(key)?;
        Slug::parse(&scalar.text)
            .map_err(|_| {
                let text = shown(&scalar.text);
                self.add(scalar.line, Problem::Stemcell { key, text });
            })
            .ok()
    }

    fn flag(&mut self, key: &'static str) -> bool {
        let Some(scalar) = self.scalar(key) else {
            return false;
        };
        flag_of(scalar).unwrap_or_else(|| {
            let text = shown(&scalar.text);
            self.add(scalar.line, Problem::NotABool { key, text });
            false
        })
    }

    /// The items of a list; `None` when the key is absent or null. An empty mapping has no items either.
    fn list(&mut self, key: &'static str) -> Option<&'m [Node]> {
        match self.value(key)? {
            Node::Sequence(sequence) => Some(&sequence.items),
            Node::Mapping(mapping) if mapping.entries.is_empty() => Some(&[]),
            node => {
                self.add_kind(key, "a list", node);
                None
            }
        }
    }

    fn names(&mut self, key: &'static str) -> Option<Vec<Name>> {
        let mut names = Vec::new();
        for item in self.list(key)? {
            let Node::Scalar(scalar) = item else {
                self.add_kind(key, "a list of names", item);
                continue;
            };
            // A null is the empty string here, as in every other text, and that is no name.
            let text = if scalar.is_null() { "" } else { &scalar.text };
            match Name::parse(text) {
                Ok(name) => names.push(name),
                Err(error) => self.add(scalar.line, Problem::Name { key, error }),
            }
        }
        Some(names)
    }

    /// Reads a list of mappings with `read`. `seen` holds the names so far with their lines.
    fn entries<T>(
        &mut self,
        key: &'static str,
        kind: &'static str,
        seen: &mut HashMap<&'m str, usize>,
        read: fn(&mut Fields<'_, '_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let mut entries = Vec::new();
        for (index, item) in self.list(key)?.iter().enumerate() {
            let Node::Mapping(mapping) = item else {
                self.add_kind(key, "a list of mappings", item);
                continue;
            };
            let name = match mapping.get("name") {
                Some(Node::Scalar(name)) if !name.is_null() => Some(name),
                _ => None,
            };
            let mut fields = Fields {
                mapping,
                owner: Owner::Entry {
                    kind,
                    name: name.map(|name| shown(&name.text)),
                    number: index + 1,
                },
                problems: self.problems,
            };
            if let Some(name) = name
                && let Some(first) = seen.insert(&name.text, name.line)
            {
                fields.add(name.line, Problem::Duplicate { first });
            }
            entries.extend(read(&mut fields));
        }
        Some(entries)
    }

    /// The license. An empty one is as good as none: tools write `{}`, or empty texts for its three keys.
    fn license(&mut self) -> Option<License> {
        let key = "license";
        let node = self.value(key)?;
        if is_empty(node) {
            return None;
        }
        let Node::Mapping(mapping) = node else {
            self.add_kind(key, "a mapping", node);
            return None;
        };
        let mut fields = Fields {
            mapping,
            owner: Owner::License,
            problems: self.problems,
        };
        let version = fields.text("version");
        let fingerprint = fields.text("fingerprint");
        let digest = fields.digest();
        Some(License {
            version,
            fingerprint,
            digest: digest?,
        })
    }
}

/// What a flag says. YAML takes a quoted word for a text; `"true"` and `"false"` still leave no doubt.
fn flag_of(scalar: &Scalar) -> Option<bool> {
    scalar.as_bool().or_else(|| {
        let is = |word: &str| scalar.text.eq_ignore_ascii_case(word);
        match (is("true"), is("false")) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    })
}

/// Whether a value says nothing: an empty text, list or mapping, or a mapping of such.
fn is_empty(node: &Node) -> bool {
    match node {
        Node::Scalar(scalar) => scalar.is_null() || scalar.text.is_empty(),
        Node::Sequence(sequence) => sequence.items.is_empty(),
        Node::Mapping(mapping) => mapping.entries.iter().all(|(_, value)| is_empty(value)),
    }
}

#[cfg(test)]
mod tests;
