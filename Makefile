# Every target sets itself up on a machine with python3.11 (pip, venv) and make.
PYTHON ?= python3.11
PY := .venv/bin/python
WORKERS ?= 2

.PHONY: demo test heavy test-vllm check bench docs recovery setup clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt core/pyproject.toml $(wildcard plugins/*/pyproject.toml)
	test -x $(PY) || $(PYTHON) -m venv --upgrade-deps .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --group dev \
	    --editable core --editable 'plugins/llamacpp[bundled]' --editable plugins/mock --editable plugins/vllm
	touch .venv/.ready

demo: setup   ## a gateway before llama.cpp and the mock: lines to paste, until Ctrl-C
	.venv/bin/enginery demo

# Tests start hundreds of children; where PYTHONDONTWRITEBYTECODE is set each would compile all that it imports.
COMPILE := $(PY) -m compileall -q core/src plugins

# A hang inside of a library in C hears no signal, so no test's own deadline (300 s at most) ends it.
HANGS := -o faulthandler_timeout=330 -o faulthandler_exit_on_timeout=true

test: setup   ## what CI runs on every change
	$(COMPILE)
	$(PY) -m pytest -n $(WORKERS) -m "not heavy" $(HANGS)

heavy: setup  ## longer chaos and fuzz runs
	$(COMPILE)
	$(PY) -m pytest -n $(WORKERS) -m heavy --timeout 600

.venv-vllm/.ready: pyproject.toml constraints-vllm.txt scripts/install_vllm.py core/pyproject.toml $(wildcard plugins/*/pyproject.toml)
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv --upgrade-deps .venv-vllm
	.venv-vllm/bin/python scripts/install_vllm.py
	touch .venv-vllm/.ready

test-vllm: .venv-vllm/.ready  ## real vLLM on the CPU, in an environment of its own (3.4 GB)
	.venv-vllm/bin/python -m pytest -m vllm tests/vllm/real

check: setup  ## style, types, layers, packaging, docs
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	$(PY) -m pytest -q tests/core/test_layers.py tests/core/test_packaging.py
	$(PY) scripts/write_docs.py --check

docs: setup   ## write the generated parts of docs/
	$(PY) scripts/write_docs.py

recovery: setup  ## measure each failure once, and renew the table in docs/operations.md
	rm -f docs/recovery.jsonl
	ENGINERY_RECOVERY=$(CURDIR)/docs/recovery.jsonl $(PY) -m pytest -q tests/chaos/test_recovery.py
	$(PY) scripts/write_docs.py

# Systems build their Python with its optimizations, pyenv does not: a third slower, and not what gateways run on.
BENCH_PYTHON ?= $(firstword $(wildcard /usr/bin/python3.11) $(PYTHON))

.venv-bench/.ready: .venv/.ready
	$(BENCH_PYTHON) -m venv --without-pip --clear .venv-bench
	$(PY) -m pip --python .venv-bench/bin/python install --quiet --disable-pip-version-check --constraint constraints.txt \
	    --editable core --editable 'plugins/llamacpp[bundled]' --editable plugins/mock --editable plugins/vllm
	touch .venv-bench/.ready

bench: .venv-bench/.ready  ## what the README claims, measured; with BENCH_PYTHON, the system's Python where it has one
	.venv-bench/bin/python -m benchmarks

clean:
	rm -rf .venv .venv-bench .venv-vllm .models
