"""What a whole run cannot be shorter than, and what it is expected to take on other machines.

Run the examples in here with `python3 -m doctest benches/whole-runs/model.py`.

The bound: the scripts alone, each with the time that it took alone on the machine, put on the cores by list scheduling; of what
is ready comes first what the longest chain of scripts waits for. Unpacking, packing and all else cost nothing.

The model adds what the agent does, and assumes:

- Until the first package begins, and after the last has ended, a run takes as long as it did here: these parts do not become
  shorter with more cores. What of reading and writing is done beside packages is taken as free.
- A package is unpacked, then its script runs, then it is packed. As many packages as there are cores are on their way at once,
  each from the begin of its first step to the end of its last.
- Unpacking uses one core: a fixed time for each package, and the size of its source divided by a rate.
- A script uses one core, and takes as long as it took alone: what runs beside it does not slow it, nor do free cores help it.
- Packing takes the size of the installed tree divided by a rate, on one core; cores that do nothing else are shared out evenly
  among the packages that are being packed, and packing is faster in proportion.
- The packages that need a package wait for its packing, or with `ready="installed"` only for its script.
- Disk and memory are as fast for many as for one.
"""
import heapq
from dataclasses import dataclass, field


@dataclass
class Package:
    """Seconds of a package's steps, each with one core."""

    name: str
    dependencies: list = field(default_factory=list)
    unpack: float = 0.0
    script: float = 0.0
    pack: float = 0.0

    def alone(self):
        return self.unpack + self.script + self.pack


def chains(packages):
    """For each package the longest way from its begin to the end of everything that waits for it.

    >>> chains([Package("a", [], 1, 2, 0), Package("b", ["a"], 0, 4, 1), Package("c", ["a"], 0, 1, 0)])
    {'a': 8, 'b': 5, 'c': 1}
    """
    users = {package.name: [] for package in packages}
    for package in packages:
        for dependency in package.dependencies:
            users[dependency].append(package.name)
    by_name = {package.name: package for package in packages}
    found = {}

    def chain(name):
        if name not in found:
            found[name] = by_name[name].alone() + max((chain(user) for user in users[name]), default=0)
        return found[name]

    return {name: chain(name) for name in by_name}


def least(packages, cores):
    """What no order of the scripts can beat: the longest chain, or all of them evenly on all cores.

    >>> least([Package("a", [], 0, 3), Package("b", [], 0, 2), Package("c", [], 0, 4)], 2)
    4.5
    """
    scripts = [Package(package.name, package.dependencies, script=package.script) for package in packages]
    return max(max(chains(scripts).values(), default=0), sum(package.script for package in packages) / cores)


def bound(packages, cores):
    """Scripts only, by list scheduling.

    >>> bound([Package("a", [], 9, 3), Package("b", [], 9, 2), Package("c", [], 9, 4), Package("d", ["b"], 9, 1)], 2)
    6.0
    """
    return simulate([Package(package.name, package.dependencies, script=package.script) for package in packages], cores)


class _Running:
    def __init__(self, package):
        self.package = package
        self.steps = ["unpack", "script", "pack"]
        self.left = package.unpack

    def step(self):
        return self.steps[0]

    def next(self):
        """Enters the next step; says whether there is one."""
        self.steps.pop(0)
        self.left = getattr(self.package, self.steps[0]) if self.steps else 0.0
        return bool(self.steps)


def simulate(packages, cores, ready="packed"):
    """Seconds from the begin of the first package to the end of the last.

    Two at once need not wait for each other; the packing of one that is alone is spread over both cores:

    >>> simulate([Package("a", [], 1, 2, 4), Package("b", [], 1, 2, 4)], 2)
    7.0
    >>> simulate([Package("a", [], 1, 2, 4)], 2)
    5.0
    >>> simulate([Package("a", [], 0, 1, 4), Package("b", ["a"], 0, 3, 0)], 2)
    6.0
    >>> simulate([Package("a", [], 0, 1, 4), Package("b", ["a"], 0, 3, 0)], 2, ready="installed")
    4.5
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
        while waiting and len(running) < cores:
            running.append(_Running(heapq.heappop(waiting)[2]))
        packing = [one for one in running if one.step() == "pack"]
        speed = 1 + (cores - len(running)) / len(packing) if packing else 1.0

        def until(one):
            return one.left / (speed if one.step() == "pack" else 1.0)

        passed = min(until(one) for one in running)
        now += passed
        for one in list(running):
            # What ends now has nothing left, whatever rounding says.
            if until(one) <= passed * (1 + 1e-12):
                ended = one.step()
                goes_on = one.next()
                if ended == ("script" if ready == "installed" else "pack"):
                    release_users(one.package)
                if not goes_on:
                    running.remove(one)
            else:
                one.left -= passed * (speed if one.step() == "pack" else 1.0)
    return now


def whole(packages, cores, before, after, ready="packed"):
    """A whole run: what comes before the first package and after the last does not become shorter."""
    return before + simulate(packages, cores, ready) + after
