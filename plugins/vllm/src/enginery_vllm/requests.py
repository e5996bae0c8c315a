"""What a request must become before vLLM gets it.

Knows: the fields that vLLM has, and what other servers and older versions of it call the same thing. Does not know: who
logs. Pure: a request in, a new body or None out; None is the usual case and lets the client's own bytes pass.

vLLM takes any field and says nothing of those that it does not know (only its debug log does), so a request with
``guided_json`` is answered without any constraint. What has the same meaning under another name is translated. What has
none is left where it is, for somebody to be told.

Both names with one value are one wish; with two values the request contradicts itself and is refused.

Source of the fields: the ``Request`` classes in ``vllm/entrypoints/{openai,anthropic,pooling}/**/protocol.py`` of 0.32.0;
held against the installed vLLM by ``tests/vllm/real``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from enginery import EngineRequest, InvalidRequest

__all__ = [
    "CHAT",
    "COMPLETIONS",
    "COUNT",
    "EMBEDDINGS",
    "INSTEAD",
    "KNOWN_FIELDS",
    "MESSAGES",
    "RERANK",
    "RESPONSES",
    "SCORE",
    "Adapted",
    "adapt",
]

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
EMBEDDINGS = "/v1/embeddings"
RERANK = "/v1/rerank"
SCORE = "/v1/score"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_EVERYWHERE = _names("model cache_salt priority request_id mm_processor_kwargs user")
_SAMPLING = _names(
    "temperature top_p top_k min_p seed stop stop_token_ids presence_penalty frequency_penalty repetition_penalty "
    "logit_bias ignore_eos include_stop_str_in_output skip_special_tokens watermarking stream session_id "
    "structured_outputs kv_transfer_params ec_transfer_params vllm_xargs mm_payload return_mm_kwargs"
)
_GENERATION = (
    _EVERYWHERE
    | _SAMPLING
    | _names(
        "n max_tokens min_tokens logprobs prompt_logprobs logprob_token_ids echo stream_options response_format "
        "use_beam_search length_penalty spaces_between_special_tokens truncate_prompt_tokens truncation_side "
        "allowed_token_ids bad_words add_special_tokens thinking_token_budget repetition_detection return_token_ids "
        "return_token_offsets return_tokens_as_token_ids routed_experts_prompt_start"
    )
)
_TEMPLATE = _names(
    "messages chat_template chat_template_kwargs add_generation_prompt continue_final_message media_io_kwargs"
)
_POOLING = _EVERYWHERE | _names(
    "truncate_prompt_tokens truncation_side padding use_activation add_special_tokens"
)
_PAIRS = (_POOLING - {"add_special_tokens"}) | _names(
    "instruction chat_template_kwargs max_tokens_per_doc max_tokens_per_query documents"
)

KNOWN_FIELDS: Mapping[str, frozenset[str]] = {
    CHAT: _GENERATION
    | _TEMPLATE
    | _names(
        "top_logprobs max_completion_tokens tools tool_choice parallel_tool_calls reasoning_effort include_reasoning "
        "documents return_prompt_text stream_interval"
    ),
    COMPLETIONS: (_GENERATION - {"mm_processor_kwargs"})
    | _names("prompt prompt_embeds suffix stream_interval"),
    RESPONSES: _EVERYWHERE
    | _SAMPLING
    | _names(
        "background chat_template_kwargs enable_response_messages include include_reasoning input instructions "
        "max_output_tokens max_tool_calls media_io_kwargs metadata parallel_tool_calls previous_input_messages "
        "previous_response_id prompt prompt_cache_key reasoning service_tier store text tool_choice tools top_logprobs "
        "truncation"
    ),
    MESSAGES: _names(
        "model messages max_tokens system temperature top_p top_k stop_sequences stream tools tool_choice thinking "
        "metadata output_config chat_template_kwargs cache_salt kv_transfer_params ec_transfer_params vllm_xargs "
        "mm_payload return_mm_kwargs watermarking"
    ),
    COUNT: _names(
        "model messages system tools tool_choice thinking output_config chat_template_kwargs"
    ),
    EMBEDDINGS: _POOLING
    | _TEMPLATE
    | _names("input dimensions encoding_format embed_dtype endianness"),
    RERANK: _PAIRS | _names("query top_n"),
    SCORE: _PAIRS | _names("data_1 data_2 text_1 text_2 queries items"),
}
"""Fields by route that vLLM reads. Routes that are not here are never warned about."""

INSTEAD: Mapping[str, str] = {
    "functions": "tools",
    "function_call": "tool_choice",
    "best_of": "n",
    "mirostat": "temperature and top_p",
    "typical_p": "top_p or min_p",
    "guided_decoding_backend": "the flag --structured-outputs-config",
}
"""What a warning may recommend. ``functions`` are not translated: their reply has another shape."""

_ALIASES = {
    "n_predict": ("max_tokens", "max_completion_tokens"),
    "repeat_penalty": ("repetition_penalty",),
}
"""llama.cpp's names. Its penalty looks at the last 64 tokens, vLLM's at all: near enough to be meant."""

_NO_LIMIT = (-1, -2)
"""llama.cpp's words. A tuple, as below: what a client sends may be unhashable."""

_CONSTRAINTS = {
    "json_schema": "json",  # llama.cpp's
    "grammar": "grammar",
    "guided_json": "json",  # vLLM's own, until 0.11
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}
_WHITESPACE = "guided_whitespace_pattern"
_FOREIGN = frozenset({*_ALIASES, *_CONSTRAINTS, _WHITESPACE})
_TRANSLATED_AT = frozenset({CHAT, COMPLETIONS})


class Adapted(NamedTuple):
    """``body`` is None when nothing had to change; ``ignored`` are the fields that vLLM will not read."""

    body: dict[str, Any] | None
    ignored: tuple[str, ...]


def adapt(request: EngineRequest) -> Adapted:
    """The body for vLLM, without changing ``request.body``.

    Raises:
        InvalidRequest: one wish under two names, with different values.
    """
    body = request.body
    known = KNOWN_FIELDS.get(request.path)
    if known is None or known.issuperset(body):
        return Adapted(None, ())
    strange = {name for name in body.keys() - known if body[name] is not None}
    foreign = strange & _FOREIGN if request.path in _TRANSLATED_AT else set[str]()
    ignored = tuple(sorted(strange - foreign))
    if not foreign:
        return Adapted(None, ignored)
    kept = {name: value for name, value in body.items() if name not in foreign}
    for name in _ALIASES:
        if name in foreign:
            _rename(kept, name, body[name])
    constraint = _constraint(body, foreign)
    if constraint is not None:
        kept["structured_outputs"] = constraint
    return Adapted(kept, ignored)


def _rename(kept: dict[str, Any], name: str, value: Any) -> None:
    own = _ALIASES[name]
    if name == "n_predict" and value in _NO_LIMIT:
        return
    for other in own:
        if kept.get(other) is not None:
            if kept[other] != value:
                raise InvalidRequest(
                    f"{name} is {value!r}, but {other}, which means the same, is {kept[other]!r}",
                    param=name,
                )
            return
    kept[own[0]] = value


def _constraint(body: Mapping[str, Any], foreign: set[str]) -> dict[str, Any] | None:
    """``structured_outputs`` for the one constraint under another name; None where there is none."""
    wanted = {
        name: body[name] for name in _CONSTRAINTS if name in foreign and body[name] not in ("", {})
    }
    if not wanted:
        return None
    made = {_CONSTRAINTS[name]: value for name, value in wanted.items()}
    first = next(iter(wanted))
    if len(made) > 1 or any(made[_CONSTRAINTS[name]] != value for name, value in wanted.items()):
        raise InvalidRequest(
            f"{' and '.join(wanted)} constrain the reply in different ways", param=first
        )
    own = body.get("structured_outputs")
    if isinstance(own, dict) and {k: v for k, v in own.items() if v is not None} == made:
        own = None
    form = body.get("response_format")
    formatted = isinstance(form, dict) and form.get("type") not in (None, "text")
    if own is not None or formatted:
        other = "response_format" if own is None else "structured_outputs"
        raise InvalidRequest(f"{first} and {other} both constrain the reply", param=first)
    if body.get(_WHITESPACE) is not None:
        made["whitespace_pattern"] = body[_WHITESPACE]
    return made
