"""The core's process: how it starts, what its death looks like, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

from enginery.enginecore import AsyncMPClient, ClientConfig, FinishReason, SyncMPClient
from enginery.enginecore.child import CoreChild
from enginery.enginecore.client_state import ClientState
from enginery.errors import (
    ConfigError,
    EngineClosedError,
    EngineDeadError,
    EngineLeaked,
    EngineStartFailed,
    EngineTimeout,
)
from support.core_clients import Driver, mock_config, request
from support.processes import descriptors, is_alive, our_children

MP = ["sync_mp", "async_mp"]
LONG = 4000
DEADLINE = 30.0
TESTS = str(Path(__file__).parents[2])


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Every test here leaves the process as it found it: children, threads, descriptors."""
    gc.collect()
    before = (our_children(), set(threading.enumerate()), descriptors())
    yield
    gc.collect()
    assert our_children() == before[0]
    ours = {thread for thread in threading.enumerate() if thread.name.startswith("enginery")}
    for thread in ours - before[1]:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert descriptors() <= before[2]


# -- starting --------------------------------------------------------------------------------------


def test_the_child_imports_only_what_it_needs() -> None:
    code = (
        "import sys, enginery.enginecore.process, enginery.enginecore.mock;"
        "print(*{name.partition('.')[0] for name in sys.modules});"
        "print(*{name for name in sys.modules if name.startswith('enginery.')})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages, modules = (set(line.split()) for line in done.stdout.splitlines())
    public = {name for name in packages - set(sys.stdlib_module_names) if name[0] != "_"}
    assert public <= {"enginery", "msgspec", "typing_extensions", "sitecustomize"}
    assert not packages & {"asyncio", "multiprocessing", "pickle", "unittest"}
    floor = {"enginery.errors", "enginery.values", "enginery.threads"}
    assert {m for m in modules if not m.startswith("enginery.enginecore")} <= floor


def test_what_comes_in_one_piece_with_the_greeting_is_carried_out_too() -> None:
    child, state = CoreChild(), ClientState()
    try:
        child.socket.settimeout(DEADLINE)
        hello = ClientState.hello(mock_config())
        child.socket.sendall(hello + ClientState.shutdown("abort", None))
        while data := child.socket.recv(65536):
            state.feed(data)
        assert state.ready
    finally:
        child.hang_up()
        child.end()
        child.socket.close()
    assert child.returncode == 0


def test_the_configuration_is_in_no_argv_and_no_environment() -> None:
    secret = "sk-a-secret-option"
    config = mock_config("support.core_backends:with_options", note=secret)
    with SyncMPClient(config) as client:
        for name in ("cmdline", "environ"):
            assert secret.encode() not in Path(f"/proc/{client.pid}/{name}").read_bytes()
        assert client.get_stats()


def test_the_child_is_a_session_of_its_own_and_holds_nothing_of_ours() -> None:
    with open(os.devnull) as ours:  # noqa: PTH123  # any descriptor
        os.set_inheritable(ours.fileno(), True)
        with SyncMPClient() as client:
            assert os.getsid(client.pid) == client.pid
            fds = Path(f"/proc/{client.pid}/fd")
            targets = sorted(str(each.readlink()) for each in fds.iterdir())
    # stdin; stdout and stderr are one socket; the wire; what wakes it on a signal
    assert [each for each in targets if each.startswith("/dev")] == ["/dev/null"]
    assert len([each for each in targets if each.startswith("socket")]) == 5
    assert len(targets) == 6


@pytest.mark.parametrize("kind", MP)
@pytest.mark.parametrize(
    ("backend", "said", "cause"),
    [
        ("no.such.module:factory", "there is no module no", ConfigError),
        ("enginery.enginecore.mock:nothing", "has no function nothing", ConfigError),
        ("support.core_backends:broken", "the weights are for another model", ValueError),
        ("support.core_backends:leaving", "exit code 9(.|\n)*no licence", None),
    ],
)
async def test_a_core_that_cannot_start_says_why(kind, backend, said, cause) -> None:
    with pytest.raises(EngineStartFailed, match=said) as error:
        async with Driver(kind, ClientConfig(backend=backend)):
            pass
    assert isinstance(error.value.__cause__, cause or type(None))


async def test_a_core_that_loads_for_ever_is_given_up_and_killed() -> None:
    config = ClientConfig(backend="support.core_backends:endless", start_timeout_s=0.3)
    with pytest.raises(EngineTimeout, match="not ready"):
        SyncMPClient(config)
    with pytest.raises(EngineTimeout, match="not ready"):
        async with AsyncMPClient(config):
            pass


def test_what_a_child_prints_is_logged_and_never_stops_it(caplog) -> None:
    with caplog.at_level(logging.WARNING, "enginery.engine.core"):
        with SyncMPClient(mock_config("support.core_backends:talkative")) as client:
            client.check_health()
        with SyncMPClient(mock_config("support.core_backends:flooding")) as client:
            client.check_health()
    assert "line 2 of the backend" in caplog.messages


# -- death -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MP)
async def test_a_killed_core_ends_every_request_and_then_everything_says_dead(kind) -> None:
    config = mock_config("support.core_backends:talkative", step_ms=2)
    async with Driver(kind, config) as driver:
        for name in "abc":
            await driver.do("add_request", request(name, LONG))
        await driver.do("get_output")
        os.kill(driver.client.pid, signal.SIGKILL)
        outputs = await driver.outputs()
        ends = [output for output in outputs if output.finish_reason is not None]
        assert sorted(output.request_id for output in ends) == ["a", "b", "c"]
        for output in ends:
            assert output.finish_reason is FinishReason.ERROR
            assert "SIGKILL" in output.error.message
        for call in (
            ("get_output",),
            ("add_request", request("z")),
            ("is_sleeping",),
            ("check_health",),
        ):
            with pytest.raises(EngineDeadError, match="was ended by SIGKILL") as error:
                await driver.do(*call)
            assert (error.value.exit_code, error.value.signal) == (None, signal.SIGKILL)
            assert error.value.log_tail[-1] == "line 2 of the backend"
        assert await driver.do("abort_requests", ["a"]) == []
    with pytest.raises(EngineDeadError):
        await driver.do("get_output")


@pytest.mark.parametrize("kind", MP)
async def test_a_crash_has_its_exit_code(kind) -> None:
    async with Driver(kind, mock_config(crash_at_step=3)) as driver:
        await driver.do("add_request", request("a", LONG))
        outputs = await driver.outputs()
        assert outputs[-1].finish_reason is FinishReason.ERROR
        with pytest.raises(EngineDeadError, match="exit code 70") as error:
            await driver.do("get_output")
        assert (error.value.exit_code, error.value.signal) == (70, None)


@pytest.mark.parametrize("kind", ["inproc", "inproc_async", *MP])
async def test_a_backend_that_raises_kills_the_core_and_the_reason_arrives(kind) -> None:
    async with Driver(kind, mock_config(fail_at_step=3)) as driver:
        await driver.do("add_request", request("a", LONG))
        outputs = await driver.outputs()
        assert sum(len(output.new_token_ids) for output in outputs) == 2
        assert outputs[-1].finish_reason is FinishReason.ERROR
        assert "fails at step 3" in outputs[-1].error.message
        for call in (("get_output",), ("is_sleeping",), ("add_request", request("b"))):
            with pytest.raises(EngineDeadError, match="fails at step 3"):
                await driver.do(*call)


@pytest.mark.parametrize("kind", MP)
async def test_a_step_that_hangs_is_a_timeout_and_can_be_shut_down(kind) -> None:
    async with Driver(kind, mock_config(hang_at_step=2)) as driver:
        await driver.do("add_request", request("a", LONG))
        assert (await driver.do("get_output")).outputs
        with pytest.raises(TimeoutError):
            await driver.do("get_output", 0.2)
        with pytest.raises(TimeoutError, match="no answer to is_sleeping"):
            await driver.do("call_utility", "is_sleeping", {}, 0.1)
        await driver.do("shutdown", 0.1)
        outputs = await driver.outputs()
        assert outputs[-1].finish_reason is FinishReason.ABORT
        with pytest.raises(EngineClosedError):
            await driver.do("get_output")


def test_all_threads_that_wait_hear_of_the_death() -> None:
    with SyncMPClient(mock_config(hang_at_step=2)) as client:
        client.add_request(request("a", LONG))
        while client.get_output().outputs[0].num_output_tokens:
            pass
        heard: list[BaseException] = []

        def wait(call) -> None:
            try:
                while True:
                    call()
            except EngineDeadError as error:
                heard.append(error)

        calls = [client.get_output, client.is_sleeping, client.get_stats, client.get_output]
        threads = [threading.Thread(target=wait, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        os.kill(client.pid, signal.SIGKILL)
        for thread in threads:
            thread.join(DEADLINE)
        assert len(heard) == 4
        assert len({id(error) for error in heard}) == 4  # each with a traceback of its own


async def test_all_tasks_that_wait_hear_of_the_death() -> None:
    async with AsyncMPClient(mock_config(hang_at_step=2)) as client:
        await client.add_request_async(request("a", LONG))
        await client.get_output_async()
        calls = [
            client.is_sleeping_async(),
            client.get_stats_async(),
            client.call_utility_async("is_paused"),
        ]
        waiting = asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(0)
        os.kill(client.pid, signal.SIGKILL)
        assert [type(each) for each in await waiting] == [EngineDeadError] * 3


def test_a_core_that_is_asked_by_signal_to_end_gives_every_request_its_last_output() -> None:
    with SyncMPClient(mock_config(step_ms=2)) as client:
        client.add_request(request("a", LONG))
        client.get_output()
        os.kill(client.pid, signal.SIGTERM)
        outputs = []
        while client.unfinished:
            outputs += client.get_output().outputs
        assert outputs[-1].finish_reason is FinishReason.ABORT
        with pytest.raises(EngineDeadError, match="exit code 0"):
            client.get_output()


@pytest.mark.parametrize("kind", MP)
async def test_nonsense_from_the_core_is_its_death(kind, monkeypatch) -> None:
    async with Driver(kind) as driver:

        def garbled(data: bytes) -> None:
            return type(driver.client._state).feed(driver.client._state, b"\x01\0\0\0\xff" + data)

        monkeypatch.setattr(driver.client._state, "feed", garbled)
        with pytest.raises(EngineDeadError, match="no frame has the kind 255"):
            await driver.do("is_sleeping")


def test_nonsense_from_the_client_ends_the_core_which_says_why() -> None:
    with SyncMPClient() as client:
        client._socket.send(b"\x05\0\0\0\x03nope")
        with pytest.raises(EngineDeadError, match="does not hold its message"):
            client.get_output()


# -- nothing stays ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MP)
@pytest.mark.parametrize("how", ["shutdown", "kill", "hang"])
async def test_the_cores_own_children_end_with_it(kind, how, tmp_path, eventually) -> None:
    hang = 1 if how == "hang" else 0
    config = mock_config(
        "support.core_backends:with_child", pid_file=str(tmp_path / "pid"), hang_at_step=hang
    )
    async with Driver(kind, config) as driver:
        grandchild = int((tmp_path / "pid").read_text())
        assert is_alive(grandchild)
        if how == "kill":
            os.kill(driver.client.pid, signal.SIGKILL)
            with pytest.raises(EngineDeadError):
                await driver.do("get_output")
        if how == "hang":
            await driver.do("add_request", request("a"))
            await driver.do("shutdown", 0.1)
    await eventually(lambda: not is_alive(grandchild), DEADLINE)


def test_a_dropped_sync_client_takes_its_core_along() -> None:
    client = SyncMPClient()
    pid, gone = client.pid, weakref.ref(client)
    client.add_request(request("a", LONG))
    del client
    gc.collect()
    assert gone() is None
    assert not is_alive(pid)


async def test_a_dropped_async_client_takes_its_core_along() -> None:
    client = AsyncMPClient()
    await client.add_request_async(request("a", LONG))
    await client.get_output_async()
    pid, gone = client.pid, weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None
    assert not is_alive(pid)


def test_a_client_whose_loop_is_over_can_still_be_shut_down() -> None:
    client = AsyncMPClient(mock_config(step_ms=2))

    async def use() -> None:
        await client.add_request_async(request("a", LONG))
        await client.get_output_async()

    asyncio.run(use())
    assert client.unfinished == 1
    client.shutdown()
    assert not is_alive(client.pid)


async def test_sync_shutdown_of_an_async_client_works_from_another_thread() -> None:
    client = AsyncMPClient(mock_config(step_ms=2))
    await client.add_request_async(request("a", LONG))
    await client.get_output_async()
    await asyncio.to_thread(client.shutdown)
    assert not is_alive(client.pid)
    while client.unfinished:
        await client.get_output_async()
    with pytest.raises(EngineClosedError):
        await client.get_output_async()


def test_an_async_client_that_no_loop_ever_used_can_be_shut_down() -> None:
    client = AsyncMPClient()
    client.shutdown()
    assert not is_alive(client.pid)


@pytest.mark.parametrize("kind", MP)
async def test_a_core_that_survives_sigkill_is_said_to_be_leaked(kind, monkeypatch) -> None:
    async with Driver(kind) as driver:
        await driver.do("add_request", request("a", LONG))
        child = driver.client._child if kind == "sync_mp" else driver.client._link.child
        os.kill(child.pid, signal.SIGSTOP)
        monkeypatch.setattr(child, "_gone", lambda patience: False)  # what no test can make
        await driver.do("shutdown", 0.05)
        outputs = await driver.outputs()
        assert "survives SIGKILL" in outputs[-1].error.message
        with pytest.raises(EngineLeaked, match=str(child.pid)):
            await driver.do("get_output")
        child._process.wait()


def test_a_fork_of_the_program_leaves_the_core_alone() -> None:
    with SyncMPClient() as client:
        pid = os.fork()
        if pid == 0:
            client._finalizer()  # as it would be at the fork's exit
            os._exit(0)
        os.waitpid(pid, 0)
        client.check_health()


PROGRAM = """
import os, sys, time
from support.core_clients import mock_config, request
from enginery.enginecore import SyncMPClient

client = SyncMPClient(mock_config({backend!r}, **{options!r}))
client.add_request(request("a", {tokens}))
client.get_output()
print(client.pid, flush=True)
{then}
"""


def program(then: str, backend: str | None = None, tokens: int = LONG, **options):
    text = PROGRAM.format(backend=backend, options=options, tokens=tokens, then=then)
    env = {**os.environ, "PYTHONPATH": TESTS}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", text], stdin=pipe, stdout=pipe, env=env)


@pytest.mark.parametrize("hang", [0, 2])
async def test_a_core_dies_with_its_parent_and_takes_its_children_along(
    hang, tmp_path, eventually
) -> None:
    options = {"pid_file": str(tmp_path / "pid"), "step_ms": 2, "hang_at_step": hang}
    parent = program("time.sleep(600)", "support.core_backends:with_child", **options)
    with parent:
        core = int(parent.stdout.readline())
        grandchild = int((tmp_path / "pid").read_text())
        parent.kill()
    await eventually(lambda: not is_alive(core) and not is_alive(grandchild), DEADLINE)


def test_a_program_that_ends_without_a_word_leaves_no_core() -> None:
    with program("", step_ms=2) as parent:
        core = int(parent.stdout.readline())
        assert parent.wait(DEADLINE) == 0
    assert not is_alive(core)


async def test_a_stopped_client_does_not_stop_the_core_and_loses_nothing(
    tmp_path, eventually
) -> None:
    done = tmp_path / "done"
    then = (
        "sys.stdin.readline()\n"
        "tokens = 0\n"
        "while client.unfinished:\n"
        "    tokens += sum(len(each.new_token_ids) for each in client.get_output().outputs)\n"
        "print(tokens)\n"
    )
    options = {"done_file": str(done), "step_ms": 1}
    with program(then, "support.core_backends:marking", 2000, **options) as client:
        assert client.stdout.readline()
        client.send_signal(signal.SIGSTOP)
        await eventually(done.exists, DEADLINE)  # the core went on to the end
        client.send_signal(signal.SIGCONT)
        out, _ = client.communicate(b"\n", timeout=DEADLINE)
    assert int(out) == 2000 - 1  # one was read before
