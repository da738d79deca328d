use std::collections::BTreeSet;
use std::future::Future;

use tokio::sync::{Notify, mpsc};

use super::*;

struct Fixture {
    directory: tempfile::TempDir,
    landlocked: Arc<Landlocked>,
}

fn fixture() -> Fixture {
    fixture_at("vcap")
}

/// A tree at a path below the fixture's directory.
fn fixture_at(base: &str) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let vcap = Vcap::new(&directory.path().join(base));
    let tree = SharedTree::take(&vcap, "a test", false, &|| false).unwrap();
    for sealed in ["a1", "a2", "b1"] {
        fs::create_dir(&directory.path().join(sealed)).unwrap();
    }
    let landlocked = Landlocked::new(tree, directory.path(), None).unwrap();
    Fixture {
        directory,
        landlocked: Arc::new(landlocked),
    }
}

impl Fixture {
    fn sealed(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn request(&self, package: &str, dependencies: &[(&str, &str)]) -> PlaceRequest {
        PlaceRequest {
            package: name(package),
            dependencies: dependencies
                .iter()
                .map(|(dependency, sealed)| (name(dependency), self.sealed(sealed)))
                .collect(),
            scratch: Vec::new(),
        }
    }

    /// Enters; `None` if the package has to wait.
    async fn enter(
        &self,
        package: &str,
        dependencies: &[(&str, &str)],
    ) -> Option<Arc<LandlockPlace>> {
        self.enter_with(self.request(package, dependencies)).await
    }

    async fn enter_with(&self, request: PlaceRequest) -> Option<Arc<LandlockPlace>> {
        let waits = Notify::new();
        let report = || waits.notify_one();
        tokio::select! {
            place = self.landlocked.enter(request, &report) => Some(place.unwrap()),
            () = waits.notified() => None,
        }
    }

    /// Claims directories; `None` if the package has to wait.
    async fn claim(&self, place: &LandlockPlace, names: &[&str]) -> Option<()> {
        let names: BTreeSet<Name> = names.iter().map(|text| name(text)).collect();
        let claimed = self.landlocked.try_claim(place, &names).await.unwrap();
        claimed.then_some(())
    }

    fn install(&self, place: &LandlockPlace) {
        for name in &place.to_provide {
            fs::create_dir(&self.packages().join(name.as_str())).unwrap();
        }
        self.landlocked.record_dependencies(place).unwrap();
    }

    fn packages(&self) -> PathBuf {
        Vcap::new(self.landlocked.tree.base()).data_packages()
    }

    fn data(&self) -> PathBuf {
        Vcap::new(self.landlocked.tree.base()).data()
    }

    fn installed(&self) -> Vec<String> {
        let entries = fs::list(&self.packages()).unwrap();
        let name = |entry: &std::fs::DirEntry| entry.file_name().into_string().unwrap();
        entries.iter().map(name).collect()
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// The next count that a package waits for; panics if it does not wait.
async fn next_count(
    alone: impl Future<Output = Result<Arc<LandlockPlace>, SandboxError>>,
    counts: &mut mpsc::UnboundedReceiver<usize>,
) -> usize {
    tokio::select! {
        biased;
        place = alone => panic!("the tree is not empty: {place:?}"),
        count = counts.recv() => count.unwrap(),
    }
}

#[tokio::test]
async fn dependency_is_copied_once_and_awaited_until_complete() {
    let fixture = fixture();
    let first = fixture.enter("x", &[("a", "a1")]).await.unwrap();
    assert!(!first.has(&name("a")));
    assert!(fixture.enter("y", &[("a", "a1")]).await.is_none());
    fixture.install(&first);
    let second = fixture.enter("y", &[("a", "a1")]).await.unwrap();
    assert!(second.has(&name("a")));
    fixture.landlocked.leave(&first).unwrap();
    fixture.landlocked.leave(&second).unwrap();
    let third = fixture.enter("z", &[("a", "a1")]).await.unwrap();
    assert!(third.has(&name("a")));
    assert_eq!(fixture.installed(), ["a"]);
}

#[tokio::test]
async fn changed_copy_is_replaced_after_its_users() {
    let fixture = fixture();
    let first = fixture.enter("x", &[("a", "a1")]).await.unwrap();
    fixture.install(&first);
    let copy = fixture.landlocked.copy_of(&name("a"));
    fs::set_mode(&copy, 0o700).unwrap();
    let used = fixture.enter("y", &[("a", "a1")]).await;
    assert!(used.is_none(), "it is used");
    fixture.landlocked.leave(&first).unwrap();
    let second = fixture.enter("y", &[("a", "a1")]).await.unwrap();
    assert!(!second.has(&name("a")));
    assert!(!copy.exists());
    let [replaced] = second.replaced() else {
        panic!("{second:?}");
    };
    assert_eq!(replaced.dependency, name("a"));
    assert_eq!(replaced.difference.to_string(), "`.` (mode)");
    fixture.install(&second);
    fixture.landlocked.leave(&second).unwrap();
    let third = fixture.enter("z", &[("a", "a1")]).await.unwrap();
    assert!(third.has(&name("a")));
    assert!(third.replaced().is_empty());
}

#[tokio::test]
async fn name_with_other_contents_is_awaited() {
    let fixture = fixture();
    let first = fixture.enter("x", &[("a", "a1")]).await.unwrap();
    fixture.install(&first);
    for (package, dependencies, reason) in [
        ("x", &[][..], "it is being compiled"),
        ("a", &[], "it is a dependency"),
        ("y", &[("a", "a2")], "other contents"),
        ("y", &[("x", "b1")], "being compiled"),
    ] {
        let place = fixture.enter(package, dependencies).await;
        assert!(place.is_none(), "{reason}");
    }
    fixture.landlocked.leave(&first).unwrap();
    let second = fixture.enter("y", &[("a", "a2"), ("x", "b1")]).await;
    assert_eq!(second.unwrap().to_provide, [name("a"), name("x")]);
    assert!(fixture.installed().is_empty());
}

#[tokio::test]
async fn removed_dependencies_and_partial_copies_are_removed() {
    let fixture = fixture();
    let first = fixture.enter("x", &[("a", "a1")]).await.unwrap();
    fixture.install(&first);
    fixture.landlocked.leave(&first).unwrap();
    let failed = fixture.enter("x", &[("b", "b1")]).await.unwrap();
    fs::create_dir(&fixture.packages().join("b")).unwrap();
    fixture.landlocked.leave(&failed).unwrap();
    assert_eq!(fixture.installed(), ["a"]);
    fs::remove_tree(&fixture.sealed("a1")).unwrap();
    let user = fixture.enter("y", &[("a", "a1")]).await.unwrap();
    assert!(user.has(&name("a")));
    assert_eq!(fixture.installed(), ["a"], "a copy that is needed stays");
    fixture.landlocked.leave(&user).unwrap();
    fixture.enter("y", &[]).await.unwrap();
    assert!(fixture.installed().is_empty());
}

impl Fixture {
    /// Runs `work` while nothing in the tree at `above/vcap` can be removed.
    async fn while_nothing_can_be_removed(&self, work: impl Future<Output = ()>) {
        let [above, moved, other] =
            ["above", "moved", "other"].map(|name| self.directory.path().join(name));
        fs::create_dir_all(&other.join("vcap")).unwrap();
        fs::rename(&above, &moved).unwrap();
        fs::symlink(&other, &above).unwrap();
        work.await;
        fs::remove_file(&above).unwrap();
        fs::rename(&moved, &above).unwrap();
    }
}

#[tokio::test]
async fn what_could_not_be_removed_is_removed_before_its_name_is_used() {
    let fixture = fixture_at("above/vcap");
    let first = fixture.enter("x", &[("a", "a1")]).await.unwrap();
    fixture.install(&first);
    let vcap = Vcap::new(fixture.landlocked.tree.base());
    fs::create_dir(&vcap.compile().join("x")).unwrap();
    let failing = async {
        fixture.landlocked.leave(&first).unwrap_err();
        fixture.landlocked.remove_unused_copies().unwrap_err();
        // Needs the name of the copy.
        let request = fixture.request("a", &[]);
        fixture.landlocked.enter(request, &|| {}).await.unwrap_err();
    };
    fixture.while_nothing_can_be_removed(failing).await;
    assert_eq!(fixture.installed(), ["a"]);
    let next = fixture.enter("x", &[("a", "a1")]).await.unwrap();
    assert!(!next.has(&name("a")), "what is left of a copy is not used");
    assert!(fixture.installed().is_empty());
    assert!(fs::list(&vcap.compile()).unwrap().is_empty());
    fixture.install(&next);
    fixture.landlocked.leave(&next).unwrap();
    drop((first, next));

    let alone = fixture.request("x", &[("a", "a1")]);
    let alone = fixture
        .landlocked
        .enter_alone(alone, &|_| {})
        .await
        .unwrap();
    fixture.install(&alone);
    let failing = async {
        fixture.landlocked.leave(&alone).unwrap_err();
    };
    fixture.while_nothing_can_be_removed(failing).await;
    drop(alone);
    assert_eq!(fixture.installed(), ["a"]);
    fixture.landlocked.remove_unused_copies().unwrap();
    assert!(fixture.installed().is_empty());
}

#[tokio::test]
async fn later_packages_wait_behind_a_second_run() {
    let fixture = fixture();
    let own = fixture.enter("z", &[]).await.unwrap();
    let first = fixture.enter("x", &[]).await;
    let second = fixture.enter("y", &[]).await;
    assert_eq!(fixture.landlocked.step_aside(&own), 2);
    let (sender, mut counts) = mpsc::unbounded_channel();
    let waits = |count| sender.send(count).unwrap();
    let request = fixture.request("z", &[]);
    let mut alone = Box::pin(fixture.landlocked.enter_alone(request, &waits));
    assert_eq!(next_count(&mut alone, &mut counts).await, 2);
    assert!(fixture.enter("later", &[]).await.is_none());
    drop(own);
    drop(first);
    assert_eq!(next_count(&mut alone, &mut counts).await, 1);
    assert!(fixture.enter("later", &[]).await.is_none());
    drop(second);
    let place = alone.await.unwrap();
    assert!(counts.is_empty());
    assert!(fixture.enter("later", &[]).await.is_none());
    drop(place);
    assert!(fixture.enter("later", &[]).await.is_some());
}

#[tokio::test]
async fn package_can_be_alone_in_an_empty_tree() {
    let fixture = fixture();
    let first = fixture.enter("x", &[("a", "a1")]).await.unwrap();
    fixture.install(&first);
    let (sender, mut counts) = mpsc::unbounded_channel();
    let waits = |count| sender.send(count).unwrap();
    let request = fixture.request("y", &[]);
    let mut alone = Box::pin(fixture.landlocked.enter_alone(request, &waits));
    assert_eq!(next_count(&mut alone, &mut counts).await, 1);
    fixture.landlocked.leave(&first).unwrap();
    drop(first);
    let alone = alone.await.unwrap();
    assert!(!alone.has_rules());
    assert!(fixture.installed().is_empty());
    assert!(fixture.enter("z", &[]).await.is_none());
    fixture.landlocked.leave(&alone).unwrap();
    drop(alone);
    assert!(fixture.enter("z", &[]).await.is_some());
    fixture.landlocked.close().unwrap();
    assert!(!fixture.directory.path().join("vcap").exists());
}

#[tokio::test]
async fn canceled_package_leaves_no_reservation() {
    let fixture = fixture();
    // Polled once, so that the file operations of `enter` have started, or are canceled before they do.
    let waits = || {};
    let request = fixture.request("x", &[("a", "a1")]);
    let mut entering = Box::pin(fixture.landlocked.enter(request, &waits));
    tokio::select! {
        biased;
        // The file operations have already ended.
        place = &mut entering => fixture.landlocked.leave(&place.unwrap()).unwrap(),
        () = std::future::ready(()) => {}
    }
    drop(entering);
    let request = fixture.request("x", &[("a", "a2")]);
    let place = fixture.landlocked.enter(request, &waits).await.unwrap();
    assert!(!place.has(&name("a")));
}

#[tokio::test]
async fn data_directory_of_one_package_is_awaited_by_another() {
    let fixture = fixture();
    let first = fixture.enter("x", &[]).await.unwrap();
    let second = fixture.enter("y", &[]).await.unwrap();
    fixture.claim(&first, &["a", "b"]).await.unwrap();
    fs::write(&fixture.data().join("a/file"), b"").unwrap();
    assert!(fixture.claim(&second, &["a", "b"]).await.is_none());
    fixture.landlocked.leave(&first).unwrap();
    assert!(!fixture.data().join("a").exists());
    fixture.claim(&second, &["a", "b"]).await.unwrap();
    assert!(fs::list(&fixture.data().join("a")).unwrap().is_empty());
}

#[tokio::test]
async fn package_that_has_left_claims_nothing() {
    let fixture = fixture();
    let place = fixture.enter("x", &[]).await.unwrap();
    fixture.landlocked.leave(&place).unwrap();
    fixture.claim(&place, &["a"]).await.unwrap();
    assert!(!fixture.data().join("a").exists());
}

#[tokio::test]
async fn shared_scratch_waits_for_a_package_that_claimed_the_name() {
    let fixture = fixture();
    let first = fixture.enter("x", &[]).await.unwrap();
    fixture.claim(&first, &["go"]).await.unwrap();
    let mut request = fixture.request("y", &[]);
    request.scratch = vec![name("go")];
    assert!(fixture.enter_with(request.clone()).await.is_none());
    fixture.landlocked.leave(&first).unwrap();
    fixture.enter_with(request).await.unwrap();
    fs::write(&fixture.data().join("go/file"), b"").unwrap();
    // From now on no package gets it to itself.
    let third = fixture.enter("z", &[]).await.unwrap();
    fixture.claim(&third, &["go"]).await.unwrap();
    fixture.landlocked.leave(&third).unwrap();
    assert!(fixture.data().join("go/file").exists());
}

#[tokio::test]
async fn scratch_outlives_a_package_that_is_alone() {
    let fixture = fixture();
    let data = fixture.data();
    let mut request = fixture.request("y", &[]);
    request.scratch = vec![name("go")];
    let place = fixture.enter_with(request.clone()).await.unwrap();
    fs::write(&data.join("go/file"), b"").unwrap();
    fixture.landlocked.leave(&place).unwrap();
    drop(place);
    let alone = fixture.landlocked.enter_alone(request, &|_| {});
    let alone = alone.await.unwrap();
    assert!(data.join("go/file").exists());
    fixture.claim(&alone, &["made-by-itself"]).await.unwrap();
    assert!(!data.join("made-by-itself").exists());
    fs::create_dir(&data.join("made-by-itself")).unwrap();
    fixture.landlocked.leave(&alone).unwrap();
    assert!(!data.join("made-by-itself").exists());
    drop(alone);
    fixture.landlocked.close().unwrap();
    assert!(!fixture.directory.path().join("vcap").exists());
}
