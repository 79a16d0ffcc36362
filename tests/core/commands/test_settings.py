"""Settings: a dataclass field is the option, its help and its record."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner

from faceguide.core.commands.settings import (
    fixed,
    from_json,
    option,
    parameters,
    refixed,
    settings,
    to_json,
)
from faceguide.core.errors import FaceguideError


@dataclass(frozen=True)
class Recipe:
    rate: float = option(0.1, "Learning rate.", "--lr", type=click.FloatRange(0, min_open=True))
    amp: Literal["off", "bf16"] = option("off", "Precision.")
    init: Path | None = option(None, "Weights.", type=click.Path(exists=True, path_type=Path))
    kinds: tuple[str, ...] = option((), "Kinds.", multiple=True)
    flip: bool = option(True, "Mirror image.")


@dataclass(frozen=True)
class Length:
    epochs: int = option(20, "Passes over the rows.", type=click.IntRange(1))
    log_every: int = option(5, "Steps.", free=True)
    threads: int = option(0, "Threads.", free=True)
    quiet: bool = option(False, "No progress.", free=True)


@click.command()
@settings(recipe=Recipe, length=Length)
@click.argument("cache")
def command(cache: str, recipe: Recipe, length: Length) -> None:
    click.echo(json.dumps([cache, to_json(recipe), to_json(length), fixed(recipe, length)]))


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_defaults_and_the_resume_key() -> None:
    _, recipe, length, key = run("cache")
    assert recipe == {"rate": 0.1, "amp": "off", "init": None, "kinds": [], "flip": True}
    assert length == {"epochs": 20, "log_every": 5, "threads": 0, "quiet": False}
    assert key == {**recipe, "epochs": 20}


def test_values_and_ranges(tmp_path: Path) -> None:
    init = tmp_path / "a.pt"
    init.touch()
    given = ["--lr", "0.5", "--kinds", "a", "--kinds", "b", "--no-flip", "--init", str(init)]
    _, recipe, _, _ = run("cache", *given)
    assert recipe == {
        "rate": 0.5, "amp": "off", "init": str(init), "kinds": ["a", "b"], "flip": False,
    }  # fmt: skip
    for wrong in (["--lr", "0"], ["--epochs", "0"], ["--amp", "fp8"], ["--init", "gone"]):
        assert CliRunner().invoke(command, ["cache", *wrong]).exit_code == 2


def test_help_has_each_option_with_its_default() -> None:
    text = CliRunner().invoke(command, ["--help"]).output
    assert "Learning rate." in text
    assert "default: 20" in text
    assert "default: 0]" in text
    assert "default: no" not in text
    assert set(parameters(Recipe, command)) == {"rate", "amp", "init", "kinds", "flip"}
    assert parameters(Recipe, command)["rate"].opts == ["--lr"]


def test_a_record_is_read_back() -> None:
    recipe = Recipe(rate=1, init=Path("x"), kinds=("a",))
    assert from_json(Recipe, to_json(recipe), "run.json") == recipe
    assert from_json(Recipe, {}, "run.json") == Recipe()


@pytest.mark.parametrize(
    "value",
    [{"rate": "0.1"}, {"rate": True}, {"flip": "no"}, {"amp": "fp8"}, {"other": 1}, {"kinds": 3}],
)
def test_a_foreign_record_is_one_line(value: dict[str, Any]) -> None:
    with pytest.raises(FaceguideError, match=r"^run\.json: not settings of this version") as error:
        from_json(Recipe, value, "run.json")
    assert "\n" not in str(error.value)


def test_paths_are_recorded_as_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    key = fixed(Recipe(init=Path("a.pt")), Length())
    assert key["init"] == str(tmp_path / "a.pt")
    recipe, length = refixed(key, "run.json", Recipe, Length)
    assert recipe == Recipe(init=tmp_path / "a.pt")
    assert length == Length()
    with pytest.raises(FaceguideError, match="not settings of this version"):
        refixed({**key, "other": 1}, "run.json", Recipe, Length)
