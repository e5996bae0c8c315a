"""Outputs that nobody has read yet: in order, complete, and no more of them than there are requests.

Knows: how batches of outputs become one. Does not know: who is slow, the client's program or its socket; both ends
keep one of these. A reader that keeps up gets every batch as it was made. For one that does not, batches are folded
into one with an output for each request, so that memory grows with the tokens and not with the steps. Folding waits until
there is twice as much as the last time, so each output is touched a few times in all, however long nobody reads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from enginery.enginecore.messages import EngineCoreOutput, EngineCoreOutputs

__all__ = ["Unread", "fold"]

ROOM = 1024
"""Outputs that are kept as they came; beyond, they are folded."""


class Unread:
    """A queue of batches that folds itself."""

    def __init__(self, room: int = ROOM) -> None:
        self.ended = 0
        """Last outputs among what is kept, as far as `add` was told."""
        self._batches: deque[tuple[EngineCoreOutputs, int]] = deque()
        self._room = self._limit = room
        self._held = 0

    def __len__(self) -> int:
        """Outputs, not batches."""
        return self._held

    def __bool__(self) -> bool:
        return bool(self._batches)

    def add(self, batch: EngineCoreOutputs, ended: int = 0) -> None:
        """Keep one batch, in which so many requests end."""
        self._batches.append((batch, ended))
        self.ended += ended
        self._held += len(batch.outputs)
        if self._held > self._limit and len(self._batches) > 1:
            folded = fold(each for each, _ in self._batches)
            self._batches = deque([(folded, self.ended)])
            self._held = len(folded.outputs)
            self._limit = max(self._room, 2 * self._held)

    def take(self) -> EngineCoreOutputs | None:
        """The oldest batch; None when there is none."""
        if not self._batches:
            return None
        batch, ended = self._batches.popleft()
        self.ended -= ended
        self._held -= len(batch.outputs)
        if not self._batches:
            self._limit = self._room
        return batch

    def take_all(self) -> EngineCoreOutputs | None:
        """Everything, as one batch; None when there is nothing."""
        if len(self._batches) < 2:
            return self.take()
        folded = fold(each for each, _ in self._batches)
        self._batches.clear()
        self.ended, self._held, self._limit = 0, 0, self._room
        return folded


def fold(batches: Iterable[EngineCoreOutputs]) -> EngineCoreOutputs:
    """One batch that says what these said. Its number, time and state are those of the last.

    An id has a second output only where its first one was the end of a request, and the id was used again.
    """
    parts: list[list[EngineCoreOutput]] = []
    running: dict[str, list[EngineCoreOutput]] = {}
    last, stats = EngineCoreOutputs(), None
    for last in batches:  # the last one is wanted afterwards
        stats = last.stats or stats
        for output in last.outputs:
            mine = running.get(output.request_id)
            if mine is None:
                mine = running[output.request_id] = []
                parts.append(mine)
            mine.append(output)
            if output.finish_reason is not None:
                del running[output.request_id]
    return EngineCoreOutputs(
        [_joined(outputs) for outputs in parts], last.seq, last.timestamp, last.state, stats
    )


def _joined(outputs: list[EngineCoreOutput]) -> EngineCoreOutput:
    """One output of several of one request; the lists are new, for the old ones may be the backend's."""
    if len(outputs) == 1:
        return outputs[0]
    end = outputs[-1]
    known = [output.logprobs for output in outputs if output.logprobs is not None]
    return EngineCoreOutput(
        end.request_id,
        [token for output in outputs for token in output.new_token_ids],
        "".join([output.text for output in outputs]),
        end.finish_reason,
        end.stop_reason,
        end.error,
        [value for values in known for value in values] if known else None,
        end.num_prompt_tokens,
        end.num_output_tokens,
        end.num_cached_tokens,
    )
