"""Runs and measures a command."""
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field

TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Run:
    """The cost of a command with all processes that it waited for; `own_` is its own process alone."""

    seconds: float
    cpu: float
    own_cpu: float
    own_peak: int
    # Bytes written to files, as counted by the kernel, which does not count memory file systems.
    written: int
    # Its lines on stderr, each with its time in seconds.
    lines: list = field(default_factory=list)

    def when(self, text):
        """The times of lines with this prefix, in seconds."""
        return [second for second, line in self.lines if line.startswith(text)]


def proc(pid, name):
    """Fields of a file such as /proc/PID/io."""
    try:
        with open(f"/proc/{pid}/{name}") as file:
            return dict(line.rstrip("\n").split(":", 1) for line in file)
    except OSError:
        return {}


def run(command, cores=None):
    """Runs a command, only on these cores if they are given. If it fails, the program exits."""
    # Writes that earlier commands left pending must not count for this one.
    os.sync()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    confine = (lambda: os.sched_setaffinity(0, cores)) if cores else None
    lines = []
    printed = tempfile.TemporaryFile()
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=printed,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        preexec_fn=confine,
    )

    def hear():
        for line in process.stderr:
            lines.append((time.monotonic() - start, line.rstrip("\n")))

    peak = [0]
    ended = threading.Event()

    def watch():
        while not ended.wait(0.05):
            found = proc(process.pid, "status").get("VmHWM")
            if found:
                peak[0] = max(peak[0], int(found.split()[0]) * 1024)

    threads = [threading.Thread(target=hear), threading.Thread(target=watch)]
    for thread in threads:
        thread.start()
    # It has ended, but was not reaped, so /proc still has its figures.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    seconds = time.monotonic() - start
    ended.set()
    with open(f"/proc/{process.pid}/stat") as file:
        own_cpu = sum(int(ticks) for ticks in file.read().rpartition(")")[2].split()[11:13]) / TICK
    written = int(proc(process.pid, "io").get("write_bytes", 0))
    process.wait()
    for thread in threads:
        thread.join()
    if process.returncode != 0:
        sys.exit(f"{command[0]} failed:\n" + "\n".join(line for _, line in lines[-40:]))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(seconds, cpu, own_cpu, peak[0], written, lines)
