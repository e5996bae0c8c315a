"""``enginery run``: start a model, ask it, print what it says, stop it."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import click

from enginery.cli.chat import Timing, stream_chat
from enginery.cli.progress import Progress, follow
from enginery.cli.session import run_async, set_up_logging, settings_options
from enginery.engine.manager import EngineManager
from enginery.engine.transport import open_session
from enginery.errors import ModelNotFound
from enginery.settings import load_settings
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
    config_path: str | None,
    verbose: int,
) -> None:
    """Chat with MODEL: a name of the settings file, or the path of a model file.

    With PROMPT (or text on stdin) answers once; else reads prompts from the terminal until Ctrl-D.
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
    async with EngineManager(load_settings(config_path)) as manager, open_session() as session:
        showing = asyncio.create_task(follow(manager.subscribe(), Progress()))
        try:
            name = _name(manager, model, engine)
            chat = Chat(manager, session, name, system, max_tokens, temperature)
            if prompt is not None:
                await chat.ask(prompt)
                return
            await manager.ensure_engine(name)
            await asyncio.sleep(0)  # its last event is shown before the prompt
            while (line := await _ask()) is not None:
                if line:
                    await chat.ask(line)
        finally:
            showing.cancel()


def _name(manager: EngineManager, model: str, engine: str | None) -> str:
    """The model's name: one of the settings, or a new one for a file or an engine."""
    if engine is not None:
        return manager.catalog.register(model, None, engine).model
    try:
        return manager.catalog.resolve(model).name
    except ModelNotFound as error:
        if Path(model).is_file():
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


@dataclass(slots=True)
class Chat:
    """A conversation with one model; each turn goes to the smallest of its variants that fits."""

    manager: EngineManager
    session: aiohttp.ClientSession
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
        timing, reply = Timing(), ""
        lease = await self.manager.acquire(EngineRequest("/v1/chat/completions", body), self.model)
        async with lease:
            await asyncio.sleep(0)  # its last event is shown before its answer
            try:
                async for piece in stream_chat(
                    lease.client, self.session, messages, timing, **limits
                ):
                    reply += piece
                    sys.stdout.write(piece)
                    sys.stdout.flush()
            finally:
                sys.stdout.write("\n" if reply else "")
                sys.stdout.flush()
        cut = " (cut at the token limit)" if timing.finish_reason == "length" else ""
        click.echo(click.style(f"{timing}{cut}", dim=True), err=True)
        answer = {"role": "assistant", "content": reply}
        self.history += [{"role": "user", "content": prompt}, answer]
