"""The six commands of docs/twins.md, on drawn faces in the layout of ND-TWIN."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from bench.demo.photos import write_demo_photos
from click.testing import CliRunner
from tests.conftest import REPOSITORY
from tests.prep_command import prep

from faceguide.__main__ import main
from faceguide.core.files import read_json
from faceguide.evaluate.verification import load_scores

# What makes the networks of the page small enough for a test.
SMALL = {
    "prep": ["--size", "64", "--margin", "0"],
    "train": ["--model", "cal_resnet18", "--heads", "4", "--steps", "1", "--batch-size", "6",
              "--stride", "32", "--device", "cpu"],
    "evaluate": ["--device", "cpu", "--bootstrap", "20"],
}  # fmt: skip


def commands() -> list[list[str]]:
    text = (REPOSITORY / "docs" / "twins.md").read_text("utf-8")
    found = re.search(r"```sh\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return [shlex.split(line) for line in found[1].splitlines()]


def nd_twin(folder: Path) -> None:
    """Three pairs of twins, one a split, whose faces are warps of one portrait."""
    pytest.importorskip("skimage")
    write_demo_photos(folder, identities=6, images=4, size=160)
    images = {
        person.name: [str(file.relative_to(folder)) for file in sorted(person.iterdir())]
        for person in sorted((folder / "photos").iterdir())
    }
    names = list(images)
    splits = {"train": names[:2], "val": names[2:4], "test": names[4:]}
    (folder / "id_to_images.json").write_text(json.dumps(images))
    pairs = {split: [couple] for split, couple in splits.items()}
    (folder / "twin_pairs_infor.json").write_text(json.dumps(pairs))


@pytest.mark.timeout(600)
def test_six_commands_lead_from_a_folder_to_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nd_twin(tmp_path / "ND_TWIN")
    monkeypatch.chdir(tmp_path)
    listed = commands()
    assert len(listed) == 6
    for program, *words in listed:
        if "--init" in words:  # weights of the user
            place = words.index("--init")
            del words[place : place + 2]
        if program == "prep":
            result = prep(*words, *SMALL["prep"], "--allow-failures")
        else:
            more = SMALL[program][2:] if words[0] == "compare" else SMALL[program]
            result = CliRunner().invoke(main, [program, *words, *more])
        assert result.exit_code == 0, result.output
    learnt = (tmp_path / "guided" / "identities.txt").read_text().split()
    assert learnt == ["person_00", "person_01"]
    assert read_json(tmp_path / "guided" / "run.json")["doubts"] == {}
    record = read_json(tmp_path / "test-guided" / "verification.json")
    assert record["by_impostors"].keys() == {"twins"}, "two identities have no others"
    assert len(load_scores(tmp_path / "test-guided")["score"]) == record["pairs"]
    assert (tmp_path / "table" / "roc.png").stat().st_size > 1000
