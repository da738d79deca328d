//! Parses a manifest and lists all of its problems.
//!
//! An invalid field does not end the parsing, so that the user sees all problems at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::problem::{FieldProblem, ManifestPart, ManifestProblem};
use super::{CompiledPackage, Job, License, MAX_BYTES, Manifest, Package};
use crate::release::digest::MultiDigest;
use crate::release::name::{InvalidName, Name, Version, excerpt};
use crate::release::stemcell::Slug;
use crate::release::yaml::{self, Mapping, Node, Scalar};

impl Manifest {
    /// Parses the contents of a `release.MF`.
    ///
    /// # Errors
    /// All problems of the manifest, in the order in which its fields are read, or the one problem that prevents parsing.
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
        problems.add(
            root.line(),
            &ManifestPart::Release,
            FieldProblem::NotAMapping { found },
        );
        return None;
    };
    let mut fields = Fields {
        mapping,
        part: ManifestPart::Release,
        problems,
    };
    // Read all fields before the first `?`, so that no problem is skipped.
    let name = fields.parsed("name", Name::parse);
    let version = fields.parsed("version", Version::parse);
    let commit_hash = fields.optional_text("commit_hash");
    let uncommitted_changes = fields.flag("uncommitted_changes");
    let jobs = fields.items("jobs", "job", &mut HashMap::new(), job);
    // Names must be unique in both lists together, because all packages become directories in the same directory.
    let mut packages_seen = HashMap::new();
    let packages = fields.items("packages", "package", &mut packages_seen, package);
    let compiled_packages = fields.items(
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
    let name = fields.parsed("name", Name::parse);
    let version = fields.parsed("version", Version::parse);
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
    let name = fields.parsed("name", Name::parse);
    let version = fields.parsed("version", Version::parse);
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

#[derive(Default)]
struct Problems {
    list: Vec<ManifestProblem>,
}

impl Problems {
    fn add(&mut self, line: usize, part: &ManifestPart, problem: FieldProblem) {
        self.list.push(ManifestProblem::Content {
            line,
            part: part.clone(),
            problem,
        });
    }
}

/// The fields of one mapping. Reading an invalid field records a problem, and returns `None` or a default.
struct Fields<'m, 'p> {
    mapping: &'m Mapping,
    part: ManifestPart,
    problems: &'p mut Problems,
}

impl<'m> Fields<'m, '_> {
    fn add(&mut self, line: usize, problem: FieldProblem) {
        self.problems.add(line, &self.part, problem);
    }

    fn add_wrong_kind(&mut self, key: &'static str, expected: &'static str, node: &Node) {
        let found = node.kind();
        self.add(
            node.line(),
            FieldProblem::WrongKind {
                key,
                expected,
                found,
            },
        );
    }

    /// The value of a key; `None` if it is missing or null.
    fn value(&self, key: &str) -> Option<&'m Node> {
        self.mapping.get(key).filter(|node| !node.is_null())
    }

    fn scalar(&mut self, key: &'static str) -> Option<&'m Scalar> {
        let node = self.value(key)?;
        let Node::Scalar(scalar) = node else {
            self.add_wrong_kind(key, "a string", node);
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

    /// A required text. Reports a missing value and a value of the wrong kind as different problems.
    fn required(&mut self, key: &'static str) -> Option<&'m Scalar> {
        if self.value(key).is_none() {
            let line = self.mapping.get(key).map_or(self.mapping.line, Node::line);
            self.add(line, FieldProblem::Missing { key });
        }
        self.scalar(key)
    }

    /// A required name or version.
    fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: fn(&str) -> Result<T, InvalidName>,
    ) -> Option<T> {
        let scalar = self.required(key)?;
        parse(&scalar.text)
            .map_err(|error| self.add(scalar.line, FieldProblem::Name { key, error }))
            .ok()
    }

    fn digest(&mut self) -> Option<MultiDigest> {
        let key = "sha1";
        let scalar = self.required(key)?;
        MultiDigest::parse(&scalar.text)
            .map_err(|error| {
                let text = excerpt(&scalar.text);
                self.add(scalar.line, FieldProblem::Digest { key, text, error });
            })
            .ok()
    }

    fn stemcell(&mut self) -> Option<Slug> {
        let key = "stemcell";
        let scalar = self.required(key)?;
        Slug::parse(&scalar.text)
            .map_err(|_| {
                let text = excerpt(&scalar.text);
                self.add(scalar.line, FieldProblem::Stemcell { key, text });
            })
            .ok()
    }

    fn flag(&mut self, key: &'static str) -> bool {
        let Some(scalar) = self.scalar(key) else {
            return false;
        };
        flag_of(scalar).unwrap_or_else(|| {
            let text = excerpt(&scalar.text);
            self.add(scalar.line, FieldProblem::NotBoolean { key, text });
            false
        })
    }

    /// The items of a list; `None` if the key is missing or null. An empty mapping is accepted as an empty list.
    fn list(&mut self, key: &'static str) -> Option<&'m [Node]> {
        match self.value(key)? {
            Node::Sequence(sequence) => Some(&sequence.items),
            Node::Mapping(mapping) if mapping.entries.is_empty() => Some(&[]),
            node => {
                self.add_wrong_kind(key, "a list", node);
                None
            }
        }
    }

    fn names(&mut self, key: &'static str) -> Option<Vec<Name>> {
        let mut names = Vec::new();
        for item in self.list(key)? {
            let Node::Scalar(scalar) = item else {
                self.add_wrong_kind(key, "a list of names", item);
                continue;
            };
            // A null is invalid, like an empty name.
            let text = if scalar.is_null() { "" } else { &scalar.text };
            match Name::parse(text) {
                Ok(name) => names.push(name),
                Err(error) => self.add(scalar.line, FieldProblem::Name { key, error }),
            }
        }
        Some(names)
    }

    /// Reads a list of mappings with `read`. `seen` maps the names so far to their lines.
    fn items<T>(
        &mut self,
        key: &'static str,
        kind: &'static str,
        seen: &mut HashMap<&'m str, usize>,
        read: fn(&mut Fields<'_, '_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let mut items = Vec::new();
        for (index, item) in self.list(key)?.iter().enumerate() {
            let Node::Mapping(mapping) = item else {
                self.add_wrong_kind(key, "a list of mappings", item);
                continue;
            };
            let name = match mapping.get("name") {
                Some(Node::Scalar(name)) if !name.is_null() => Some(name),
                _ => None,
            };
            let mut fields = Fields {
                mapping,
                part: ManifestPart::Item {
                    kind,
                    name: name.map(|name| excerpt(&name.text)),
                    number: index + 1,
                },
                problems: self.problems,
            };
            if let Some(name) = name {
                match seen.entry(&name.text) {
                    Entry::Vacant(entry) => _ = entry.insert(name.line),
                    Entry::Occupied(entry) => {
                        let first = *entry.get();
                        fields.add(name.line, FieldProblem::DuplicateName { first });
                    }
                }
            }
            items.extend(read(&mut fields));
        }
        Some(items)
    }

    /// The license; `None` if it is empty. Some tools write `{}`, or empty texts for its three keys.
    fn license(&mut self) -> Option<License> {
        let key = "license";
        let node = self.value(key)?;
        if is_empty(node) {
            return None;
        }
        let Node::Mapping(mapping) = node else {
            self.add_wrong_kind(key, "a mapping", node);
            return None;
        };
        let mut fields = Fields {
            mapping,
            part: ManifestPart::License,
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

/// The value of a flag. `"true"` and `"false"` in quotes are accepted: YAML reads them as text, but their meaning is clear.
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

/// Whether a value is an empty text, list or mapping, or a mapping of empty values.
fn is_empty(node: &Node) -> bool {
    match node {
        Node::Scalar(scalar) => scalar.is_null() || scalar.text.is_empty(),
        Node::Sequence(sequence) => sequence.items.is_empty(),
        Node::Mapping(mapping) => mapping.entries.iter().all(|(_, value)| is_empty(value)),
    }
}

#[cfg(test)]
mod tests;
