"""llama.cpp in this process: a `Backend` around the ``xllamacpp`` wheel's callbacks.

Knows: how an engine core's request becomes llama.cpp's, and chunks become outputs; one thread for each slot that
works. Does not know: batching, slots' insides and sampling, which are llama.cpp's own C++. Token ids come with the
log-probabilities, the only way in process. Those of a character in several tokens may be missing, as llama.cpp tells
only of tokens that gave text; ``num_output_tokens`` counts them all.

Three traps of the wheel. It loads with the interpreter's lock held, so nothing else runs meanwhile. It replaces the
process's handlers of SIGINT and SIGTERM, which are put back. And a server always listens somewhere: on a free port of
this machine's own address, under a key that nobody else knows; counting tokens goes that way.
"""

from __future__ import annotations

import ctypes
import json
import secrets
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

from enginery import (
    Capabilities,
    Endpoint,
    EngineError,
    EngineStartFailed,
    InvalidRequest,
    UnsupportedOperation,
    Variant,
)
from enginery.enginecore import EngineCoreOutput, EngineCoreRequest, FinishReason, SamplingParams
from enginery.enginecore.failures import failure_from
from enginery.enginecore.pieces import WakePipe
from enginery.enginecore.waiting import WaitingQueue
from enginery_llamacpp.command import flags_of
from enginery_llamacpp.errors import parse_error
from enginery_llamacpp.options import options_of
from enginery_llamacpp.server import flush_log, parse

__all__ = ["LlamaCppBackend"]

TOKEN_TIMEOUT = 10.0
"""Seconds in which llama.cpp must count tokens."""

END_TIMEOUT = 1.0
"""Seconds in which its slots must be free at the end."""

AGING_S = 10.0
"""Seconds of waiting that one step of priority is worth, as in our own backends."""

_REFUSED = {
    "min_tokens": 0,
    "stop_token_ids": (),
    "include_stop_str_in_output": False,
    "skip_special_tokens": True,
}
"""What llama.cpp has nothing for, and the values that ask for nothing."""

_SIGACTION_BYTES = 256  # more than the C struct has on any platform


class _Ended:
    """Comes after a run's last chunk; ``error`` where there is one."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error


class _Run:
    """One request. ``is_finished`` once its last output is out, or it was aborted."""

    __slots__ = ("finish", "is_finished", "rank", "request", "thread", "usage")

    def __init__(self, request: EngineCoreRequest, rank: tuple[float, int]) -> None:
        self.request = request
        self.rank = rank
        self.is_finished = False
        self.thread: threading.Thread | None = None
        self.finish: FinishReason = FinishReason.STOP
        self.usage: dict[str, Any] = {}


class LlamaCppBackend:
    """One model in this process.

    Args:
        variant: of the engine_type ``llama.cpp``; every option counts, ``extra_args`` too.

    Raises:
        EngineStartFailed: the wheel is missing, or llama.cpp did not load the model; it has printed why.
    """

    def __init__(self, variant: Variant) -> None:
        self._server, self._key = _load(variant)
        where = urlsplit(self._server.listening_address)
        self._host, self._port = where.hostname or "127.0.0.1", where.port
        props = self._ask("GET", "/props")
        (card,) = self._ask("GET", "/v1/models")["data"]
        # answered by llama.cpp's loop: a server that is let go before its loop has begun is waited for without end
        self._ask("GET", "/lora-adapters")
        self._capabilities = Capabilities(
            max_model_len=props["default_generation_settings"]["n_ctx"],
            max_num_seqs=props["total_slots"],
            accepts=frozenset({"tokens", "text", "messages"}),
            gives_tokens=True,
            utilities=("tokenize", "detokenize"),
            vocab_size=card["meta"]["n_vocab"],
        )
        self._runs: dict[str, _Run] = {}
        self._waiting: WaitingQueue[_Run] = WaitingQueue(AGING_S)
        self._working: set[_Run] = set()
        self._news: deque[tuple[_Run, dict[str, Any] | _Ended]] = deque()
        self._wake = WakePipe()
        self._closed = False

    @property
    def capabilities(self) -> Capabilities:
        """Text and token ids out; the context and the slots that llama.cpp really made."""
        return self._capabilities

    def add_request(self, request: EngineCoreRequest) -> None:
        """Queue a request, and start it if a slot is free. Raises InvalidRequest for what it cannot do."""
        for name, harmless in _REFUSED.items():
            if getattr(request.sampling_params, name) != harmless:
                raise InvalidRequest(f"{name}: llama.cpp has nothing for it", param=name)
        run = _Run(request, self._waiting.rank(request, time.monotonic()))
        self._runs[request.request_id] = run
        self._waiting.push(run)
        self._fill_slots()

    def abort_requests(self, ids: Sequence[str]) -> list[str]:
        """Cancel requests; a slot is free at the next token."""
        aborted = []
        for request_id in ids:
            run = self._runs.get(request_id)
            if run is not None:
                self._end(run)
                aborted.append(request_id)
        return aborted

    def step(self, timeout: float) -> list[EngineCoreOutput]:
        """Collect what the slots have made, one output per request."""
        if timeout > 0 and not self._news:
            self._wake.wait(timeout)
        self._wake.clear()
        outputs: dict[str, EngineCoreOutput] = {}
        for _ in range(len(self._news)):  # what comes meanwhile wakes the loop again
            run, news = self._news.popleft()
            if isinstance(news, _Ended):
                self._working.discard(run)
            if not run.is_finished:
                self._apply(run, news, outputs)
        self._fill_slots()
        return list(outputs.values())

    def has_work(self) -> bool:
        """True while a request is unfinished."""
        return bool(self._runs)

    def wake_fd(self) -> int | None:
        """Readable while chunks wait to be collected."""
        return self._wake.fileno()

    def utility(self, method: str, args: Mapping[str, Any]) -> Any:
        """``tokenize(prompt)`` or ``(messages)``, ``detokenize(tokens)``, and ``get_stats``."""
        match method:
            case "get_stats":
                return {"running": len(self._working), "waiting": len(self._waiting)}
            case "detokenize":
                return self._ask("POST", "/detokenize", {"tokens": args.get("tokens")})["content"]
            case "tokenize":
                text = args.get("prompt")
                if args.get("messages") is not None:
                    asked = {"messages": args["messages"]}
                    text = self._ask("POST", "/apply-template", asked)["prompt"]
                body = {"content": text, "add_special": True, "parse_special": True}
                return self._ask("POST", "/tokenize", body)["tokens"]
        raise UnsupportedOperation(f"llama.cpp has no {method!r} in process")

    def shutdown(self) -> None:
        """Cancel everything and free the model, unless a slot does not stop in time: it ends with the process."""
        if self._closed:
            return
        self._closed = True
        for run in list(self._runs.values()):
            self._end(run)
        deadline = time.monotonic() + END_TIMEOUT
        threads = [run.thread for run in self._working if run.thread is not None]
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if not any(thread.is_alive() for thread in threads):
            self._server = None  # its destructor waits for what still runs
        self._news.clear()
        self._wake.close()

    # -- inside --------------------------------------------------------------------------------

    def _fill_slots(self) -> None:
        while len(self._working) < self._capabilities.max_num_seqs and not self._closed:
            run = self._waiting.head()
            if run is None:
                return
            self._waiting.pop()
            name = f"llama.cpp {run.request.request_id}"
            run.thread = threading.Thread(target=self._run, args=(run,), name=name, daemon=True)
            self._working.add(run)
            run.thread.start()

    def _run(self, run: _Run) -> None:
        """In a thread of its own: llama.cpp calls back with each chunk, and stops when told True."""

        def on_chunk(chunk: dict[str, Any]) -> bool:
            if not run.is_finished:
                self._tell(run, chunk)
            return run.is_finished

        ended = _Ended()
        try:
            body = _body(run.request)
            chat = run.request.messages is not None
            server = self._server
            handle = server.handle_chat_completions if chat else server.handle_completions
            handle(body, on_chunk)
        except Exception as error:  # noqa: BLE001  # the wheel's are ValueError and RuntimeError; all end this one
            ended.error = error
        self._tell(run, ended)

    def _tell(self, run: _Run, news: dict[str, Any] | _Ended) -> None:
        if not self._closed:
            self._news.append((run, news))
            self._wake.set()

    def _end(self, run: _Run) -> None:
        run.is_finished = True
        del self._runs[run.request.request_id]
        if run.thread is None:
            self._waiting.drop_finished()

    def _apply(
        self,
        run: _Run,
        news: dict[str, Any] | _Ended,
        outputs: dict[str, EngineCoreOutput],
    ) -> None:
        request_id = run.request.request_id
        output = outputs.get(request_id) or EngineCoreOutput(request_id)
        if isinstance(news, _Ended):
            error = news.error
        else:
            error = _error_of(news)
            if error is None:
                _add_chunk(run, news, output)
                if output.text or output.new_token_ids:
                    outputs[request_id] = output
                return
        outputs[request_id] = output
        output.finish_reason = run.finish
        if error is not None:
            output.finish_reason, output.error = FinishReason.ERROR, failure_from(error)
        counts = run.usage
        output.num_prompt_tokens = counts.get("prompt_tokens", 0)
        output.num_output_tokens = counts.get("completion_tokens", 0)
        details = counts.get("prompt_tokens_details") or {}
        output.num_cached_tokens = details.get("cached_tokens", 0)
        self._end(run)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One small request to the listener in this process. Raises what llama.cpp says, as our error."""
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body)
        try:
            with closing(HTTPConnection(self._host, self._port, timeout=TOKEN_TIMEOUT)) as link:
                link.request(method, path, data, headers)
                reply = link.getresponse()
                said, status = reply.read(), reply.status
        except (OSError, HTTPException) as error:
            raise EngineError(f"llama.cpp does not answer {path}: {error}") from error
        if status != 200:
            raise parse_error(status, said) or InvalidRequest(f"llama.cpp: {said[:300]!r}")
        return json.loads(said)


def _load(variant: Variant) -> tuple[Any, str]:
    """The wheel's server, its model loaded, and the key of its listener."""
    try:
        import xllamacpp
    except ImportError as error:
        raise EngineStartFailed(
            f"llama.cpp is not bundled ({error}): pip install 'enginery-llamacpp[bundled]'"
        ) from error
    options = options_of(variant.options)
    if not options.names_model:
        raise EngineStartFailed(
            f"{variant.id}: options.model is missing; set it to the path of a GGUF file",
            param="options.model",
        )
    params = xllamacpp.CommonParams()
    nowhere = Endpoint("127.0.0.1", 0)
    if not parse(xllamacpp, params, list(flags_of(variant, options, nowhere))):
        raise EngineStartFailed(f"{variant.id}: llama.cpp refuses its arguments, see its log")
    key = secrets.token_hex(16)
    params.api_keys = [key]
    with _handlers_kept():
        try:
            return xllamacpp.Server(params), key
        except RuntimeError as error:
            flush_log()
            raise EngineStartFailed(
                f"{variant.id}: llama.cpp did not load the model, its log says why"
            ) from error


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Put the handlers of SIGINT and SIGTERM back; `signal.signal` could do that in the main thread only."""
    libc = ctypes.CDLL(None)
    kept = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        kept[number] = ctypes.create_string_buffer(_SIGACTION_BYTES)
        libc.sigaction(int(number), None, kept[number])
    try:
        yield
    finally:
        for number, action in kept.items():
            libc.sigaction(int(number), action, None)


def _body(request: EngineCoreRequest) -> dict[str, Any]:
    """The request in llama.cpp's words."""
    params: SamplingParams = request.sampling_params
    body: dict[str, Any] = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": -1 if params.max_tokens is None else params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": max(0, params.top_k),  # 0 is all
        "min_p": params.min_p,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "repeat_penalty": params.repetition_penalty,
        "ignore_eos": params.ignore_eos,
    }
    if params.seed is not None:
        body["seed"] = params.seed % (1 << 32)  # llama.cpp's has 32 bits
    if params.stop:
        body["stop"] = list(params.stop)
    if request.messages is not None:
        return {**body, "messages": request.messages, "logprobs": True, "top_logprobs": 1}
    prompt = request.prompt_token_ids if request.prompt is None else request.prompt
    return {**body, "prompt": prompt, "logprobs": 1}


def _error_of(chunk: Mapping[str, Any]) -> Exception | None:
    told = chunk.get("error")
    if told is None:
        return None
    status = told.get("code", 500)
    found = parse_error(status, json.dumps(chunk).encode())
    if found is not None:
        return found
    message = f"llama.cpp: {told.get('message', told)}"
    return InvalidRequest(message) if status == 400 else EngineError(message)


def _add_chunk(run: _Run, chunk: Mapping[str, Any], output: EngineCoreOutput) -> None:
    """Text, ids and, of the last chunks, why it ended and what it cost."""
    if chunk.get("usage"):
        run.usage = chunk["usage"]
    for choice in chunk.get("choices", ()):
        delta = choice.get("delta")
        output.text += (choice.get("text") if delta is None else delta.get("content")) or ""
        for token in (choice.get("logprobs") or {}).get("content", ()):
            output.new_token_ids.append(token["id"])
            if run.request.sampling_params.logprobs is not None:
                output.logprobs = [*(output.logprobs or ()), token["logprob"]]
        if choice.get("finish_reason") == "length":
            run.finish = FinishReason.LENGTH
