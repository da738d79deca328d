//! The stemcell image of a run: opens it, and identifies its stemcell.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::error::OfflineError;
use super::options::{Options, StemcellImage};
use super::progress::Progress;
use super::stemcell::{self, UnknownStemcell};
use crate::config::Vcap;
use crate::fs::{self, Context as _};
use crate::image::{ImageError, ImageStore, Owners, Unpacked};
use crate::release::Slug;
use crate::runtime;
use crate::sandbox::{Isolation, SandboxError, UserNamespace, Users};

/// The maximum size of a file that identifies a stemcell, in bytes. The rest is not read.
const LONGEST: u64 = 1 << 20;

/// Opens the image of a run, if it has one, and sets its stemcell.
pub(super) async fn open(
    mut options: Options,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Options, OfflineError> {
    let Some(given) = options.stemcell_image.clone() else {
        return Ok(options);
    };
    if matches!(options.isolation, Isolation::Landlock | Isolation::None) {
        return Err(SandboxError::Image { source: None }.into());
    }
    if let UserNamespace::Refused(reason) = &options.user_namespace
        && !nix::unistd::geteuid().is_root()
    {
        // Without namespaces, an ordinary user can neither give files to others nor change the root of a script.
        let source = Some(Box::new(SandboxError::NoUserNamespace(reason.clone())));
        return Err(SandboxError::Image { source }.into());
    }
    let owners = match options.user_namespace {
        UserNamespace::Inside(Users::Single) => Owners::Current,
        _ => Owners::OfImage,
    };
    let opening = {
        let (progress, cancel) = (Arc::clone(progress), cancel.clone());
        let (vcap, wanted) = (options.vcap.clone(), options.stemcell.clone());
        move || {
            let directory = given.directory.as_path();
            let store = ImageStore { directory, owners };
            let image = given.path.as_path();
            let announce = || progress.line(&unpacking(image));
            let unpacked = store.open(image, &announce, &|| cancel.is_cancelled())?;
            let stemcell = wanted.map_or_else(|| stemcell_of(&unpacked, &vcap), Ok)?;
            Ok::<_, OfflineError>((unpacked, stemcell))
        }
    };
    let (unpacked, stemcell) = runtime::spawn_blocking("open image", opening).await??;
    if unpacked.digest.is_none() && options.cache.take().is_some() {
        progress.warn(
            "Warning: the cache is not used: its keys need the digest of the stemcell image, and a directory has none. Use a stemcell \
             or an archive of the directory",
        );
    }
    options.stemcell = Some(stemcell);
    options.stemcell_image = options.stemcell_image.map(|image| StemcellImage {
        unpacked: Some(unpacked),
        ..image
    });
    Ok(options)
}

fn unpacking(image: &Path) -> String {
    format!("Unpacking stemcell image {}", image.display())
}

/// The stemcell of an image: by its `stemcell.MF` or, without one, by the files that every stemcell has.
fn stemcell_of(image: &Unpacked, vcap: &Vcap) -> Result<Slug, UnknownStemcell> {
    let read = |path: &Path| read(&image.root, path);
    let Some(description) = &image.description else {
        return stemcell::detect_with(vcap, &read);
    };
    let (Some(os), Some(version)) = (&description.operating_system, &description.version) else {
        return stemcell::detect_with(vcap, &read);
    };
    let described = Slug::new(os, version).map_err(|source| UnknownStemcell::Content {
        path: "stemcell.MF".into(),
        source,
    })?;
    match read(&vcap.stemcell_version()) {
        Ok(found) if found.trim() != version => Err(UnknownStemcell::Disagreement {
            described,
            found: found.trim().to_owned(),
        }),
        Err(error) if !error.is_not_found() => Err(UnknownStemcell::File(error)),
        Ok(_) | Err(_) => Ok(described),
    }
}

/// Reads a file of an image.
fn read(root: &Path, path: &Path) -> fs::Result<String> {
    let Some(file) = fs::open_in_root(root, path)? else {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(fs::Error::new("find in the stemcell image", path, missing));
    };
    let mut bytes = Vec::new();
    file.take(LONGEST)
        .read_to_end(&mut bytes)
        .at("read", path)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl From<ImageError> for OfflineError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Stopped => Self::Stopped,
            other => Self::Image(Box::new(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::Chain;
    use crate::image::Description;

    fn image(root: &Path, version: Option<&str>) -> Unpacked {
        let text = |text: &str| Some(text.to_owned());
        Unpacked {
            root: root.to_owned(),
            digest: None,
            description: version.map(|it| Description::new(text("ubuntu-noble"), text(it))),
        }
    }

    #[test]
    fn unreadable_version_of_a_described_image_is_an_error() {
        let scratch = tempfile::tempdir().unwrap();
        let (root, vcap) = (scratch.path(), Vcap::default());
        let file = root.join("var/vcap/bosh/etc/stemcell_version");
        fs::create_dir_all(fs::parent(&file)).unwrap();
        fs::symlink(Path::new("stemcell_version"), &file).unwrap();
        let error = stemcell_of(&image(root, Some("1.2")), &vcap).unwrap_err();
        let text = Chain(&error).to_string();
        assert!(text.contains("stemcell_version"), "{text}");
    }

    #[test]
    fn description_wins_and_agrees_on_the_version() {
        let scratch = tempfile::tempdir().unwrap();
        let (root, vcap) = (scratch.path(), Vcap::default());
        let found = |version| stemcell_of(&image(root, version), &vcap);
        assert_eq!(found(Some("1.2")).unwrap().to_string(), "ubuntu-noble/1.2");
        let missing = found(None).unwrap_err();
        assert!(missing.hint().contains("--stemcell"), "{}", missing.hint());

        fs::create_dir_all(&root.join("var/vcap/bosh/etc")).unwrap();
        fs::create_dir_all(&root.join("usr/lib")).unwrap();
        fs::create_dir(&root.join("etc")).unwrap();
        fs::write(&root.join("var/vcap/bosh/etc/stemcell_version"), b"1.2\n").unwrap();
        fs::write(
            &root.join("usr/lib/os-release"),
            b"ID=debian\nVERSION_CODENAME=trixie\n",
        )
        .unwrap();
        // The absolute target of the link must be resolved inside the image.
        fs::symlink(
            Path::new("/usr/lib/os-release"),
            &root.join("etc/os-release"),
        )
        .unwrap();
        assert_eq!(found(None).unwrap().to_string(), "debian-trixie/1.2");
        assert_eq!(found(Some("1.2")).unwrap().to_string(), "ubuntu-noble/1.2");
        let error = found(Some("1.3")).unwrap_err();
        let text = Chain(&error).to_string();
        assert!(
            text.contains("ubuntu-noble/1.3") && text.contains("`1.2`"),
            "{text}"
        );
    }
}
