use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use tokio::sync::oneshot;

use super::*;
use crate::fs;

fn order(method: &str, stop: Stop) -> Order {
    Order {
        method: method.to_owned(),
        again: None,
        stop,
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
async fn a_task_tells_where_it_stands_and_then_its_bare_value_as_often_as_asked() {
    let scratch = tempfile::tempdir().unwrap();
    let (tasks, _) = Tasks::load(&scratch.path().join("tasks.json"));
    let (go, wait) = oneshot::channel::<()>();
    let work = |context: TaskContext| async move {
        context.progress.enter("packaging");
        context.progress.printed("+ make");
        wait.await.unwrap();
        Ok(json!({"result": {"sha1": "x"}}))
    };
    let started = tasks.start(order("compile_package", Stop::WhenTold), work);
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
async fn errors_are_told_in_the_words_of_the_go_agent() {
    let scratch = tempfile::tempdir().unwrap();
    let (tasks, _) = Tasks::load(&scratch.path().join("tasks.json"));
    assert_eq!(
        tasks.get("x").unwrap_err().to_string(),
        "Task with id x could not be found"
    );
    let work = |_| async { Err("Something: went wrong".to_owned()) };
    let started = tasks.start(order("apply", Stop::Never), work);
    let id = id_of(&started.await.unwrap());
    assert_eq!(
        ended(&tasks, &id).await.unwrap_err().to_string(),
        format!("Task {id} result: Something: went wrong")
    );
}

#[tokio::test]
async fn a_task_is_cancelled_when_it_can_be() {
    let scratch = tempfile::tempdir().unwrap();
    let (tasks, _) = Tasks::load(&scratch.path().join("tasks.json"));
    let start = async |stop| {
        let work = |context: TaskContext| async move {
            context.cancel.cancelled().await;
            Err("canceled".to_owned())
        };
        id_of(
            &tasks
                .start(order("compile_package", stop), work)
                .await
                .unwrap(),
        )
    };
    let stoppable = start(Stop::WhenTold).await;
    let stubborn = start(Stop::Never).await;
    assert_eq!(tasks.cancel(&stubborn), Err(TaskError::NotCancellable));
    assert_eq!(tasks.cancel("x"), Err(unknown("x")));
    tasks.cancel(&stoppable).unwrap();
    assert!(ended(&tasks, &stoppable).await.is_err());
    // One that has ended already stays as it is.
    tasks.cancel(&stoppable).unwrap();
    assert!(tasks.stop(Duration::from_secs(10)).await);
    let refused = tasks.start(order("apply", Stop::Never), |_| async { Ok(Value::Null) });
    assert_eq!(refused.await, Err(TaskError::Stopping));
}

#[tokio::test]
async fn the_next_process_knows_what_was_finished_and_what_was_not() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("tasks.json");
    let (tasks, again) = Tasks::load(&path);
    assert!(again.is_empty());
    let work = |_| async { Ok(json!("applied")) };
    let finished = tasks.start(order("apply", Stop::Never), work).await;
    let finished = id_of(&finished.unwrap());
    ended(&tasks, &finished).await.unwrap();
    let running = async |method: &str, again: Option<&[u8]>| {
        let order = Order {
            method: method.to_owned(),
            again: again.map(|request| Hidden::new(request.to_vec())),
            stop: Stop::Never,
        };
        let started = tasks.start(order, |_| std::future::pending()).await;
        id_of(&started.unwrap())
    };
    let compile = running("compile_package", None).await;
    let update = running("update_settings", Some(b"{\"k\":1}")).await;

    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let (tasks, again) = Tasks::load(&path);
    assert_eq!(tasks.get(&finished).unwrap(), json!("applied"));
    assert_eq!(
        tasks.get(&compile).unwrap_err().to_string(),
        format!(
            "Task {compile} result: the agent ended while compile_package was running, and has been started again"
        )
    );
    let [interrupted] = &again[..] else {
        panic!("{again:?}");
    };
    assert_eq!(interrupted.id, update);
    assert_eq!(interrupted.again.expose(), b"{\"k\":1}");
    let work = |_| async { Ok(json!("ok")) };
    tasks.resume(interrupted.clone(), work).unwrap();
    assert_eq!(ended(&tasks, &update).await.unwrap(), json!("ok"));

    // And so does the process after that one.
    let (tasks, again) = Tasks::load(&path);
    assert!(again.is_empty());
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
fn a_broken_file_stops_nobody() {
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
        let (_, again) = Tasks::load(&path);
        assert!(again.is_empty());
    }
}

#[test]
fn results_go_an_hour_after_they_were_last_asked_for_or_when_there_are_too_many() {
    let mut table = Table::default();
    let now = Instant::now() + KEPT_FOR * 2;
    let insert = |table: &mut Table, id: String, asked: Instant| {
        let mut entry = Entry::ended(String::new(), Ok(Value::Null));
        entry.asked = asked;
        table.entries.insert(id, entry);
    };
    let second = Duration::from_secs(1);
    insert(&mut table, "old".to_owned(), now - KEPT_FOR - second);
    insert(&mut table, "fresh".to_owned(), now - KEPT_FOR + second);
    table.forget(now);
    assert!(table.entries.contains_key("fresh") && table.entries.len() == 1);
    for number in 0..KEPT + 10 {
        let asked = now - second * 2000 + Duration::from_millis(number as u64);
        insert(&mut table, number.to_string(), asked);
    }
    table.forget(now);
    assert_eq!(table.entries.len(), KEPT - 1);
    assert!(!table.entries.contains_key("0") && table.entries.contains_key("1000"));
}
