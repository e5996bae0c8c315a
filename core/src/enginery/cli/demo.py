"""``enginery demo``: every installed engine with something to show, one after the other."""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import click

from enginery.cli.chat import Timing, stream_chat
from enginery.cli.progress import Progress, follow
from enginery.cli.session import run_async, set_up_logging
from enginery.engine.manager import EngineManager
from enginery.engine.transport import open_session
from enginery.errors import PluginError
from enginery.plugins import PluginRow, PluginState

__all__ = ["demo"]

PROMPT = "List objects are"


@click.command()
@click.option("--prompt", default=PROMPT, show_default=True, help="What every engine is asked.")
@click.option("-v", "--verbose", count=True, help="Show states; twice: the engines' output too.")
@run_async
async def demo(*, prompt: str, verbose: int) -> None:
    """Ask every engine that has a demo the same question: one swap after the other."""
    set_up_logging(verbose)
    async with EngineManager() as manager, open_session() as session:
        showing = asyncio.create_task(follow(manager.subscribe(), Progress(sys.stdout)))
        try:
            shown = [await _show(manager, session, row, prompt) for row in manager.registry.rows()]
        finally:
            showing.cancel()
        if not any(shown):
            raise PluginError("no installed engine has a demo; `enginery plugins` lists them")


async def _show(
    manager: EngineManager, session: aiohttp.ClientSession, row: PluginRow, prompt: str
) -> bool:
    """Ask one engine; False when it has no demo."""
    if row.state is not PluginState.READY:
        return False
    variant = manager.registry.hooks(row.engine_type).demo_variant()
    if variant is None:
        return False
    click.secho(f"\n{row.engine_type}, from the plugin {row.distribution}", bold=True)
    client = await manager.ensure_engine(f"demo-{row.engine_type}", variant, row.engine_type)
    await asyncio.sleep(0)  # its last event is shown before its answer
    timing = Timing()
    sys.stdout.write(f"  {prompt} …\n  ")
    question = [{"role": "user", "content": prompt}]
    reply = stream_chat(client, session, question, timing, max_tokens=60, temperature=0)
    async for text in reply:
        sys.stdout.write(text.replace("\n", "\n  "))
        sys.stdout.flush()
    sys.stdout.write("\n")
    click.secho(f"  {timing}", dim=True)
    return True
