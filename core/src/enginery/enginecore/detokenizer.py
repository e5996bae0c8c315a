"""Token ids to text, piece by piece: no broken characters, and nothing of a stop string.

Knows: which text is certain by now. Does not know: requests or sampling. Pure, but for the tokenizer.

Two things are held back. A token may be a part of a character; decoders show such a part as U+FFFD, so up
to three of them at the end wait for the next token. And the end of the text may be the beginning of a
stop string; the longest such end waits. All pieces joined are the same as decoding all ids at once, up to
the stop string.
"""

from __future__ import annotations

from collections.abc import Sequence

from enginery.enginecore.backend import Tokenizer

__all__ = ["Detokenizer", "StopStrings"]

_UNSURE = 3
"""An unfinished UTF-8 character has at most three bytes, and none decodes to more than one U+FFFD."""

_CONTEXT = 5
"""Tokens of the prompt that are decoded with the reply: SentencePiece drops the first word's space."""


class StopStrings:
    """Looks for stop strings in a text that comes in pieces. How it is cut makes no difference.

    The match that ends first counts; of those that end at the same place, the longest.

    Args:
        stops: what to look for; none of them empty.
        include: the text ends with the stop string instead of before it.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self._stops = tuple(stops)
        self._include = include
        self._held = ""

    def feed(self, piece: str, *, armed: bool = True) -> tuple[str, str | None]:
        """The text that is certain now, and the stop string if there is one: then nothing more comes.

        ``armed=False`` lets everything pass: the reply has not reached ``min_tokens``.
        """
        if not self._stops:
            return piece, None
        text = self._held + piece
        self._held = ""
        if not armed:
            return text, None
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            end, at, stop = min(found)
            return text[: end if self._include else at], stop
        held = self._unsure(text)
        if held:
            self._held = text[-held:]
            return text[:-held], None
        return text, None

    def flush(self) -> str:
        """What was held back, when nothing more comes."""
        held, self._held = self._held, ""
        return held

    def _unsure(self, text: str) -> int:
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest


class Detokenizer:
    """The text of one reply.

    Args:
        tokenizer: only its ``decode`` is used; see there what is asked of it.
        stop: strings that end the text.
        include_stop: the text ends with the stop string instead of before it.
        skip_special_tokens: as in `SamplingParams`.
        spaces_between_special_tokens: same.
        min_tokens: tokens before which no stop string counts.
        prompt_token_ids: what comes before; its end decides whether the first word keeps its space.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        include_stop: bool = False,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
        min_tokens: int = 0,
        prompt_token_ids: Sequence[int] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._spaces = spaces_between_special_tokens
        self._stops = StopStrings(stop, include=include_stop)
        self._min_tokens = min_tokens
        self._count = 0
        self._ids = list(prompt_token_ids[-_CONTEXT:])  # decoded anew with each token; stays short
        self._known = len(self._ids)  # how many of them have been shown, as `_before`
        self._before = self._decode(self._ids) if self._ids else ""
        self._shown = 0  # characters after `_before` that have been shown

    def feed(self, ids: Sequence[int]) -> tuple[str, str | None]:
        """The text that is certain now, and the stop string that ended it, if one did."""
        parts: list[str] = []
        for token in ids:  # one by one, so that `min_tokens` is exact however many come at once
            self._count += 1
            part, stop = self._stops.feed(self._next(token), armed=self._count >= self._min_tokens)
            parts.append(part)
            if stop is not None:
                return "".join(parts), stop
        return "".join(parts), None

    def finish(self) -> tuple[str, str | None]:
        """What was held back, when no more ids come; a stop string may still be in it."""
        rest = self._decode(self._ids)[len(self._before) + self._shown :]
        self._shown += len(rest)
        text, stop = self._stops.feed(rest, armed=self._count >= self._min_tokens)
        return (text, stop) if stop is not None else (text + self._stops.flush(), None)

    def _next(self, token: int) -> str:
        self._ids.append(token)
        text = self._decode(self._ids)
        sure = len(text)
        while sure and len(text) - sure < _UNSURE and text[sure - 1] == "\ufffd":
            sure -= 1
        start = len(self._before) + self._shown
        fresh = text[start:sure]
        if sure == len(text) and sure > len(self._before):
            # the text ends with a whole character: what was new is the context of what comes
            del self._ids[: self._known]
            self._known = len(self._ids)
            self._before = self._decode(self._ids)
            self._shown = 0
        else:
            self._shown += len(fresh)
        return fresh

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(
            ids, skip_special_tokens=self._skip, spaces_between_special_tokens=self._spaces
        )
