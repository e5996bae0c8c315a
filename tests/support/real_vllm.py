"""Real vLLM in tests: what its variant needs on a small machine, and which processes and files are one engine's.

Every engine of a test gets a word of its own in its environment, so that nobody else's vLLM is mistaken for it.
"""

from __future__ import annotations

import contextlib
import json
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import psutil

from enginery import EngineReply
from support.gateways import GatewayThread

__all__ = ["START", "Family", "ask_engine", "row_of", "vllm_model"]

START = 600.0
"""Seconds that a request may take which starts vLLM; 20 to 45 where nothing else runs, minutes where much does."""

WORD = "ENGINERY_TEST_FAMILY"


class Family:
    """One engine's processes: those with a word in their environment, and all that descend from them."""

    def __init__(self) -> None:
        self.word = uuid.uuid4().hex

    @property
    def env(self) -> dict[str, str]:
        return {WORD: self.word}

    def processes(self) -> list[psutil.Process]:
        """Those alive, the oldest first. Look while the family is whole: a process that gave itself a title has
        lost its environment, and is known by its parents alone."""
        found = set()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(WORD) == self.word:
                    found |= {process, *process.children(recursive=True)}
        return sorted(found, key=lambda process: process.create_time())

    def one(self, name: str) -> psutil.Process:
        """The one with ``name`` in its title; vLLM's processes have such as ``VLLM::EngineCore``."""
        (found,) = [p for p in self.processes() if name in " ".join(p.cmdline()[:3])]
        return found

    def sockets(self) -> set[str]:
        """The unix sockets over which they talk, by their paths."""
        server = self.processes()[0]
        folder = Path(server.environ()["VLLM_RPC_BASE_PATH"])
        return {str(path) for path in folder.iterdir() if path.is_socket()}

    def shared_memory(self) -> set[str]:
        """Files of shared memory that any of them has open. Takes seconds: look before a stream begins, or it is over."""
        found = set()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                found |= {mapped.path for mapped in process.memory_maps()}
        return {path for path in found if path.startswith("/dev/shm/") and Path(path).exists()}


def vllm_model(path: Path, family: Family, **more: Any) -> dict[str, Any]:
    """A model of the settings: one vLLM with little memory that asks nobody outside.

    ``options`` in ``more`` are added to these.
    """
    options = {
        "model": str(path),
        "dtype": "bfloat16",
        "enforce_eager": True,
        "kv_cache_gib": 0.25,
        # random weights like spaces so much that JSON with spaces in it would never end
        "extra_args": (
            "--structured-outputs-config",
            '{"backend": "xgrammar", "disable_any_whitespace": true}',
        ),
        **more.pop("options", {}),
    }
    env = {"HF_HUB_OFFLINE": "1", **family.env}
    return {"engine": "vllm", "options": options, "env": env, "parallel": 4, **more}


def ask_engine(house: GatewayThread, model: str, path: str, body: Any = None) -> EngineReply:
    """The engine itself, past the gateway, with its key."""

    async def ask() -> EngineReply:
        client: Any = await house.gateway.manager.ensure_engine(model)
        engine = client.running_engine()
        return await (engine.get(path) if body is None else engine.post(path, body))

    return house.call(ask())


def row_of(house: GatewayThread, model: str) -> dict[str, Any]:
    """The model's row, as operators see it."""
    with urllib.request.urlopen(f"{house.url}/api/engines", timeout=30) as reply:
        (row,) = [row for row in json.load(reply)["engines"] if row["model"] == model]
    return row
