"""A small scheduler, and an executor's part played by hand."""

from __future__ import annotations

from enginery.enginecore import (
    EngineCoreRequest,
    KVLedger,
    ModelRunnerOutput,
    SamplingParams,
    SimpleScheduler,
)


def scheduler(blocks=64, size=4, **options) -> SimpleScheduler:
    options = {"max_num_seqs": 4, "max_num_batched_tokens": 16, "max_model_len": 64, **options}
    return SimpleScheduler(KVLedger(blocks, size), **options)


def add(it, name, tokens=(1, 2, 3), *, now=1.0, priority=0, eos=None, **params):
    it.add_request(
        EngineCoreRequest(
            name, list(tokens), sampling_params=SamplingParams(**params), priority=priority
        ),
        now,
        eos,
    )


def compute(it, work, token=7, many=1):
    """What an executor would answer: the same token for everybody whose prompt is complete."""
    sampled = [
        [token] * many if request.num_computed_tokens + count >= request.num_tokens else []
        for request, count in zip(work.scheduled_requests, work.num_scheduled_tokens, strict=True)
    ]
    return it.update_from_output(work, ModelRunnerOutput(sampled))


def step(it, token=7, many=1):
    return compute(it, it.schedule(), token, many)


def plan(work) -> dict[str, int]:
    names = [request.request_id for request in work.scheduled_requests]
    return dict(zip(names, work.num_scheduled_tokens, strict=True))


def run(it, most=1000) -> dict[str, list[int]]:
    replies: dict[str, list[int]] = {}
    for _ in range(most):
        if not it.has_requests():
            return replies
        for output in step(it):
            replies.setdefault(output.request_id, []).extend(output.new_token_ids)
    raise AssertionError("it does not come to an end")
