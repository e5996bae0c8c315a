"""``scripts/make_hf_model.py``: a model in Hugging Face's format, the same every time."""

from __future__ import annotations

import json
import struct

import make_hf_model
import numpy as np
import pytest


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_hf_model.make(tmp_path_factory.mktemp("models"))


def weights(path):
    """Names, shapes and numbers, as the safetensors format has them."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    del header["__metadata__"]
    found = {}
    end = 0
    for name, said in header.items():
        begin, end = said["data_offsets"]
        halves = np.frombuffer(data[8 + length + begin : 8 + length + end], "<u2")
        found[name] = (halves.astype(np.uint32) << 16).view(np.float32).reshape(said["shape"])
    assert 8 + length + end == len(data)
    assert length % 8 == 0
    return found


def test_the_model_is_the_same_every_time(model, tmp_path) -> None:
    again = make_hf_model.make(tmp_path)
    assert {path.name for path in again.iterdir()} == {path.name for path in model.iterdir()}
    for path in again.iterdir():
        assert path.read_bytes() == (model / path.name).read_bytes()
    assert list(tmp_path.iterdir()) == [again]  # nothing half-made is left


def test_what_is_there_is_not_made_again(tmp_path) -> None:
    (tmp_path / make_hf_model.NAME).mkdir()
    assert list(make_hf_model.make(tmp_path).iterdir()) == []


def test_configuration_tokenizer_and_weights_fit_each_other(model) -> None:
    config = json.loads((model / "config.json").read_text())
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    ids = tokenizer["model"]["vocab"] | {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    assert sorted(ids.values()) == list(range(config["vocab_size"]))
    assert config["eos_token_id"] == ids["<|im_end|>"]
    numbers = weights(model / "model.safetensors")
    assert len(numbers) == 3 + 9 * config["num_hidden_layers"]
    rows, columns = config["vocab_size"], config["hidden_size"]
    assert numbers["lm_head.weight"].shape == (rows, columns)
    assert numbers["model.embed_tokens.weight"].shape == (rows, columns)
    assert numbers["model.layers.1.mlp.down_proj.weight"].shape == (
        columns,
        config["intermediate_size"],
    )


def test_words_are_preferred_to_bytes_to_spaces_and_to_the_end(model) -> None:
    head = weights(model / "model.safetensors")["lm_head.weight"]
    ids = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    words = {token for token, number in ids.items() if head[number, 0] == 1}
    assert {"and", "Ġobject"} < words
    assert len(words) > 1000
    assert not {token for token in words if len(token) == 1 or not token.strip("ĠĊ")}
    assert not head[len(ids) :, 0].any()
