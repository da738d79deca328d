use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use tokio::sync::oneshot;

use super::*;
use crate::fs;

fn options(method: &str, cancellation: Cancellation) -> TaskOptions {
    TaskOptions {
        method: method.to_owned(),
        request: None,
        cancellation,
    }
}

fn id_of(reply: &Value) -> String {
    assert_eq!(reply["state"], "running");
    reply["agent_task_id"].as_str().unwrap().to_owned()
}

async fn ended(tasks: &Tasks, id: &str) -> Result<Value, TaskError> {
    loop {
        match tasks.get(id) {
            Ok(value) if value["state"] == "running" => tokio::task::yield_now().await,
            other => return other,
        }
    }
}

#[tokio::test]
async fn running_task_reports_progress_and_ended_task_its_value() {
    let scratch = tempfile::tempdir().unwrap();
    let (tasks, _) = Tasks::load(&scratch.path().join("tasks.json"));
    let (go, wait) = oneshot::channel::<()>();
    let work = |context: TaskContext| async move {
        context.progress.enter("packaging");
        context.progress.printed("+ make");
        wait.await.unwrap();
        Ok(json!({"result": {"sha1": "x"}}))
    };
    let started = tasks.start(options("compile_package", Cancellation::Supported), work);
    let id = id_of(&started.await.unwrap());
    assert!(Uuid::parse_str(&id).is_ok());
    let progress = loop {
        let reply = tasks.get(&id).unwrap();
        assert!(reply.get("value").is_none());
        match reply.get("progress") {
            Some(progress) if progress.get("last_line").is_some() => break progress.clone(),
            _ => tokio::task::yield_now().await,
        }
    };
    assert_eq!(
        progress,
        json!({"phase": "packaging", "seconds": 0, "last_line": "+ make"})
    );
    go.send(()).unwrap();
    for _ in 0..3 {
        let value = ended(&tasks, &id).await.unwrap();
        assert_eq!(value, json!({"result": {"sha1": "x"}}));
    }
}

#[tokio::test]
async fn errors_have_the_texts_of_the_go_agent() {
    let scratch = tempfile::tempdir().unwrap();
    let (tasks, _) = Tasks::load(&scratch.path().join("tasks.json"));
    assert_eq!(
        tasks.get("x").unwrap_err().to_string(),
        "Task with id x could not be found"
    );
    let work = |_| async { Err("Something: went wrong".to_owned().into()) };
    let started = tasks.start(options("apply", Cancellation::Unsupported), work);
    let id = id_of(&started.await.unwrap());
    assert_eq!(
        ended(&tasks, &id).await.unwrap_err().to_string(),
        format!("Task {id} result: Something: went wrong")
    );
}

#[tokio::test]
async fn task_that_supports_it_is_canceled() {
    let scratch = tempfile::tempdir().unwrap();
    let (tasks, _) = Tasks::load(&scratch.path().join("tasks.json"));
    let start = async |cancellation| {
        let work = |context: TaskContext| async move {
            context.cancel.cancelled().await;
            Err("canceled".to_owned().into())
        };
        id_of(
            &tasks
                .start(options("compile_package", cancellation), work)
                .await
                .unwrap(),
        )
    };
    let cancelable = start(Cancellation::Supported).await;
    let uncancelable = start(Cancellation::Unsupported).await;
    assert_eq!(tasks.cancel(&uncancelable), Err(TaskError::NotCancelable));
    assert_eq!(tasks.cancel("x"), Err(unknown("x")));
    tasks.cancel(&cancelable).unwrap();
    assert!(ended(&tasks, &cancelable).await.is_err());
    // Canceling a task that has ended changes nothing.
    tasks.cancel(&cancelable).unwrap();
    assert!(tasks.stop(Duration::from_secs(10)).await);
    let refused = tasks.start(options("apply", Cancellation::Unsupported), |_| async {
        Ok(Value::Null)
    });
    assert_eq!(refused.await, Err(TaskError::Stopping));
}

#[tokio::test]
async fn next_process_knows_finished_and_interrupted_tasks() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("tasks.json");
    let (tasks, interrupted) = Tasks::load(&path);
    assert!(interrupted.is_empty());
    let work = |_| async { Ok(json!("applied")) };
    let finished = tasks
        .start(options("apply", Cancellation::Unsupported), work)
        .await;
    let finished = id_of(&finished.unwrap());
    ended(&tasks, &finished).await.unwrap();
    let running = async |method: &str, request: Option<&[u8]>| {
        let options = TaskOptions {
            method: method.to_owned(),
            request: request.map(|request| Hidden::new(request.to_vec())),
            cancellation: Cancellation::Unsupported,
        };
        let started = tasks.start(options, |_| std::future::pending()).await;
        id_of(&started.unwrap())
    };
    let compile = running("compile_package", None).await;
    let update = running("update_settings", Some(b"{\"k\":1}")).await;

    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let (tasks, interrupted) = Tasks::load(&path);
    assert_eq!(tasks.get(&finished).unwrap(), json!("applied"));
    assert_eq!(
        tasks.get(&compile).unwrap_err().to_string(),
        format!(
            "Task {compile} result: the agent ended while compile_package was running, and has been started again"
        )
    );
    let [interrupted] = &interrupted[..] else {
        panic!("{interrupted:?}");
    };
    assert_eq!(interrupted.id, update);
    assert_eq!(interrupted.request.expose(), b"{\"k\":1}");
    let work = |_| async { Ok(json!("ok")) };
    tasks.resume(interrupted.clone(), work).unwrap();
    assert_eq!(ended(&tasks, &update).await.unwrap(), json!("ok"));

    // The process after that one knows them, too.
    let (tasks, interrupted) = Tasks::load(&path);
    assert!(interrupted.is_empty());
    assert_eq!(tasks.get(&update).unwrap(), json!("ok"));
    assert!(
        tasks
            .get(&compile)
            .unwrap_err()
            .to_string()
            .contains("the agent ended while")
    );
}

#[test]
fn broken_file_is_ignored() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("tasks.json");
    for contents in [
        "{",
        "[]",
        "{\"a\":7}",
        "{\"a\":{\"Payload\":\"?\"}}",
        "\u{0}",
    ] {
        fs::write(&path, contents.as_bytes()).unwrap();
        let (_, interrupted) = Tasks::load(&path);
        assert!(interrupted.is_empty());
    }
}

#[test]
fn old_and_excess_results_are_removed() {
    let mut table = TaskTable::default();
    let now = Instant::now() + KEPT_FOR * 2;
    let insert = |table: &mut TaskTable, id: String, polled: Instant| {
        let (outcome, size) = (Ok(Value::Null), 4);
        let ended = TaskEntry::Ended {
            outcome,
            size,
            polled,
        };
        table.entries.insert(id, ended);
    };
    let second = Duration::from_secs(1);
    insert(&mut table, "old".to_owned(), now - KEPT_FOR - second);
    insert(&mut table, "fresh".to_owned(), now - KEPT_FOR + second);
    table.remove_old_results(now);
    assert!(table.entries.contains_key("fresh") && table.entries.len() == 1);
    for number in 0..KEPT + 10 {
        let polled = now - second * 2000 + Duration::from_millis(number as u64);
        insert(&mut table, number.to_string(), polled);
    }
    table.remove_old_results(now);
    assert_eq!(table.entries.len(), KEPT - 1);
    assert!(!table.entries.contains_key("0") && table.entries.contains_key("1000"));
}

#[test]
fn results_are_limited_by_their_size() {
    let mut table = TaskTable::default();
    let now = Instant::now();
    for number in 0..20 {
        let entry = TaskEntry::ended(Ok(json!("x".repeat(1 << 20))));
        let TaskEntry::Ended { outcome, size, .. } = entry else {
            unreachable!()
        };
        let polled = now + Duration::from_secs(number);
        let entry = TaskEntry::Ended {
            outcome,
            size,
            polled,
        };
        table.entries.insert(number.to_string(), entry);
    }
    table.remove_old_results(now);
    // With its quotation marks, a result has two bytes more than a MiB.
    assert_eq!(table.entries.len(), (KEPT_BYTES >> 20) - 1);
    assert!(table.entries.contains_key("19") && !table.entries.contains_key("12"));
}

#[tokio::test(start_paused = true)]
async fn wait_ends_with_the_task_the_limit_or_the_agent() {
    let scratch = tempfile::tempdir().unwrap();
    let (tasks, _) = Tasks::load(&scratch.path().join("tasks.json"));
    let (go, wait) = oneshot::channel::<()>();
    let work = |context: TaskContext| async move {
        tokio::select! {
            _ = wait => Ok(json!("done")),
            () = context.cancel.cancelled() => std::future::pending().await,
        }
    };
    let started = tasks.start(options("apply", Cancellation::Unsupported), work);
    let id = id_of(&started.await.unwrap());
    let limit = Duration::from_secs(3600);
    // Further requests are answered at once.
    let waiting: Vec<_> = (0..WAITING)
        .map(|_| {
            let (tasks, id) = (tasks.clone(), id.clone());
            runtime::spawn("test", async move { tasks.wait(&id, limit).await })
        })
        .collect();
    while tasks.shared.waiting.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(id_of(&tasks.wait(&id, limit).await.unwrap()), id);
    go.send(()).unwrap();
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap().unwrap(), json!("done"));
    }
    assert_eq!(tasks.wait(&id, limit).await.unwrap(), json!("done"));

    let work = |_| std::future::pending();
    let started = tasks.start(options("apply", Cancellation::Unsupported), work);
    let id = id_of(&started.await.unwrap());
    // The time is simulated.
    assert_eq!(id_of(&tasks.wait(&id, limit).await.unwrap()), id);
    let long = tasks.wait(&id, Duration::MAX);
    let stop = tasks.stop(Duration::ZERO);
    let (running, ended) = tokio::join!(long, stop);
    assert_eq!((id_of(&running.unwrap()), ended), (id, false));
}
