"""Whose listener is it: sockets to processes, as Linux knows them.

Knows: netlink's sock_diag, /proc. Does not know: engines. The kernel is asked for listeners on one
port only (sock_diag(7)); reading /proc/net/tcp instead takes 12 ms where a thousand connections are in
TIME_WAIT, and remains for where netlink is refused. A unix socket's listener is asked directly:
the kernel hands its pid to whoever connects (SO_PEERCRED, unix(7)). Elsewhere than on Linux nothing can
be told.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from enginery.engine.guardian import descendants

__all__ = ["listener_is_ours", "socket_is_ours"]

_PEER = struct.Struct("=iII")  # ucred: pid, uid, gid
_LISTEN = 10  # TCP_LISTEN, in the kernel's numbering
_SOCK_DIAG, _DUMP, _DONE, _ERROR = 20, 0x301, 3, 2
_NETLINK_SOCK_DIAG = 4
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_REQUEST = struct.Struct("=BBBBI HH16s16sI8s".replace(" ", ""))  # inet_diag_req_v2
_INODE_AT = 68  # inet_diag_msg: idiag_inode
_PORT_AT = 4  # inet_diag_msg: id.idiag_sport, big endian


def listener_is_ours(pid: int, port: int) -> bool | None:
    """True when process ``pid`` or a descendant listens on TCP ``port``, False when others do.

    None when nobody listens yet, or this platform or the process itself does not let us tell.
    """
    try:
        inodes = set(_by_netlink(port))
    except (OSError, AttributeError):
        inodes = set(_by_proc(port))
    if not inodes:
        return None
    wanted = {f"socket:[{inode}]" for inode in inodes}
    # the engine itself nearly always: its children are looked up only if not
    found = [_holds(pid, wanted)]
    if not found[0]:
        found += [_holds(process, wanted) for process in descendants(pid)]
    if any(found):
        return True
    return None if None in found else False


def socket_is_ours(pid: int, path: str) -> bool | None:
    """True when process ``pid`` or a descendant listens on the unix socket ``path``, False when others do.

    None when nobody listens yet, or this platform does not let us tell.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # socket's own signature
        try:
            probe.connect(path)
            peer = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        except OSError:  # no such file, nobody listens, or its queue is full
            return None
    listener: int = _PEER.unpack(peer)[0]
    if listener == pid or listener in descendants(pid):
        return True
    # 0: of another pid namespace; gone: it handed the listener on, to whom is not known
    return False if listener and Path(f"/proc/{listener}").exists() else None


def _by_netlink(port: int) -> Iterator[int]:
    for family in (socket.AF_INET, socket.AF_INET6):
        sport = socket.htons(port)
        request = _REQUEST.pack(
            family, socket.IPPROTO_TCP, 0, 0, 1 << _LISTEN, sport, 0, b"", b"", 0, b"\xff" * 8
        )
        header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG, _DUMP, 1, 0)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as netlink:
            netlink.settimeout(1.0)
            netlink.send(header + request)
            yield from _inodes(netlink, port)


def _inodes(netlink: socket.socket, port: int) -> Iterator[int]:
    while True:
        data = netlink.recv(65536)
        while data:
            size, kind, *_ = _HEADER.unpack_from(data)
            if kind == _DONE:
                return
            if kind == _ERROR:
                raise OSError("sock_diag refused")
            body = data[_HEADER.size : size]
            if int.from_bytes(body[_PORT_AT : _PORT_AT + 2], "big") == port:
                yield int.from_bytes(body[_INODE_AT : _INODE_AT + 4], "little")
            data = data[(size + 3) & ~3 :]


def _by_proc(port: int) -> Iterator[int]:
    suffix, listen = f":{port:04X}", f"{_LISTEN:02X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[1].endswith(suffix) and fields[3] == listen:
                yield int(fields[9])


def _holds(pid: int, wanted: set[str]) -> bool | None:
    """Whether a process has one of these sockets open; None when it does not let us look."""
    try:
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except PermissionError:  # a setuid program, or one that is not dumpable
        return None
    except OSError:
        return False
    for descriptor in descriptors:
        try:
            if str(descriptor.readlink()) in wanted:
                return True
        except OSError:
            continue
    return False
