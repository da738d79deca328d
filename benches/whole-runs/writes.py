"""Counts the bytes that each process writes to files. Uses strace, which slows the run down, so this is never a timed run."""
import os
import re
import shutil
import subprocess
import sys
from collections import Counter

# The position of the written file in the arguments.
WRITES = {"write": 0, "pwrite64": 0, "writev": 0, "pwritev": 0, "pwritev2": 0, "sendfile": 0, "copy_file_range": 2, "splice": 2}
STARTS = ["clone", "clone3", "fork", "vfork"]
CALL = re.compile(r"(\w+)\((.*)\) += (\d+)")
FILE = re.compile(r"\d+<(/[^>]*)>")

# The first match decides. Scripts see their own tree as /var/vcap.
KINDS = [
    ("spool", re.compile(r"/spool/")),
    ("compiled blobs", re.compile(r"/blobs/")),
    ("unpacked sources", re.compile(r"/data/compile(/|$)")),
    ("installed trees", re.compile(r"/store/|/data/packages(/|$)|/places/.*/packages(/|$)")),
]


def kind(path, output, logs):
    if path.startswith(("/dev/", "/proc/")):
        return None
    if path.startswith(logs + "/"):
        return "logs"
    if path.startswith(output + "/"):
        return "output"
    return next((name for name, pattern in KINDS if pattern.search(path)), "other")


def traced(command, scratch, output, logs):
    """Runs a command. Returns the bytes that its own process wrote by kind of file, those of all other processes, and the paths
    of kind `other`. Pipes, sockets and devices are not counted. Writes through file mappings are not seen."""
    if not shutil.which("strace"):
        sys.exit("compare: strace is missing")
    shutil.rmtree(scratch, ignore_errors=True)
    os.makedirs(scratch)
    trace = ["strace", "-ff", "--seccomp-bpf", "-qq", "-y", "-s", "0", "-e", "signal=none"]
    trace += ["-e", "trace=" + ",".join([*WRITES, *STARTS]), "-o", os.path.join(scratch, "t")]
    # The process prints its PID, then becomes the command.
    number = os.path.join(scratch, "first")
    trace += ["sh", "-c", 'echo $$ >"$0"; exec "$@"', number]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    ran = subprocess.run(trace + command, text=True, **quiet)
    if ran.returncode != 0:
        sys.exit(f"{command[0]} failed under strace:\n{ran.stderr[-4000:]}")
    by_thread, threads_of = {}, {}
    for name in os.listdir(scratch):
        if name.startswith("t."):
            by_thread[int(name[2:])], threads_of[int(name[2:])] = calls(os.path.join(scratch, name))
    with open(number) as file:
        next_ones = [int(file.read())]
    own = set()
    while next_ones:
        thread = next_ones.pop()
        if thread not in own:
            own.add(thread)
            next_ones += threads_of.get(thread, [])
    ours, others, unknown = Counter(), Counter(), Counter()
    for thread, written in by_thread.items():
        for path, size in written.items():
            what = kind(path, output, logs)
            if what and path != number:
                (ours if thread in own else others)[what] += size
                if what == "other":
                    unknown[path] += size
    shutil.rmtree(scratch)
    return ours, others, unknown


def calls(path):
    """The bytes that a thread wrote, by file, and the threads of its own process that it started."""
    written, threads = Counter(), []
    with open(path, errors="replace") as file:
        for line in file:
            match = CALL.match(line)
            if not match:
                continue
            name, arguments, result = match[1], match[2], int(match[3])
            if name in STARTS:
                if "CLONE_THREAD" in arguments:
                    threads.append(result)
            elif name in WRITES:
                to = FILE.match(arguments.split(", ")[WRITES[name]])
                if to:
                    written[to[1]] += result
    return written, threads
