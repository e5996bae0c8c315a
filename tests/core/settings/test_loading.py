"""Which file is read, and which source wins."""

from pathlib import Path

import pytest

from enginery.errors import ConfigError
from enginery.settings import Settings, load_settings
from enginery.settings.loading import search_path


@pytest.fixture(autouse=True)
def empty_directory(tmp_path, monkeypatch):
    directory = tmp_path / "cwd"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def written(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_no_file_at_all_is_fine():
    settings = load_settings(environ={})
    assert settings == Settings()
    assert settings.file is None


def test_flags_win_over_the_environment_over_the_file_over_the_defaults(tmp_path):
    file = written(tmp_path / "a.yaml", "defaults: {max_wait: 1s, priority: 1, max_queue: 1}")
    environ = {"ENGINERY_DEFAULTS__MAX_WAIT": "2s", "ENGINERY_DEFAULTS__PRIORITY": "2"}
    defaults = load_settings(file, {"defaults": {"max_wait": "3s"}}, environ).defaults
    assert (defaults.max_wait, defaults.priority, defaults.max_queue) == (3, 2, 1)
    assert defaults.load_cap == 1800


def test_the_environment_can_change_one_field_of_a_model(tmp_path):
    file = written(tmp_path / "a.yaml", "models: {m-1: {engine: mock, options: {seed: 1, x: 2}}}")
    environ = {"ENGINERY_MODELS__M_1__OPTIONS__SEED": "7"}
    model = load_settings(file, environ=environ).models["m-1"]
    assert model.engine == "mock"
    assert model.options == {"seed": 7, "x": 2}


def test_a_named_file_must_exist(tmp_path):
    with pytest.raises(ConfigError, match=r"nope\.yaml: cannot be read: No such file"):
        load_settings(tmp_path / "nope.yaml", environ={})
    with pytest.raises(ConfigError, match=r"nope\.yaml: cannot be read"):
        load_settings(environ={"ENGINERY_CONFIG": "nope.yaml"})


def test_a_directory_or_binary_is_no_settings_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_settings(tmp_path, environ={})
    (tmp_path / "b.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="not UTF-8, at byte 3"):
        load_settings(tmp_path / "b.yaml", environ={})


def test_a_byte_order_mark_is_no_key(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfdefaults: {priority: 4}")
    assert load_settings(tmp_path / "a.yaml", environ={}).defaults.priority == 4


def test_files_are_searched_in_order(tmp_path, empty_directory):
    config = tmp_path / "xdg" / "enginery" / "enginery.yaml"
    home = tmp_path / "home" / ".config" / "enginery" / "enginery.yaml"
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "HOME": str(tmp_path / "home")}
    written(home, "defaults: {priority: 1}")
    assert load_settings(environ={"HOME": environ["HOME"]}).defaults.priority == 1
    written(config, "defaults: {priority: 2}")
    assert load_settings(environ=environ).defaults.priority == 2
    written(empty_directory / "enginery.yaml", "defaults: {priority: 3}")
    settings = load_settings(environ=environ)
    assert settings.defaults.priority == 3
    assert settings.file == Path("enginery.yaml")
    named = written(tmp_path / "named.yaml", "defaults: {priority: 4}")
    assert load_settings(environ={**environ, "ENGINERY_CONFIG": str(named)}).defaults.priority == 4
    assert load_settings(config, environ={"ENGINERY_CONFIG": str(named)}).defaults.priority == 2


def test_macos_has_its_own_directory():
    found = [str(path) for path in search_path({"HOME": "/Users/a"}, platform="darwin")]
    assert found[1] == "/Users/a/Library/Application Support/enginery/enginery.yaml"


def test_settings_from_code_read_nothing(empty_directory, monkeypatch):
    written(empty_directory / "enginery.yaml", "defaults: {priority: 3}")
    monkeypatch.setenv("ENGINERY_DEFAULTS__PRIORITY", "4")
    monkeypatch.setenv("DEFAULTS", '{"priority": 5}')
    assert Settings().defaults.priority == 0
    assert load_settings().defaults.priority == 4


def test_errors_of_every_source_come_together(tmp_path):
    file = written(tmp_path / "a.yaml", "defaults:\n  max_queue: many\n  max_wiat: 1s\n")
    environ = {"ENGINERY_DEFAULTS__PRIORITY": "high", "ENGINERY_DEFALTS__X": "1"}
    with pytest.raises(ConfigError) as caught:
        load_settings(file, {"defaults": {"load_cap": 0}}, environ)
    assert str(caught.value).replace(str(tmp_path), "").splitlines() == [
        "/a.yaml:2:14: defaults.max_queue: needs a whole number, got 'many'",
        "/a.yaml:3:3: defaults.max_wiat: unknown key; did you mean max_wait?",
        "ENGINERY_DEFALTS__X: defalts: unknown key; did you mean defaults?",
        "ENGINERY_DEFAULTS__PRIORITY: defaults.priority: needs a whole number, got 'high'",
        "command line: defaults.load_cap: must be more than 0, got 0",
    ]


def test_a_higher_source_mends_what_a_lower_one_got_wrong(tmp_path):
    file = written(tmp_path / "a.yaml", "defaults: {max_queue: many}")
    environ = {"ENGINERY_DEFAULTS__MAX_QUEUE": "9"}
    assert load_settings(file, environ=environ).defaults.max_queue == 9


def test_one_loading_leaves_nothing_for_the_next(tmp_path):
    file = written(tmp_path / "a.yaml", "defaults: {max_queue: many}")
    with pytest.raises(ConfigError):
        load_settings(file, environ={})
    assert Settings().defaults.max_queue == 512


def test_every_section_may_be_one_variable():
    """A section that is missing from the reader's list would be taken for somebody else's variable."""
    values = {"budget": '{"gpu0": 1}', "models": '{"m": {}}'}
    environ = {f"ENGINERY_{name.upper()}": values.get(name, "{}") for name in Settings.model_fields}
    assert load_settings(environ=environ) == Settings(budget={"gpu0": 1}, models={"m": {}})
    for name in Settings.model_fields:
        with pytest.raises(ConfigError, match=f"{name}: needs a mapping"):
            load_settings(environ={f"ENGINERY_{name.upper()}": "7"})
