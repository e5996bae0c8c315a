"""Makes tiny real GGUF models with random weights, for tests: ``python scripts/make_models.py OUT``.

Knows: GGUF, a vocabulary of words, and what llama.cpp wants of a model. Does not know: the tests, or anything to
download; the other tokenizer is `tiny_tokenizer`'s. Deterministic for one Python version. Needs numpy and gguf, takes about a second.

A model is one function that takes a path and the tokenizer, named in `MODELS`.
"""

from __future__ import annotations

import argparse
import collections
import os
import re
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from tiny_tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS, Tokenizer, corpus, train_tokenizer

__all__ = ["MODELS", "make"]

CONTEXT_LENGTH = 32_768
BERT_CONTEXT_LENGTH = 512
WORDS = 1000

BERT_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_USER_DEFINED = frozenset({"<tool_call>", "</tool_call>"})  # printed in replies, unlike the others

# -- the models --------------------------------------------------------------------------------


def _chat(path: Path, tokenizer: Tokenizer) -> None:
    """A llama that chats, calls tools and fills gaps; it rarely ends a reply by itself."""
    _write_llama(path, tokenizer)


def _chat_bos(path: Path, tokenizer: Tokenizer) -> None:
    """The same with a token that begins every prompt, which is where counts go wrong by one."""
    _write_llama(path, tokenizer, begin=True)


def _no_template(path: Path, tokenizer: Tokenizer) -> None:
    """The same without a chat template: llama.cpp then takes ChatML and says so only in its log."""
    _write_llama(path, tokenizer, template=None)


def _embed(path: Path, tokenizer: Tokenizer) -> None:  # noqa: ARG001  # it has words of its own
    """A BERT whose mean over the tokens is the embedding; it cannot chat."""
    _write_bert(path, gguf.PoolingType.MEAN)


def _rerank(path: Path, tokenizer: Tokenizer) -> None:  # noqa: ARG001  # it has words of its own
    """A BERT with a head that scores a question and a document."""
    _write_bert(path, gguf.PoolingType.RANK)


def _write_llama(
    path: Path, tokenizer: Tokenizer, *, begin: bool = False, template: str | None = CHAT_TEMPLATE
) -> None:
    layers, width, inner, heads, kv_heads = 2, 64, 128, 4, 2
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.name.partition(".")[0])
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_F16))
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    vocabulary = _write_tokenizer(writer, tokenizer, begin=begin)
    if template is not None:
        writer.add_chat_template("{{- bos_token }}" + template if begin else template)

    random = np.random.default_rng(1)
    narrow = kv_heads * width // heads

    def weight(name: str, rows: int, columns: int) -> None:
        values = random.normal(0, 0.5 / np.sqrt(columns), (rows, columns))
        writer.add_tensor(f"{name}.weight", values.astype(np.float16))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))

    weight("token_embd", vocabulary, width)
    for layer in range(layers):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm")
        weight(f"{block}.attn_q", width, width)
        weight(f"{block}.attn_k", narrow, width)
        weight(f"{block}.attn_v", narrow, width)
        weight(f"{block}.attn_output", width, width)
        norm(f"{block}.ffn_norm")
        weight(f"{block}.ffn_gate", inner, width)
        weight(f"{block}.ffn_up", inner, width)
        weight(f"{block}.ffn_down", width, inner)
    norm("output_norm")
    weight("output", vocabulary, width)
    _finish(writer)


def _write_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer, *, begin: bool) -> int:
    """Vocabulary and special tokens; returns the vocabulary's size."""
    tokens = [*tokenizer.tokens, *SPECIAL_TOKENS]
    ids = {token: index for index, token in enumerate(tokens)}
    types = [int(gguf.TokenType.NORMAL)] * len(tokenizer.tokens)
    types += [
        int(gguf.TokenType.USER_DEFINED if token in _USER_DEFINED else gguf.TokenType.CONTROL)
        for token in SPECIAL_TOKENS
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(list(tokenizer.merges))
    writer.add_vocab_size(len(tokens))
    writer.add_bos_token_id(ids["<|endoftext|>"])
    writer.add_pad_token_id(ids["<|endoftext|>"])
    writer.add_eos_token_id(ids["<|im_end|>"])
    writer.add_eot_token_id(ids["<|im_end|>"])
    writer.add_add_bos_token(begin)
    for short, token in (("pre", "prefix"), ("suf", "suffix"), ("mid", "middle")):
        writer.add_uint32(f"tokenizer.ggml.fim_{short}_token_id", ids[f"<|fim_{token}|>"])
    return len(tokens)


def _write_bert(path: Path, pooling: gguf.PoolingType) -> None:
    layers, width, inner, heads = 2, 64, 128, 4
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name(path.name.partition(".")[0])
    writer.add_file_type(int(gguf.LlamaFileType.ALL_F32))
    writer.add_context_length(BERT_CONTEXT_LENGTH)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    vocabulary = _write_word_pieces(writer)

    random = np.random.default_rng(2)

    def weight(name: str, rows: int, columns: int) -> None:
        values = random.normal(0, 1 / np.sqrt(columns), (rows, columns))
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))

    def layer_of(name: str, rows: int, columns: int) -> None:
        weight(name, rows, columns)
        writer.add_tensor(f"{name}.bias", np.zeros(rows, np.float32))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(width, np.float32))

    weight("token_embd", vocabulary, width)
    weight("position_embd", BERT_CONTEXT_LENGTH, width)
    weight("token_types", 2, width)
    norm("token_embd_norm")
    for layer in range(layers):
        block = f"blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            layer_of(f"{block}.{name}", width, width)
        norm(f"{block}.attn_output_norm")
        layer_of(f"{block}.ffn_up", inner, width)
        layer_of(f"{block}.ffn_down", width, inner)
        norm(f"{block}.layer_output_norm")
    if pooling == gguf.PoolingType.RANK:
        layer_of("cls", width, width)
        layer_of("cls.output", 1, width)
    _finish(writer)


def _write_word_pieces(writer: gguf.GGUFWriter) -> int:
    """A WordPiece vocabulary: letters, and the corpus's most frequent words as whole ones."""
    counts = collections.Counter(re.findall(r"[a-z]{2,}", corpus().lower()))
    words = [word for word, _ in counts.most_common(WORDS)]
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    whole = ["\u2581" + piece for piece in (*letters, *words)]  # as GGUF marks a word's beginning
    tokens = list(dict.fromkeys([*BERT_SPECIAL_TOKENS, *whole, *letters]))
    types = [gguf.TokenType.CONTROL] * len(BERT_SPECIAL_TOKENS)
    types += [gguf.TokenType.NORMAL] * (len(tokens) - len(types))
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([int(kind) for kind in types])
    writer.add_token_type_count(2)
    writer.add_vocab_size(len(tokens))
    for role, number in (("pad", 0), ("unk", 1), ("bos", 2), ("eos", 3), ("sep", 3), ("mask", 4)):
        getattr(writer, f"add_{role}_token_id")(number)
    return len(tokens)


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


MODELS: dict[str, Callable[[Path, Tokenizer], None]] = {
    "tiny-chat": _chat,
    "tiny-chat-bos": _chat_bos,
    "tiny-no-template": _no_template,
    "tiny-embed": _embed,
    "tiny-rerank": _rerank,
}
"""The models by file name, without ``.gguf``."""


def make(directory: Path) -> list[Path]:
    """Write every model that ``directory`` lacks; a file appears only when it is whole."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{name}.gguf" for name in MODELS]
    if all(path.exists() for path in paths):
        return paths
    tokenizer = train_tokenizer(corpus())
    for path in paths:
        if not path.exists():
            part = path.with_suffix(f".{os.getpid()}.part")  # two test workers may be here
            MODELS[path.stem](part, tokenizer)
            part.replace(path)
    return paths


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("out", type=Path, help="directory for the models; made if missing")
    for made in make(arguments.parse_args().out):
        print(f"{made} ({made.stat().st_size / 1e6:.2f} MB)")
