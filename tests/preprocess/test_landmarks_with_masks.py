"""`prep landmarks --masks`: the bytes of `prep landmarks` and then `prep masks`, in one command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from bench.demo.photos import write_demo_photos
from click.testing import Result
from tests.contents import contents
from tests.prep_command import prep
from tests.sbatch import tasks

from faceguide.cache.reader import FaceCache

pytest.importorskip("mediapipe")
pytest.importorskip("skimage")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("veiled")
    write_demo_photos(folder, identities=2, images=5)
    return folder


@pytest.fixture(scope="module")
def both(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the two commands make, in shards of four rows."""
    cache = tmp_path_factory.mktemp("both") / "cache"
    assert prep("landmarks", photos / "photos", "--out", cache, *HERE).exit_code == 0
    masks = ["masks", photos / "masks", "--cache", cache, "--polarity", "visible", "--jobs", 1]
    assert prep(*masks, "--clean", "person_00").exit_code == 0
    return cache


HERE = ("--jobs", 1, "--allow-failures", "--shard-rows", 4)
MASKS = ("--polarity", "visible", "--clean", "person_00")


def one(photos: Path, cache: Path, *more: object) -> Result:
    return prep("landmarks", photos / "photos", "--out", cache, *HERE, "--masks",
                photos / "masks", *MASKS, *more)  # fmt: skip


def test_one_command_makes_the_bytes_of_two(photos: Path, both: Path, tmp_path: Path) -> None:
    result = one(photos, tmp_path / "cache", "--json")
    assert result.exit_code == 0, result.stderr
    done = json.loads(result.stdout)
    assert done["complete"]
    assert done["masks"]["complete"]
    known = FaceCache.open(tmp_path / "cache").select(known_occlusion=True)
    assert done["masks"]["status"]["ok"] == len(known) > 0
    assert contents(tmp_path / "cache") == contents(both)
    # Again: nothing is made anew, and the words for people name both.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.h5")}
    again = one(photos, tmp_path / "cache")
    assert again.exit_code == 0
    assert "masks: " in again.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_stopped_between_faces_and_masks_it_goes_on(
    photos: Path, both: Path, tmp_path: Path
) -> None:
    shutil.copytree(both, tmp_path / "cache")
    for path in (tmp_path / "cache").glob("*occlusion*"):
        if path.name != "recipe-occlusion.json":
            path.unlink()
    (tmp_path / "cache" / "guidance-00001.h5").unlink()
    assert one(photos, tmp_path / "cache").exit_code == 0
    assert contents(tmp_path / "cache") == contents(both)


def test_parts_make_their_own_masks(photos: Path, both: Path, tmp_path: Path) -> None:
    first = one(photos, tmp_path / "cache", "--part", "0/2")
    assert first.exit_code == 0
    assert first.stdout.count("not sealed yet") == 2
    shards = {path.name for path in (tmp_path / "cache").glob("occlusion-*.h5")}
    assert shards == {"occlusion-00000.h5", "occlusion-00002.h5"}
    assert one(photos, tmp_path / "cache", "--part", "1/2").exit_code == 0
    assert contents(tmp_path / "cache") == contents(both)


def test_masks_of_other_settings_are_refused_before_any_face_is_looked_for(
    photos: Path, both: Path, tmp_path: Path
) -> None:
    shutil.copytree(both, tmp_path / "cache")
    (tmp_path / "cache" / "faces-00001.h5").unlink()
    result = prep("landmarks", photos / "photos", "--out", tmp_path / "cache", *HERE, "--masks",
                  photos / "masks", "--polarity", "occluded")  # fmt: skip
    assert result.exit_code == 1
    assert "polarity: visible there, occluded wanted" in result.stderr
    assert "`prep masks … --overwrite`" in result.stderr
    assert not (tmp_path / "cache" / "faces-00001.h5").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--masks", "masks"), "--polarity visible|occluded: say whether"),
        (("--polarity", "visible"), "are about --masks FOLDER, which is missing"),
        (("--class", "3"), "are about --masks FOLDER, which is missing"),
    ],
)
def test_wrong_usage_makes_no_cache(
    photos: Path, tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    given = [photos / word if word == "masks" else word for word in more]
    result = prep("landmarks", photos / "photos", "--out", tmp_path / "cache", *given)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "cache").exists()


def test_the_submitted_parts_make_masks_too(photos: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    result = prep("submit", "landmarks", photos / "photos", "--out", cache, "--masks",
                  photos / "masks", *MASKS, "--parts", 2, "--cpus", 1, "--print")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    plan, *parts, seal = tasks(result.stdout)
    assert plan == ["prep", "plan", str(photos / "photos"), f"--out={cache}"]
    typed = [f"--masks={photos / 'masks'}", "--polarity=visible", "--clean=person_00"]
    for part in parts:
        assert set(typed) <= set(part)
    assert seal[2:5] == ["--group=faces", "--group=guidance", "--group=occlusion"]
