#!/usr/bin/env python3
"""Reads a compiled BOSH release to the last byte with Python's own gzip and tarfile, and verifies the manifest's digests.

    read_release.py RELEASE.tgz            verify, and list every entry of the release and of its inner tarballs
    read_release.py --names ARCHIVE        only the names of one tar archive, raw ("-": standard input)
    read_release.py --contents ARCHIVE     name, size and SHA-1 of each file in it, name and target of each symbolic link

A second opinion to check_release.rb: another language, other libraries, and its own manifest reader, which needs no YAML library
because it accepts only what the writers of release.MF produce (one `key: value` on a line). Exit code 1 on any finding.
"""

import gzip
import hashlib
import io
import re
import sys
import tarfile

LENGTHS = {"sha1": 40, "sha256": 64, "sha512": 128}
LINE = re.compile(r"^(?P<indent> *)(?P<item>- )?(?P<key>[a-z0-9_]+):(?: (?P<value>.*))?$")


def unpacked(data):
    """The complete contents of a gzip file, or a plain tar as it is."""
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def entries(data):
    """Every entry of a tar archive with its content (None when it has none)."""
    data = unpacked(data)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in archive:
            handle = archive.extractfile(member) if member.isreg() else None
            content = handle.read() if handle else None
            if content is not None and len(content) != member.size:
                raise tarfile.ReadError(f"{member.name}: the archive ends inside it")
            yield member, content
        # tarfile treats a broken header as the end.
        if any(data[archive.offset :]):
            raise tarfile.ReadError(f"a broken header at byte {archive.offset}")


def raw_name(member):
    """The name in the archive: tarfile drops the slash at the end of a directory."""
    return member.name.rstrip("/") + "/" if member.isdir() else member.name


def plain(name):
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def contents(data):
    """One line for each file and each symbolic link."""
    known = {}
    for member, content in entries(data):
        name = plain(member.name)
        if member.issym():
            yield f"{name}\t->\t{member.linkname}"
        elif content is not None or member.islnk():
            # A hard link counts as its target.
            known[name] = known[plain(member.linkname)] if content is None else f"{len(content)}\t{hashlib.sha1(content).hexdigest()}"
            yield f"{name}\t{known[name]}"


def scalar(text):
    text = (text or "").strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text


def manifest(text):
    """section -> list of maps of its items' own keys; a map such as license counts as one item."""
    sections, section, inner = {"": [{}]}, "", None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line in ("---", "...") or line.lstrip().startswith("#"):
            continue
        match = LINE.match(line)
        if not match:
            if re.match(r"^ *- ", line):  # an item of a list of names
                continue
            raise ValueError(f"release.MF line {number}: {line!r}")
        indent = len(match["indent"]) + (2 if match["item"] else 0)
        if indent == 0:
            sections[""][0][match["key"]] = scalar(match["value"])
            section, inner = match["key"], None
            continue
        items = sections.setdefault(section, [])
        if inner is None:
            inner = indent
        if indent != inner:
            continue  # deeper than the items' own keys
        if match["item"] or not items:
            items.append({})
        items[-1][match["key"]] = scalar(match["value"])
    return sections


def digest_findings(name, data, digests):
    if not digests:
        yield f"{name}: no digest"
    for part in filter(None, digests.split(";")):
        algorithm, _, value = part.rpartition(":")
        algorithm = algorithm or "sha1"
        if LENGTHS.get(algorithm) != len(value):
            yield f"{name}: unknown digest {part!r}"
        elif hashlib.new(algorithm, data).hexdigest() != value:
            yield f"{name}: {algorithm} differs from the manifest's {value}"


def read(path):
    """All findings about one release; lists what it reads."""
    with open(path, "rb") as file:
        release = file.read()
    contents = {}
    for member, content in entries(release):
        print(raw_name(member))
        name = plain(member.name)
        if content is None:
            continue
        if name in contents:
            yield f"{name}: stands in it twice"
        contents[name] = content
        if name.endswith(".tgz"):
            try:
                for inner, _ in entries(content):
                    print(f"{name}: {raw_name(inner)}")
            except (OSError, EOFError, tarfile.TarError) as error:
                yield f"{name}: {error}"
    if "release.MF" not in contents:
        yield "no release.MF at the root"
        return
    sections = manifest(contents["release.MF"].decode())
    wanted = {f"{folder}/{item.get('name')}.tgz": item for folder in ("compiled_packages", "jobs") for item in sections.get(folder, [])}
    wanted.update({"license.tgz": item for item in sections.get("license", [])})
    if not sections[""][0].get("name"):
        yield "the manifest has no name"
    for name, item in wanted.items():
        if name in contents:
            yield from digest_findings(name, contents[name], item.get("sha1", ""))
        else:
            yield f"{name}: in the manifest, but not in the tarball"


def main():
    arguments = sys.argv[1:]
    if len(arguments) == 2 and arguments[0] in ("--names", "--contents"):
        data = sys.stdin.buffer.read() if arguments[1] == "-" else open(arguments[1], "rb").read()
        lines = contents(data) if arguments[0] == "--contents" else (raw_name(member) for member, _ in entries(data))
        for line in lines:
            sys.stdout.buffer.write(line.encode("utf-8", "surrogateescape") + b"\n")
        return 0
    if len(arguments) != 1:
        sys.exit(__doc__)
    try:
        findings = list(read(arguments[0]))
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        findings = [str(error)]
    for finding in findings:
        print(f"{arguments[0]}: {finding}", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
