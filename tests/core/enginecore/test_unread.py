from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from enginery.enginecore import CoreState, EngineCoreOutput, EngineCoreOutputs, FinishReason
from enginery.enginecore.unread import Unread, fold


def batch(seq: int, *outputs: EngineCoreOutput) -> EngineCoreOutputs:
    return EngineCoreOutputs(list(outputs), seq, float(seq), CoreState.RUNNING)


def joined(batches: list[EngineCoreOutputs]) -> dict[str, tuple[list[int], str, int]]:
    """Tokens, text and number of ends of each id."""
    said: dict[str, tuple[list[int], str, int]] = {}
    for each in batches:
        for output in each.outputs:
            tokens, text, ends = said.get(output.request_id, ([], "", 0))
            said[output.request_id] = (
                tokens + output.new_token_ids,
                text + output.text,
                ends + (output.finish_reason is not None),
            )
    return said


@st.composite
def conversations(draw) -> list[EngineCoreOutputs]:
    """Steps of a few requests; an id may be used again after its end."""
    steps = []
    for seq in range(1, draw(st.integers(1, 40)) + 1):
        outputs = []
        for name in sorted(draw(st.sets(st.sampled_from("abcd")))):
            ended = draw(st.booleans()) and draw(st.booleans())
            tokens = draw(st.lists(st.integers(0, 99), max_size=3))
            reason = FinishReason.STOP if ended else None
            text = "".join(chr(97 + token % 26) for token in tokens)
            outputs.append(EngineCoreOutput(name, tokens, text, reason, num_output_tokens=seq))
        steps.append(batch(seq, *outputs))
    return steps


@given(conversations())
def test_folding_says_what_the_batches_said(steps) -> None:
    folded = fold(steps)
    assert joined([folded]) == joined(steps)
    assert (folded.seq, folded.timestamp) == (steps[-1].seq, steps[-1].timestamp)
    # one output for each life of an id
    lives: dict[str, list[bool]] = {}
    for output in folded.outputs:
        lives.setdefault(output.request_id, []).append(output.finish_reason is not None)
    assert all(all(ends[:-1]) for ends in lives.values())


@given(conversations(), st.integers(1, 30), st.lists(st.booleans(), max_size=60))
def test_nothing_is_lost_or_reordered_at_any_readers_speed(steps, room, reads) -> None:
    unread, got = Unread(room), []
    reading = iter(reads)
    ends = sum(each.finish_reason is not None for step in steps for each in step.outputs)
    for step in steps:
        unread.add(step, sum(each.finish_reason is not None for each in step.outputs))
        if next(reading, False) and (taken := unread.take()) is not None:
            got.append(taken)
    assert unread.ended + sum(o.finish_reason is not None for b in got for o in b.outputs) == ends
    while (taken := unread.take()) is not None:
        got.append(taken)
    assert joined(got) == joined(steps)
    assert (len(unread), unread.ended, bool(unread)) == (0, 0, False)


def test_a_reader_that_keeps_up_gets_every_batch_as_it_was() -> None:
    unread = Unread(10)
    for seq in range(1, 4):
        unread.add(batch(seq, EngineCoreOutput("a", [seq])))
    assert [unread.take().seq for _ in range(3)] == [1, 2, 3]
    assert unread.take() is None


def test_what_nobody_reads_is_one_output_for_each_request() -> None:
    unread = Unread(room=64)
    for seq in range(10_000):
        unread.add(batch(seq, *(EngineCoreOutput(f"r{n}", [seq]) for n in range(8))))
        assert len(unread) <= 64 + 8
    whole = unread.take_all()
    assert len(whole.outputs) == 8
    assert all(output.new_token_ids == list(range(10_000)) for output in whole.outputs)


def test_folding_leaves_the_outputs_of_others_alone() -> None:
    mine = EngineCoreOutput("a", [1])
    fold([batch(1, mine), batch(2, EngineCoreOutput("a", [2]))])
    assert mine.new_token_ids == [1]


def test_what_is_known_at_the_end_is_kept() -> None:
    first = EngineCoreOutput("a", [1], "x", logprobs=[-0.5])
    last = EngineCoreOutput("a", [2], "y", FinishReason.STOP, "y", None, [-0.25], 7, 2, 3)
    (output,) = fold([batch(1, first), batch(2, last)]).outputs
    assert output == EngineCoreOutput(
        "a", [1, 2], "xy", FinishReason.STOP, "y", None, [-0.5, -0.25], 7, 2, 3
    )
    assert fold([EngineCoreOutputs(stats={"steps": 1.0}), batch(2)]).stats == {"steps": 1.0}
