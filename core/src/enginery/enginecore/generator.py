"""`GeneratorBackend`: a model that is a function yielding text. The easy door for plugin authors.

Knows: slots, the queue before them, pieces of text and where a reply ends. Does not know: threads'
insides (`pieces` runs one generator in one) or how requests get here (`loop`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from enginery.enginecore.backend import Capabilities, PromptForm, Tokenizer
from enginery.enginecore.chat import plain_chat
from enginery.enginecore.detokenizer import StopStrings
from enginery.enginecore.failures import failure_from
from enginery.enginecore.messages import EngineCoreOutput, EngineCoreRequest, FinishReason
from enginery.enginecore.pieces import Ended, PieceThread, WakePipe
from enginery.enginecore.tokenizing import TOKEN_CALLS, token_call
from enginery.enginecore.waiting import WaitingQueue
from enginery.errors import ContextLengthExceeded, InvalidRequest, UnsupportedOperation

__all__ = ["GeneratorBackend"]

Generate = Callable[[EngineCoreRequest], Iterable[str]]


class _Reply:
    """One request: what it has got so far. ``is_finished`` once its last output is out, or it was aborted."""

    __slots__ = ("count", "is_finished", "prompt_tokens", "rank", "request", "stops", "thread")

    def __init__(
        self, request: EngineCoreRequest, rank: tuple[float, int], prompt_tokens: int
    ) -> None:
        params = request.sampling_params
        self.request = request
        self.rank = rank
        self.prompt_tokens = prompt_tokens
        self.count = 0
        self.is_finished = False
        self.stops = StopStrings(params.stop, include=params.include_stop_str_in_output)
        self.thread: PieceThread | None = None


class GeneratorBackend:
    """A `Backend` around ``generate(request)``, which yields the reply piece by piece.

    ``request.prompt`` is always the whole prompt as text, and for a chat ``request.messages`` is there
    too. ``generate`` runs in a thread of its own, at most ``slots`` at once, and should yield one piece
    per token: without a tokenizer each piece counts as one token. It is held to ``max_tokens`` and to
    stop strings here, whether it looks at them or not. An aborted or finished request closes it at its
    next ``yield`` (``GeneratorExit``, so ``finally`` runs), and keeps its slot until then. What it raises
    becomes the ``error`` output of its request alone.

        def generate(request):
            for word in model.stream(request.prompt, temperature=request.sampling_params.temperature):
                yield word

        backend = GeneratorBackend(generate, slots=2)

    Args:
        generate: see above; called in another thread than the backend's own.
        slots: calls at once; more wait, as in `WaitingQueue`.
        tokenizer: counts tokens, renders chats, and lets prompts be token ids; else a plain template.
        max_model_len: tokens of prompt and reply together; checked only with a tokenizer.
        aging_s: seconds of waiting that one step of priority is worth.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        generate: Generate,
        slots: int = 1,
        tokenizer: Tokenizer | None = None,
        *,
        max_model_len: int = 1 << 20,
        aging_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if slots < 1:
            raise ValueError(f"slots must be at least 1, got {slots}")
        self._generate = generate
        self._slots = slots
        self._tokenizer = tokenizer
        self._clock = clock
        self._replies: dict[str, _Reply] = {}
        self._waiting: WaitingQueue[_Reply] = WaitingQueue(aging_s)
        self._threads: set[PieceThread] = set()
        self._news: deque[tuple[_Reply, str | Ended]] = deque()
        self._wake = WakePipe()
        self._closed = False
        forms: frozenset[PromptForm] = frozenset({"text", "messages"})
        if tokenizer is not None:
            forms |= {"tokens"}
        self._capabilities = Capabilities(
            max_model_len=max_model_len,
            max_num_seqs=slots,
            accepts=forms,
            utilities=() if tokenizer is None else TOKEN_CALLS,
        )

    @property
    def capabilities(self) -> Capabilities:
        """Text out; text and chats in, and token ids with a tokenizer."""
        return self._capabilities

    def add_request(self, request: EngineCoreRequest) -> None:
        """Queue a request, and start it if a slot is free.

        Raises:
            InvalidRequest: token ids without a tokenizer, or a chat that the template cannot render.
            ContextLengthExceeded: the prompt leaves no room for a reply.
        """
        request, tokens = self._as_text(request)
        reply = _Reply(request, self._waiting.rank(request, self._clock()), tokens)
        self._replies[request.request_id] = reply
        self._waiting.push(reply)
        self._fill_slots()

    def abort_requests(self, ids: Sequence[str]) -> list[str]:
        """Close generators at their next ``yield``; see `Backend`."""
        aborted = []
        for request_id in ids:
            reply = self._replies.get(request_id)
            if reply is not None:
                self._end(reply)
                aborted.append(request_id)
        return aborted

    def step(self, timeout: float) -> list[EngineCoreOutput]:
        """Collect what the generators have yielded, one output per request."""
        if timeout > 0 and not self._news:
            self._wake.wait(timeout)
        self._wake.clear()
        outputs: dict[str, EngineCoreOutput] = {}
        news = self._news
        for _ in range(len(news)):  # what comes meanwhile wakes the loop again
            reply, piece = news.popleft()
            if isinstance(piece, Ended):
                assert reply.thread is not None
                self._threads.discard(reply.thread)
            else:
                assert reply.thread is not None
                reply.thread.collected()
            if not reply.is_finished:
                self._apply(reply, piece, outputs)
        self._fill_slots()
        return list(outputs.values())

    def has_work(self) -> bool:
        """True while a request is unfinished; a generator that is still closing is no work."""
        return bool(self._replies)

    def wake_fd(self) -> int | None:
        """Readable while pieces wait to be collected."""
        return self._wake.fileno()

    def utility(self, method: str, args: Mapping[str, Any]) -> Any:
        """Counts: ``get_stats`` (running, waiting); with a tokenizer, `token_call`'s."""
        if self._tokenizer is not None and method in TOKEN_CALLS:
            return token_call(self._tokenizer, method, args)
        if method == "get_stats":
            return {"running": len(self._threads), "waiting": len(self._waiting)}
        raise UnsupportedOperation(f"a backend around a generator has no {method!r}")

    def shutdown(self) -> None:
        """Close all generators; waits for their next ``yield``, but at most a second in all.

        A thread that does not come back in that time is left behind; it ends with the process.
        """
        if self._closed:
            return
        self._closed = True
        for reply in list(self._replies.values()):
            self._end(reply)
        deadline = time.monotonic() + 1.0
        for thread in self._threads:
            thread.join(deadline - time.monotonic())
        self._threads.clear()
        self._news.clear()
        self._wake.close()

    # -- inside --------------------------------------------------------------------------------

    def _as_text(self, request: EngineCoreRequest) -> tuple[EngineCoreRequest, int]:
        """The request with ``prompt`` filled in, as a copy, and its number of tokens, 0 if unknown."""
        tokenizer = self._tokenizer
        text = request.prompt
        if request.messages is not None:
            render = plain_chat if tokenizer is None else tokenizer.render_chat
            text = render(request.messages)
        elif request.prompt_token_ids is not None:
            if tokenizer is None:
                raise InvalidRequest(
                    "prompt_token_ids: this backend has no tokenizer", param="prompt_token_ids"
                )
            text = tokenizer.decode(request.prompt_token_ids)
        copy = EngineCoreRequest(
            request.request_id,
            request.prompt_token_ids,
            request.prompt,
            request.messages,
            request.sampling_params,
            request.arrival_time,
            request.priority,
            request.eos_token_id,
            request.cache_salt,
            request.trace_headers,
        )
        copy.prompt = text
        if tokenizer is None:
            return copy, 0
        count = len(request.prompt_token_ids or tokenizer.encode(text or ""))
        if count >= self._capabilities.max_model_len:
            raise ContextLengthExceeded(
                f"the prompt has {count} tokens; with one token of the reply at most"
                f" {self._capabilities.max_model_len} fit",
                prompt_tokens=count,
                context_length=self._capabilities.max_model_len,
                param=request.form,
            )
        return copy, count

    def _fill_slots(self) -> None:
        while len(self._threads) < self._slots and not self._closed:
            reply = self._waiting.head()
            if reply is None:
                return
            self._waiting.pop()
            reply.thread = self._start(reply)
            self._threads.add(reply.thread)

    def _start(self, reply: _Reply) -> PieceThread:
        def deliver(piece: str | Ended) -> None:
            self._news.append((reply, piece))
            self._wake.set()

        request = reply.request
        return PieceThread(lambda: self._generate(request), deliver, name=request.request_id)

    def _end(self, reply: _Reply) -> None:
        reply.is_finished = True
        del self._replies[reply.request.request_id]
        if reply.thread is None:
            self._waiting.drop_finished()
        else:
            reply.thread.stop()

    def _apply(
        self, reply: _Reply, piece: str | Ended, outputs: dict[str, EngineCoreOutput]
    ) -> None:
        request_id = reply.request.request_id
        output = outputs.get(request_id)
        if output is None:
            output = outputs[request_id] = EngineCoreOutput(request_id)
        if isinstance(piece, Ended):
            output.text += reply.stops.flush()
            output.finish_reason = FinishReason.STOP
            if piece.error is not None:
                output.finish_reason = FinishReason.ERROR
                output.error = failure_from(piece.error)
        else:
            params = reply.request.sampling_params
            reply.count += 1 if self._tokenizer is None else len(self._tokenizer.encode(piece))
            text, stop = reply.stops.feed(piece, armed=reply.count >= params.min_tokens)
            output.text += text
            if stop is not None:
                output.finish_reason = FinishReason.STOP
                output.stop_reason = stop
            elif self._is_full(reply):
                output.text += reply.stops.flush()
                output.finish_reason = FinishReason.LENGTH
        if output.finish_reason is not None:
            output.num_prompt_tokens = reply.prompt_tokens
            output.num_output_tokens = reply.count
            self._end(reply)

    def _is_full(self, reply: _Reply) -> bool:
        most = reply.request.sampling_params.max_tokens
        room = self._capabilities.max_model_len - reply.prompt_tokens
        return reply.count >= (room if most is None else min(room, most))
