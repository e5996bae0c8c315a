"""Environment variables to settings."""

from hypothesis import given
from hypothesis import strategies as st

from enginery.settings.environment import merged, read_environment

FILE = {"models": {"qwen3-8b": {"variants": {"Long": {}}}, "qwen3.8b": {}, "Llama": {}}}


def read(environ, below=FILE):
    layer = read_environment({f"ENGINERY_{k}": v for k, v in environ.items()}, below)
    assert not layer.problems
    return layer.values


def test_double_underscores_nest():
    assert read({"DEFAULTS__MAX_WAIT": "5s", "DEFAULTS__PRIORITY": "3"}) == {
        "defaults": {"max_wait": "5s", "priority": 3}
    }


def test_lists_and_mappings_are_yaml_or_json():
    assert read({"PLUGINS__ALLOW": '["a", b]', "MODELS": '{"m": {"parallel": 2}}'}) == {
        "plugins": {"allow": ["a", "b"]},
        "models": {"m": {"parallel": 2}},
    }


def test_a_section_and_what_is_nested_in_it_are_merged():
    found = read({"DEFAULTS": "{priority: 1, max_queue: 9}", "DEFAULTS__PRIORITY": "2"})
    assert found == {"defaults": {"priority": 2, "max_queue": 9}}


def test_variables_of_others_are_left_alone():
    environ = {"CONFIG": "x", "URL": "http://x", "LOG": "debug"}
    assert read(environ) == {}
    assert (
        read_environment({"PATH__X": "1", "XENGINERY_DEFAULTS__PRIORITY": "1"}, FILE).values == {}
    )


def test_a_model_is_found_whatever_a_variable_cannot_spell():
    assert read({"MODELS__LLAMA__PARALLEL": "2"}) == {"models": {"Llama": {"parallel": 2}}}
    found = read(
        {"MODELS__QWEN3_8B__VARIANTS__LONG__PARALLEL": "2"},
        {"models": {"qwen3-8b": FILE["models"]["qwen3-8b"]}},
    )
    assert found == {"models": {"qwen3-8b": {"variants": {"Long": {"parallel": 2}}}}}


def test_a_name_that_fits_two_models_is_refused():
    layer = read_environment({"ENGINERY_MODELS__QWEN3_8B__PARALLEL": "2"}, FILE)
    [problem] = layer.problems
    assert problem.text == "fits qwen3-8b and qwen3.8b; set it in the file"
    assert str(problem.place) == "ENGINERY_MODELS__QWEN3_8B__PARALLEL"


def test_a_new_model_is_named_in_lower_case():
    assert read({"MODELS__NEW__BINARY": "x"}) == {"models": {"new": {"binary": "x"}}}


def test_an_engines_own_environment_keeps_its_names():
    found = read({"MODELS__LLAMA__ENV__CUDA_VISIBLE_DEVICES": "0"})
    assert found == {"models": {"Llama": {"env": {"CUDA_VISIBLE_DEVICES": "0"}}}}


def test_text_stays_text():
    found = read({"MODELS__LLAMA__BINARY": "1.10", "MODELS__LLAMA__OPTIONS__TEMP": "1.10"})
    assert found == {"models": {"Llama": {"binary": "1.10", "options": {"temp": 1.1}}}}


def test_bad_yaml_is_a_problem_of_the_variable():
    layer = read_environment({"ENGINERY_PLUGINS__DENY": "[a"}, {})
    [problem] = layer.problems
    assert str(problem.place) == "ENGINERY_PLUGINS__DENY"
    assert "not YAML" in problem.text


TREES = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner), max_leaves=8
).map(lambda tree: tree if isinstance(tree, dict) else {"a": tree})


@given(TREES, TREES)
def test_merging_keeps_all_that_is_higher(low, high):
    both = merged(low, high)
    assert merged(both, high) == both
    assert merged({}, high) == high
    assert set(both) == set(low) | set(high)
