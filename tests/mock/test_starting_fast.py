from __future__ import annotations

import subprocess
import sys

SLOW = {"pydantic", "pydantic_core", "click", "pluggy", "prometheus_client", "yaml", "openai"}


def test_the_server_imports_nothing_that_it_does_not_need() -> None:
    script = "import sys, enginery_mock.server; print(*{m.partition('.')[0] for m in sys.modules})"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "aiohttp" in run.stdout.split()
    assert not SLOW & set(run.stdout.split())


def test_the_server_imports_no_part_of_the_framework_but_wire_formats_values_and_errors() -> None:
    script = "import sys, enginery_mock.server; print(*(m for m in sys.modules if m.startswith('enginery.')))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(run.stdout.split()) == {
        "enginery.api",
        "enginery.api.anthropic",
        "enginery.api.body",
        "enginery.api.embeddings",
        "enginery.api.openai",
        "enginery.api.responses",
        "enginery.api.sse",
        "enginery.errors",
        "enginery.values",
    }
