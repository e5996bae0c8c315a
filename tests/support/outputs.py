"""What requests gained over many steps, put together for tests."""

from __future__ import annotations

from collections.abc import Iterable

from enginery.enginecore import EngineCoreOutput, EngineCoreOutputs
from enginery.enginecore.unread import fold


def by_request(outputs: Iterable[EngineCoreOutput]) -> dict[str, EngineCoreOutput]:
    """One output per request, in the order in which they began; fails if one goes on after its end."""
    folded = fold([EngineCoreOutputs(list(outputs))]).outputs
    whole = {output.request_id: output for output in folded}
    assert len(whole) == len(folded), "a request went on after its end"
    return whole
