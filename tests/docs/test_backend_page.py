"""docs/write-a-backend.md: its commands write what they say, and its worked example runs on a tiny model.

The example needs torch and transformers, a gigabyte of them: an environment of its own, by the heavy tests; where pip
cannot install them, it is not run and says so.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "write-a-backend.md"
FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)

MAKE_MODEL = """
import sys
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
import torch

torch.manual_seed(0)
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
vocabulary = {token: number for number, token in enumerate([*alphabet, "</s>"])}
tokenizer = Tokenizer(models.BPE(vocabulary, []))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(sys.argv[1])
config = LlamaConfig(
    vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=2, max_position_embeddings=256,
)
LlamaForCausalLM(config).save_pretrained(sys.argv[1])
"""

USE = """
import asyncio, json, sys
import openai
from enginery import EngineManager, Settings
from enginery.gateway import Gateway

variant = {"engine": "transformers", "parallel": 2, "options": {"model": sys.argv[1]}}
asked = {"model": "tiny", "prompt": "abc", "temperature": 0, "extra_body": {"return_token_ids": True, "ignore_eos": True}}

async def main():
    settings = Settings(models={"tiny": variant})
    async with EngineManager(settings) as manager, Gateway(manager, port=0) as gateway:
        async with openai.AsyncOpenAI(base_url=gateway.base_url + "/v1", api_key="x", timeout=120) as client:
            ask = client.completions.create
            whole = await ask(max_tokens=12, **asked)
            ids, frames = [], 0
            async for chunk in await ask(max_tokens=12, stream=True, **asked):
                found = getattr(chunk.choices[0], "token_ids", None) or []
                ids, frames = ids + found, frames + bool(found)
            long = await ask(max_tokens=200, stream=True, **asked)
            await anext(aiter(long))
            await long.close()
            after = await ask(max_tokens=4, **asked)
            print(json.dumps({
                "ids": ids, "frames": frames, "whole": whole.choices[0].token_ids,
                "finish": whole.choices[0].finish_reason, "prompt": whole.usage.prompt_tokens,
                "after": after.choices[0].token_ids,
            }))

asyncio.run(main())
"""


def run(*command: object, timeout: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def test_the_command_of_the_page_writes_a_small_package(command_line, tmp_path) -> None:
    for flags in ("--backend",), ():
        folder = tmp_path / f"made{len(flags)}"
        words = ("plugin", "new", "words", "--directory", str(folder))
        made = command_line(*words, *flags)
        assert made.code == 0, made.err
        sources = list(folder.rglob("*.py"))
        assert 0 < sum(len(file.read_text().splitlines()) for file in sources) <= 45
        again = command_line(*words)
        assert (again.code, "not empty" in again.err) == (1, True)


@pytest.mark.parametrize("name", ["Upper", "a b", "-x", "a..b", "", "1a"])
def test_a_name_that_is_no_engine_type_is_wrong_usage(name, command_line, tmp_path) -> None:
    made = command_line("plugin", "new", "--directory", str(tmp_path / "x"), "--", name)
    assert made.code == 2
    assert not (tmp_path / "x").exists()


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_the_worked_example_streams_ids_and_stops_for_a_client_that_leaves(tmp_path) -> None:
    python = tmp_path / "env" / "bin" / "python"
    assert run(sys.executable, "-m", "venv", tmp_path / "env").returncode == 0
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    try:
        wheels = run(
            *pip, "torch==2.13.0", "transformers", "openai", "hatchling", "editables", timeout=420
        )
        wrong = wheels.stderr if wheels.returncode else ""
    except subprocess.TimeoutExpired:
        wrong = "pip took more than seven minutes"
    if wrong:
        print(f"NOT RUN: torch and transformers cannot be installed here: {wrong[-400:]}")
        pytest.skip("NOT RUN: torch and transformers cannot be installed here")
    source = tmp_path / "source"
    for name, text in FILE.findall(PAGE.read_text()):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    ours = run(*pip, "--constraint", ROOT / "constraints.txt", ROOT / "core", source)
    assert ours.returncode == 0, ours.stderr
    made = run(python, "-c", MAKE_MODEL, tmp_path / "model")
    assert made.returncode == 0, made.stderr
    used = run(python, "-c", USE, tmp_path / "model", HF_HUB_OFFLINE="1")
    assert used.returncode == 0, used.stderr
    told = json.loads(used.stdout)
    assert told["ids"] == told["whole"]
    assert len(told["ids"]) == 12
    assert told["frames"] > 1
    assert (told["finish"], told["prompt"]) == ("length", 3)
    assert told["after"] == told["whole"][:4]
