//! The error texts for inputs that are not release tarballs: what the input is, and what to do.

use std::borrow::Cow;
use std::fmt;

use super::Lookalike;

/// How to create a release tarball.
const CREATE: &str = "run `bosh create-release --tarball=RELEASE.tgz` in the release's repository and pass that tarball, or \
                      download it from bosh.io";

/// What to do after a failed download.
const DOWNLOAD: &str = "download the release tarball again and check the URL and the credentials";

/// What to do with a part of a release.
const WHOLE: &str = "pass the tarball of the whole release, which has release.MF at its top";

impl fmt::Display for Lookalike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.description(), self.advice())
    }
}

impl Lookalike {
    fn description(&self) -> Cow<'static, str> {
        let text = match self {
            Self::EmptyFile => "the file is empty",
            Self::Html => "it is an HTML page, such as a login or error page",
            Self::BlobstoreError { code: Some(code) } => {
                return format!("it is an XML error response of a blobstore (`{code}`)").into();
            }
            Self::BlobstoreError { code: None } => "it is an XML error response of a blobstore",
            Self::Xml => "it is an XML document",
            Self::Json => "it is JSON, such as a server's response",
            Self::GitLfsPointer => "it is a Git LFS pointer, not the file itself",
            Self::Zip => {
                "it is a zip archive, but a release is a tar archive. For a repository downloaded from GitHub"
            }
            Self::Binary(kind) => return format!("it is {kind}").into(),
            Self::ReleaseManifest => "it is only the manifest of a release",
            Self::ReleaseIndex => "it is the index of a release's final versions",
            Self::DeploymentManifest => "it is a deployment manifest",
            Self::EmptyArchive => "the archive contains no files of a release",
            Self::Stemcell => "it is a stemcell",
            Self::Job => "it is a job, which is only a part of a release",
            Self::Package => "it is the source of a package, which is only a part of a release",
            Self::License => "it is the license of a release, which is only a part of a release",
            Self::ContainerImage => "it is a container image",
            Self::RootFileSystem => "it is a root file system",
            Self::Nested { directory } => {
                let directory = directory.display();
                return format!("the release is in its directory `{directory}`").into();
            }
            Self::OtherCase { name } => {
                return format!("it has `{}`", name.escape_debug()).into();
            }
            Self::SourceRepository { directory } if directory.as_os_str().is_empty() => {
                "it is the source repository of a release, and not a release"
            }
            Self::SourceRepository { directory } => {
                let directory = directory.display();
                return format!(
                    "it is the source repository of a release (`{directory}`), as GitHub packs it, and not a release"
                )
                .into();
            }
            Self::WithoutManifest => "it has jobs or packages of a release, but not its manifest",
            Self::Tarballs { first } => {
                let first = first.display();
                return format!("it contains other archives, such as `{first}`").into();
            }
            Self::Archive { top } => return at_the_top(top).into(),
        };
        text.into()
    }

    fn advice(&self) -> Cow<'static, str> {
        let text = match self {
            Self::EmptyFile
            | Self::Html
            | Self::BlobstoreError { .. }
            | Self::Xml
            | Self::Json
            | Self::EmptyArchive => DOWNLOAD,
            Self::ReleaseIndex | Self::SourceRepository { .. } => CREATE,
            Self::Job | Self::Package | Self::License => WHOLE,
            Self::Binary(_) | Self::RootFileSystem => "pass a release tarball",
            Self::GitLfsPointer => "run `git lfs pull` in its repository",
            Self::Zip => {
                return format!(
                    "{CREATE}. For a tile: pass the tarballs in its directory `releases`"
                )
                .into();
            }
            Self::ReleaseManifest => {
                "run `bosh create-release --tarball=RELEASE.tgz MANIFEST` in the release's repository, with the path of this \
                 file for MANIFEST, and pass that tarball"
            }
            Self::DeploymentManifest => "pass the tarballs of the releases that it names",
            Self::Stemcell => {
                "pass a release, and compile it in a container of the stemcell's image or with --stemcell OS/VERSION"
            }
            Self::ContainerImage => {
                "pass a release tarball, and compile it in a container of that image"
            }
            Self::Nested { directory } => {
                let directory = directory.display();
                return format!(
                    "pack the contents of that directory, for example with `tar -czf RELEASE.tgz -C {directory} .`"
                )
                .into();
            }
            Self::OtherCase { .. } => "rename that file to `release.MF`",
            Self::WithoutManifest => "pack the release again with release.MF",
            Self::Tarballs { .. } => "extract it, and pass the release tarballs in it",
            Self::Archive { .. } => "pass the tarball of the whole release",
        };
        text.into()
    }
}

fn at_the_top(names: &[String]) -> String {
    format!(
        "it has {} at its top, so it may be a compiled package or an unrelated archive",
        names.join(", ")
    )
}
