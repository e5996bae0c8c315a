"""The types of single settings: durations, names, text, whole numbers, addresses.

Knows: what one value may be. Does not know: which setting it is for, or where it was written. Each
check raises ValueError in our own words; `explain` adds the place and the value.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from enginery.values import Endpoint

__all__ = [
    "EngineURL",
    "EnvironmentName",
    "ModelName",
    "PositiveSeconds",
    "Seconds",
    "Size",
    "Text",
    "VariantName",
    "WholeNumber",
    "check_model_name",
    "parse_seconds",
    "parse_size",
]

_MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile(
    "".join(rf"(?:(\d+(?:\.\d+)?)\s*{unit}\s*)?" for unit in _MILLISECONDS), re.ASCII
)
_BYTES = {
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?b|)", re.ASCII | re.IGNORECASE)
_PLAIN_NUMBER = re.compile(r"\d+(?:\.\d+)?|\.\d+", re.ASCII)
_MODEL_NAME = re.compile(r"[A-Za-z0-9][\w.:/@+-]{0,199}", re.ASCII)
_VARIANT_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,63}", re.ASCII)


def parse_seconds(value: object) -> float:
    """Seconds from ``"1h30m"``, ``"250ms"``, ``"1.5h"`` or a plain number, which is seconds.

    Units are d, h, m, s and ms, largest first, each at most once.

    Raises:
        ValueError: not a duration, negative, or not finite.
    """
    seconds: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str):
        seconds = _from_text(value.strip())
    if seconds is None or not math.isfinite(seconds):
        raise ValueError("needs a duration such as 250ms, 30s or 1h30m")
    if seconds < 0:
        raise ValueError("must not be negative")
    return seconds


def parse_size(value: object) -> int:
    """Bytes from ``"24GiB"``, ``"512 MiB"``, ``"1.5GB"`` or a plain number, which is bytes.

    Raises:
        ValueError: not a size, or negative.
    """
    size: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        size = float(value)
    elif isinstance(value, str) and (found := _SIZE.fullmatch(value.strip())):
        size = float(found[1]) * _BYTES[found[2].lower() or "b"]
    if size is None or not math.isfinite(size) or size < 0:
        raise ValueError("needs a size such as 24GiB, 512MiB or 8GB")
    return int(size)


def _from_text(text: str) -> float | None:
    sign = -1 if text.startswith("-") else 1
    text = text.removeprefix("-").lstrip()
    if _PLAIN_NUMBER.fullmatch(text):
        return sign * float(text)
    found = _DURATION.fullmatch(text)
    if not text or not found:
        return None
    parts = zip(found.groups(default="0"), _MILLISECONDS.values(), strict=True)
    return sign * sum(float(number) * size for number, size in parts) / 1000


def check_model_name(name: str) -> str:
    """``name`` itself, where it may name a model.

    Raises:
        ValueError: it may not.
    """
    if not _MODEL_NAME.fullmatch(name):
        raise ValueError(
            "a model's name starts with a letter or digit and holds letters, digits and _.:/@+-, "
            "at most 200"
        )
    return name


def _check_variant_name(name: str) -> str:
    # No slash: `Variant.id` is model/variant, and a model's name may hold slashes.
    if not _VARIANT_NAME.fullmatch(name):
        raise ValueError(
            "a variant's name starts with a letter or digit and holds letters, digits and _.+-, "
            "at most 64"
        )
    return name


def _check_environment_name(name: str) -> str:
    if not name or "=" in name or "\0" in name:
        raise ValueError("the name of an environment variable is not empty and holds no =")
    return name


def _number_as_text(value: Any) -> Any:
    """``args=["--port", 8080]`` from code; a file's numbers are read as they are written."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value


def _check_text(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not hold a NUL character")
    return value


def _no_bool(value: Any) -> Any:
    # pydantic reads True as 1.
    if isinstance(value, bool):
        raise ValueError("needs a whole number")  # noqa: TRY004  # pydantic collects only ValueError
    return value


def _check_url(value: str) -> str:
    try:
        Endpoint.from_url(value)
    except ValueError:
        raise ValueError("needs an address of the form http://127.0.0.1:8081") from None
    return value.rstrip("/")


Seconds = Annotated[float, BeforeValidator(parse_seconds)]
"""A duration: ``15m``, ``1h30m``, ``250ms``, or a plain number of seconds. Not negative."""

Size = Annotated[int, BeforeValidator(parse_size)]
"""A number of bytes: ``24GiB``, ``512MiB``, ``8GB``, or a plain number."""

PositiveSeconds = Annotated[Seconds, Field(gt=0)]
"""A `Seconds` that is not zero."""

ModelName = Annotated[str, AfterValidator(check_model_name)]
VariantName = Annotated[str, AfterValidator(_check_variant_name)]
EnvironmentName = Annotated[str, AfterValidator(_check_environment_name)]
WholeNumber = Annotated[int, BeforeValidator(_no_bool)]
Text = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_check_text)]
EngineURL = Annotated[str, AfterValidator(_check_url)]
