"""Who is below whom, as the kernel tells it. Where it does not (macOS), nobody is."""

# pathlib would be one more import, and 3 ms
# ruff: noqa: PTH123, PTH208

import os

__all__ = ["children", "descendants", "pidfd", "tidies_up"]


def descendants(root: int) -> list[int]:
    """Pids of every living process below ``root``, zombies left out, parents first.

    Read from every process's ``stat`` (``children`` files need a kernel option that can be off). Empty
    where there is no /proc.
    """
    children: dict[int, list[int]] = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    for name in names:
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    # the command's name is in brackets and may hold anything
                    fields = stat.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] != b"Z":
                children.setdefault(int(fields[1]), []).append(int(name))
    found = []
    stack = [root]
    while stack:
        below = children.get(stack.pop(), [])
        found += below
        stack += below
    return found


def children(process: int) -> list[int]:
    """Pids of the children of a process of one thread; empty where the kernel does not list them."""
    try:
        with open(f"/proc/{process}/task/{process}/children", "rb") as listed:
            return [int(pid) for pid in listed.read().split()]
    except OSError:
        return []


def tidies_up(process: int) -> bool:
    """True of Python's resource tracker, which removes shared memory that the dead left in /dev/shm.

    It sees by a pipe that its users are gone, and then ends by itself; vLLM's holds 400 MB of theirs.
    """
    try:
        with open(f"/proc/{process}/cmdline", "rb") as words:
            return b"multiprocessing.resource_tracker" in words.read()
    except OSError:
        return False


def pidfd(process: int) -> int:
    """Readable from the end of ``process`` on; -1 where there is none (macOS, some sandboxes)."""
    try:
        return os.pidfd_open(process)
    except (AttributeError, OSError):
        return -1
