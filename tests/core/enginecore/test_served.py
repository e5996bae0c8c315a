"""What a core server is told: a variant taken apart, sent through an environment and put together again."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery.enginecore.served import KEY_VARIABLE, SERVED_VARIABLE, Served, plain, variant_of
from enginery.errors import ConfigError
from enginery.values import Endpoint, Variant

HERE = Endpoint("127.0.0.1", 8081, "s3cret")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class Colour(Enum):
    RED = "red"


class Options(pydantic.BaseModel):
    path: Path = Path("/default")
    token: pydantic.SecretStr | None = None
    colour: Colour | None = None
    size: int = 3


@given(
    st.builds(
        Variant,
        model=st.text(min_size=1),
        engine_type=st.text(min_size=1),
        context_length=st.none() | st.integers(1, 2**31),
        parallel=st.integers(1, 64),
        options=st.dictionaries(st.text(), JSON, max_size=4),
        env=st.dictionaries(st.text(), st.text(), max_size=2),
        features=st.none() | st.frozensets(st.sampled_from(["chat", "tools"])),
        upstream_model=st.none() | st.text(),
    )
)
def test_a_variant_comes_through_the_environment_as_it_was(variant) -> None:
    command = Served.of(variant, ["a"], ["b"]).command(HERE)
    served = Served.from_environment(command.env)
    assert variant_of(served.variant) == variant
    assert (served.engine_type, served.allow, served.deny) == (variant.engine_type, ("a",), ("b",))


def test_typed_options_travel_as_far_as_they_were_set() -> None:
    options = Options(path=Path("/x"), token="t0ken", colour=Colour.RED)
    fields = plain(Variant("m", options=options))
    assert fields["options"] == {"path": "/x", "token": "t0ken", "colour": "red"}
    assert Options.model_validate(fields["options"]) == options


def test_an_option_without_a_plain_form_is_refused_with_the_variants_name() -> None:
    with pytest.raises(ConfigError, match=r"m/default: an option cannot be handed on.*object"):
        plain(Variant("m", options={"x": object()}))


def test_the_key_travels_in_the_environment_alone() -> None:
    command = Served.of(Variant("m")).command(HERE)
    assert command.env[KEY_VARIABLE] == "s3cret"
    assert not any("s3cret" in word for word in command.argv)
    assert KEY_VARIABLE not in Served.of(Variant("m")).command(Endpoint("h", 1)).env


@pytest.mark.parametrize("text", ["", "{}", '{"engine_type": "x", "variant": 3}', "[]"])
def test_an_environment_that_says_something_else_is_a_config_error(text) -> None:
    with pytest.raises(ConfigError, match=SERVED_VARIABLE):
        Served.from_environment({SERVED_VARIABLE: text})


def test_fields_that_are_no_variant_are_refused() -> None:
    with pytest.raises(ConfigError, match="no variant"):
        variant_of({"model": 3})
