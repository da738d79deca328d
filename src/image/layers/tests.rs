use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::archive::Kind;

/// An entry with a name and a target.
type Given = (String, Kind, String);

fn dir(name: &str) -> Given {
    (name.to_owned(), Kind::Directory, String::new())
}

fn file(name: &str) -> Given {
    (name.to_owned(), Kind::File, String::new())
}

fn link(name: &str, target: &str) -> Given {
    (name.to_owned(), Kind::Symlink, target.to_owned())
}

fn hard(name: &str, target: &str) -> Given {
    (name.to_owned(), Kind::HardLink, target.to_owned())
}

fn device(name: &str) -> Given {
    (name.to_owned(), Kind::CharacterDevice, String::new())
}

/// The files that result from carrying out the steps: their paths with a letter for the kind.
#[derive(Debug, Default, PartialEq, Eq)]
struct Disk(BTreeMap<PathBuf, char>);

impl Disk {
    /// Carries out a step as the file system would, and fails where it would.
    fn apply(&mut self, step: &Step) {
        for path in &step.directories {
            assert!(
                self.0.insert(path.clone(), 'd').is_none(),
                "{}",
                path.display()
            );
        }
        for path in &step.remove {
            let below = |other: &&PathBuf| *other != path && other.starts_with(path);
            assert_eq!(
                self.0.keys().find(below),
                None,
                "{} is not empty",
                path.display()
            );
            assert!(
                self.0.remove(path).is_some(),
                "{} is missing",
                path.display()
            );
        }
        let (path, kind) = match &step.action {
            Some(Action::Directory(path)) if path == Path::new("") => return,
            Some(Action::Directory(path)) => (path, 'd'),
            Some(Action::File(path)) => (path, 'f'),
            Some(Action::Symlink(path)) => (path, 'l'),
            Some(Action::Fifo(path)) => (path, 'p'),
            Some(Action::HardLink { path, target }) => {
                assert_ne!(self.0[target], 'd');
                (path, self.0[target])
            }
            Some(Action::Skip(_)) | None => return,
        };
        for parent in path.ancestors().skip(1).filter(|it| *it != Path::new("")) {
            assert_eq!(self.0.get(parent), Some(&'d'), "{}", parent.display());
        }
        let old = self.0.insert(path.clone(), kind);
        assert!(
            old.is_none() || (old, kind) == (Some('d'), 'd'),
            "{}",
            path.display()
        );
    }

    fn names(&self) -> Vec<&str> {
        self.0.keys().filter_map(|path| path.to_str()).collect()
    }
}

fn merge(mut layers: Layers, given: &[Vec<Given>]) -> Result<Disk, LayerError> {
    let mut disk = Disk::default();
    for (number, layer) in given.iter().enumerate() {
        if number > 0 {
            layers.next_layer();
        }
        for (name, kind, target) in layer {
            let member = Member {
                name: name.as_bytes(),
                link: target.as_bytes(),
                kind: *kind,
            };
            disk.apply(&layers.add(member)?);
        }
    }
    let kept = layers
        .nodes
        .iter()
        .filter(|(_, node)| node.kind != NodeKind::Skipped);
    let kept: Vec<PathBuf> = kept.map(|(path, _)| to_path(path)).collect();
    let kept: std::collections::BTreeSet<PathBuf> = kept.into_iter().collect();
    assert_eq!(kept, disk.0.keys().cloned().collect());
    Ok(disk)
}

#[track_caller]
fn assert_merged(given: &[Vec<Given>], expected: &[&str]) {
    assert_eq!(merge(Layers::new(), given).unwrap().names(), expected);
}

#[track_caller]
fn assert_refused(given: &[Vec<Given>], expected: &str) {
    let error = merge(Layers::new(), given).unwrap_err();
    let text = crate::diag::Chain(&error).to_string();
    assert!(text.contains(expected), "{text}");
}

#[test]
fn whiteout_removes_files_of_lower_layers_only() {
    let lower = vec![dir("a"), file("a/x"), file("a/y"), file("b")];
    assert_merged(
        &[
            lower.clone(),
            vec![file("a/.wh.x"), file(".wh.b"), file(".wh.none")],
        ],
        &["a", "a/y"],
    );
    for upper in [
        vec![file("a/x"), file(".wh.a")],
        vec![file(".wh.a"), file("a/x")],
        vec![file("a/.wh.x"), file("a/.wh.y"), file("a/x")],
    ] {
        assert_merged(&[lower.clone(), upper], &["a", "a/x", "b"]);
    }
}

#[test]
fn opaque_directory_hides_everything_of_lower_layers() {
    let lower = vec![file("a/b/x"), file("a/y"), file("ab")];
    assert_merged(
        &[lower.clone(), vec![file("a/.wh..wh..opq"), file("a/b/z")]],
        &["a", "a/b", "a/b/z", "ab"],
    );
    assert_merged(
        &[lower.clone(), vec![file("a/b/z"), file("a/.wh..wh..opq")]],
        &["a", "a/b", "a/b/z", "ab"],
    );
    assert_merged(&[lower, vec![file(".wh..wh..opq"), file("c")]], &["c"]);
}

#[test]
fn later_entry_replaces_an_earlier_one() {
    let lower = vec![file("a/x"), link("l", "a"), file("f")];
    assert_merged(
        &[lower, vec![file("a"), dir("l"), file("l/x"), file("f")]],
        &["a", "f", "l", "l/x"],
    );
}

#[test]
fn entry_below_a_link_belongs_to_its_target_inside_the_root() {
    for target in ["usr/lib", "/usr/lib", "../../usr/lib", "./usr/../usr/lib/."] {
        let lower = vec![dir("usr/lib"), link("lib", target)];
        assert_merged(
            &[lower, vec![file("lib/a"), hard("b", "lib/a")]],
            &["b", "lib", "usr", "usr/lib", "usr/lib/a"],
        );
    }
    assert_merged(
        &[
            vec![file("usr/lib/a"), link("lib", "/usr/lib")],
            vec![file("lib/.wh.a")],
        ],
        &["lib", "usr", "usr/lib"],
    );
    // The missing target is created inside the root, as in a container.
    assert_merged(
        &[vec![link("x", "/../../etc"), file("x/passwd")]],
        &["etc", "etc/passwd", "x"],
    );
}

#[test]
fn devices_and_hard_links_to_them_are_skipped() {
    assert_merged(
        &[
            vec![dir("dev"), device("dev/null"), hard("dev/zero", "dev/null")],
            vec![file("f"), device("f"), file("dev/.wh.null")],
        ],
        &["dev"],
    );
    assert_merged(&[vec![file("f")], vec![device("f")]], &[]);
}

#[test]
fn metadata_of_storage_drivers_is_ignored() {
    assert_merged(
        &[
            vec![file("a")],
            vec![
                file(".wh..wh.aufs"),
                dir(".wh..wh.plnk"),
                file(".wh..wh.plnk/1.2"),
            ],
        ],
        &["a"],
    );
}

#[test]
fn flat_archive_has_no_whiteouts() {
    let given = vec![
        file("a/x"),
        file("a/.wh.x"),
        file("a/.wh..wh..opq"),
        file(".wh."),
    ];
    let merged = merge(Layers::flat(), &[given]).unwrap();
    assert_eq!(
        merged.names(),
        [".wh.", "a", "a/.wh..wh..opq", "a/.wh.x", "a/x"]
    );
}

#[test]
fn hostile_layers_are_refused() {
    let base = || vec![dir("a"), file("f"), link("loop", "loop"), link("l", "f")];
    for (entry, expected) in [
        (file("../x"), "contains `..`"),
        (file("a/../../x"), "contains `..`"),
        (file("/etc/passwd"), "absolute path"),
        (file(""), "the name is empty"),
        (file("./"), "replaces the root"),
        (link(".", "/"), "replaces the root"),
        (hard("x", "../../etc/shadow"), "outside the root"),
        (hard("x", "/etc/shadow"), "outside the root"),
        (hard("x", "none"), "not an earlier file"),
        (hard("x", "a"), "not an earlier file"),
        (hard("x", "."), "not an earlier file"),
        (link("x", ""), "has no target"),
        (file("f/x"), "not a directory"),
        (file("l/x"), "not a directory"),
        (file("loop/x"), "symbolic links"),
        (file("a/.wh."), "not a valid whiteout"),
        (file("a/.wh.."), "not a valid whiteout"),
        (file("a/.wh..."), "not a valid whiteout"),
        (file("../.wh.x"), "contains `..`"),
        (file("/.wh.x"), "absolute path"),
        (file(".wh.a/x"), "not a valid whiteout"),
        (file(&"x".repeat(MAX_PATH + 1)), "longer than"),
        (link("x", &"x".repeat(MAX_PATH + 1)), "longer than"),
        (
            ("x".to_owned(), Kind::Other(b'M'), String::new()),
            "volumes",
        ),
    ] {
        assert_refused(&[base(), vec![entry.clone()]], expected);
        // The entry is also refused without lower layers.
        if entry.0.contains("..") {
            assert_refused(&[vec![entry]], expected);
        }
    }
}

#[test]
fn file_cannot_be_linked_to_a_directory_that_contains_it() {
    assert_refused(
        &[vec![file("a/x"), hard("a", "a/x")]],
        "not an earlier file",
    );
}

#[test]
fn paths_that_grow_through_links_are_limited() {
    let deep = vec!["d"; MAX_PATH / 2].join("/");
    assert_refused(
        &[vec![
            link("l", &deep),
            file(&format!("l/{}", "x".repeat(10))),
        ]],
        "longer than",
    );
}

#[test]
fn work_for_links_is_limited() {
    let mut layers = Layers::new();
    layers.work = MAX_WORK;
    let member = Member {
        name: b"a/b",
        link: b"",
        kind: Kind::File,
    };
    assert_eq!(layers.add(member), Err(LayerError::TooMuchWork));
}

#[test]
fn size_of_all_nodes_is_limited() {
    let mut layers = Layers::new();
    let add = |layers: &mut Layers, (name, kind, link): Given| {
        let (name, link) = (name.as_bytes(), link.as_bytes());
        layers.add(Member { name, link, kind })
    };
    for given in [
        dir("a"),
        link("a/b", "target"),
        file("a/b"),
        link("a/b", "x"),
    ] {
        add(&mut layers, given).unwrap();
    }
    assert_eq!(layers.size, 2 * NODE + "a".len() + "a/b".len() + "x".len());
    add(&mut layers, file(".wh.a")).unwrap();
    layers.next_layer();
    add(&mut layers, file(".wh.a")).unwrap();
    assert_eq!(layers.size, 0);
    layers.size = MAX_SIZE - NODE - 10;
    let long = link("l", "0123456789");
    assert_eq!(add(&mut layers, long), Err(LayerError::TooMany));
}

fn name() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4)
        .prop_map(|parts| parts.join("/"))
}

/// A directory, a file, a whiteout or an opaque directory.
fn plain_entry() -> impl Strategy<Value = Given> {
    let parent = |name: &str| {
        name.rsplit_once('/')
            .map_or(String::new(), |(it, _)| format!("{it}/"))
    };
    prop_oneof![
        name().prop_map(|name| dir(&name)),
        name().prop_map(|name| file(&name)),
        name().prop_map(move |name| {
            let last = name.rsplit('/').next().unwrap();
            file(&format!("{}.wh.{last}", parent(&name)))
        }),
        name().prop_map(move |name| file(&format!("{}.wh..wh..opq", parent(&name)))),
    ]
}

fn any_entry() -> impl Strategy<Value = Given> {
    let odd = prop_oneof![
        Just(".."),
        Just("/"),
        Just("."),
        Just(".wh."),
        Just(".wh..wh..opq"),
        Just("a"),
        Just("b"),
        Just("../b"),
        Just("/a"),
    ];
    let odd = prop::collection::vec(odd, 1..4).prop_map(|parts| parts.join("/"));
    prop_oneof![
        4 => plain_entry(),
        2 => (name(), odd.clone()).prop_map(|(name, target)| link(&name, &target)),
        2 => (name(), name()).prop_map(|(name, target)| hard(&name, &target)),
        1 => name().prop_map(|name| device(&name)),
        1 => odd.prop_map(|name| file(&name)),
    ]
}

/// A simple model of merging layers without links: applies the whiteouts of a layer, then its entries. `None` if a file is used as a
/// directory.
fn model(given: &[Vec<Given>]) -> Option<Vec<PathBuf>> {
    let mut tree: BTreeMap<PathBuf, bool> = BTreeMap::new();
    for layer in given {
        let is_whiteout = |it: &&Given| it.0.contains(".wh.");
        for (name, _, _) in layer.iter().filter(is_whiteout) {
            let (parent, name) = name.rsplit_once('/').unwrap_or(("", name));
            let hidden = Path::new(parent).join(name.strip_prefix(".wh.").unwrap());
            tree.retain(|path, _| match name {
                ".wh..wh..opq" => path == Path::new(parent) || !path.starts_with(parent),
                _ => !path.starts_with(&hidden),
            });
        }
        for (name, kind, _) in layer.iter().filter(|it| !is_whiteout(it)) {
            let (path, is_dir) = (PathBuf::from(name), *kind == Kind::Directory);
            for parent in path.ancestors().skip(1).filter(|it| *it != Path::new("")) {
                if !*tree.entry(parent.to_owned()).or_insert(true) {
                    return None;
                }
            }
            if !is_dir {
                tree.retain(|other, _| !other.starts_with(&path));
            }
            tree.insert(path, is_dir);
        }
    }
    Some(tree.into_keys().collect())
}

proptest! {
    #[test]
    fn merged_layers_are_those_of_the_model(given in prop::collection::vec(prop::collection::vec(plain_entry(), 0..8), 1..4)) {
        if let (Some(expected), Ok(merged)) = (model(&given), merge(Layers::new(), &given)) {
            prop_assert_eq!(merged.0.into_keys().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn steps_stay_inside_the_root_and_work_on_disk(given in prop::collection::vec(prop::collection::vec(any_entry(), 0..10), 1..4)) {
        for layer in &given {
            // Merge each layer alone, too: an error ends a merge, and the layers after it would not be tested.
            if let Ok(disk) = merge(Layers::new(), std::slice::from_ref(layer)) {
                let normal = |path: &PathBuf| path.components().all(|it| matches!(it, std::path::Component::Normal(_)));
                prop_assert!(disk.0.keys().all(normal));
            }
        }
        // `Disk::apply` checks the rest.
        let _ = merge(Layers::new(), &given);
    }
}
