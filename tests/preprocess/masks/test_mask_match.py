"""Which masks belong to which faces: those next to the images, those of nobody, inverted ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bench.demo.photos import write_demo_photos
from click.testing import CliRunner, Result
from tests.contents import contents
from tests.prep_command import needs_face_mesh, prep

from faceguide.cache.cli import main as cache_main
from faceguide.cache.reader import FaceCache
from faceguide.preprocess.cli import main

pytest.importorskip("mediapipe")
pytest.importorskip("skimage")


def info(cache: Path) -> dict[str, Any]:
    result = CliRunner().invoke(cache_main, ["info", str(cache), "--json"])
    return dict(json.loads(result.stdout))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_demo_photos(folder, identities=2, images=6)
    return folder


@pytest.fixture(scope="module")
def faces(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("faces") / "cache"
    made = prep("landmarks", demo / "photos", "--out", cache, "--allow-failures", "--jobs", 1)
    assert made.exit_code == 0
    return cache


@pytest.fixture
def cache(faces: Path, tmp_path: Path) -> Path:
    """A cache without masks."""
    return Path(shutil.copytree(faces, tmp_path / "cache"))


def known(cache: Path) -> list[str]:
    opened = FaceCache.open(cache)
    return sorted(opened.texts("key", opened.select(known_occlusion=True)))


def masks(folder: Path, cache: Path, *more: object) -> Result:
    return prep("masks", folder, "--cache", cache, "--polarity", "visible", "--jobs", 1, *more)


# Next to the images ---------------------------------------------------------------------------


def beside(demo: Path, folder: Path, suffix: str, kind: str, *, grey: bool = False) -> list[str]:
    """Photographs with a mask next to those that are veiled; their keys."""
    veiled = []
    for photograph in sorted(demo.glob("photos/*/*.jpg")):
        path = folder / photograph.parent.name / f"{photograph.stem}{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = cv2.imread(str(photograph))
        assert image is not None
        cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if grey else image)
        mask = demo / "masks" / path.parent.name / f"{path.stem}_mask.png"
        if mask.exists() and suffix:
            shutil.copy(mask, path.with_name(f"{path.stem}{suffix}.png"))
            veiled.append(f"{path.parent.name}/{path.name}")
    return veiled


@needs_face_mesh
@pytest.mark.parametrize(
    ("suffix", "kind", "grey"), [("_mask", ".jpg", False), ("_gt", ".png", True)]
)
def test_masks_beside_their_images(
    demo: Path, tmp_path: Path, suffix: str, kind: str, grey: bool
) -> None:
    photos = tmp_path / "photos"
    veiled = beside(demo, photos, suffix, kind, grey=grey)
    (photos / "person_00" / "@eaDir").mkdir()
    shutil.copy(photos / veiled[0], photos / "person_00" / "@eaDir")
    first = prep("landmarks", photos, "--out", tmp_path / "a", "--masks", photos, "--polarity",
                 "visible", "--allow-failures", "--jobs", 1, "--json")  # fmt: skip
    assert first.exit_code == 0, first.stderr
    assert json.loads(first.stdout)["masks"]["status"].get("mask_refused", 0) == 0
    assert "belong to no cached face" not in first.stderr
    assert known(tmp_path / "a")
    assert set(known(tmp_path / "a")) <= set(veiled)  # none of the photographs that lack a mask
    # The cache does not know where its images came from; the masks may come later all the same.
    prep("landmarks", photos, "--out", tmp_path / "b", "--allow-failures", "--jobs", 1)
    assert masks(photos, tmp_path / "b").exit_code == 0
    assert known(tmp_path / "b") == known(tmp_path / "a")


@pytest.mark.parametrize("given", ["the folder", "a copy", "grey versions"])
def test_grey_photographs_are_not_their_own_masks(demo: Path, tmp_path: Path, given: str) -> None:
    photos, cache = tmp_path / "photos", tmp_path / "cache"
    beside(demo, photos, "", ".png", grey=given != "grey versions")
    prep("landmarks", photos, "--out", cache, "--allow-failures", "--jobs", 1)
    before = contents(cache)
    folder = photos
    if given == "a copy":
        folder = Path(shutil.copytree(photos, tmp_path / "copy"))
    elif given == "grey versions":
        folder = tmp_path / "grey"
        beside(demo, folder, "", ".png", grey=True)
    result = masks(folder, cache)
    assert result.exit_code == 1
    assert f"{folder}: holds no masks" in result.stderr
    assert contents(cache) == before
    both = prep("landmarks", photos, "--out", tmp_path / "new", "--masks", folder, "--polarity",
                "visible", "--jobs", 1, "--allow-failures")  # fmt: skip
    assert both.exit_code == 1
    assert "holds no masks" in both.stderr or "belongs to a face" in both.stderr
    assert not list(tmp_path.glob("new/*occlusion*"))
    listed = tmp_path / "list.csv"
    paths = sorted(photos.rglob("*.png"))
    listed.write_text(
        "path,identity\n" + "".join(f"{p.relative_to(tmp_path)},{p.parent.name}\n" for p in paths)
    )
    both = prep("landmarks", listed, "--out", tmp_path / "listed", "--masks", tmp_path,
                "--polarity", "visible", "--jobs", 1, "--allow-failures")  # fmt: skip
    assert both.exit_code == 1
    assert not list(tmp_path.glob("listed/*occlusion*"))


# Of nobody -----------------------------------------------------------------------------------


def of_another_set(folder: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(folder / f"veil{number}_mask.png"), np.full((256, 256), 255, np.uint8))


def of_another_kind(folder: Path) -> None:
    (folder / "person_00").mkdir()
    np.save(folder / "person_00" / "person_00_02.npy", np.ones((256, 256)))


NOBODYS = {
    "empty": (lambda folder: None, "holds no masks"),
    "another set": (of_another_set, "none of 3 masks belongs to a face of the cache ("),
    "another kind": (of_another_kind, "holds no mask of a kind that is read, only "),
}


@pytest.mark.parametrize("name", NOBODYS)
def test_masks_of_nobody_leave_nothing_behind(
    demo: Path, cache: Path, tmp_path: Path, name: str
) -> None:
    fill, message = NOBODYS[name]
    folder = tmp_path / "others"
    folder.mkdir()
    fill(folder)
    before = contents(cache)
    for more in ((), ("--prepare",), ("--part", "0/2")):
        result = masks(folder, cache, *more)
        assert result.exit_code == 1
        assert f"{folder}: {message}" in result.stderr
        assert result.stderr.count("\n") == 1
        assert contents(cache) == before
    assert masks(demo / "masks", cache).exit_code == 0
    made = contents(cache)
    assert masks(folder, cache, "--overwrite").exit_code == 1
    assert contents(cache) == made


def test_masks_of_images_without_a_face_are_nobodys(demo: Path, tmp_path: Path) -> None:
    photos, folder = tmp_path / "photos", tmp_path / "masks"
    for name in ("a", "b"):
        (photos / name).mkdir(parents=True)
    shutil.copy(next(demo.glob("photos/*/*_00.jpg")), photos / "a" / "face.jpg")
    cv2.imwrite(str(photos / "b" / "wall.jpg"), np.full((256, 256, 3), 90, np.uint8))
    folder.mkdir()
    cv2.imwrite(str(folder / "wall.png"), np.full((256, 256), 255, np.uint8))
    result = prep("landmarks", photos, "--out", tmp_path / "cache", "--masks", folder,
                  "--polarity", "visible", "--jobs", 1)  # fmt: skip
    assert result.exit_code == 1
    assert "none of 1 masks" in result.stderr
    assert not list(tmp_path.glob("cache/*occlusion*"))
    cv2.imwrite(str(folder / "face.png"), np.full((256, 256), 255, np.uint8))
    assert masks(folder, tmp_path / "cache").exit_code == 0


def test_the_note_tells_refused_masks_from_those_of_nobody(
    demo: Path, cache: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(demo / "masks", tmp_path / "masks"))
    faces = FaceCache.open(cache).texts("key", FaceCache.open(cache).select())
    found = [key for key in faces if (folder / key.replace(".jpg", "_mask.png")).exists()]
    refused = folder / found[0].replace(".jpg", "_mask.png")
    cv2.imwrite(str(refused), np.full((256, 256), 75, np.uint8))
    twice = folder / found[1].replace(".jpg", "_gt.png")
    shutil.copy(folder / found[1].replace(".jpg", "_mask.png"), twice)
    bare = next(key for key in faces if key not in found)
    np.save(folder / Path(bare).with_suffix(".npy").name, np.ones((256, 256)))
    (folder / Path(bare).with_suffix(".json").name).write_text("{}")
    (folder / "README.txt").write_text("drawn by hand")
    shutil.copy(refused, folder / "stranger.png")
    result = masks(folder, cache)
    assert result.exit_code == 3
    notes = [line for line in result.stderr.splitlines() if line.startswith("Note: ")]
    nobodys = [n for n in notes if "belong to no cached face" in n]
    assert len(nobodys) == 1
    assert "stranger.png" in nobodys[0]
    assert str(refused) not in nobodys[0]
    assert str(twice) not in nobodys[0]
    other = [n for n in notes if "of kinds that are not read" in n]
    assert len(other) == 1
    assert other[0].startswith("Note: 1 files among the masks")
    assert ".npy" in other[0] or ".json" in other[0]


# What they show ------------------------------------------------------------------------------


def test_the_mean_visible_share_is_said(demo: Path, cache: Path) -> None:
    result = masks(demo / "masks", cache, "--clean", "person_00", "--json")
    assert result.exit_code == 0
    done = json.loads(result.stdout)
    assert done["doubts"] == {}
    assert "Warning" not in result.stderr
    opened = FaceCache.open(cache)
    rows = opened.select(known_occlusion=True)
    keys = opened.texts("key", rows)
    veiled = [(demo / "masks" / k.replace(".jpg", "_mask.png")).exists() for k in keys]
    shares = opened.read(rows, ["visibility"])["visibility"].astype(float).mean((1, 2))[veiled]
    assert done["masked_faces"] == len(shares) > 1
    assert done["visible_share"] == pytest.approx(shares.mean(), abs=1e-4)
    text = masks(demo / "masks", cache, "--clean", "person_00").stdout
    assert f"visible: {shares.mean():.1%} of a face on average" in text
    shown = info(cache)["groups"]["occlusion"]
    assert shown["visible_share"] == done["visible_share"]
    assert shown["masked_faces"] == done["masked_faces"]
    words = CliRunner().invoke(cache_main, ["info", str(cache)]).stdout
    assert f"{shares.mean():.1%} of a face visible on average" in words


@needs_face_mesh
def test_inverted_masks_are_doubted(demo: Path, cache: Path) -> None:
    command = ["masks", demo / "masks", "--cache", cache, "--jobs", 1, "--json", "--polarity"]
    result = prep(*command, "occluded")
    assert result.exit_code == 0
    doubts = json.loads(result.stdout)["doubts"]
    assert set(doubts) == {"eyes_hidden"}
    assert "--polarity" in result.stderr
    assert info(cache)["doubts"] == doubts
    assert prep(*command, "occluded").stderr == result.stderr  # a rerun says it again
    right = prep(*command, "visible", "--overwrite")
    assert json.loads(right.stdout)["doubts"] == {}
    assert info(cache)["doubts"] == {}


def test_an_inverted_mask_among_many_is_no_doubt(demo: Path, cache: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(demo / "masks", tmp_path / "masks"))
    path = next(folder.rglob("*.png"))
    cv2.imwrite(str(path), 255 - cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    result = masks(folder, cache, "--json")
    assert json.loads(result.stdout)["doubts"] == {}


@pytest.mark.parametrize("one_command", [True, False])
def test_the_niqab_layout_contradicts_a_polarity(
    demo: Path, tmp_path: Path, one_command: bool
) -> None:
    kept, folder, cache = tmp_path / "kept_faces", tmp_path / "masks", tmp_path / "cache"
    kept.mkdir()
    folder.mkdir()
    for mask in demo.glob("masks/*/*_mask.png"):
        name = mask.name.removesuffix("_mask.png")
        shutil.copy(mask, folder)
        shutil.copy(demo / "photos" / mask.parent.name / f"{name}.jpg", kept)
    options = ["--out", cache, "--flat", "--allow-failures", "--jobs", 1, "--json"]
    if one_command:
        result = prep("landmarks", kept, *options, "--masks", folder, "--polarity", "occluded")
    else:
        prep("landmarks", kept, *options)
        result = prep("masks", folder, "--cache", cache, "--polarity", "occluded", "--json")
    assert result.exit_code == 0
    faces = len(FaceCache.open(cache).select())
    doubts = json.loads(result.stdout)["doubts"]
    assert doubts == {"eyes_hidden": faces, "polarity_against_layout": faces}
    assert f"Warning: {faces} masks next to kept_faces/" in result.stderr
    right = prep("masks", folder, "--cache", cache, "--overwrite", "--json")
    assert json.loads(right.stdout)["doubts"] == {}


def test_no_false_alarm_on_hand_drawn_labels(shared: Path, tmp_path: Path) -> None:
    root = shared / "data" / "maskedface_seg_dev"
    cache = tmp_path / "cache"
    prep("landmarks", root / "images", "--flat", "--out", cache, "--limit", 8, "--jobs", 1)
    command = ["masks", root / "masks", "--cache", cache, "--jobs", 1, "--json"]
    for more in (("--class", "128,0,0", "--polarity", "visible"),
                 ("--class", "0,128,0", "--polarity", "occluded", "--overwrite")):  # fmt: skip
        result = prep(*command, *more)
        assert json.loads(result.stdout)["doubts"] == {}
        assert "Warning" not in result.stderr


# By a table ----------------------------------------------------------------------------------


def test_a_table_names_images_as_lists_of_pairs_do(demo: Path, cache: Path, tmp_path: Path) -> None:
    opened = FaceCache.open(cache)
    keys = opened.texts("key", opened.select())
    veiled = [k for k in keys if (demo / "masks" / k.replace(".jpg", "_mask.png")).exists()]
    table = tmp_path / "masks.csv"
    names = [veiled[0], veiled[1].removesuffix(".jpg"), f"photos/{veiled[2]}"]
    found = [key.replace(".jpg", "_mask.png") for key in veiled[:3]]
    rows = zip([*names, "gone/away.jpg"], [*found, found[0]], strict=True)
    table.write_text("image,mask\n" + "".join(f"{name},{mask}\n" for name, mask in rows))
    result = masks(demo / "masks", cache, "--table", table)
    assert result.exit_code == 0, result.stderr
    assert known(cache) == sorted(veiled[:3])
    table.write_text(f"image,mask\n{veiled[0]},{found[0]}\n./{veiled[0]},{found[1]}\n")
    result = masks(demo / "masks", cache, "--table", table, "--overwrite")
    assert result.exit_code == 1
    assert "has another mask already" in result.stderr


def test_a_table_of_another_cache_is_refused(demo: Path, cache: Path, tmp_path: Path) -> None:
    before = contents(cache)
    table = tmp_path / "masks.csv"
    mask = next((demo / "masks").rglob("*.png")).relative_to(demo / "masks")
    table.write_text(f"image,mask\nsomebody/1.jpg,{mask}\nsomebody/2.jpg,{mask}\n")
    result = masks(demo / "masks", cache, "--table", table)
    assert result.exit_code == 1
    assert f"{table}: none of 1 masks" in result.stderr
    assert contents(cache) == before


def test_a_table_without_its_folder_is_refused_and_leaves_no_claim(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("image,mask\n")
    arguments = ["masks", "--cache", str(tmp_path), "--table", str(tmp_path / "table.csv")]
    found = CliRunner().invoke(main, [*arguments, "--polarity", "visible", "--clean", "."])
    assert found.exit_code == 2
    assert "a folder of masks, MASKS, which is missing" in found.output
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
