//! Images of all kinds, built here and unpacked.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::*;
use crate::archive::{self, EntryHeader, EntryWriter, Kind};
use crate::diag::Chain;
use crate::fs;
use crate::release::{Algorithm, Digests};

/// An entry: name, kind, content or target.
type Given<'a> = (&'a str, Kind, &'a str);

const BASE: [Given<'static>; 8] = [
    ("./", Kind::Directory, ""),
    ("./etc/", Kind::Directory, ""),
    (
        "./etc/os-release",
        Kind::File,
        "ID=ubuntu\nVERSION_CODENAME=noble\n",
    ),
    ("./usr/bin/tool", Kind::File, "tool"),
    ("./usr/bin/again", Kind::HardLink, "./usr/bin/tool"),
    ("./bin", Kind::Symlink, "/usr/bin"),
    ("./dev/null", Kind::CharacterDevice, ""),
    ("./old/x", Kind::File, "x"),
];

const UPPER: [Given<'static>; 4] = [
    ("bin/new", Kind::File, "new"),
    (".wh.old", Kind::File, ""),
    ("usr/bin/tool", Kind::File, "tool 2"),
    ("etc/passwd", Kind::File, "root"),
];

fn tar(entries: &[Given<'_>]) -> Vec<u8> {
    let mut writer = EntryWriter::new(Vec::new());
    for (name, kind, text) in entries {
        let is_file = *kind == Kind::File;
        let mode = if *kind == Kind::Directory {
            0o755
        } else {
            0o4711
        };
        let mut header = EntryHeader::new(*kind, name.as_bytes(), mode);
        header.link = if is_file { b"" } else { text.as_bytes() };
        header.device = (*kind == Kind::CharacterDevice).then_some((1, 3));
        if *name == "usr/bin/tool" {
            (header.uid, header.gid) = (1000, 1001);
        }
        let content = if is_file { text.as_bytes() } else { b"" };
        header.size = content.len() as u64;
        writer.append(&header, content).unwrap();
    }
    writer.finish().unwrap()
}

fn files(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut writer = EntryWriter::new(Vec::new());
    for (name, content) in entries {
        let mut header = EntryHeader::new(Kind::File, name.as_bytes(), 0o644);
        header.size = content.len() as u64;
        writer.append(&header, &content[..]).unwrap();
    }
    writer.finish().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    let digests = Digests::of(bytes, &[Algorithm::Sha256]);
    digests.sha256().unwrap().to_owned()
}

fn config(layers: &[Vec<u8>]) -> Vec<u8> {
    let ids: Vec<String> = layers
        .iter()
        .map(|it| format!("\"sha256:{}\"", sha256(it)))
        .collect();
    let own = Platform::own();
    format!(
        r#"{{"architecture":"{}","os":"{}","rootfs":{{"diff_ids":[{}]}}}}"#,
        own.architecture,
        own.os,
        ids.join(",")
    )
    .into_bytes()
}

/// The files of an OCI layout with these layers.
fn layout(layers: &[Vec<u8>]) -> Vec<(String, Vec<u8>)> {
    let mut blobs = vec![config(layers)];
    blobs.extend(layers.iter().map(|it| gzip(it)));
    let describe = |blob: &Vec<u8>| {
        let media = "application/vnd.oci.image.config.v1+json";
        let (digest, size) = (sha256(blob), blob.len());
        format!(r#"{{"mediaType":"{media}","digest":"sha256:{digest}","size":{size}}}"#)
    };
    let layers: Vec<String> = blobs[1..].iter().map(describe).collect();
    let manifest = format!(
        r#"{{"config":{},"layers":[{}]}}"#,
        describe(&blobs[0]),
        layers.join(",")
    );
    blobs.push(manifest.into_bytes());
    let index = format!(r#"{{"manifests":[{}]}}"#, describe(&blobs[blobs.len() - 1]));
    let mut files = vec![
        ("index.json".to_owned(), index.into_bytes()),
        ("oci-layout".to_owned(), b"{}".to_vec()),
    ];
    let blobs = blobs.into_iter();
    files.extend(blobs.map(|it| (format!("blobs/sha256/{}", sha256(&it)), it)));
    files
}

fn saved(layers: &[Vec<u8>]) -> Vec<u8> {
    let config = config(layers);
    let name = format!("{}.json", sha256(&config));
    let names: Vec<String> = (0..layers.len())
        .map(|it| format!("{it}/layer.tar"))
        .collect();
    let manifest = format!(r#"[{{"Config":"{name}","Layers":{names:?},"RepoTags":["x:1"]}}]"#);
    let mut entries = vec![(name.as_str(), config)];
    entries.extend(names.iter().map(String::as_str).zip(layers.iter().cloned()));
    entries.push(("manifest.json", manifest.into_bytes()));
    files(&entries)
}

fn stemcell(root: &[u8], sha1: &str) -> Vec<u8> {
    let text = format!("name: x\noperating_system: ubuntu-noble\nversion: '1.10'\nsha1: {sha1}\n");
    files(&[
        ("stemcell.MF", text.into_bytes()),
        ("packages.txt", Vec::new()),
        ("image", gzip(root)),
    ])
}

struct Scratch {
    directory: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::create_dir_all(fs::parent(&path)).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    fn open(&self, image: &Path) -> Result<Unpacked, ImageError> {
        let owners = match nix::unistd::geteuid().is_root() {
            true => Owners::OfImage,
            false => Owners::Current,
        };
        let directory = &self.store();
        let store = ImageStore { directory, owners };
        store.open(image, &|| {}, &|| false)
    }

    /// The names in the store. Images that failed leave only their lock.
    fn stored(&self) -> Vec<String> {
        let entries = fs::list(&own(&self.store())).unwrap();
        let names = entries
            .iter()
            .map(|it| it.file_name().into_string().unwrap());
        names.filter(|it| !it.ends_with(".lock")).collect()
    }
}

/// The directory of the current user in a store.
fn own(store: &Path) -> PathBuf {
    store.join(format!("v1-{}", store::outer_user()))
}

/// All files of a tree with their modes, owners and contents.
fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let (mut found, mut todo) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(path) = todo.pop() {
        let metadata = fs::lookup(&path).unwrap().unwrap();
        let content = if metadata.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else if metadata.is_dir() {
            todo.extend(fs::list(&path).unwrap().iter().map(std::fs::DirEntry::path));
            String::new()
        } else {
            fs::read_lossy(&path).unwrap()
        };
        let (mode, uid, links) = (metadata.mode(), metadata.uid(), metadata.nlink());
        let links = if metadata.is_dir() { 0 } else { links };
        let name = path.strip_prefix(root).unwrap().to_owned();
        found.insert(name, format!("{mode:o} {uid} {links} {content}"));
    }
    found
}

#[test]
fn all_kinds_give_the_same_root() {
    let scratch = Scratch::new();
    let layers = [tar(&BASE), tar(&UPPER)];
    for (name, bytes) in layout(&layers) {
        scratch.write(&format!("layout/{name}"), &bytes);
    }
    let expected = scratch
        .open(&scratch.directory.path().join("layout"))
        .unwrap();
    let names = describe(&expected.root);
    let listed: Vec<_> = names.keys().map(|it| it.to_str().unwrap()).collect();
    assert_eq!(
        listed,
        [
            "",
            "bin",
            "dev",
            "etc",
            "etc/os-release",
            "etc/passwd",
            "usr",
            "usr/bin",
            "usr/bin/again",
            "usr/bin/new",
            "usr/bin/tool"
        ]
    );
    assert!(
        names[Path::new("usr/bin/again")].ends_with("1 tool"),
        "{names:?}"
    );
    assert!(
        names[Path::new("usr/bin/tool")].starts_with("104711 "),
        "{names:?}"
    );
    if nix::unistd::geteuid().is_root() {
        assert_eq!(names[Path::new("usr/bin/tool")], "104711 1000 1 tool 2");
    }

    let of_layout: Vec<_> = layout(&layers);
    let of_layout: Vec<_> = of_layout
        .iter()
        .map(|(name, it)| (name.as_str(), it.clone()))
        .collect();
    let archives = [
        ("layout.tar", files(&of_layout)),
        ("saved.tar.gz", gzip(&saved(&layers))),
    ];
    for (name, bytes) in archives {
        let opened = scratch.open(&scratch.write(name, &bytes)).unwrap();
        assert_eq!(describe(&opened.root), names, "{name}");
        assert_eq!(opened.digest, Some(sha256(&bytes)));
    }

    let packed = scratch.directory.path().join("root.tar");
    let mut file = fs::create(&packed).unwrap();
    archive::pack(
        &expected.root,
        &mut file,
        &mut archive::SystemOwners::new(),
        None,
    )
    .unwrap();
    let root = fs::read(&packed).unwrap();
    let sha1 = Digests::of(&gzip(&root), &[Algorithm::Sha1]);
    for (name, bytes, is_stemcell) in [
        ("root.tgz", gzip(&root), false),
        ("root.tar", root.clone(), false),
        (
            "stemcell.tgz",
            gzip(&stemcell(&root, sha1.sha1().unwrap())),
            true,
        ),
    ] {
        let opened = scratch.open(&scratch.write(name, &bytes)).unwrap();
        assert_eq!(describe(&opened.root).len(), names.len(), "{name}");
        assert_eq!(opened.description.is_some(), is_stemcell);
        let version = opened.description.and_then(|it| it.version);
        assert_eq!(version.as_deref(), is_stemcell.then_some("1.10"));
    }
    let opened = scratch.open(&expected.root).unwrap();
    assert_eq!((opened.root, opened.digest), (expected.root, None));
}

#[test]
fn directory_of_an_unpacked_image_is_not_a_root_file_system() {
    let scratch = Scratch::new();
    scratch.write("stemcell/stemcell.MF", b"name: x\n");
    scratch.write("stemcell/image", &tar(&BASE));
    scratch.write("saved/manifest.json", b"[]");
    scratch.write("saved/0/layer.tar", &tar(&BASE));
    scratch.write("none/image", &tar(&BASE));
    let directory = |name: &str| scratch.directory.path().join(name);
    for (name, expected) in [
        ("stemcell", "is the directory of an unpacked stemcell"),
        (
            "saved",
            "is the directory of an unpacked file of docker save",
        ),
        ("none", "is not a stemcell image"),
    ] {
        let error = scratch.open(&directory(name)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    scratch.write("saved/etc/passwd", b"");
    let opened = scratch.open(&directory("saved")).unwrap();
    assert_eq!(opened.root, directory("saved").canonicalize().unwrap());
}

#[test]
fn image_is_unpacked_once() {
    let scratch = Scratch::new();
    let image = scratch.write("root.tar", &tar(&BASE));
    let count = std::cell::Cell::new(0);
    let directory = &scratch.store();
    let store = ImageStore {
        directory,
        owners: Owners::Current,
    };
    // A killed run leaves such a directory.
    let abandoned = own(directory).join("unpacking-1-2");
    let leave = || {
        fs::create_dir_all(&abandoned.join("image")).unwrap();
        fs::write(&abandoned.join(".lock"), b"").unwrap();
    };
    leave();
    let open = || store.open(&image, &|| count.set(count.get() + 1), &|| false);
    let first = open().unwrap();
    leave();
    assert_eq!((open().unwrap(), count.get()), (first, 1));
    assert_eq!(scratch.stored().len(), 1);
    let stopped = store.open(&scratch.write("other.tar", &tar(&UPPER)), &|| {}, &|| true);
    assert!(matches!(stopped, Err(ImageError::Stopped)));
    assert_eq!(scratch.stored().len(), 1);
}

#[test]
fn image_without_its_description_is_unpacked_again() {
    let scratch = Scratch::new();
    let image = scratch.write("root.tar", &tar(&BASE));
    let first = scratch.open(&image).unwrap();
    let about = fs::parent(&first.root).join("about.json");
    fs::remove_file(&about).unwrap();
    fs::remove_tree(&first.root.join("etc")).unwrap();
    assert_eq!(scratch.open(&image).unwrap(), first);
    assert!(about.exists() && first.root.join("etc/os-release").exists());
}

#[test]
fn image_that_changes_before_it_is_unpacked_is_not_stored() {
    let scratch = Scratch::new();
    let image = scratch.write("root.tar", &tar(&BASE));
    let layout_of = |layers: &[Vec<u8>]| {
        for (name, bytes) in layout(layers) {
            scratch.write(&format!("layout/{name}"), &bytes);
        }
    };
    layout_of(&[tar(&BASE)]);
    let directory = &scratch.store();
    let store = ImageStore {
        directory,
        owners: Owners::Current,
    };
    // The image changes after its digest was computed, as may happen during a wait for another process.
    let change = || fs::write(&image, &tar(&UPPER)).unwrap();
    let error = store.open(&image, &change, &|| false).unwrap_err();
    assert!(matches!(error, ImageError::Changed { .. }), "{error}");
    let change = || layout_of(&[tar(&BASE), tar(&UPPER)]);
    let layout = scratch.directory.path().join("layout");
    let error = store.open(&layout, &change, &|| false).unwrap_err();
    assert!(matches!(error, ImageError::Changed { .. }), "{error}");
    assert_eq!(scratch.stored(), Vec::<String>::new());
}

#[test]
fn directories_of_other_users_are_refused() {
    let scratch = Scratch::new();
    let image = scratch.write("root.tar", &tar(&BASE));
    let first = scratch.open(&image).unwrap();
    let (own, stored) = (own(&scratch.store()), fs::parent(&first.root).to_owned());
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&own), 0o700);
    // The directory itself has the mode that the umask gives it.
    assert_eq!(mode(&scratch.store()) & 0o500, 0o500);
    assert_ne!(mode(&scratch.store()), 0o700);
    let refused = || matches!(scratch.open(&image), Err(ImageError::OfOthers { .. }));
    for path in [&own, &stored] {
        let before = mode(path);
        fs::set_mode(path, 0o777).unwrap();
        assert!(refused(), "{}", path.display());
        fs::set_mode(path, before).unwrap();
        let moved = scratch.directory.path().join("moved");
        fs::rename(path, &moved).unwrap();
        fs::symlink(&moved, path).unwrap();
        assert!(refused(), "{}", path.display());
        fs::remove_file(path).unwrap();
        fs::rename(&moved, path).unwrap();
    }
    if nix::unistd::geteuid().is_root() {
        nix::unistd::chown(&own, Some(1.into()), None).unwrap();
        assert!(refused());
    }
}

#[test]
fn hostile_images_leave_nothing() {
    let root = tar(&BASE);
    let with = |entry: Given<'static>| [tar(&BASE), tar(&[entry])];
    let mut damaged_layer = layout(std::slice::from_ref(&root));
    damaged_layer.retain(|(name, _)| name != &format!("blobs/sha256/{}", sha256(&gzip(&root))));
    let blob = format!("blobs/sha256/{}", sha256(&gzip(&root)));
    damaged_layer.push((blob.clone(), vec![0; gzip(&root).len()]));
    let damaged: Vec<_> = damaged_layer
        .iter()
        .map(|(name, it)| (name.as_str(), it.clone()))
        .collect();
    let mut exchanged = layout(std::slice::from_ref(&root));
    exchanged.retain(|(name, _)| *name != blob);
    let exchanged: Vec<_> = exchanged
        .iter()
        .map(|(name, it)| (name.as_str(), it.clone()))
        .collect();
    let mut wrong_layer = saved(std::slice::from_ref(&root));
    let position = wrong_layer
        .windows(9)
        .position(|it| it == b"ID=ubuntu")
        .unwrap();
    wrong_layer[position] = b'X';
    for (name, bytes, expected) in [
        ("none", b"x".to_vec(), "neither a tar archive"),
        (
            "release",
            files(&[("release.MF", Vec::new())]),
            "is not a stemcell image",
        ),
        (
            "parent",
            saved(&with(("../x", Kind::File, "x"))),
            "contains `..`",
        ),
        (
            "absolute",
            saved(&with(("/x", Kind::File, "x"))),
            "absolute path",
        ),
        (
            "link",
            saved(&with(("x", Kind::HardLink, "/etc/shadow"))),
            "outside the root",
        ),
        (
            "whiteout",
            saved(&with(("etc/.wh...", Kind::File, ""))),
            "not a valid whiteout",
        ),
        ("damaged", files(&damaged), "is damaged: its SHA-256"),
        ("missing", files(&exchanged), "No such file"),
        ("wrong", wrong_layer, "is damaged: its SHA-256"),
        (
            "sha1",
            stemcell(&root, &"0".repeat(40)),
            "expected the sha1 digest 0000",
        ),
        (
            "sha256",
            stemcell(&root, &format!("sha256:{}", "0".repeat(64))),
            "expected the sha256 digest 0000",
        ),
        (
            "unknown",
            stemcell(&root, "md5:00"),
            "uses only unsupported algorithms",
        ),
        ("cut", gzip(&root)[..300].to_vec(), "ends early"),
        (
            "long",
            files(&[
                ("stemcell.MF", vec![b'#'; (4 << 20) + 1]),
                ("image", root.clone()),
            ]),
            "it is longer than 4194304 bytes",
        ),
        (
            "rootless",
            files(&[("stemcell.MF", b"name: x\n".to_vec())]),
            "has no file `image`",
        ),
    ] {
        let scratch = Scratch::new();
        let outside = scratch.write("x", b"outside");
        let error = scratch.open(&scratch.write(name, &bytes)).unwrap_err();
        let text = Chain(&error).to_string();
        assert!(text.contains(expected), "{name}: {text}");
        assert_eq!(scratch.stored(), Vec::<String>::new(), "{name}");
        assert_eq!(fs::read(&outside).unwrap(), b"outside");
    }
}

#[test]
fn link_of_a_saved_image_does_not_leave_it() {
    let scratch = Scratch::new();
    let outside = scratch.write("layer.tar", &tar(&BASE));
    let config = config(&[tar(&BASE)]);
    let name = format!("{}.json", sha256(&config));
    let manifest = format!(r#"[{{"Config":"{name}","Layers":["layer.tar"]}}]"#).into_bytes();
    let mut writer = EntryWriter::new(Vec::new());
    for (name, content) in [(name.as_str(), &config), ("manifest.json", &manifest)] {
        let mut header = EntryHeader::new(Kind::File, name.as_bytes(), 0o644);
        header.size = content.len() as u64;
        writer.append(&header, &content[..]).unwrap();
    }
    let mut header = EntryHeader::new(Kind::Symlink, b"layer.tar", 0o777);
    header.link = outside.as_os_str().as_encoded_bytes();
    writer.append(&header, &b""[..]).unwrap();
    let image = scratch.write("saved.tar", &writer.finish().unwrap());
    let error = scratch.open(&image).unwrap_err();
    assert!(matches!(error, ImageError::Outside { .. }), "{error}");
}
