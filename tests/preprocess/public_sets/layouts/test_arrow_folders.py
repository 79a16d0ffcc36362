"""CVLFace's Arrow folders, written by `datasets` itself."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from click.testing import CliRunner
from tests.evaluate.builder import weights_file
from tests.preprocess.public_sets.set_builder import picture, verification_bin

from faceguide.evaluate.cli import main
from faceguide.preprocess.public_sets.find_sets import find_sets

datasets = pytest.importorskip("datasets", reason="pip install 'faceguide[arrow]'")

PAIRS = [("A 1", "A 2", True), ("A 1", "B 1", False), ("B 1", "B 2", True), ("B 2", "C 1", False)]


def packed(name: str) -> bytes:
    return cv2.imencode(".png", picture(name, name.split()[0]))[1].tobytes()


def save(folder: Path, names: list[str], **columns: list[Any]) -> None:
    """A folder with a picture for each "IDENTITY NUMBER"."""
    images = [{"bytes": packed(name), "path": None} for name in names]
    table = {"image": images, "index": list(range(len(names))), **columns}
    made = datasets.Dataset.from_dict(table).cast_column("image", datasets.Image())
    made.save_to_disk(str(folder))


def save_pairs(folder: Path, pairs: list[tuple[str, str, bool]]) -> None:
    names = [name for first, second, _ in pairs for name in (first, second)]
    save(folder, names, is_same=[same for *_, same in pairs for _ in range(2)])


def suite(folder: Path, out: Path) -> list[dict[str, Any]]:
    weights = weights_file(out.parent / "weights.pt")
    words = [folder, "--weights", weights, "--out", out, "--bootstrap", 0, "--jobs", 1, "--json"]
    done = CliRunner().invoke(main, ["suite", *map(str, words)])
    assert done.exit_code in (0, 3), done.output
    return json.loads((out / "suite.json").read_text())["rows"]


def test_two_rows_are_a_pair_wherever_they_lie(tmp_path: Path) -> None:
    names = [name for first, second, _ in PAIRS for name in (first, second)]
    order = [5, 0, 7, 2, 1, 3, 6, 4]  # `index` says which row is which
    images = [{"bytes": packed(names[i]), "path": None} for i in order]
    table = {"image": images, "index": order, "is_same": [PAIRS[i // 2][2] for i in order]}
    made = datasets.Dataset.from_dict(table).cast_column("image", datasets.Image())
    made.save_to_disk(str(tmp_path / "sets" / "cplfw"))
    (found,) = find_sets(tmp_path / "sets").found
    assert (found.benchmark, found.form) == ("cplfw", "arrow")
    listed = found.pairs[""]
    assert listed.same.tolist() == [True, False, True, False]
    assert listed.first == [f"{order.index(i):06d}.png" for i in (0, 2, 4, 6)]
    assert listed.second == [f"{order.index(i):06d}.png" for i in (1, 3, 5, 7)]


def test_figures_are_those_of_the_same_images_as_a_bin(tmp_path: Path) -> None:
    (tmp_path / "bins").mkdir()
    verification_bin(tmp_path / "bins" / "agedb_30.bin")
    images, same = pickle.loads((tmp_path / "bins" / "agedb_30.bin").read_bytes())
    table = {
        "image": [{"bytes": data, "path": None} for data in images],
        "index": list(range(len(images))),
        "is_same": [one for one in same for _ in range(2)],
    }
    made = datasets.Dataset.from_dict(table).cast_column("image", datasets.Image())
    made.save_to_disk(str(tmp_path / "arrow" / "agedb_30"))
    (arrow,) = suite(tmp_path / "arrow", tmp_path / "one")
    (packed,) = suite(tmp_path / "bins", tmp_path / "two")
    assert arrow["used"] == packed["used"] == len(same)
    assert arrow["figures"] == packed["figures"]


def test_tinyface_is_searched_by_the_paths_of_its_metadata(tmp_path: Path) -> None:
    names = [f"{i} {n}" for i in (1, 2, 3) for n in (1, 2)] + ["9 1"]
    paths = [f"/data/{name.replace(' ', '_')}.jpg" for name in names]
    folder = tmp_path / "sets" / "tinyface"
    save(folder, names, path=paths)
    parts = {"probe_paths": paths[1:6:2], "gallery_paths": paths[0:6:2]}
    torch.save(
        {"image_paths": paths, **parts, "distractor_paths": paths[6:]}, folder / "metadata.pt"
    )
    (found,) = find_sets(tmp_path / "sets").found
    lists = found.searches[""]
    assert [identity for _, identity in lists.probes] == ["1", "2", "3"]
    assert [identity for _, identity in lists.gallery] == ["1", "2", "3", "distractor 9_1.jpg"]
    (row,) = suite(tmp_path / "sets", tmp_path / "run")
    assert row["used"] == 7
    folders = ["Gallery_Match", "Probe"] * 3 + ["Gallery_Distractor"]
    for name, path, part in zip(names, paths, folders, strict=True):
        file = tmp_path / "own" / "tinyface" / "Testing_Set" / part / Path(path).name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(packed(name))
    (own,) = suite(tmp_path / "own", tmp_path / "own run")
    assert row["figures"] == own["figures"]


@pytest.mark.parametrize("damage", ["half a pair", "no column", "truncated", "metadata"])
def test_a_damaged_folder_is_named(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / ("tinyface" if damage == "metadata" else "lfw")
    if damage == "half a pair":
        save(folder, ["A 1", "A 2", "B 1"], is_same=[True, True, False])
    elif damage == "no column":
        save(folder, ["A 1", "A 2"])
    elif damage == "truncated":
        save_pairs(folder, PAIRS)
        (path,) = folder.glob("*.arrow")
        path.write_bytes(path.read_bytes()[:-2000])
    else:
        save(folder, ["1 1"], path=["1_1.jpg"])
        (folder / "metadata.pt").write_bytes(b"half")
    inventory = find_sets(tmp_path)
    assert not inventory.found
    (doubtful,) = inventory.doubtful
    assert str(folder) in str(doubtful)
