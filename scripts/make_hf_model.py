"""Makes a tiny real Llama in Hugging Face's format, for tests with vLLM: ``python scripts/make_hf_model.py OUT``.

Knows: what a directory of that format holds (configuration, tokenizer, chat template, safetensors) and writes it with
numpy alone. Does not know: vLLM, or the tests. The tokenizer and the chat template are `tiny_tokenizer`'s, so that this
model and the GGUF ones count alike. Deterministic for one Python version; takes about a second.

The weights are random, but the replies are words that go on: one number of the hidden state is the same for every token
and passes through the layers untouched, so its column of the output weights is a bias, and words have it while the bytes
and special tokens have not.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tiny_tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS, Tokenizer, corpus, train_tokenizer

__all__ = ["CONTEXT_LENGTH", "NAME", "make"]

NAME = "tiny-llama"
CONTEXT_LENGTH = (
    32_768  # long enough for a stream of half a minute, which a test may leave, kill or stop
)
LAYERS, WIDTH, INNER, HEADS, KV_HEADS = (
    2,
    128,
    256,
    4,
    2,
)  # 32 numbers a head: the least that vLLM has on a CPU
SURE = 4.0  # the number that never changes; the others are about 0.3
END, START = "<|im_end|>", "<|endoftext|>"
# How the tokenizer family "qwen2" splits text, as its own file says it (`tiny_tokenizer` has it in Python's words).
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

Array = npt.NDArray[np.float32]


def make(directory: Path) -> Path:
    """Write the model below ``directory``, unless it is there; it appears only when it is whole."""
    path = directory / NAME
    if path.exists():
        return path
    part = directory / f"{NAME}.{os.getpid()}.part"
    part.mkdir(parents=True)
    tokenizer = train_tokenizer(corpus())
    vocabulary = [*tokenizer.tokens, *SPECIAL_TOKENS]
    ids = {token: number for number, token in enumerate(vocabulary)}
    files = {
        "config.json": _config(ids),
        "generation_config.json": {"eos_token_id": ids[END], "pad_token_id": ids[START]},
        "tokenizer.json": _tokenizer(tokenizer, ids),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "eos_token": END,
            "pad_token": START,
            "model_max_length": CONTEXT_LENGTH,
            "chat_template": CHAT_TEMPLATE,
        },
    }
    for name, content in files.items():
        (part / name).write_text(json.dumps(content, indent=1))
    words = [number for number, token in enumerate(tokenizer.tokens) if _is_word(token)]
    _write_safetensors(part / "model.safetensors", _weights(len(vocabulary), words))
    try:
        part.rename(path)
    except OSError:  # somebody else was quicker
        shutil.rmtree(part)
    return path


def _config(ids: Mapping[str, int]) -> dict[str, Any]:
    """Source: transformers, `LlamaConfig`."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "vocab_size": len(ids),
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": CONTEXT_LENGTH,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": ids[START],
        "eos_token_id": ids[END],
        "pad_token_id": ids[START],
    }


def _tokenizer(tokenizer: Tokenizer, ids: Mapping[str, int]) -> dict[str, Any]:
    """Byte-level BPE without a normaliser: every text comes back as it was.

    Source: the format of Hugging Face's `tokenizers`.
    """
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": ids[token], "content": token, "special": "tool_call" not in token, **plain}
            for token in SPECIAL_TOKENS
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [split, {**bytes_, "use_regex": False}],
        },
        "post_processor": None,
        "decoder": {**bytes_, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: ids[token] for token in tokenizer.tokens},
            "merges": [merge.split(" ") for merge in tokenizer.merges],
        },
    }


def _is_word(token: str) -> bool:
    """Several letters, among them more than spaces: of these alone, JSON would get endless ones."""
    return len(token) > 1 and any("!" <= letter <= "~" for letter in token)


def _weights(vocabulary: int, words: list[int]) -> dict[str, Array]:
    """By the names that `LlamaForCausalLM` has."""
    random = np.random.default_rng(1)

    def weight(rows: int, columns: int, scale: float = 0.5) -> Array:
        return random.normal(0, scale / np.sqrt(columns), (rows, columns)).astype(np.float32)

    def same_first(rows: int, columns: int) -> Array:
        """Adds nothing to the number that never changes."""
        values = weight(rows, columns)
        values[0] = 0
        return values

    embeddings = weight(vocabulary, WIDTH, 0.3 * WIDTH**0.5)
    embeddings[:, 0] = SURE
    head = weight(vocabulary, WIDTH, 2.0)
    head[:, 0] = 0
    head[words, 0] = 1
    narrow = KV_HEADS * WIDTH // HEADS
    weights = {"model.embed_tokens.weight": embeddings}
    for number in range(LAYERS):
        layer = f"model.layers.{number}"
        weights |= {
            f"{layer}.input_layernorm.weight": np.ones(WIDTH, np.float32),
            f"{layer}.self_attn.q_proj.weight": weight(WIDTH, WIDTH),
            f"{layer}.self_attn.k_proj.weight": weight(narrow, WIDTH),
            f"{layer}.self_attn.v_proj.weight": weight(narrow, WIDTH),
            f"{layer}.self_attn.o_proj.weight": same_first(WIDTH, WIDTH),
            f"{layer}.post_attention_layernorm.weight": np.ones(WIDTH, np.float32),
            f"{layer}.mlp.gate_proj.weight": weight(INNER, WIDTH),
            f"{layer}.mlp.up_proj.weight": weight(INNER, WIDTH),
            f"{layer}.mlp.down_proj.weight": same_first(WIDTH, INNER),
        }
    return weights | {"model.norm.weight": np.ones(WIDTH, np.float32), "lm_head.weight": head}


def _write_safetensors(path: Path, weights: Mapping[str, Array]) -> None:
    """Length of the header, header, numbers; bfloat16 is the upper half of a float32.

    Source: the safetensors format.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    numbers = []
    end = 0
    for name, values in weights.items():
        begin, end = end, end + 2 * values.size
        header[name] = {
            "dtype": "BF16",
            "shape": list(values.shape),
            "data_offsets": [begin, end],
        }
        numbers.append((values.view(np.uint32) >> 16).astype("<u2").tobytes())
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(numbers))


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=re.split(r"[:.]", __doc__)[0])
    arguments.add_argument("out", type=Path, help="directory for the model; made if missing")
    print(make(arguments.parse_args().out))
