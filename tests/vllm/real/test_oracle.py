"""The record of vLLM's answers is what vLLM answers: the oracle's script, asked of the real one.

``ENGINERY_ORACLE_WRITE=1`` writes the record anew, for a new version of vLLM.
"""

from __future__ import annotations

import json
import os
import urllib.request
from typing import Any

import pytest

from enginery_vllm.serving.key_guard import PROOF, proof_of
from support.gateways import GatewayThread
from support.oracle.record import RECORD, between, recorded, write_record
from support.oracle.runner import Server, answers_of
from support.oracle.scenarios import LIMIT, SCENARIOS
from support.oracle.servers import load_of_vllm
from support.real_vllm import START, vllm_model

STREAMS = 2


@pytest.fixture(scope="module")
def server(tiny_llama, family):
    limits = ("--max-num-queued-reqs", str(STREAMS), "--enable-server-load-tracking")
    model = vllm_model(tiny_llama, family, context_length=LIMIT, parallel=STREAMS)
    model["options"]["extra_args"] = limits
    model["options"]["sleep"] = "pause"  # the routes that command it
    with GatewayThread({"tiny": model}, load_stall=START) as house:
        body = json.dumps({"model": "tiny", "prompt": "a", "max_tokens": 1}).encode()
        headers = {"Content-Type": "application/json"}
        ask = urllib.request.Request(f"{house.url}/v1/completions", body, headers)
        urllib.request.urlopen(ask, timeout=START).close()  # it starts

        async def endpoint() -> Any:
            client: Any = await house.gateway.manager.ensure_engine("tiny")
            return client.endpoint

        at = house.call(endpoint())
        key = {"Authorization": f"Bearer {at.api_key}"}
        proof = f"{PROOF}={proof_of(at.api_key)}"
        yield Server(f"{at.host}:{at.port}", load_of_vllm, key, proof, fill=(STREAMS, 0))


def test_the_record_is_what_vllm_answers(server) -> None:
    import vllm

    answers = {scenario.name: answers_of(server, scenario) for scenario in SCENARIOS}
    if os.environ.get("ENGINERY_ORACLE_WRITE"):
        write_record(vllm.__version__, answers, RECORD)
    assert between(recorded(), answers) == set()
