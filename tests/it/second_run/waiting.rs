//! How a second run waits for other scripts.

use super::*;

#[tokio::test]
async fn failure_is_announced_at_once_and_waits_for_running_scripts() {
    let Some(core) = Core::new(SecondRun::AUTO).await else {
        return;
    };
    let wait = |gate: &str| {
        format!("touch $FACTS/started-{gate}; until [ -e $FACTS/{gate} ]; do sleep 0.01; done")
    };
    let later = async {
        core.wait_for_event(|event| matches!(event, Event::FirstRunFailed { .. }))
            .await;
        core.compile("later", "[ -e $FACTS/second ]").await
    };
    let check = async {
        let is_waiting_for = |wanted: usize| move |event: &Event| matches!(event, Event::Entered { phase: Phase::SecondRun { running }, .. } if *running == wanted);
        // Both gates are closed: the failure is announced while the others run.
        core.wait_for_event(is_waiting_for(2)).await;
        core.open("a");
        core.wait_for_event(is_waiting_for(1)).await;
        let is_second = |event: &Event| matches!(event, Event::SecondRunStarted { .. });
        assert!(!core.events.lock().unwrap().iter().any(is_second));
        core.open("b");
    };
    let app = async {
        core.wait_for_fact("started-a").await;
        core.wait_for_fact("started-b").await;
        core.compile(
            "app",
            "[ $run = 1 ] && { echo broken; exit 1; }; touch $FACTS/second",
        )
        .await
    };
    let (wait_a, wait_b) = (wait("a"), wait("b"));
    let (app, a, b, later, ()) = tokio::join!(
        app,
        core.compile("a", &wait_a),
        core.compile("b", &wait_b),
        later,
        check
    );
    assert!(app.unwrap().unrestricted);
    for other in [a, b, later] {
        assert!(!other.unwrap().unrestricted);
    }
    let events = core.events.lock().unwrap();
    let of_app: Vec<String> = events
        .iter()
        .filter_map(|event| match event {
            Event::Entered { package, phase, .. } if package.as_str() == "app" => {
                Some(format!("{phase:?}"))
            }
            Event::FirstRunFailed { first, running, .. } => Some(format!(
                "{:?} with {running}",
                first.tail.lines.last().unwrap()
            )),
            Event::SecondRunStarted { .. } => Some("started".to_owned()),
            Event::SecondRunSucceeded { .. } => Some("succeeded".to_owned()),
            _ => None,
        })
        .collect();
    assert_eq!(
        of_app,
        [
            "Unpacking",
            "Installing",
            "Packaging",
            "\"broken\" with 2",
            "SecondRun { running: 2 }",
            "SecondRun { running: 1 }",
            "started",
            "Unpacking",
            "Installing",
            "Packaging",
            "Packing",
            "succeeded",
        ]
    );
    let waits = events.iter().any(|event| {
        matches!(event, Event::Entered { package, phase: Phase::Waiting, .. } if package.as_str() == "later")
    });
    assert!(
        waits,
        "a package that comes later waits behind the second run"
    );
}

#[tokio::test]
async fn concurrent_scripts_are_isolated_from_each_other() {
    let Some(core) = Core::new(SecondRun::AUTO).await else {
        return;
    };
    let script = |own: &str, other: &str| {
        format!(
            "set -e; await() {{ while [ ! -e $FACTS/$1 ]; do sleep 0.01; done; }}; \
             touch $FACTS/{own}; await {other}; other=$BOSH_COMPILE_TARGET/../{other}; \
             if cat $other/packaging 2> /dev/null || touch $other/new 2> /dev/null; then false; fi; \
             if touch ${{BOSH_INSTALL_TARGET%/*}}/{other}/new 2> /dev/null; then false; fi; touch $FACTS/{own}-done; await {other}-done"
        )
    };
    let (a, b) = (script("a", "b"), script("b", "a"));
    tokio::join!(core.compiled("a", &a), core.compiled("b", &b));
    assert_eq!(core.retried(), [""; 0]);
}

#[tokio::test]
async fn no_other_script_runs_during_an_unrestricted_run() {
    let Some(core) = Core::new(SecondRun::AUTO).await else {
        return;
    };
    let packages = core.place.world.base().join("packages");
    // Beyond the rules; no other script may run then.
    let wilful = format!(
        "set -e; if ! touch {0}/new; then touch $FACTS/failed; exit 1; fi; rm {0}/new; touch $FACTS/alone; \
         for n in $(seq 30); do [ ! -e $FACTS/other ]; [ ! -e $FACTS/later ]; sleep 0.01; done; rm $FACTS/alone",
        packages.display()
    );
    let other = "set -e; touch $FACTS/other; while [ ! -e $FACTS/failed ]; do sleep 0.01; done; \
                 for n in $(seq 30); do [ ! -e $FACTS/alone ]; sleep 0.01; done; rm $FACTS/other";
    let later = "set -e; touch $FACTS/later; for n in $(seq 30); do [ ! -e $FACTS/alone ]; sleep 0.01; done; rm $FACTS/later";
    let wait_and_compile = async {
        let failed = core.place.world.path("facts/failed");
        while !failed.exists() {
            tokio::task::yield_now().await;
        }
        core.compiled("later", later).await
    };
    let (wilful, other, later) = tokio::join!(
        core.compiled("wilful", &wilful),
        core.compiled("other", other),
        wait_and_compile
    );
    assert_eq!(core.retried(), ["wilful"]);
    assert!(wilful.unrestricted && !other.unrestricted && !later.unrestricted);
}

#[tokio::test]
async fn stop_while_waiting_returns_the_first_failure() {
    let Some(core) = Core::new(SecondRun::AUTO).await else {
        return;
    };
    let cancel = CancellationToken::new();
    let app = async {
        core.wait_for_fact("started").await;
        core.compile_until("app", "echo broken; exit 3", &cancel)
            .await
    };
    let check = async {
        core.wait_for_event(|event| matches!(event, Event::FirstRunFailed { .. }))
            .await;
        cancel.cancel();
    };
    let other = core.compile(
        "other",
        "touch $FACTS/started; until [ -e $FACTS/gate ]; do sleep 0.01; done",
    );
    let app = async {
        let (app, ()) = tokio::join!(app, check);
        core.open("gate");
        app
    };
    let (app, other) = tokio::join!(app, other);
    assert_eq!(status(&app), Status::Exited(3));
    other.unwrap();
    assert_eq!(core.runs("app"), 1);
    assert!(core.log("app.log").contains("broken"));
}

#[tokio::test]
async fn both_logs_are_kept() {
    let Some(core) = Core::new(SecondRun::AUTO).await else {
        return;
    };
    let script = "echo this is run $run; exit 4";
    let failed = core.compile("app", script).await;
    let Err(CompileError::Script(failure)) = failed else {
        panic!("{failed:?}");
    };
    let directory = core.place.world.path("sources");
    assert_eq!(failure.log, directory.join("app.log"));
    assert_eq!(failure.first_log, Some(directory.join("app@first.log")));
    assert_eq!(failure.denials, None);
    assert!(core.log("app.log").contains("\nthis is run 2\n"));
    assert!(core.log("app@first.log").contains("\nthis is run 1\n"));
    core.compile("good", "echo fine").await.unwrap();
    assert!(!directory.join("good@first.log").exists());
}
