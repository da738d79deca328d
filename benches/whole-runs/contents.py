"""The contents of releases: sizes, and whether two releases are equal."""
import hashlib
import json
import os
import re
import subprocess
import tarfile
from dataclasses import dataclass, field


@dataclass
class Size:
    """Sizes of one package, in bytes."""

    # The contents of its source or its installed tree.
    contents: int = 0
    # Its blob.
    blob: int = 0


def plain(name):
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def packages(release, folder):
    """Name, size and archive of each package in `folder` of a release."""
    with tarfile.open(release, mode="r|*") as outer:
        for member in outer:
            match = re.fullmatch(rf"{folder}/([^/]+)\.tgz", plain(member.name))
            if match and member.isreg():
                with tarfile.open(fileobj=outer.extractfile(member), mode="r|*") as inner:
                    yield match[1], member.size, inner


def sizes(release, folder):
    """Size of each package."""
    return {
        name: Size(sum(member.size for member in archive if member.isreg()), blob)
        for name, blob, archive in packages(release, folder)
    }


def entries(archive):
    """For each entry of a package: its kind, its mode, and a digest of its contents."""
    found = {}
    for member in archive:
        name = plain(member.name)
        if member.islnk():
            found[name] = found[plain(member.linkname)]
        elif member.isreg():
            content, digest = archive.extractfile(member), hashlib.sha256()
            while chunk := content.read(1 << 20):
                digest.update(chunk)
            found[name] = ("file", oct(member.mode & 0o7777), member.size, digest.hexdigest())
        else:
            mode = "" if member.issym() else oct(member.mode & 0o7777)
            found[name] = (str(member.type), mode, member.linkname)
    return found


def differences(ours, theirs):
    """The differences between the packages of two compiled releases."""
    found = [
        {name: entries(archive) for name, _, archive in packages(release, "compiled_packages")} for release in (ours, theirs)
    ]
    for name in sorted(found[0].keys() | found[1].keys()):
        here, there = (one.get(name) for one in found)
        if here is None or there is None:
            yield f"{name}: only in one of them"
            continue
        for path in sorted(here.keys() | there.keys()):
            if here.get(path) != there.get(path):
                yield f"{name}: {path or '.'}: {here.get(path)}, in the reference {there.get(path)}"


@dataclass
class Graph:
    """The name and version of a release, and the dependencies of its packages."""

    name: str = ""
    version: str = ""
    dependencies: dict = field(default_factory=dict)


def graph(release):
    """Reads the manifest with Ruby, because Python has no YAML parser."""
    program = (
        "def text(node) = case node\n"
        "  when Psych::Nodes::Mapping then node.children.each_slice(2).to_h { |key, value| [key.value, text(value)] }\n"
        "  when Psych::Nodes::Sequence then node.children.map { |child| text(child) }\n"
        "  else node.value\n"
        "  end\n"
        "puts JSON.generate(text(YAML.parse($stdin.read).root))"
    )
    manifest = None
    with tarfile.open(release, mode="r|*") as outer:
        for member in outer:
            if plain(member.name) == "release.MF":
                manifest = outer.extractfile(member).read()
                break
    command = ["ruby", "-ryaml", "-rjson", "-e", program]
    read = json.loads(subprocess.run(command, input=manifest, stdout=subprocess.PIPE, check=True).stdout)
    return Graph(read["name"], read["version"], {one["name"]: one.get("dependencies") or [] for one in read["packages"]})


def left_in(directory):
    """The remaining entries of a directory, including hidden ones."""
    return sorted(os.listdir(directory)) if os.path.isdir(directory) else []
