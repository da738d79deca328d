"""Mounts a FUSE file system with directories only, which all belong to user 1 instead of the user who creates them.

  owning.py TARGET READY    creates the file READY when it is mounted
"""
import ctypes
import os
import struct
import sys

target, ready = sys.argv[1:]
LOOKUP, FORGET, GETATTR, SETATTR, MKDIR, RMDIR, STATFS = 1, 2, 3, 4, 9, 11, 17
INIT, OPENDIR, READDIR, RELEASEDIR, BATCH_FORGET = 26, 27, 28, 29, 42
ENOENT, EEXIST, ENOSYS = -2, -17, -38
# The directories by their number, each with its entries.
nodes = {1: {}}


def answer(unique, error, body=b""):
    os.write(device, struct.pack("<IiQ", 16 + len(body), error, unique) + body)


def attributes(node):
    return struct.pack("<6Q10I", node, 0, 0, 0, 0, 0, 0, 0, 0, 0o40700, 2, 1, 1, 0, 4096, 0)


def entry(node):
    return struct.pack("<4Q2I", node, 0, 0, 0, 0, 0) + attributes(node)


def reply(opcode, node, body):
    if opcode == INIT:
        open(ready, "w").close()
        return 0, struct.pack("<4I2H2I2H8I", 7, 31, 0, 0, 16, 12, 4096, 1, 1, *[0] * 9)
    if opcode in (GETATTR, SETATTR):
        return 0, struct.pack("<QII", 0, 0, 0) + attributes(node)
    if opcode == LOOKUP:
        found = nodes[node].get(body[:-1])
        return (0, entry(found)) if found else (ENOENT, b"")
    if opcode == MKDIR:
        name = body[8:-1]
        if name in nodes[node]:
            return EEXIST, b""
        nodes[node][name] = len(nodes) + 1
        nodes[len(nodes) + 1] = {}
        return 0, entry(len(nodes))
    if opcode == RMDIR:
        return 0 if nodes[node].pop(body[:-1], None) else ENOENT, b""
    if opcode == OPENDIR:
        return 0, struct.pack("<QII", 0, 0, 0)
    if opcode in (READDIR, RELEASEDIR):
        return 0, b""
    if opcode == STATFS:
        return 0, struct.pack("<5Q4I6I", 1 << 20, 1 << 20, 1 << 20, 1000, 1000, 4096, 255, 4096, 0, *[0] * 6)
    return ENOSYS, b""


device = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"owning", target.encode(), b"fuse", 0, options) != 0:
    sys.exit(os.strerror(ctypes.get_errno()))
while True:
    try:
        request = os.read(device, 1 << 20)
    except OSError:
        sys.exit()
    length, opcode, unique, node = struct.unpack_from("<IIQQ", request)
    if opcode not in (FORGET, BATCH_FORGET):
        answer(unique, *reply(opcode, node, request[40:]))
