"""A client's state, the core's end and a real core with the mock model, joined by bytes that arrive when a test likes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.enginecore import (
    Capabilities,
    ClientConfig,
    CoreState,
    EngineCore,
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    FinishReason,
    RequestType,
    SamplingParams,
)
from enginery.enginecore.client_state import ClientState
from enginery.enginecore.core_end import CoreEnd
from enginery.enginecore.ledger import RequestLedger
from enginery.enginecore.mock import create_backend
from enginery.enginecore.wire import PROTOCOL_VERSION, Hello, ProtocolError, ToClient, frame
from enginery.errors import (
    ContextLengthExceeded,
    EngineClosedError,
    EngineDeadError,
    InvalidRequest,
    UnsupportedOperation,
)


def request(name: str, tokens: int = 4, prompt: int = 5) -> EngineCoreRequest:
    params = SamplingParams(max_tokens=tokens, ignore_eos=True)
    return EngineCoreRequest(name, list(range(1, prompt + 1)), sampling_params=params)


class Pair:
    """Both ends. ``up`` and ``down`` are bytes on their way; nothing moves by itself."""

    def __init__(self, backlog: int = 1 << 20, **options) -> None:
        self.client = ClientState()
        self.end = CoreEnd(backlog)
        options = {"max_batch_size": 3, "max_model_len": 64, "block_size": 4, **options}
        self.core = EngineCore(create_backend(**options), log_stats=False)
        self.up = ClientState.hello(ClientConfig())
        self.down = bytearray()
        self.open = True

    def to_core(self, count: int | None = None) -> None:
        """Let bytes arrive at the core, and be obeyed."""
        count = len(self.up) if count is None else count
        data, self.up = bytes(self.up[:count]), self.up[count:]
        if not self.open:
            return
        for kind, message in self.end.feed(data):
            match kind:
                case RequestType.HELLO:
                    self.end.ready(self.core.capabilities, 1)
                case RequestType.ADD_REQUEST:
                    self.core.submit(message)
                case RequestType.ABORT_REQUESTS:
                    self.core.abort_requests(message)
                case RequestType.UTILITY:

                    def reply(value, error, call=message.call_id):
                        if error is None:
                            self.end.result(call, value)
                        else:
                            self.end.failure(call, error)

                    self.core.utility(message.method, message.args, reply)
                case RequestType.SHUTDOWN:
                    self.core.drain()

    def step(self) -> None:
        if self.open and self.core.has_work():
            batch = self.core.step()
            if batch.outputs:
                self.end.outputs(batch)

    def from_core(self, count: int | None = None) -> None:
        """Let the socket take bytes from the core, and the client read them."""
        taken = self.end.pending()[:count] if self.open else b""
        self.end.sent(len(taken))
        self.client.feed(bytes(taken))

    def settle(self) -> None:
        """Everything arrives and is done."""
        self.to_core()
        while self.open and self.core.has_work():
            self.step()
        while self.open and self.end.pending():
            self.from_core()

    def close(self) -> None:
        """The core ends in order."""
        self.end.outputs(self.core.shutdown())
        while self.end.pending():
            self.from_core()
        self.open = False
        self.client.end(EngineClosedError("shut down"))

    def kill(self) -> None:
        """The core's process is gone; what it had sent may have been lost."""
        self.open = False
        self.client.end(EngineDeadError("killed"))

    def read(self) -> list[EngineCoreOutput]:
        outputs: list[EngineCoreOutput] = []
        while self.client.unread:
            outputs += self.client.take().outputs
        return outputs


@pytest.fixture
def pair() -> Pair:
    each = Pair()
    each.settle()
    assert each.client.ready
    return each


COMMANDS = st.one_of(
    st.tuples(st.just("add"), st.sampled_from("abcdef"), st.integers(1, 12)),
    st.tuples(st.just("abort"), st.sets(st.sampled_from("abcdef"))),
    st.tuples(
        st.just("call"),
        st.sampled_from(
            [
                ("sleep", {"level": 1, "mode": "abort"}),
                ("sleep", {"level": 2, "mode": "keep"}),
                ("sleep", {"level": 0, "mode": "wait"}),
                ("pause", {"mode": "keep"}),
                ("pause", {"mode": "wait"}),
                ("wake_up", {}),
                ("resume", {}),
                ("reset_prefix_cache", {"reset_running_requests": True}),
                ("abort_all", {}),
                ("is_sleeping", {}),
            ]
        ),
    ),
    st.tuples(st.just("to_core"), st.integers(0, 200)),
    st.tuples(st.just("from_core"), st.integers(0, 200)),
    st.tuples(st.just("step"), st.integers(1, 3)),
    st.tuples(st.just("read")),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(COMMANDS, max_size=60),
    st.sampled_from(["wake", "close", "drain", "kill"]),
    st.sampled_from([0, 200, 1 << 20]),
)
def test_every_accepted_request_has_exactly_one_last_output(commands, ending, backlog) -> None:
    pair = Pair(backlog)
    pair.settle()
    client, accepted, calls = pair.client, Counter(), []
    got: list[EngineCoreOutput] = []
    for command in commands:
        match command:
            case ("add", name, tokens):
                try:
                    pair.up += client.add(request(name, tokens))
                except InvalidRequest:
                    continue
                accepted[name] += 1
            case ("abort", names):
                pair.up += client.stop(sorted(names))[1]
            case ("call", (method, args)):
                call, data = client.call(method, args)
                pair.up += data
                calls.append(call)
            case ("to_core", count):
                pair.to_core(count)
            case ("from_core", count):
                pair.from_core(count)
            case ("step", count):
                for _ in range(count):
                    pair.step()
            case _:
                got += pair.read()
    match ending:
        case "wake":
            for method in ("wake_up", "resume"):
                pair.up += client.call(method, {})[1]
            pair.settle()
        case "close":
            pair.close()
        case "drain":
            pair.up += ClientState.shutdown("drain", None)
            pair.settle()
            pair.close()
        case _:
            pair.kill()
    got += pair.read()
    ends = Counter(output.request_id for output in got if output.finish_reason is not None)
    assert ends == accepted
    assert client.unfinished == 0
    assert all(client.answered(call) for call in calls)
    # after its end, nothing of a request follows until the id is accepted again
    for name in accepted:
        mine = [output for output in got if output.request_id == name]
        assert mine[-1].finish_reason is not None
    if ending == "wake":
        assert pair.core.get_stats()["unfinished"] == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 120)), max_size=60))
def test_tokens_are_the_same_and_in_order_at_any_readers_speed(speeds) -> None:
    pair = Pair(backlog=100)
    pair.settle()
    alone = EngineCore(create_backend(max_batch_size=3, max_model_len=64, block_size=4))
    for name in "abcd":
        pair.up += pair.client.add(request(name, 20))
        alone.add_request(request(name, 20))
    pair.to_core()
    got: dict[str, list[int]] = {name: [] for name in "abcd"}
    want: dict[str, list[int]] = {name: [] for name in "abcd"}
    for steps, count in speeds:
        for _ in range(steps):
            pair.step()
        pair.from_core(count)
    pair.settle()
    for output in pair.read():
        got[output.request_id] += output.new_token_ids
    while alone.has_work():
        for output in alone.step().outputs:
            want[output.request_id] += output.new_token_ids
    assert got == want
    assert all(len(tokens) == 20 for tokens in got.values())


def test_an_aborted_id_can_be_used_again_at_once_and_gets_no_token_of_the_old_one(pair) -> None:
    pair.up += pair.client.add(request("a", 30))
    pair.to_core()
    pair.step()
    pair.step()  # on its way to us
    assert pair.client.stop(["a", "a", "unknown"])[0] == ["a"]
    pair.up += frame(RequestType.ABORT_REQUESTS, ["a"])
    pair.up += pair.client.add(request("a", 3, prompt=9))
    assert [output.finish_reason for output in pair.read()] == [FinishReason.ABORT]
    pair.settle()
    outputs = pair.read()
    alone = EngineCore(create_backend(max_batch_size=3, max_model_len=64, block_size=4))
    alone.add_request(request("a", 3, prompt=9))
    want = [
        token for _ in range(3) for each in alone.step().outputs for token in each.new_token_ids
    ]
    assert [token for output in outputs for token in output.new_token_ids] == want
    assert [o.finish_reason for o in outputs if o.finish_reason is not None] == [
        FinishReason.LENGTH
    ]


def test_a_client_that_reads_nothing_costs_a_bounded_amount_of_memory() -> None:
    pair = Pair(backlog=10_000, max_model_len=4096, num_blocks=20_000)
    pair.settle()
    for name in "abc":
        pair.up += pair.client.add(request(name, 4000))
    pair.to_core()
    steps = 0
    while pair.core.has_work():
        pair.step()
        steps += 1
        assert len(pair.end._bytes) < 11_000
        assert len(pair.end._unread) <= 1024 + 3
    assert steps >= 4000
    pair.settle()
    outputs = pair.read()
    assert sum(len(output.new_token_ids) for output in outputs) == 12_000
    # thousands of steps, a few outputs
    assert len(outputs) < 1500


def test_a_program_that_fetches_nothing_costs_a_bounded_amount_of_memory(pair) -> None:
    ledger = RequestLedger()
    ledger.admit(request("a"))
    for seq in range(20_000):
        ledger.put(EngineCoreOutputs([EngineCoreOutput("a", [seq])], seq + 1))
        assert len(ledger.unread) <= 1024 + 1
    tokens = []
    while ledger.unread:
        tokens += ledger.take().outputs[0].new_token_ids
    assert tokens == list(range(20_000))


# -- what is refused before it is sent ----------------------------------------------------------


def test_a_taken_id_is_refused_and_the_first_request_goes_on(pair) -> None:
    pair.client.add(request("a"))
    with pytest.raises(ValueError, match="not finished yet"):
        pair.client.add(request("a"))
    assert pair.client.unfinished == 1


def test_prompts_that_cannot_be_run_are_refused_with_both_numbers(pair) -> None:
    with pytest.raises(ContextLengthExceeded) as long:
        pair.client.add(request("a", prompt=64))
    assert (long.value.prompt_tokens, long.value.context_length) == (64, 64)
    with pytest.raises(InvalidRequest, match="is no token"):
        pair.client.add(EngineCoreRequest("a", prompt_token_ids=[1, 99_999]))
    pair.client.capabilities = Capabilities(64, accepts=frozenset({"text"}))
    with pytest.raises(UnsupportedOperation, match="takes prompts as text, not as tokens"):
        pair.client.add(request("a"))
    assert pair.client.unfinished == 0


def test_what_only_the_core_finds_wrong_arrives_as_the_requests_output() -> None:
    pair = Pair()
    pair.settle()
    pair.client.capabilities = None  # the client does not know better
    pair.up += pair.client.add(request("a", prompt=64))
    pair.settle()
    (output,) = pair.read()
    assert output.finish_reason is FinishReason.ERROR
    assert output.error.kind in {"ContextLengthExceeded", "InvalidRequest"}


# -- calls ---------------------------------------------------------------------------------------


def test_a_call_has_its_value_or_its_error(pair) -> None:
    asleep, data = pair.client.call("is_sleeping", {})
    wrong, more = pair.client.call("sleep", {"level": 7})
    unknown, rest = pair.client.call("dance", {})
    pair.up += data + more + rest
    assert not pair.client.answered(asleep)
    pair.settle()
    assert pair.client.answer(asleep) is False
    with pytest.raises(InvalidRequest, match="level must be 0, 1 or 2") as error:
        pair.client.answer(wrong)
    assert error.value.param == "level"
    with pytest.raises(UnsupportedOperation, match="dance"):
        pair.client.answer(unknown)


def test_an_answer_that_cannot_travel_is_the_calls_error(pair) -> None:
    call, _ = pair.client.call("is_sleeping", {})
    pair.end.result(call, object())
    pair.from_core()
    with pytest.raises(TypeError, match="cannot travel"):
        pair.client.answer(call)


def test_every_call_fails_when_the_core_dies(pair) -> None:
    calls = [pair.client.call("is_sleeping", {})[0] for _ in range(3)]
    pair.kill()
    for call in calls:
        assert pair.client.answered(call)
        with pytest.raises(EngineDeadError, match="killed"):
            pair.client.answer(call)
    for again in (
        lambda: pair.client.call("is_sleeping", {}),
        lambda: pair.client.add(request("a")),
        pair.client.take,
    ):
        with pytest.raises(EngineDeadError, match="killed"):
            again()
    assert pair.client.stop(["a"]) == ([], bytearray())
    assert pair.client.state is CoreState.DEAD


def test_outputs_that_were_made_before_an_answer_arrive_before_it() -> None:
    pair = Pair(backlog=0)
    pair.settle()
    pair.up += pair.client.add(request("a", 30))
    pair.to_core()
    pair.step()
    pair.step()
    call, data = pair.client.call("pause", {"mode": "abort"})
    pair.up += data
    pair.to_core()
    pair.step()
    while not pair.client.answered(call):
        pair.from_core(1)
    assert pair.client.unread


# -- the handshake -------------------------------------------------------------------------------


def test_the_core_wants_a_hello_first_and_only_once() -> None:
    with pytest.raises(ProtocolError, match="ABORT_REQUESTS at the wrong time"):
        CoreEnd().feed(bytes(frame(RequestType.ABORT_REQUESTS, ["a"])))
    hello = bytes(ClientState.hello(ClientConfig()))
    with pytest.raises(ProtocolError, match="HELLO at the wrong time"):
        CoreEnd().feed(hello + hello)


def test_another_protocol_version_is_refused_by_both_sides() -> None:
    with pytest.raises(ProtocolError, match=f"speaks protocol {PROTOCOL_VERSION + 1}"):
        CoreEnd().feed(bytes(frame(RequestType.HELLO, Hello(PROTOCOL_VERSION + 1, {}))))
    ready = [PROTOCOL_VERSION + 1, [100], 17]
    with pytest.raises(ProtocolError, match=f"speaks protocol {PROTOCOL_VERSION + 1}"):
        ClientState().feed(bytes(frame(ToClient.READY, ready)))


def test_the_client_adopts_what_the_core_says_it_can_do(pair) -> None:
    assert pair.client.able().max_model_len == 64
    with pytest.raises(ProtocolError, match="not said"):
        ClientState().able()


def test_outputs_before_ready_are_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="at the wrong time"):
        ClientState().feed(bytes(frame(ToClient.OUTPUTS, EngineCoreOutputs())))


def test_a_batch_that_is_too_long_for_a_frame_is_sent_in_several(monkeypatch) -> None:
    monkeypatch.setattr("enginery.enginecore.wire.MAX_FRAME", 300)
    end, client = CoreEnd(backlog=0), ClientState()
    client.ready = True
    for name in "abcdefgh":
        client.admit(request(name))
        end.outputs(EngineCoreOutputs([EngineCoreOutput(name, [10_000] * 30)]))
    while end.pending():
        data = bytes(end.pending())
        client.feed(data)
        end.sent(len(data))
    got = [output.request_id for _ in range(8) if (b := client.take()) for output in b.outputs]
    assert got == list("abcdefgh")
