"""The files for operators hold what they promise, as far as that can be seen without systemd, docker and Grafana."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import click
import pytest
import yaml
from click.testing import CliRunner

from enginery.cli import cli
from enginery.settings import Settings
from support.gateways import serving

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
EXAMPLES = sorted((DEPLOY / "examples").glob("*.yaml"))
UNIT = DEPLOY / "systemd" / "enginery.service"

OF_A_VARIANT = {"model", "engine", "variant"}
METRICS = {
    "enginery_requests_total": {*OF_A_VARIANT, "route", "code"},
    "enginery_requests_in_flight": OF_A_VARIANT,
    "enginery_requests_waiting": {"model"},
    "enginery_queue_wait_seconds": {*OF_A_VARIANT, "le"},
    "enginery_time_to_first_token_seconds": {*OF_A_VARIANT, "le"},
    "enginery_inter_token_latency_seconds": {*OF_A_VARIANT, "le"},
    "enginery_e2e_request_latency_seconds": {*OF_A_VARIANT, "le"},
    "enginery_gateway_overhead_seconds": {*OF_A_VARIANT, "le"},
    "enginery_prompt_tokens_total": OF_A_VARIANT,
    "enginery_generation_tokens_total": OF_A_VARIANT,
    "enginery_engine_state": {*OF_A_VARIANT, "state"},
    "enginery_engine_starts_total": {*OF_A_VARIANT, "outcome"},
    "enginery_engine_start_seconds": {*OF_A_VARIANT, "le"},
    "enginery_swap_seconds": {*OF_A_VARIANT, "phase", "le"},
    "enginery_client_disconnects_total": OF_A_VARIANT,
    "enginery_event_loop_lag_seconds": set(),
    "enginery_memory_bytes": {*OF_A_VARIANT, "device"},
    "enginery_memory_free_bytes": {"device"},
}
"""The metrics that there are, with the labels that the dashboard may use of each."""


# -- examples ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_passes_the_check(path) -> None:
    variables = dict.fromkeys(re.findall(r"\$\{env\.(\w+)\}", path.read_text()), "a-secret")
    done = CliRunner().invoke(cli, ["config", "check", str(path)], env=variables)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("ok: ")


# -- systemd ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unit() -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(
        interpolation=None, comment_prefixes=("#",), delimiters=("=",)
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys have capitals
    parser.read_string(UNIT.read_text())  # a key given twice is an error
    return {name: dict(parser[name]) for name in parser.sections()}


def test_systemd_knows_every_key_of_the_unit(tmp_path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("NOT RUN: no systemd-analyze")
    program = unit_program()
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace(program, sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )
    mine = [line for line in done.stderr.splitlines() if UNIT.name in line]
    if done.returncode and not mine:
        pytest.skip(f"NOT RUN: systemd-analyze cannot work here: {done.stderr[:200]}")
    assert not mine, done.stderr
    assert done.returncode == 0


def unit_program() -> str:
    found = re.search(r"^ExecStart=(\S+)", UNIT.read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_unit_runs_a_command_that_there_is(unit) -> None:
    program, *args = shlex.split(unit["Service"]["ExecStart"])
    assert program.endswith("/enginery")
    command = cli.get_command(click.Context(cli), args[0])
    assert command is not None
    assert command.make_context("serve", args[1:], resilient_parsing=True).params["path"] == args[1]


def test_the_unit_leaves_the_time_that_an_orderly_end_takes(unit) -> None:
    service, defaults = unit["Service"], Settings().defaults
    assert service["Type"] == "notify", "systemd 252 (Debian 12) knows no notify-reload"
    assert service["ExecReload"].endswith("kill -HUP $MAINPID")
    assert service["KillMode"] == "mixed", "the first SIGTERM is the manager's alone"
    assert service["SuccessExitStatus"] == "130", "what `serve` ends with after a signal"
    assert int(service["TimeoutStopSec"]) > defaults.shutdown_timeout + defaults.stop_timeout + 30
    assert int(service["WatchdogSec"]) >= 10


def test_the_units_hardening_leaves_engines_what_they_need(unit) -> None:
    service = unit["Service"]
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    needed = {
        "PrivateDevices",
        "MemoryDenyWriteExecute",
        "ProtectProc",
        "ProcSubset",
        "SystemCallFilter",
    }
    assert not needed & set(service)
    assert {"AF_UNIX", "AF_INET", "AF_INET6"} <= set(service["RestrictAddressFamilies"].split())


# -- docker -----------------------------------------------------------------------------------------

DOCKERFILE = DEPLOY / "docker" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    logical = re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in logical if line)]


def test_the_image_is_built_of_what_is_there_pinned_and_run_by_nobody_special() -> None:
    known = {
        *("FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK"),
        *("ENTRYPOINT", "CMD"),
    }
    found = instructions()
    assert {word for word, _ in found} == known
    for word, rest in found:
        if word == "FROM":
            assert re.match(r"[\w./-]+:\d[\w.-]+( AS \w+)?\Z", rest), "a version, not latest"
        if word == "COPY" and not rest.startswith("--from"):
            *sources, _ = rest.split()
            assert all((ROOT / source).exists() for source in sources)
    assert dict(found)["USER"] == "10001"
    ignored = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    copied = {s for w, r in found if w == "COPY" and "--from" not in r for s in r.split()[:-1]}
    assert {line[1:] for line in ignored if line.startswith("!")} == copied


def test_the_images_command_is_one_of_ours_below_something_that_reaps() -> None:
    found = dict(instructions())
    *init, program = json.loads(found["ENTRYPOINT"])
    assert init == ["tini", "--"]
    assert program == "enginery"
    name, *args = json.loads(found["CMD"])
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    params = command.make_context(name, args, resilient_parsing=True).params
    assert (params["host"], params["port"]) == ("0.0.0.0", int(found["EXPOSE"]))
    check = json.loads(found["HEALTHCHECK"].partition("CMD ")[2])
    compile(check[2], "HEALTHCHECK", "exec")
    assert f":{found['EXPOSE']}/livez" in check[2]


def test_compose_mounts_files_that_are_there_and_gives_every_variable() -> None:
    path = DEPLOY / "docker" / "compose.yaml"
    (service,) = yaml.safe_load(path.read_text())["services"].values()
    build = service["build"]
    assert (path.parent / build["context"] / build["dockerfile"]).resolve() == DOCKERFILE
    config, _ = service["volumes"]
    source, target, mode = config.split(":")
    assert mode == "ro"
    assert target in dict(instructions())["CMD"]
    example = (path.parent / source).resolve()
    assert example in EXAMPLES
    wanted = set(re.findall(r"\$\{env\.(\w+)\}", example.read_text()))
    assert wanted == set(service["environment"])
    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"] is True


# -- grafana ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return json.loads((DEPLOY / "grafana" / "enginery.json").read_text())


def queries(dashboard: dict[str, Any]) -> list[str]:
    own = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    variables = [v["definition"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    return own + variables


def families(text: str) -> set[str]:
    names = re.findall(r"\benginery_\w+", text)
    return {re.sub(r"_(bucket|sum|count)\Z", "", name) for name in names}


def test_the_dashboard_shows_every_metric_of_the_table(dashboard) -> None:
    assert families(" ".join(queries(dashboard))) == set(METRICS)


async def test_every_metric_of_the_table_is_told_by_a_gateway_with_its_labels() -> None:
    models = {name: {"engine": "mock", "options": {"memory": 1}} for name in ("one", "two")}
    async with serving(models) as house, aiohttp.ClientSession(house.base_url) as client:
        for name in models:  # so there is a swap
            body = {"model": name, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
            async with client.post("/v1/chat/completions", json=body) as reply:
                assert reply.status == 200
                await reply.read()
        async with client.get("/metrics") as reply:
            page = await reply.text()
    told = set(re.findall(r"^# TYPE (enginery_\w+) ", page, re.MULTILINE))
    assert set(METRICS) <= told
    for name, labels in re.findall(r"^(enginery_\w+?)(?:{(.*)})? [^ ]+$", page, re.MULTILINE):
        (family,) = families(name)
        if family in METRICS:
            assert set(re.findall(r'(\w+)="', labels)) <= METRICS[family], name


def test_every_label_of_the_dashboard_is_one_of_its_metric(dashboard) -> None:
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            expr = target["expr"]
            names = re.findall(r"enginery_\w+", expr)
            labels = set.union(*(METRICS[re.sub(r"_(bucket|sum|count)\Z", "", n)] for n in names))
            used = {
                *re.findall(r"[{,]\s*(\w+)\s*=", expr),
                *(
                    word
                    for group in re.findall(r"by \(([^)]*)\)", expr)
                    for word in group.split(", ")
                ),
                *re.findall(r"{{(\w+)}}", target["legendFormat"]),
            }
            assert used <= labels, (panel["title"], used - labels)
            assert expr.count("(") == expr.count(")")


def test_the_dashboards_panels_do_not_overlap(dashboard) -> None:
    taken: dict[tuple[int, int], str] = {}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
