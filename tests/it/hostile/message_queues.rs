//! Scripts that use the POSIX message queues of the machine through `/dev/mqueue`.

use crate::support::{
    Agent, NAMESPACE, Place, ReleaseBuilder, Tier, USERNS_OF_ROOT, Who, in_tiers,
};

in_tiers!(queues_of_the_machine_are_hidden_from_scripts: NAMESPACE USERNS_OF_ROOT);

/// The machine is an IPC namespace, with a small `/dev`.
const MACHINE: &str = "shift; mount -t tmpfs none @dev@ && mkdir @dev@/pts @dev@/shm @dev@/mqueue && ln -s /proc/self/fd @dev@/fd && \
    cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty @dev@ && \
    mount -t mqueue mqueue @dev@/mqueue && mount --move @dev@ /dev && touch /dev/mqueue/of-machine || exit 99; \
    @run@ \"$@\"; code=$?; ls /dev/mqueue > @after@; exit $code";

mod bodies {
    use super::*;

    pub(super) fn queues_of_the_machine_are_hidden_from_scripts(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let path = |name: &str| place.world.path(name).display().to_string();
        std::fs::create_dir(place.world.path("dev")).unwrap();
        let without = match tier.who {
            Who::RootWithoutMounts => "setpriv --bounding-set -sys_admin --inh-caps -sys_admin ",
            _ => "",
        };
        let machine = MACHINE
            .replace("@dev@", &path("dev"))
            .replace("@run@", &format!("{without}{}", path("bosh-agent")))
            .replace("@after@", &path("after"));
        let words = ["unshare", "--mount", "--ipc", "sh", "-c", &machine, "sh"];
        let agent = place.with_flags(Agent::wrapped(&place.world.path("printed"), &words));
        let script = "ls /dev/mqueue > $BOSH_INSTALL_TARGET/seen; touch /dev/mqueue/own; \
                      umount /dev/mqueue; touch /dev/mqueue/left; echo done";
        let tarball = place.release(&ReleaseBuilder::of_script(script));
        agent
            .arg(tarball)
            .run()
            .succeeds()
            .says(&format!("Isolation: {}", tier.name));
        assert_eq!(place.file("app", "seen"), "100644 ");
        assert_eq!(place.world.read("after"), "of-machine\n");
    }
}
