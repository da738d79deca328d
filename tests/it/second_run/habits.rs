//! Operations that rules allow and deny.

use super::*;

/// Operations of scripts outside their directories. The commands of `docs/adr/0011-the-second-run.md`.
const ALLOWED: &[&str] = &[
    "ls / $base $base/packages $base/data",
    "mkdir ~/.habit && rmdir ~/.habit",
    "mkdir $base/monit/new && rmdir $base/monit/new",
    "touch /etc/habit && mv /etc/habit /var/lib/habit && rm /var/lib/habit",
    "mkdir d && mv d $BOSH_INSTALL_TARGET/d",
    "touch f && ln f $BOSH_INSTALL_TARGET/f",
    "file=$(mktemp) && mv $file $BOSH_INSTALL_TARGET/temporary",
    "touch /dev/shm/habit && rm /dev/shm/habit",
    "cat <(echo fine) /dev/stdin <<< fine",
    "mkfifo fifo && mknod null c 1 3",
    "perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => q(socket), Listen => 1) or die $!'",
    "cat /proc/self/status /proc/self/maps /proc/$PPID/environ",
    "chroot / true",
    "ldconfig -N -C $TMPDIR/cache $BOSH_INSTALL_TARGET",
    "sh -c 'kill -0 $PPID'",
    "tar -cf a.tar packaging && tar -xpf a.tar",
];

/// Operations that are denied, each with the word that indicates it.
const DENIED: &[(&str, &str)] = &[
    ("mkdir /habit", "/habit"),
    ("touch /habit", "/habit"),
    ("ln -s /etc /habit", "/habit"),
    ("HOME=/; mkdir -p $HOME/.cache-habit", "/.cache-habit"),
    ("mkdir -p $base/store/habit", "/store"),
    ("mkdir $base/packages/new", "/packages/new"),
    ("mkdir $base/data/compile/new", "/data/compile/new"),
    ("rm $BOSH_INSTALL_TARGET", "/packages/app"),
    (
        "mv $BOSH_COMPILE_TARGET $BOSH_COMPILE_TARGET.old",
        "/data/compile/app",
    ),
];

#[tokio::test]
async fn habits_are_allowed_or_denied_as_documented() {
    let Some(core) = Core::new(SecondRun::Never).await else {
        return;
    };
    std::fs::create_dir_all(core.place.world.base().join("monit")).unwrap();
    let mut script = String::from(
        "set +x; try() { if ( eval \"$2\" ) > /dev/null; then echo \"$1 yes\"; else echo \"$1 no\"; fi >> $FACTS/habits; }\n",
    );
    let commands = ALLOWED
        .iter()
        .chain(DENIED.iter().map(|(command, _)| command));
    for (number, command) in commands.enumerate() {
        let quoted = command.replace('\'', "'\\''");
        writeln!(script, "try {number} '{quoted}'").unwrap();
    }
    script.push_str("true\n");
    core.compile("app", &script).await.unwrap();
    let habits = core.place.world.read("facts/habits");
    let expected: String = (0..ALLOWED.len() + DENIED.len())
        .map(|number| {
            let answer = if number < ALLOWED.len() { "yes" } else { "no" };
            format!("{number} {answer}\n")
        })
        .collect();
    assert_eq!(habits, expected, "{}", core.log("app.log"));
    let events = core.events.lock().unwrap();
    let denials = events.iter().find_map(|event| match event {
        Event::Denied { denials, .. } => Some(denials.clone()),
        _ => None,
    });
    let denials = denials.unwrap();
    let closed: Vec<String> = denials
        .iter()
        .flat_map(|denial| &denial.closed)
        .map(|(path, _)| path.display().to_string())
        .collect();
    for (command, path) in DENIED {
        assert!(
            closed.iter().any(|it| it.ends_with(path)),
            "{command}: {closed:?}"
        );
    }
}
