from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
import torch
from click.testing import CliRunner

from faceguide.evaluate import cli
from faceguide.train import cli as train_cli
from faceguide.train.distributed import Processes, choose_device
from faceguide.train.models.loading.network import on_device


@pytest.mark.parametrize("name", sorted(cli.main.commands))
def test_every_command_explains_itself_by_example(name: str) -> None:
    result = CliRunner().invoke(cli.main, [name, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"evaluate {name}" in result.output


def test_the_commands() -> None:
    assert sorted(cli.main.commands) == [
        "attribution",
        "calibrate",
        "compare",
        "decide",
        "describe",
        "diff",
        "embed",
        "explain",
        "groups",
        "identification",
        "ijb",
        "lookalikes",
        "merge",
        "methods",
        "networks",
        "occluded",
        "report",
        "submit",
        "suite",
        "surround",
        "verification",
    ]


def devices(command: click.Command) -> Iterator[click.Parameter]:
    for parameter in command.params:
        if parameter.name == "device":
            yield parameter
    for one in command.commands.values() if isinstance(command, click.Group) else ():
        yield from devices(one)


def test_the_device_is_chosen_alike_by_every_command() -> None:
    found = [*devices(train_cli.main), *devices(cli.main)]
    assert len(found) >= 7  # cal, oaml; embed, verification, identification, ijb, attribution
    assert {option.default for option in found} == {"auto"}
    here = torch.device("cuda" if torch.cuda.is_available() else "cpu").type
    assert on_device("auto").type == here == choose_device("auto", Processes()).type


def test_help_needs_no_torch() -> None:
    script = (
        "import sys\n"
        "from faceguide.evaluate.cli import main\n"
        "try:\n    main(['verification', '--help'])\n"
        "except SystemExit:\n    print('torch' in sys.modules, 'matplotlib' in sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "False False"


def test_usage_errors(tmp_path) -> None:
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"x")
    base = ["--weights", str(weights), "--out", str(tmp_path / "out")]
    (tmp_path / "p.csv").write_text("a,b,same\nx,y,1\n")
    for arguments, code, message in (
        (["verification", str(tmp_path), *base], 2, "Missing option '--pairs'"),
        (["compare", str(tmp_path), "--out", str(tmp_path)], 2, "two runs or more"),
        (
            ["verification", str(tmp_path), *base, "--pairs", str(tmp_path / "p.csv")],
            1,
            "no cache here",
        ),
        (
            ["identification", str(tmp_path), *base, "--unenrolled", "1"],
            2,
            "Invalid value for '--unenrolled'",
        ),
    ):
        result = CliRunner().invoke(cli.main, arguments)
        assert result.exit_code == code, result.output
        assert message in result.stderr
        assert "Traceback" not in result.output
