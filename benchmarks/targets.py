"""The gateways that `benchmarks.gateway` compares: how each is started in front of one fake engine.

Knows: command lines and configuration files, ours and those of others, and where the others may be
installed: on PATH, or in the directories that ``ENGINERY_BENCH_PEERS`` lists. Does not know: what is
measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.programs import CACHE, FAKE_ENGINE, KEY, NotRun, build, pinned
from enginery.engine.endpoints import free_endpoint

__all__ = ["ENGINE_CPU", "GATEWAY_CPU", "PEERS_VARIABLE", "Target", "engine", "running", "targets"]

PEERS_VARIABLE = "ENGINERY_BENCH_PEERS"
ENGINE_CPU, GATEWAY_CPU = "0", "1"
READY_SECONDS = 90.0  # LiteLLM takes a minute on a busy machine
STOP_SECONDS = 3.0
MODEL = "fake"
CHAT = "/v1/chat/completions"


@dataclass(frozen=True, eq=False)
class Target:
    """One row: what to start, and where to ask it.

    ``streams`` is False for a folded row, which has only whole replies. ``brings`` is the engine that it
    starts itself, whose costs are not the gateway's.
    """

    name: str
    argv: Sequence[str]
    port: int
    env: Mapping[str, str] = field(default_factory=dict)
    streams: bool = True
    brings: Path | None = None

    @property
    def address(self) -> str:
        """As the load client takes it."""
        return f"127.0.0.1:{self.port}"


def free_port() -> int:
    """A port that nobody listens on now."""
    return free_endpoint().port


def find(program: str) -> str | None:
    """The path of a peer's program; None where it is not installed."""
    folders = os.environ.get(PEERS_VARIABLE, "")
    path = os.pathsep.join([folders, os.environ.get("PATH", ""), "/usr/sbin"])
    return shutil.which(program, path=path)


# -- ours ------------------------------------------------------------------------------------------


def ours(name: str, engine_port: int, options: Mapping[str, object] | None = None) -> Target:
    """`enginery serve` with the llama.cpp plugin's hooks, attached to the engine.

    Raises:
        NotRun: this version has no gateway.
    """
    model = {
        "engine": "llama.cpp",
        "url": f"http://127.0.0.1:{engine_port}",
        "parallel": 4096,
        "options": options or {},
    }
    return serving(name, model)


def ours_on_a_socket(name: str) -> Target:
    """The same with an engine that the gateway starts itself, on a unix socket.

    Raises:
        NotRun: this version has no gateway.
    """
    program = build(FAKE_ENGINE)
    engine_argv = [*pinned(ENGINE_CPU), str(program), "-u", "{socket}"]
    model = {
        "engine": "llama.cpp",
        "binary": engine_argv[0],
        "args": engine_argv[1:],
        "listen": "unix",
        "parallel": 4096,
        "options": {"fold_replies": False},
    }
    return replace(serving(name, model), brings=program)


def serving(name: str, model: Mapping[str, object]) -> Target:
    """`enginery serve` with one model."""
    program = Path(sys.executable).with_name("enginery")
    asked = subprocess.run([program, "serve", "--help"], capture_output=True, check=False)
    if asked.returncode != 0:
        raise NotRun("`enginery serve` is missing")
    config = CACHE / f"{name.replace(' ', '-').replace(',', '')}.yaml"
    # JSON is YAML
    config.write_text(json.dumps({"models": {MODEL: model}}))
    port = free_port()
    return Target(name, [str(program), "serve", "--config", str(config), "--port", str(port)], port)


# -- others ----------------------------------------------------------------------------------------


def naive(engine_port: int) -> Target:
    """See `benchmarks.naive_proxy`."""
    port = free_port()
    argv = [sys.executable, "-m", "benchmarks.naive_proxy", str(port), str(engine_port)]
    return Target("naive aiohttp proxy", argv, port)


NGINX = """
worker_processes 1; worker_rlimit_nofile 65536; daemon off;
pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600s;
  client_max_body_size 64m; client_body_buffer_size 1m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream engine {{
    server 127.0.0.1:{engine}; keepalive 1024; keepalive_requests 100000000;
  }}
  server {{
    listen 127.0.0.1:{port} reuseport backlog=4096;
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 600s;
    }}
  }}
}}
"""


def nginx(program: str, engine_port: int) -> Target:
    """One worker, kept connections to the engine, nothing buffered: the practical floor."""
    folder, port = CACHE / "nginx", free_port()
    folder.mkdir(exist_ok=True)
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, engine=engine_port, port=port))
    return Target("nginx", [program, "-p", str(folder), "-c", str(config)], port)


def _router(
    name: str, program: str, engine_port: int, command: Sequence[str] = (), more: Sequence[str] = ()
) -> Target:
    port = free_port()
    engine_url = f"http://127.0.0.1:{engine_port}"
    argv = [program, *command, "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--worker-urls", engine_url, "--policy", "round_robin", "--log-level", "error"]
    return Target(name, [*argv, "--prometheus-port", str(free_port()), *more], port)


def vllm_router(program: str, engine_port: int) -> Target:
    """The router of vLLM, one worker behind it."""
    return _router("vllm-router", program, engine_port)


def sglang_router(program: str, engine_port: int) -> Target:
    """The router of SGLang, one worker behind it."""
    return _router("sglang-router", program, engine_port, ["launch"])


def litellm(program: str, engine_port: int) -> Target:
    """The proxy of LiteLLM, one worker."""
    port, config = free_port(), CACHE / "litellm.yaml"
    engine_url = f"http://127.0.0.1:{engine_port}/v1"
    row = {"model": f"openai/{MODEL}", "api_base": engine_url, "api_key": KEY}
    config.write_text(json.dumps({"model_list": [{"model_name": MODEL, "litellm_params": row}]}))
    argv = [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    env = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": KEY,
    }
    return Target("LiteLLM", [*argv, "--num_workers", "1"], port, env)


PEERS: Mapping[str, Callable[[str, int], Target]] = {
    "nginx": nginx,
    "vllm-router": vllm_router,
    "sglang-router": sglang_router,
    "litellm": litellm,
}


def targets(engine_port: int) -> tuple[list[Target], list[str]]:
    """All that can run here, and a line for each that cannot."""
    found, missing = [naive(engine_port)], []
    try:
        plain = ours("ours, plain", engine_port, {"fold_replies": False})
        folded = ours("ours, folded", engine_port)
        socket = ours_on_a_socket("ours, plain, unix socket")
        found += [plain, socket, replace(folded, streams=False)]
    except NotRun as reason:
        missing.append(f"ours: {reason}")
    for name, make in PEERS.items():
        program = find(name)
        if program is None:
            missing.append(f"{name}: not installed")
        else:
            found.append(make(program, engine_port))
    return found, missing


# -- running ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def engine(unix_path: str | None = None) -> Iterator[tuple[int, int]]:
    """A running fake engine: its port and its pid."""
    port = free_port()
    more = [] if unix_path is None else ["-u", unix_path]
    argv = [*pinned(ENGINE_CPU), str(build(FAKE_ENGINE)), "-p", str(port), *more]
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        _wait_until_ready(f"127.0.0.1:{port}", process)
        yield port, process.pid
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def running(target: Target) -> Iterator[subprocess.Popen[bytes]]:
    """A target that answers, on a CPU of its own; its output goes to a file in `CACHE`.

    Raises:
        NotRun: it does not come up.
    """
    log = CACHE / f"{target.name.replace(' ', '-').replace(',', '')}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*pinned(GATEWAY_CPU), *target.argv],
            env={**os.environ, **target.env},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_ready(target.address, process)
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL, to whatever the target started."""
    for number, wait in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait)


def _wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    """Ask until it answers as the engine would."""
    messages = [{"role": "user", "content": "x"}]
    body = json.dumps({"model": MODEL, "messages": messages, "max_tokens": 1}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(f"http://{address}{CHAT}", body, headers)
    deadline, seen = time.monotonic() + READY_SECONDS, "nothing"
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except (OSError, urllib.error.HTTPError) as error:
            seen = str(error)
        time.sleep(0.1)
    raise NotRun(f"{address} did not come up: {seen}")
