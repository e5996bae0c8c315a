"""What manager and guardian say to each other: 4 bytes of length, big endian, and words between NULs."""

# contextlib would be one more import
# ruff: noqa: SIM105

import os

__all__ = ["send", "split_messages"]


def send(fd: int, *fields: str) -> None:
    """Write one message; a manager that is gone is no error here."""
    payload = "\0".join(fields).encode("utf-8", "surrogateescape")
    try:
        os.write(fd, len(payload).to_bytes(4, "big") + payload)
    except OSError:
        pass


def split_messages(buffer: bytearray) -> list[list[str]]:
    """Take every complete message off the front of ``buffer``."""
    messages = []
    while len(buffer) >= 4:
        size = int.from_bytes(buffer[:4], "big")
        if len(buffer) < 4 + size:
            break
        text = bytes(buffer[4 : 4 + size]).decode("utf-8", "surrogateescape")
        messages.append(text.split("\0"))
        del buffer[: 4 + size]
    return messages
