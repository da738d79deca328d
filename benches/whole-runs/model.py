"""What a whole run cannot be shorter than, and what it is expected to take on other machines.

Run the examples in here with `python3 -m doctest benches/whole-runs/model.py`.

The bound: the scripts alone. No order of them takes less than the longest chain of scripts that wait for each other, each as long
as it took alone on the machine, and none takes less than the processor time of all scripts, evenly on all cores.

The model adds what the agent does, and assumes:

- Until the first package begins, and after the last has ended, a run takes as long as it did here: these parts do not become
  shorter with more cores. What of reading and writing is done beside packages is taken as free.
- A package is unpacked, then its script runs, and then it is packed. As many packages as there are cores are unpacked or have their
  script running, without the one more that is made ready ahead; packing goes on beside them. Those that need a package wait for
  its script alone.
- Unpacking uses one core: a fixed time for each package, and the size of its source divided by a rate.
- A script has the processor time that it had alone, on as many cores as it used on average then: more of them do not help it.
- Packing takes the size of the installed tree divided by a rate for one core, on any number of cores.
- Where more cores are wanted than there are, all get less in proportion.
- Disk and memory are as fast for many as for one.
"""
import heapq
from dataclasses import dataclass, field


@dataclass
class Package:
    """Processor seconds of a package's steps, and how many cores its script uses at the most."""

    name: str
    dependencies: list = field(default_factory=list)
    unpack: float = 0.0
    script: float = 0.0
    pack: float = 0.0
    script_cores: float = 1.0

    def until_ready(self):
        """Seconds until others can begin, where nothing else runs."""
        return self.unpack + self.script / self.script_cores


def chains(packages):
    """For each package the longest way from its begin to the last script that waits for it.

    >>> chains([Package("a", [], 1, 2), Package("b", ["a"], 0, 4, 1, 2), Package("c", ["a"], 0, 1)])
    {'a': 5.0, 'b': 2.0, 'c': 1.0}
    """
    users = {package.name: [] for package in packages}
    for package in packages:
        for dependency in package.dependencies:
            users[dependency].append(package.name)
    by_name = {package.name: package for package in packages}
    found = {}

    def chain(name):
        if name not in found:
            found[name] = by_name[name].until_ready() + max((chain(user) for user in users[name]), default=0)
        return found[name]

    return {name: chain(name) for name in by_name}


def bound(packages, cores):
    """What no order of the scripts can beat: the longest chain, or all of them evenly on all cores.

    >>> bound([Package("a", [], 9, 3), Package("b", [], 9, 2), Package("c", [], 9, 4)], 2)
    4.5
    >>> bound([Package("a", [], 9, 3), Package("b", ["a"], 9, 6, 9, 1.5)], 8)
    7.0
    """
    scripts = [
        Package(package.name, package.dependencies, script=package.script, script_cores=package.script_cores)
        for package in packages
    ]
    return max(max(chains(scripts).values(), default=0), sum(package.script for package in packages) / cores)


class _Running:
    def __init__(self, package, cores):
        # Each step with what is left of it, and the cores that it can use.
        self.package = package
        self.steps = [("unpack", package.unpack, 1.0), ("script", package.script, package.script_cores), ("pack", package.pack, cores)]
        self.left = package.unpack

    def step(self):
        return self.steps[0][0]

    def wanted(self):
        return self.steps[0][2]

    def next(self):
        """Enters the next step; says whether there is one."""
        self.steps.pop(0)
        self.left = self.steps[0][1] if self.steps else 0.0
        return bool(self.steps)


def simulate(packages, cores):
    """Seconds from the begin of the first package to the end of the last.

    Packing is spread over all cores, and a script over as many as it can use; others wait for the script alone:

    >>> simulate([Package("a", [], 1, 2, 4), Package("b", [], 1, 2, 4)], 2)
    7.0
    >>> simulate([Package("a", [], 1, 2, 4)], 2)
    5.0
    >>> simulate([Package("a", [], 1, 4, 4, 2)], 2)
    5.0
    >>> simulate([Package("a", [], 0, 1, 0), Package("b", ["a"], 0, 3, 0)], 2)
    4.0
    """
    order = chains(packages)
    missing = {package.name: set(package.dependencies) for package in packages}
    users = {package.name: [] for package in packages}
    for package in packages:
        for dependency in missing[package.name]:
            users[dependency].append(package)
    waiting = [(-order[package.name], at, package) for at, package in enumerate(packages) if not package.dependencies]
    heapq.heapify(waiting)
    position = {package.name: at for at, package in enumerate(packages)}
    running, now = [], 0.0

    def release_users(package):
        for user in users[package.name]:
            missing[user.name].discard(package.name)
            if not missing[user.name]:
                heapq.heappush(waiting, (-order[user.name], position[user.name], user))

    while waiting or running:
        while waiting and sum(one.step() != "pack" for one in running) < cores:
            running.append(_Running(heapq.heappop(waiting)[2], cores))
        share = min(1.0, cores / sum(one.wanted() for one in running))
        passed = min(one.left / (one.wanted() * share) for one in running)
        now += passed
        for one in list(running):
            speed = one.wanted() * share
            # What ends now has nothing left, whatever rounding says.
            if one.left / speed <= passed * (1 + 1e-12):
                if one.step() == "script":
                    release_users(one.package)
                if not one.next():
                    running.remove(one)
            else:
                one.left -= passed * speed
    return now


def whole(packages, cores, before, after):
    """A whole run: what comes before the first package and after the last does not become shorter."""
    return before + simulate(packages, cores) + after
