//! Makes the checks that a Director makes on the jobs of an uploaded release. Otherwise, a release might be compiled for hours before the
//! Director refuses it.
//!
//! A Director extracts `jobs/NAME.tgz` with `tar -xzf`, which reads gzip only. The archive must contain a `job.MF` with the job's name,
//! each template that `job.MF` lists as a file below `templates`, and `monit` or another `*.monit` file. A Director does not read
//! `license.tgz`. It must be an archive here nevertheless: otherwise, the tool that created it has failed.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::open_error::OpenError;
use super::problem::{ContentProblem, MANIFEST_LIMIT, Problem};
use super::tarball::{Blob, Carried, JobPackages, Jobs, Role, path_of};
use crate::archive::entry::normalize;
use crate::archive::{Compression, Decoder, Entry, Kind, Reader};
use crate::fs;
use crate::release::{Manifest, MultiDigest, yaml};
use crate::runtime::Cancellable;

/// The maximum memory for the names of an archive's entries, in bytes. Archives are not trusted.
const NAMES_LIMIT: usize = 128 << 20;

/// The memory that an entry needs in addition to its name, in bytes.
const ENTRY_COST: usize = 100;

/// The next entry of a job's archive.
fn next_entry(reader: &mut Reader<impl Read>) -> Result<Option<Entry>, ContentProblem> {
    let next = reader.next_entry();
    next.map_err(|error| ContentProblem::not_archive(&error))
}

/// Checks the contents of all jobs and of the license. Missing blobs and wrong digests are reported
/// by `inspect`.
pub(super) fn read(
    manifest: &Manifest,
    carried: &[Carried],
    cancel: &CancellationToken,
) -> Result<Jobs, OpenError> {
    let blobs: HashMap<&Role, &Blob> = carried
        .iter()
        .filter_map(|carried| Some((&carried.role, carried.blob.as_ref()?)))
        .collect();
    let blob = |role: &Role, digest: &MultiDigest| {
        let blob = blobs.get(role)?;
        digest.verify(blob.digests.all()).is_ok().then_some(*blob)
    };
    let (mut problems, mut packages) = (Vec::new(), JobPackages::new());
    let mut add = |what: String, role: &Role, found: Vec<ContentProblem>| {
        problems.extend(found.into_iter().map(|problem| Problem::Content {
            what: what.clone(),
            path: path_of(role),
            problem,
        }));
    };
    for job in &manifest.jobs {
        let role = Role::Job(job.name.to_string());
        if let Some(blob) = blob(&role, &job.digest) {
            let found = match Contents::read(blob, cancel)? {
                Ok(contents) => {
                    let named = contents.packages_of_job();
                    packages.extend(named.map(|named| (job.name.to_string(), named)));
                    contents.problems_of_job(job.name.as_str())
                }
                Err(problem) => vec![problem],
            };
            add(format!("job `{}`", job.name), &role, found);
        }
    }
    if let Some(license) = &manifest.license
        && let Some(blob) = blob(&Role::License, &license.digest)
        && let Err(problem) = Contents::read(blob, cancel)?
    {
        add("license".to_owned(), &Role::License, vec![problem]);
    }
    Ok(Jobs { problems, packages })
}

/// The contents of an archive, as far as the checks need them.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// The kind of the entry at each path.
    kinds: HashMap<PathBuf, Kind>,
    /// The text of `job.MF` at the top.
    manifest: Option<Vec<u8>>,
    /// Whether `job.MF` was not read because of its length.
    is_manifest_too_long: bool,
    /// How the archive is compressed, if known.
    compression: Option<Compression>,
}

impl Contents {
    /// Reads an archive to its end. The outer error is a cancellation or a file error, not a
    /// problem of the archive.
    fn read(
        blob: &Blob,
        cancel: &CancellationToken,
    ) -> Result<Result<Self, ContentProblem>, OpenError> {
        let read = Self::of_archive(Cancellable::new(fs::open(&blob.file)?, cancel));
        if read.is_err() && cancel.is_cancelled() {
            return Err(OpenError::Decode(io::ErrorKind::Interrupted.into()));
        }
        Ok(read)
    }

    /// Reads a compressed archive to its end.
    ///
    /// # Errors
    /// The input is not an archive, is damaged, or has too many entries.
    pub(crate) fn of_archive(input: impl Read) -> Result<Self, ContentProblem> {
        let decoder = Decoder::new(input).map_err(|error| ContentProblem::not_archive(&error))?;
        let compression = decoder.compression();
        let mut reader = Reader::new(decoder);
        let mut contents = Self::of(&mut reader)?;
        contents.compression = Some(compression);
        let rest = reader.into_inner().finish();
        rest.map_err(|error| ContentProblem::not_archive(&error))?;
        Ok(contents)
    }

    fn of(reader: &mut Reader<impl Read>) -> Result<Self, ContentProblem> {
        let mut contents = Self::default();
        let mut names = 0;
        while let Some(entry) = next_entry(reader)? {
            let Ok(path) = normalize(&entry.name) else {
                continue;
            };
            if entry.kind == Kind::File && path == Path::new("job.MF") {
                let mut text = Vec::new();
                let mut content = reader.whole(&entry).take(MANIFEST_LIMIT + 1);
                content
                    .read_to_end(&mut text)
                    .map_err(|error| ContentProblem::not_archive(&error))?;
                contents.is_manifest_too_long = text.len() as u64 > MANIFEST_LIMIT;
                contents.manifest = (!contents.is_manifest_too_long).then_some(text);
            }
            names += entry.name.len() + ENTRY_COST;
            if names > NAMES_LIMIT {
                return Err(ContentProblem::TooManyEntries);
            }
            contents.kinds.insert(path, entry.kind);
        }
        Ok(contents)
    }

    /// The reasons for which a Director refuses these contents as the job `name`.
    pub(crate) fn problems_of_job(&self, name: &str) -> Vec<ContentProblem> {
        if let Some(found) = self.compression
            && found != Compression::Gzip
        {
            return vec![ContentProblem::NotGzip { found }];
        }
        if !self.may_be_file(Path::new("job.MF")) {
            return vec![ContentProblem::NoManifest];
        }
        if self.is_manifest_too_long {
            return vec![ContentProblem::ManifestTooLong];
        }
        let mut problems = Vec::new();
        if let Some(root) = self.root() {
            problems.extend(self.problems_of_manifest(&root, name));
        }
        let has_monit = self.kinds.keys().any(|path| {
            let is_at_top = path.components().count() == 1;
            is_at_top
                && (path == Path::new("monit") || path.extension().is_some_and(|it| it == "monit"))
        });
        if !has_monit {
            problems.push(ContentProblem::NoMonit);
        }
        problems
    }

    /// The YAML tree of `job.MF`. `None` if there is no such file, or if our parser rejects it. That is not reported, because a Director's
    /// parser accepts slightly more.
    fn root(&self) -> Option<yaml::Node> {
        let text = self.manifest.as_deref()?;
        yaml::parse(std::str::from_utf8(text).ok()?).ok()
    }

    fn problems_of_manifest(&self, root: &yaml::Node, name: &str) -> Vec<ContentProblem> {
        let field = |key: &str| match root {
            yaml::Node::Mapping(mapping) => mapping.get(key),
            yaml::Node::Scalar(_) | yaml::Node::Sequence(_) => None,
        };
        let mut problems = Vec::new();
        match field("name") {
            Some(yaml::Node::Scalar(found)) if found.text == name => {}
            Some(yaml::Node::Scalar(found)) if !found.is_null() => {
                problems.push(ContentProblem::OtherName {
                    found: Some(found.text.clone()),
                });
            }
            _ => problems.push(ContentProblem::OtherName { found: None }),
        }
        if let Some(yaml::Node::Mapping(templates)) = field("templates") {
            for (template, _) in &templates.entries {
                let Ok(path) = normalize(template.text.as_bytes()) else {
                    continue;
                };
                if !self.may_be_file(&Path::new("templates").join(path)) {
                    problems.push(ContentProblem::NoTemplate {
                        path: template.text.escape_debug().to_string(),
                    });
                }
            }
        }
        problems
    }

    /// Whether the archive has a regular file `job.MF`.
    pub(crate) fn has_manifest(&self) -> bool {
        self.manifest.is_some()
    }

    /// The packages that `job.MF` lists. `None` if our parser rejects the file. A missing list counts as an empty one, as in a Director.
    pub(crate) fn packages_of_job(&self) -> Option<Vec<String>> {
        let packages = match self.root()? {
            yaml::Node::Mapping(mapping) => match mapping.get("packages") {
                Some(yaml::Node::Sequence(packages)) => packages.items.clone(),
                _ => Vec::new(),
            },
            yaml::Node::Scalar(_) | yaml::Node::Sequence(_) => Vec::new(),
        };
        let names = packages.into_iter().filter_map(|package| match package {
            yaml::Node::Scalar(name) if !name.is_null() => Some(name.text),
            _ => None,
        });
        Some(names.collect())
    }

    /// Whether extracting the archive gives a file at `path`, or a link that may lead to one.
    fn may_be_file(&self, path: &Path) -> bool {
        match self.kinds.get(path) {
            Some(Kind::Directory) => false,
            Some(_) => true,
            None => path
                .ancestors()
                .any(|above| self.kinds.get(above) == Some(&Kind::Symlink)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{EntryHeader, EntryWriter};

    const MANIFEST: &str = "name: web\ntemplates: {ctl.erb: bin/ctl, a/b: c}\n";

    /// The contents of an archive. A name with `/` at its end is a directory, one with `@` a symbolic link with the text as its target.
    fn contents(files: &[(&str, &str)]) -> Contents {
        let mut writer = EntryWriter::new(Vec::new());
        for (name, text) in files {
            let kind = match name {
                name if name.ends_with('/') => Kind::Directory,
                name if name.ends_with('@') => Kind::Symlink,
                _ => Kind::File,
            };
            let name = name.trim_end_matches('@').as_bytes();
            let mut header = EntryHeader::new(kind, name, 0o644);
            header.size = if kind == Kind::File {
                text.len() as u64
            } else {
                0
            };
            let link = text.as_bytes();
            if kind == Kind::Symlink {
                header.link = link;
            }
            let content = if kind == Kind::File { link } else { b"" };
            writer.append(&header, content).unwrap();
        }
        let archive = writer.finish().unwrap();
        Contents::of(&mut Reader::new(&archive[..])).unwrap()
    }

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let problems = contents(files).problems_of_job("web");
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn complete_job_is_accepted() {
        let whole = [
            ("./", ""),
            ("./job.MF", MANIFEST),
            ("./monit", ""),
            ("./templates/ctl.erb", "x"),
            ("./templates/a/b", "x"),
        ];
        assert_eq!(found(&whole), [""; 0]);
        let linked = [
            ("job.MF", MANIFEST),
            ("x.monit", ""),
            ("shared/", ""),
            ("templates@", "shared"),
        ];
        assert_eq!(found(&linked), [""; 0]);
        // Our parser rejects these; the Director decides.
        for manifest in ["name: web\nname: web\n", "a: [", "\u{7}"] {
            assert_eq!(found(&[("job.MF", manifest), ("monit", "")]), [""; 0]);
        }
        assert_eq!(found(&[("job.MF@", "x"), ("monit", "")]), [""; 0]);
        assert_eq!(
            found(&[("job.MF", "name: web\ntemplates:\n"), ("monit", "")]),
            [""; 0]
        );
    }

    #[test]
    fn job_manifest_has_a_maximum_length() {
        let read = |length: u64| {
            let text = "#".repeat(usize::try_from(length).unwrap());
            let mut writer = EntryWriter::new(Vec::new());
            let mut header = EntryHeader::new(Kind::File, b"job.MF", 0o644);
            header.size = length;
            writer.append(&header, text.as_bytes()).unwrap();
            Contents::of(&mut Reader::new(&writer.finish().unwrap()[..]))
        };
        assert!(read(MANIFEST_LIMIT).unwrap().has_manifest());
        // In a license, for example, the file does not matter.
        let contents = read(MANIFEST_LIMIT + 1).unwrap();
        let problems = contents.problems_of_job("web");
        assert_eq!(problems, [ContentProblem::ManifestTooLong]);
    }

    #[test]
    fn packages_are_those_of_the_job_manifest() {
        let packages = |manifest| contents(&[("job.MF", manifest)]).packages_of_job();
        let names = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect());
        assert_eq!(
            packages("name: web\npackages:\n- app\n- 1.10\n"),
            names(&["app", "1.10"])
        );
        for manifest in ["name: web\n", "packages: ~\n", "packages: []\n", "text"] {
            assert_eq!(packages(manifest), names(&[]), "{manifest}");
        }
        assert_eq!(packages("a: ["), None);
    }

    #[test]
    fn job_that_a_director_refuses_is_reported() {
        let refused = ": Directors refuse the release";
        assert_eq!(
            found(&[("monit", "")]),
            [format!("has no job.MF at its top{refused}")]
        );
        for files in [
            [("job.MF/", ""), ("monit", "")],
            [("web/job.MF", MANIFEST), ("monit", "")],
        ] {
            assert_eq!(
                found(&files),
                [format!("has no job.MF at its top{refused}")]
            );
        }
        assert_eq!(
            found(&[("job.MF", MANIFEST), ("templates/a/b/", "")]),
            [
                format!("lacks the template `templates/ctl.erb`, which its job.MF lists{refused}"),
                format!("lacks the template `templates/a/b`, which its job.MF lists{refused}"),
                format!("has neither `monit` nor another `*.monit` file at its top{refused}"),
            ]
        );
        for (manifest, name) in [
            ("name: other", "of a job `other`"),
            ("name: 'we\tb'", "of a job `we\\tb`"),
            ("name: ~", "without a name"),
            ("text", "without a name"),
            ("", "without a name"),
            ("- name: web", "without a name"),
        ] {
            assert_eq!(
                found(&[("job.MF", manifest), ("monit", "")]),
                [format!("has a job.MF {name}{refused}")],
                "{manifest}"
            );
        }
    }
}
