"""Prompts through vLLM's own renderer: text, token ids and chats into what its engine takes, and tokens for ``/tokenize``.

Knows: the renderer's calls, and which of its refusals mean that a prompt is too long. Does not know: sampling, or what
becomes of a request. The renderer belongs to the model: it has its tokenizer, its chat template and its exceptions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from enginery import ContextLengthExceeded, InvalidRequest
from enginery.enginecore import EngineCoreRequest
from enginery.enginecore.tokenizing import token_argument

__all__ = ["Prompts", "refusals_translated"]

_TOO_LONG = frozenset({"input_tokens", "input_text"})
"""The parameters that vLLM names when it refuses a prompt's length."""


@contextmanager
def refusals_translated(param: str | None = None) -> Iterator[None]:
    """What vLLM refuses becomes `InvalidRequest`; ``param`` is for refusals that name no parameter.

    vLLM's errors of a request are no ValueErrors, but its tokenizers and templates raise these, too.
    """
    from vllm.exceptions import VLLMClientError

    try:
        yield
    except (VLLMClientError, ValueError, TypeError) as error:
        if isinstance(error, InvalidRequest):
            raise
        said = error.args[0] if error.args else error  # str() adds parameter and value once more
        named = getattr(error, "parameter", None)
        raise InvalidRequest(f"vLLM: {said}", param=named or param) from error


class Prompts:
    """The prompts of one model.

    Args:
        renderer: vLLM's.
        max_model_len: tokens of prompt and reply together.
    """

    def __init__(self, renderer: Any, max_model_len: int) -> None:
        from vllm.renderers import ChatParams

        self._renderer = renderer
        self._limit = max_model_len
        self._chat = ChatParams(
            chat_template_kwargs={
                "add_generation_prompt": True,
                "continue_final_message": False,
                "tools": None,
                "tokenize": _tokenizes_chats(renderer),
            }
        )

    def of(self, request: EngineCoreRequest) -> Any:
        """What vLLM's engine takes as a prompt.

        Raises:
            ContextLengthExceeded: there is no room for a reply; with the number of tokens.
            InvalidRequest: the tokenizer or the chat template refuses it.
        """
        form = request.form
        if request.prompt_token_ids is not None:
            self._check_length(len(request.prompt_token_ids), form)
            with refusals_translated():
                self._renderer.validate_token_ids(
                    request.prompt_token_ids, parameter="prompt_token_ids"
                )
        salt = request.cache_salt
        extras = None if salt is None else {"cache_salt": salt}
        try:
            with refusals_translated(form):
                made = self._rendered(request, extras)
        except InvalidRequest as error:
            if error.param not in _TOO_LONG:
                raise
            raise self._too_long(self._counted(request), form) from error
        ids = made.get("prompt_token_ids")
        if ids is not None:
            if not ids:
                raise InvalidRequest(f"{form}: has no tokens", param=form)
            self._check_length(len(ids), form)
        return made

    def call(self, method: str, args: Mapping[str, Any]) -> list[int] | str:
        """``tokenize`` and ``detokenize``, as vLLM's server answers them.

        Raises:
            InvalidRequest: an argument is wrong, or a token is not in the vocabulary.
        """
        name, value = token_argument(method, args)
        with refusals_translated(name):
            if name == "messages":
                return self._chat_tokens(value)
            if name == "prompt":
                return self._text_tokens(value)
            self._renderer.validate_token_ids(value, parameter="tokens")
            return str(self._renderer.get_tokenizer().decode(value))

    # -- inside --------------------------------------------------------------------------------

    def _rendered(self, request: EngineCoreRequest, extras: dict[str, Any] | None) -> Any:
        renderer = self._renderer
        if request.messages is not None:
            _, (made,) = renderer.render_chat([request.messages], self._chat, prompt_extras=extras)
            return made
        prompt: dict[str, Any] = {"prompt": request.prompt}
        if request.prompt_token_ids is not None:
            prompt = {"prompt_token_ids": request.prompt_token_ids}
        (made,) = renderer.render_cmpl([prompt], prompt_extras=extras)
        return made

    def _check_length(self, count: int, form: str) -> None:
        if count >= self._limit:
            raise self._too_long(count, form)

    def _counted(self, request: EngineCoreRequest) -> int:
        """How many, as vLLM itself counts no further than the limit, and far too long a text not at all."""
        if request.messages is not None:
            return len(self._chat_tokens(request.messages))
        text = request.prompt or ""
        most: int = self._renderer.get_tokenizer().max_chars_per_token
        if len(text) > most * self._limit:
            return -(-len(text) // most)  # at least so many
        return len(self._text_tokens(text))

    def _text_tokens(self, text: str) -> list[int]:
        """However many, with those that the tokenizer puts before a text."""
        endless = replace(self._renderer.default_cmpl_tok_params, max_total_tokens=None)
        (found,) = self._renderer.tokenize_prompts([{"prompt": text}], endless)
        return list(found["prompt_token_ids"])

    def _chat_tokens(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """However many; what comes before a chat, its template has written already."""
        endless = replace(
            self._renderer.default_chat_tok_params, max_total_tokens=None, add_special_tokens=False
        )
        _, prompt = self._renderer.render_messages(list(messages), self._chat)
        (found,) = self._renderer.tokenize_prompts([prompt], endless)
        return list(found["prompt_token_ids"])

    def _too_long(self, count: int, form: str) -> ContextLengthExceeded:
        return ContextLengthExceeded(
            f"the prompt has {count} tokens; with one token of the reply at most {self._limit} fit",
            prompt_tokens=count,
            context_length=self._limit,
            param="prompt_token_ids" if form == "tokens" else form,
        )


def _tokenizes_chats(renderer: Any) -> bool:
    """Some tokenizers give a chat's tokens at once, and no text: vLLM asks in the same way."""
    from vllm.utils.mistral import is_mistral_tokenizer

    return bool(
        is_mistral_tokenizer(renderer.tokenizer) or renderer.model_config.enable_prompt_embeds
    )
