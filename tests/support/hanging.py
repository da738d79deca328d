"""Mounts a FUSE file system that reads the first look-up of a name or the first listing and never answers: who asked cannot be killed
until this ends. With `silent` it answers nothing at all."""
import ctypes
import os
import struct
import sys

target, facts, silent = sys.argv[1], sys.argv[2], sys.argv[3:] == ["silent"]
INIT, LOOKUP, GETATTR, FORGET, INTERRUPT, BATCH_FORGET, READDIR = 26, 1, 3, 2, 36, 42, 28


def answer(unique, error, body=b""):
    os.write(device, struct.pack("<IiQ", 16 + len(body), error, unique) + body)


device = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"hanging", target.encode(), b"fuse", 0, options) != 0:
    sys.exit(os.strerror(ctypes.get_errno()))
while True:
    request = os.read(device, 1 << 20)
    length, opcode, unique = struct.unpack_from("<IIQ", request)
    if opcode == INIT:
        # Version 7.31, no features.
        answer(unique, 0, struct.pack("<4I2H2I2H8I", 7, 31, 0, 0, 16, 12, 4096, 1, 1, *[0] * 9))
        open(os.path.join(facts, "mounted"), "w").close()
    elif opcode in (LOOKUP, READDIR) or silent:
        open(os.path.join(facts, "hung"), "w").close()
    elif opcode == GETATTR:
        # Of the directory itself.
        numbers = [1, 0, 0, 0, 0, 0], [0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0]
        answer(unique, 0, struct.pack("<QII6Q10I", 60, 0, 0, *numbers[0], *numbers[1]))
    elif opcode not in (FORGET, INTERRUPT, BATCH_FORGET):
        answer(unique, -38)
