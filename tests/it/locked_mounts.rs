//! Mounts and unmounts by scripts in namespaces: a script can mount anything, but cannot uncover the hidden work directory.

use crate::support::{
    Agent, NAMESPACE, Place, ReleaseBuilder, Tier, USERNS_OF_A_USER, USERNS_OF_ROOT, in_tiers,
};

in_tiers!(undone_mounts_reveal_no_package: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER);
in_tiers!(scripts_can_mount_anything: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER);

/// All ways to undo the mounts of a view, and a search for the files that they hide.
const ATTACK: &str = r#"
cd /; m=$BOSH_COMPILE_TARGET/m; mkdir $m
look() {
  echo "$1" >> $BOSH_INSTALL_TARGET/looked
  find "$2" -name hidden-mark 2>/dev/null | grep -v -e $BASE/packages/lib/ -e $BASE/data/packages/lib/ | sed "s|^|$1: |" | head -n 3 >> $BOSH_INSTALL_TARGET/found
}
touch $BOSH_INSTALL_TARGET/found; export BASE=@base@
for round in 1 2 3; do
  for path in $WORK $(dirname $WORK) /tmp /var/tmp @base@ /proc /var /; do umount $path; umount -l $path; umount -f $path; done
  umount -a; umount -R -l /; look unmounted $WORLD
done
mount -o remount,rw $WORK; mount --make-rshared /
mount --move $WORK $m; mount --bind $WORK/.. $m; look moved $WORLD; look bound $m; umount -l $m
mount --bind / $m; look root $m$WORLD; umount -l $m
mount --rbind / $m; umount -l $m$WORK; look recursive $m$WORLD; umount -l $m
unshare --mount sh -c "umount -l $WORK; umount -R -l /; umount -l $WORK"; look unshared $WORLD
export WORK WORLD; export -f look
unshare --mount bash -c "umount -l $WORK; umount -R -l /; umount -l /; look inner $WORLD; nsenter --mount=/proc/self/ns/mnt bash -c 'umount -l $WORK; look nsenter $WORLD'"
unshare --user --map-root-user --mount bash -c "umount -l $WORK; umount -l /; look nested $WORLD"
mount -t tmpfs none $m && mkdir $m/old && (cd $m && mount --rbind / old && chroot old bash -c "umount -l $WORK; look chroot $WORLD"); umount -l $m
for process in /proc/[0-9]*; do
  look "root of $process" $process/root$WORLD; look "directory of $process" $process/cwd$WORLD
  nsenter --mount=$process/ns/mnt bash -c "umount -l $WORK; look 'mounts of $process' $WORLD"
done
umount -l /proc; for process in /proc/[0-9]*; do look "root of outer $process" $process/root$WORLD; done
look finally $WORLD
for file in $(find $WORLD -name file 2>/dev/null); do echo changed > $file; done
exit 0
"#;

fn attack(place: &Place, agent: Agent) {
    let marked =
        "echo mark > $BOSH_INSTALL_TARGET/hidden-mark; echo own > $BOSH_INSTALL_TARGET/file";
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("other", &[], marked)
        .package("lib", &["other"], marked)
        .package("app", &["lib"], ATTACK)
        // Keeps the first packages in the store during the attack.
        .package(
            "late",
            &["app", "lib", "other"],
            "cat @packages@/lib/file @packages@/other/file > $BOSH_INSTALL_TARGET/file",
        );
    let work = place.world.path("work");
    let tarball = place.release(&release);
    agent
        .arg("--work-dir")
        .arg(&work)
        .env("WORK", work.to_str().unwrap())
        .env("WORLD", place.world.path("").to_str().unwrap())
        .arg(tarball)
        .run()
        .succeeds();
    // The files of undeclared packages that were found, and by which path.
    assert_eq!(place.file("app", "found"), "100644 ");
    assert_ne!(place.file("app", "looked"), "100644 ");
    assert_eq!(place.file("late", "file"), "100644 own\nown\n");
}

mod bodies {
    use super::*;

    pub(super) fn undone_mounts_reveal_no_package(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        attack(&place, place.agent());
    }

    pub(super) fn scripts_can_mount_anything(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script = "set -e; cd $BOSH_COMPILE_TARGET; mkdir m n; echo > n/file; \
             mount --bind n m; test -e m/file; umount m; mount -t tmpfs none m; mount -o remount,ro m; umount m; \
             mount --rbind / m; umount -l m; mount -t proc proc m; test -e m/self; umount m; \
             mkdir up scratch; mount -t overlay none -o lowerdir=n,upperdir=up,workdir=scratch m; echo > m/new; umount m; \
             unshare --user --map-root-user --mount mount -t tmpfs none m; \
             unshare --mount --pid --fork --mount-proc true; unshare --net true; \
             if [ $KIND = namespace ]; then \
               for directory in dev sys; do mount --bind /$directory m; umount m; done; test -c /dev/null; test -d /dev/pts; \
               mknod m/null c 1 3; echo > m/null; nice -n -5 true; fi; \
             touch n/owned; chown 1000:1000 n/owned; tar cf n.tar n; tar xpf n.tar; echo done > $BOSH_INSTALL_TARGET/file";
        place
            .agent()
            .arg(place.release(&ReleaseBuilder::of_script(script)))
            .env("KIND", tier.name)
            .run()
            .succeeds()
            .says(&format!("Isolation: {}\n", tier.name));
        assert_eq!(place.file("app", "file"), "100644 done\n");
    }
}

#[test]
fn work_directory_is_unreachable_without_a_process_namespace() {
    let Some(place) = Place::new(USERNS_OF_ROOT) else {
        return;
    };
    let own = place.world.path("bosh-agent").display().to_string();
    let before = format!(
        "shift; mount -t tmpfs tmpfs /proc/scsi || mount -t tmpfs tmpfs /proc/fs; \
         exec setpriv --bounding-set -sys_admin --inh-caps -sys_admin {own} \"$@\""
    );
    let words = ["unshare", "--mount", "sh", "-c", &before, "sh"];
    let agent = Agent::wrapped(&place.world.path("printed"), &words);
    let agent = place
        .world
        .flags_with(agent, "auto")
        .arg("--output-directory")
        .arg(place.world.out());
    attack(&place, agent);
}
