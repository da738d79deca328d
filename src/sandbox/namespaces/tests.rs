use super::*;

#[test]
fn discarded_scratch_is_made_again_for_the_next_package() {
    let temporary = tempfile::tempdir().unwrap();
    let work = temporary.path().join("work");
    fs::create_dir_all(&work.join("places")).unwrap();
    let vcap = Vcap::new(&temporary.path().join("vcap"));
    fs::create_dir(vcap.base()).unwrap();
    let namespaces = Namespaces {
        work: work.clone(),
        cover: vcap.base().to_owned(),
        vcap,
        options: NamespaceOptions::default(),
        writes: Writes::ToDisk,
        processes: true,
        locked: true,
        next: AtomicUsize::new(0),
        made: MadeDirectories::default(),
        base: None,
        scratch: Scratch::default(),
        scratch_root: PathBuf::from(SCRATCH),
        secrets: Vec::new(),
        image: None,
        fork_server: work.join("none").into(),
    };
    let name = Name::parse("golang").unwrap();
    let enter = || {
        let scratch = std::slice::from_ref(&name);
        namespaces.make_place(false, scratch).unwrap()
    };
    namespaces.leave(&enter()).unwrap();
    assert!(!namespaces.discard_scratch().unwrap(), "it was empty");
    let place = enter();
    assert_eq!(
        place.scratch,
        [(
            PathBuf::from("scratch/golang"),
            PathBuf::from("places/1/tree/data/golang")
        )]
    );
    fs::write(&work.join("scratch/golang/file"), b"").unwrap();
    namespaces.leave(&place).unwrap();
    assert!(namespaces.discard_scratch().unwrap());
    assert!(!work.join("scratch/golang").exists());
    enter();
    assert!(work.join("scratch/golang").is_dir());
}
