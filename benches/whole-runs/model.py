"""A lower bound for the time of a whole run, and its estimated time on other machines.

Run the examples in this file with `python3 -m doctest benches/whole-runs/model.py`.

The bound considers the scripts alone. No order takes less than the longest chain of dependent scripts, each with the time it took alone
on the machine, and none takes less than the CPU time of all scripts spread evenly over all cores.

The model adds the work of the agent, and assumes:

- The time before the first package starts and after the last one ends is as measured here: more cores do not shorten these parts.
  Reading and writing that run concurrently with packages are free.
- A package is extracted, then its script runs, then it is packed. At most as many packages as there are cores are extracted or run
  their script at the same time (the additional prefetched package is left out); packing runs concurrently. Dependents wait only
  for a package's script.
- Extracting uses one core: a fixed time for each package, plus the size of its source divided by a rate.
- A script needs the CPU time that it had alone, on as many cores as it used on average then: more cores do not help it.
- Packing takes the size of the installed tree divided by a rate for one core, on any number of cores.
- If more cores are needed than available, all steps get proportionally less.
- Disk and memory are as fast for many processes as for one.
"""
import heapq
from dataclasses import dataclass, field


@dataclass
class Package:
    """CPU seconds of a package's steps, and the maximum number of cores that its script uses."""

    name: str
    dependencies: list = field(default_factory=list)
    unpack: float = 0.0
    script: float = 0.0
    pack: float = 0.0
    script_cores: float = 1.0

    def until_ready(self):
        """Seconds until dependents can start, if nothing else runs."""
        return self.unpack + self.script / self.script_cores


def chains(packages):
    """For each package, the longest path from its start to the end of the last script that depends on it.

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
    """The time that no order of the scripts can beat: the longest chain, or all of them spread evenly over all cores.

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
        # Each step with its remaining work, and the cores that it can use.
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
    """Seconds from the start of the first package to the end of the last.

    Packing is spread over all cores, and a script over as many as it can use; dependents wait only for the script:

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
            # A step that ends now has no work left; rounding may differ.
            if one.left / speed <= passed * (1 + 1e-12):
                if one.step() == "script":
                    release_users(one.package)
                if not one.next():
                    running.remove(one)
            else:
                one.left -= passed * speed
    return now


def whole(packages, cores, before, after):
    """A whole run: the time before the first package and after the last does not change with the number of cores."""
    return before + simulate(packages, cores) + after
