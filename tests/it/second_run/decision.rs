//! The conditions of a second run.

use super::*;

#[tokio::test]
async fn plausible_denials_get_a_second_run() {
    let Some(core) = Core::new(ONLY_DENIALS).await else {
        return;
    };
    for (number, script) in [
        "set -e; mkdir $base/new; rmdir $base/new",
        "echo 'mkdir /x: permission denied' >&2; [ $run = 2 ]",
        "echo 'chown: x: Operation not permitted' >&2; [ $run = 2 ]",
        "echo 'ln: x: Invalid cross-device link' >&2; [ $run = 2 ]",
        "echo 'touch: x: Read-only file system' >&2; [ $run = 2 ]",
        "[ $run = 2 ] || exit 126",
        // These succeed, so only the output shows the denial.
        "touch $base/new; rm $base/new; true",
        "cd $base/packages; touch new; rm -f new; true",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("p{number}");
        let compiled = core.compile(&name, script).await.unwrap();
        assert!(compiled.unrestricted, "{script}");
        assert_eq!(core.runs(&name), 2, "{script}");
    }
}

#[tokio::test]
async fn implausible_denials_get_no_second_run() {
    let Some(core) = Core::new(ONLY_DENIALS).await else {
        return;
    };
    for (number, script) in [
        "echo 'undefined reference to main' >&2; exit 1",
        "echo 'mkdir: /x: Permission denied' >&2; kill -KILL $$",
        "echo 'mkdir: /x: Permission denied' >&2; sh -c 'kill -KILL $$'; exit $?",
        "echo 'mkdir: /x: Permission denied' >&2; echo 'cp: No space left on device' >&2; exit 1",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("failed{number}");
        let failed = core.compile(&name, script).await;
        assert!(!status(&failed).is_success(), "{script}");
        assert_eq!(core.runs(&name), 1, "{script}");
    }
    for (number, script) in [
        // Rules allow these paths.
        "echo 'find: /root/x: Permission denied' >&2; true",
        "echo 'mknod: /dev/x: Operation not permitted' >&2; true",
        "echo \"cat: $BOSH_COMPILE_TARGET/x: Permission denied\" >&2; true",
        // Rules cause other errors.
        "echo 'checking chown... Operation not permitted' >&2; true",
        "echo 'touch: x: Read-only file system' >&2; true",
        // The trace shows the script's own text.
        ": 'Permission denied'",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("good{number}");
        let compiled = core.compile(&name, script).await.unwrap();
        assert!(!compiled.unrestricted, "{script}");
        assert_eq!(core.runs(&name), 1, "{script}");
    }
    assert_eq!(core.first_runs(), []);
}

#[tokio::test]
async fn quick_failures_are_repeated_without_any_denial() {
    let Some(core) = Core::new(SecondRun::Auto(Duration::from_secs(3600))).await else {
        return;
    };
    let compiled = core.compile("app", "[ $run = 2 ]").await.unwrap();
    assert!(compiled.unrestricted);
    let first = core.first_runs();
    assert_eq!(first.len(), 1);
    assert_eq!(
        first[0].failure,
        "the packaging script of `app` exited with 1"
    );
    assert_eq!(first[0].denials, []);
    assert!(!first[0].succeeded);
}

#[tokio::test]
async fn always_repeats_failures_and_not_signals() {
    let Some(core) = Core::new(SecondRun::Always).await else {
        return;
    };
    core.compile("app", "[ $run = 2 ]").await.unwrap();
    let killed = core.compile("killed", "kill -KILL $$").await;
    assert_eq!(status(&killed), Status::Signaled(9));
    assert_eq!((core.runs("app"), core.runs("killed")), (2, 1));
}

#[tokio::test]
async fn never_keeps_the_first_result_and_reports_denials() {
    let Some(core) = Core::new(SecondRun::Never).await else {
        return;
    };
    let failed = core.compile("failed", "set -e; mkdir $base/new").await;
    let Err(CompileError::Script(failure)) = failed else {
        panic!("{failed:?}");
    };
    let denials = failure.denials.unwrap();
    let expected = core.place.world.base().join("new");
    assert_eq!(denials[0].closed[0].0, expected);
    let compiled = core.compile("app", "mkdir $base/new; true").await.unwrap();
    assert!(compiled.unrestricted, "another run may give another result");
    assert_eq!((core.runs("failed"), core.runs("app")), (1, 1));
    let events = core.events.lock().unwrap();
    let denied = events.iter().find_map(|event| match event {
        Event::Denied {
            package, denials, ..
        } => Some((package.as_str(), denials[0].closed[0].0.clone())),
        _ => None,
    });
    assert_eq!(denied, Some(("app", expected)));
}

#[tokio::test]
async fn timed_out_script_runs_once() {
    // Long enough for the script to record its run on a busy machine.
    let limit = Duration::from_secs(3);
    let Some(core) = Core::with_limit(SecondRun::Always, Some(limit)).await else {
        return;
    };
    let failed = core
        .compile("app", "mkdir $base/new; while :; do sleep 0.05; done")
        .await;
    let Err(CompileError::Script(failure)) = failed else {
        panic!("{failed:?}");
    };
    assert_eq!(failure.cause, Some(Cause::TimeLimit { limit }));
    assert_eq!(core.runs("app"), 1);
}

/// A control group with a memory limit. Dropping it removes the group.
pub(super) struct MemoryGroup(pub(super) PathBuf);

impl MemoryGroup {
    pub(super) fn new(limit: u64) -> Option<Self> {
        let name = format!("bosh-agent-test-{}", std::process::id());
        let (root, file, swap) = match Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            true => ("/sys/fs/cgroup", "memory.max", ("memory.swap.max", 0)),
            false => (
                "/sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                ("memory.memsw.limit_in_bytes", limit),
            ),
        };
        let path = Path::new(root).join(name);
        std::fs::create_dir(&path).ok()?;
        let group = Self(path);
        std::fs::write(group.0.join(file), limit.to_string()).ok()?;
        // Some kernels do not count swap.
        let _ = std::fs::write(group.0.join(swap.0), swap.1.to_string());
        Some(group)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[tokio::test]
async fn script_that_is_out_of_memory_runs_once() {
    let Some(core) = Core::new(SecondRun::Always).await else {
        return;
    };
    let group = MemoryGroup::new(64 << 20);
    if !require(group.is_some(), "a control group with a limit of memory") {
        return;
    }
    let group = group.unwrap();
    let script = format!(
        "set -e; echo $$ > {}/cgroup.procs; echo 'mkdir /x: permission denied' >&2; \
         perl -e '$x = \"x\" x (300 << 20)' || exit 1",
        group.0.display()
    );
    let failed = core.compile("app", &script).await;
    let Err(CompileError::Script(failure)) = failed else {
        panic!("{failed:?}");
    };
    let is_out_of_memory =
        matches!(failure.cause, Some(Cause::OutOfMemory { killed }) if killed > 0);
    assert!(is_out_of_memory, "{failure:?}");
    assert_eq!(failure.status, Status::Exited(1));
    assert_eq!(core.runs("app"), 1);
}

#[tokio::test]
async fn stopped_script_runs_once() {
    let Some(core) = Core::new(SecondRun::Always).await else {
        return;
    };
    let cancel = CancellationToken::new();
    let (stopped, ()) = tokio::join!(
        core.compile_until(
            "app",
            "mkdir $base/new; touch $FACTS/started; while :; do sleep 0.05; done",
            &cancel
        ),
        async {
            core.wait_for_fact("started").await;
            cancel.cancel();
        }
    );
    assert!(
        matches!(stopped, Err(CompileError::Stopped { .. })),
        "{stopped:?}"
    );
    assert_eq!(core.runs("app"), 1);
    assert_eq!(core.first_runs(), []);
}

#[tokio::test]
async fn dependents_of_an_unrestricted_result_are_unrestricted() {
    let Some(core) = Core::new(ONLY_DENIALS).await else {
        return;
    };
    let compile = async |name: &str, script: &str, of: Option<&Compiled>| {
        let mut job = core.place.job(name, &format!("{COUNT}{script}"));
        job.is_dependency = true;
        job.dependencies = of
            .and_then(|it| it.installed.clone())
            .map(|installed| Dependency {
                name: Name::parse("of").unwrap(),
                version: Version::parse("1").unwrap(),
                installed,
            })
            .into_iter()
            .collect();
        let compiled = compile::compile(&core.context, job, &CancellationToken::new()).await;
        compiled.unwrap()
    };
    let denied = compile("denied", "set -e; mkdir $base/new; rmdir $base/new", None).await;
    let dependent = compile("dependent", "true", Some(&denied)).await;
    let indirect = compile("indirect", "true", Some(&dependent)).await;
    let other = compile("other", "true", None).await;
    assert!(denied.unrestricted && dependent.unrestricted && indirect.unrestricted);
    assert!(!other.unrestricted);
}
