"""A small byte-level BPE and the chat template of the tiny models, GGUF (`make_models`) and Hugging Face's (`make_hf_model`).

Knows: how such a tokenizer is trained, and a text for it that every Python has (`pydoc_data`). Does not know: file
formats, or anything to download. Deterministic for one Python version; takes about a second.
"""

from __future__ import annotations

import collections
import re
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["CHAT_TEMPLATE", "SPECIAL_TOKENS", "Tokenizer", "corpus", "train_tokenizer"]

MERGES = 1500
CORPUS_BYTES = 200_000  # enough for words of English; half of the time of the whole text

CHAT_TEMPLATE = """\
{%- if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}
{% endif %}# Tools
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools>
For each function call return a JSON object within <tool_call></tool_call> tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}
{%- if not (tools and loop.first and message.role == 'system') %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'tool' %}{{ '<tool_response>' + message.content + '</tool_response>' }}
{%- elif message.content %}{{ message.content }}{% endif %}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- (call.function.arguments | tojson) + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
)
# How the tokenizer family "qwen2" splits text before it merges.
_SPLIT = re.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\w]?[^\W\d_]+|\d| ?[^\s\w]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+|_"
)


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A byte-level BPE vocabulary, without its special tokens."""

    tokens: tuple[str, ...]
    merges: tuple[str, ...]


def train_tokenizer(text: str, merges: int = MERGES) -> Tokenizer:
    """Byte-pair encoding: join the most frequent pair, again and again.

    Source: Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword
    Units" (2016); bytes as printable letters as in GPT-2.
    """
    letters = _byte_letters()
    counts = collections.Counter(_SPLIT.findall(text))
    words = [([letters[byte] for byte in word.encode()], count) for word, count in counts.items()]
    pairs: collections.Counter[tuple[str, str]] = collections.Counter()
    holders: dict[tuple[str, str], set[int]] = collections.defaultdict(set)
    for index, (symbols, count) in enumerate(words):
        for pair in pairwise(symbols):
            pairs[pair] += count
            holders[pair].add(index)
    learned = []
    for _ in range(merges):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        learned.append(best)
        for index in sorted(holders.pop(best)):
            symbols, count = words[index]
            for pair in pairwise(symbols):
                pairs[pair] -= count
                holders[pair].discard(index)
            symbols[:] = _joined(symbols, best)
            for pair in pairwise(symbols):
                pairs[pair] += count
                holders[pair].add(index)
        del pairs[best]
    tokens = dict.fromkeys([letters[byte] for byte in range(256)])
    tokens |= dict.fromkeys(left + right for left, right in learned)
    return Tokenizer(tuple(tokens), tuple(f"{left} {right}" for left, right in learned))


def _byte_letters() -> dict[int, str]:
    """A printable letter for each byte: itself where it is one, else one from 256 upwards."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return {byte: chr(byte) if byte in printable else chr(next(others)) for byte in range(256)}


def _joined(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for symbol in symbols:
        # A symbol that was joined just now is longer than the pair's left half: it cannot match.
        if joined and joined[-1] == pair[0] and symbol == pair[1]:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return joined


def corpus() -> str:
    """English with code in it: what Python's own documentation says, cut off."""
    from pydoc_data.topics import topics

    return "\n".join(topics.values())[:CORPUS_BYTES]
