"""What the kernel lets the process inside do once it knows its file: read that file, and libraries.

Landlock takes the rest of the disk away, other processes' memory, and signals to them; seccomp takes sockets away, and
the start of programs. Neither needs any right. Each is left out where the kernel or the machine has none of it; the
limits of `worker.media.sandbox` hold all the same.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Mapping
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 22, 2, 38

# landlock(7). The number of its version says what else it can take away.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # on every machine
GET_VERSION = 1
PATH_BENEATH = 1
READ_FILE, READ_FOLDER = 1 << 2, 1 << 3
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}  # how many there are, from a version on
TCP_RIGHTS = 0b11  # from version 4 on: bind, connect
SCOPES = 0b11  # from version 6 on: abstract sockets, signals

# seccomp(2): calls by the number that they have on each machine.
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
REFUSED = {
    "x86_64": {
        "socket": 41, "socketpair": 53, "execve": 59, "execveat": 322, "ptrace": 101, "process_vm_readv": 310,
        "process_vm_writev": 311, "io_uring_setup": 425, "bpf": 321, "userfaultfd": 323,
    },
    "aarch64": {
        "socket": 198, "socketpair": 199, "execve": 221, "execveat": 281, "ptrace": 117, "process_vm_readv": 270,
        "process_vm_writev": 271, "io_uring_setup": 425, "bpf": 280, "userfaultfd": 282,
    },
}  # fmt: skip
X32 = 0x40000000  # from this number on, calls of another convention
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # of BPF
ALLOW, REFUSE = 0x7FFF0000, 0x00050001  # with EPERM


def confine(file: Path, *libraries: Path) -> None:
    """Let this process read ``file``, and what is in the folders ``libraries``, and nothing else, for ever.

    Modules are imported late here and there, so it has to reach its libraries.
    """
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _keep_to({file: READ_FILE} | dict.fromkeys(libraries, READ_FILE | READ_FOLDER))
    _refuse_calls()


def landlock_version() -> int:
    """How much Landlock of this kernel can take away; less than 1 where there is none."""
    return int(_libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), GET_VERSION))


def _keep_to(places: Mapping[Path, int]) -> None:
    version = landlock_version()
    if version < 1:
        return
    rights = max(count for since, count in FILE_RIGHTS.items() if since <= version)
    words = [(1 << rights) - 1, *([TCP_RIGHTS] if version >= 4 else []), *([SCOPES] if version >= 6 else [])]
    handled = struct.pack(f"={len(words)}Q", *words)
    rules = _libc.syscall(CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), 0)
    for path, allowed in places.items():
        place = os.open(path, os.O_PATH)
        _libc.syscall(ADD_RULE, rules, PATH_BENEATH, struct.pack("=Qi", allowed, place), 0)
        os.close(place)
    _libc.syscall(RESTRICT_SELF, rules, 0)
    os.close(rules)


def _refuse_calls() -> None:
    machine = platform.machine()
    if machine not in MACHINES:
        return
    numbers = REFUSED[machine].values()
    steps = [(LOAD, 0, 0, 4), (EQUAL, 0, len(numbers) + 3, MACHINES[machine])]  # else to the last step
    steps += [(LOAD, 0, 0, 0), (AT_LEAST, len(numbers) + 1, 0, X32)]
    steps += [(EQUAL, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    steps += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    header = struct.pack("@HP", len(steps), ctypes.addressof(program))
    _libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0)
