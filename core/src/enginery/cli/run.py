"""``enginery run``: start a model, ask it, print what it says, stop it; or ask a gateway that runs.

A gateway is one more server that somebody else runs: a manager of ours attaches to it, so that all else is the same.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import click

from enginery.cli.chat import streamed_chat, timing
from enginery.cli.gateway_client import GatewayClient, GatewayUnreachable
from enginery.cli.progress import Progress, follow
from enginery.cli.session import interruptible, run_async, set_up_logging, settings_options
from enginery.engine.manager import EngineManager
from enginery.errors import EngineryError, ModelNotFound
from enginery.settings import Settings, load_settings
from enginery.threads import in_daemon_thread
from enginery.values import EngineRequest, JSONObject

__all__ = ["run"]


@click.command()
@click.argument("model")
@click.argument("prompt", required=False)
@click.option(
    "--engine", help="engine_type, for a MODEL that is neither in the settings nor a file."
)
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest reply, in tokens.")
@click.option("--temperature", type=click.FloatRange(min=0), help="Sampling temperature.")
@click.option("--system", help="System prompt.")
@click.option(
    "--url",
    envvar="ENGINERY_URL",
    help="A gateway that is asked, if it answers; default: $ENGINERY_URL, else none.",
)
@click.option(
    "--api-key", envvar="ENGINERY_API_KEY", help="A key of it; default: $ENGINERY_API_KEY."
)
@settings_options
@run_async
async def run(
    *,
    model: str,
    prompt: str | None,
    engine: str | None,
    max_tokens: int | None,
    temperature: float | None,
    system: str | None,
    url: str | None,
    api_key: str | None,
    config_path: str | None,
    verbose: int,
) -> None:
    """Chat with MODEL: a name of the settings file, or the path of a model file.

    Where a gateway answers at --url, MODEL is one of its models, unless it is a file. With PROMPT (or text
    on stdin) answers once; else reads prompts from the terminal until Ctrl-D. There Ctrl-C ends a reply, and
    at the prompt the program.
    """
    set_up_logging(verbose)
    if prompt is None and not sys.stdin.isatty():
        try:
            prompt = sys.stdin.buffer.read().decode().strip()
        except UnicodeDecodeError as error:
            raise click.UsageError(
                f"stdin is not UTF-8: {error.reason} at byte {error.start}"
            ) from None
        if not prompt:
            raise click.UsageError("no PROMPT given, and stdin is empty")
    there = not (engine or _is_file(model)) and await _is_there(url, api_key)
    settings = _at(url, api_key, model) if there else load_settings(config_path)
    async with EngineManager(settings) as manager:
        news = _follow_there(url, api_key) if there else follow(manager.subscribe(), Progress())
        showing = asyncio.create_task(news)
        try:
            name = _name(manager, model, engine)
            chat = Chat(manager, name, system, max_tokens, temperature)
            if prompt is not None:
                await chat.ask(prompt)
                return
            await manager.ensure_engine(name)
            await asyncio.sleep(0)  # its last event is shown before the prompt
            while (line := await _ask()) is not None:
                if line:
                    await _turn(chat, line)
        finally:
            showing.cancel()


async def _is_there(url: str | None, api_key: str | None) -> bool:
    """Whether a gateway is to be asked; one that was named and is not there is told."""
    if url is None:
        return False
    async with GatewayClient(url, api_key) as gateway:
        if await gateway.answers():
            return True
    click.echo(f"no gateway at {url}: with an engine of its own", err=True)
    return False


def _at(url: str | None, api_key: str | None, model: str) -> Settings:
    """Settings with the gateway's model as a server that somebody else runs."""
    there = {"engine": "openai", "url": url, "api_key": api_key}
    return Settings(models={model: there})


async def _follow_there(url: str | None, api_key: str | None) -> None:
    """Show that the gateway loads the model, where it tells us such things."""
    async with GatewayClient(url, api_key) as gateway:
        with suppress(GatewayUnreachable, EngineryError):
            await follow(gateway.events(), Progress())


def _is_file(model: str) -> bool:
    return Path(model).is_file()


def _name(manager: EngineManager, model: str, engine: str | None) -> str:
    """The model's name: one of the settings, or a new one for a file or an engine."""
    if engine is not None:
        return manager.catalog.register(model, None, engine).model
    try:
        return manager.catalog.resolve(model).name
    except ModelNotFound as error:
        if _is_file(model):
            return manager.catalog.from_path(model).model
        if "/" not in model and "." not in model:
            raise
        raise ModelNotFound(f"{error.message}; and there is no file {model}") from None


async def _ask() -> str | None:
    """A line from the terminal, None at its end."""
    try:
        # a thread of its own: nobody waits for it when a signal ends the command at the prompt
        return (await in_daemon_thread(lambda: input(">>> "), "prompt")).strip()
    except EOFError:
        click.echo()
        return None


async def _turn(chat: Chat, line: str) -> None:
    """One question and its reply; Ctrl-C ends the reply, also while its engine still loads."""
    turn = asyncio.create_task(chat.ask(line))
    with interruptible(turn.cancel) as interrupt:
        try:
            await turn
        except asyncio.CancelledError:
            if not interrupt.was_used:
                raise
            click.echo(click.style("(ended by Ctrl-C)", dim=True), err=True)


@dataclass(slots=True)
class Chat:
    """A conversation with one model; each turn goes to the smallest of its variants that fits."""

    manager: EngineManager
    model: str
    system: str | None
    max_tokens: int | None
    temperature: float | None
    history: list[JSONObject] = field(default_factory=list)

    async def ask(self, prompt: str) -> None:
        """One turn: printed as it comes, and remembered."""
        said = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*said, *self.history, {"role": "user", "content": prompt}]
        limits = {"max_tokens": self.max_tokens, "temperature": self.temperature}
        body = {"messages": messages, **{k: v for k, v in limits.items() if v is not None}}
        lease = await self.manager.acquire(EngineRequest("/v1/chat/completions", body), self.model)
        async with lease:
            await asyncio.sleep(0)  # its last event is shown before its answer
            with streamed_chat(lease.client, messages, self.max_tokens, self.temperature) as reply:
                try:
                    async for token in reply:
                        sys.stdout.write(token.text)
                        sys.stdout.flush()
                finally:
                    sys.stdout.write("\n" if reply.get_full_text() else "")
                    sys.stdout.flush()
                    answer = {"role": "assistant", "content": reply.get_full_text()}
                    self.history += [{"role": "user", "content": prompt}, answer]
        cut = " (cut at the token limit)" if reply.finish_reason == "length" else ""
        click.echo(click.style(f"{timing(reply)}{cut}", dim=True), err=True)
