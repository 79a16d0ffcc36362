"""`prep` from photographs to a sealed cache, with the real detector, as a user types it."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest
from bench.demo.photos import write_demo_photos
from click.testing import CliRunner
from tests.contents import contents
from tests.core.formats import recordio_writer
from tests.prep_command import needs_face_mesh, prep

from faceguide.cache import FaceCache
from faceguide.cache.cli import main as cache_main
from faceguide.core.faces.align import template
from faceguide.preprocess.detect.finders.mediapipe_package import bundled_models
from faceguide.preprocess.guidance.point_table import POINTS_FILE

PREP = [sys.executable, "-c", "from faceguide.preprocess.cli import main; main()"]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_demo_photos(folder / "set", identities=4, images=6)
    return folder / "set"


@pytest.fixture(scope="session")
def made(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    directory = tmp_path_factory.mktemp("made") / "cache"
    result = prep(
        "landmarks", demo / "photos", "--out", directory, "--jobs", 2, "--shard-rows", 5,
        "--json", "--allow-failures",
    )  # fmt: skip
    assert result.exit_code == 0
    return directory, json.loads(result.stdout)


def test_photographs_become_a_cache(made: tuple[Path, dict[str, object]], demo: Path) -> None:
    directory, summary = made
    assert summary["images"] == summary["rows"] == 24
    assert summary["shards"] == 5
    origins = summary["origins"]
    assert isinstance(origins, dict)
    assert set(origins) == {"detected", "retried", "imported", "template", "none"}
    assert sum(origins.values()) == 24
    assert summary["failures"] == origins["none"]
    cache = FaceCache.open(directory)
    assert cache.identities == [f"person_{i:02d}" for i in range(4)]
    keys = {str(path.relative_to(demo / "photos")) for path in demo.glob("photos/*/*.jpg")}
    assert set(cache.texts("key", range(24))) == keys
    good = cache.select()
    values = cache.read(good, ["landmarks", "heatmap", "regions", "pose", "image"])
    # The eyes lie where the template puts them, as closely as five points fit one similarity.
    eyes = values["landmarks"][:, [468, 473], :2] * 112
    assert np.abs(eyes - template(112)[:2]).max() < 6
    assert (values["heatmap"].max((1, 2)) == 255).all()
    assert (values["regions"].reshape(len(good), 3, -1).sum(2) > 255).all()
    assert np.isfinite(values["pose"]).all()
    sources = cache.read(range(24), ["source"])["source"]
    for row, key in enumerate(cache.texts("key", range(24))):
        photo = (demo / "photos" / key).read_bytes()
        assert sources[row].tobytes() == hashlib.sha256(photo).digest()[:16]
    tool = "face-mesh" if bundled_models() else "landmarker"
    assert cache.recipe["finder"]["tool"] == tool
    described = CliRunner().invoke(cache_main, ["info", str(directory)]).stdout
    assert f"finder {tool} of mediapipe {metadata.version('mediapipe')}" in described
    assert CliRunner().invoke(cache_main, ["verify", str(directory)]).exit_code == 0


def test_the_bytes_do_not_depend_on_jobs_parts_or_order(
    made: tuple[Path, dict[str, object]], demo: Path, tmp_path: Path
) -> None:
    directory, _ = made
    for part in ("2/3", "0/3", "1/3"):
        result = prep(
            "landmarks", demo / "photos", "--out", tmp_path / "cache", "--jobs", 1,
            "--shard-rows", 5, "--part", part, "--allow-failures",
        )  # fmt: skip
        assert result.exit_code == 0
        assert ("not sealed yet" in result.stdout) == (part != "1/3")
    assert contents(tmp_path / "cache") == contents(directory)


def test_a_finished_command_does_nothing_again(
    made: tuple[Path, dict[str, object]], demo: Path
) -> None:
    directory, _ = made
    before = {path: path.stat().st_mtime_ns for path in directory.glob("*.h5")}
    result = prep(
        "landmarks", demo / "photos", "--out", directory, "--shard-rows", 5, "--allow-failures"
    )
    assert result.exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in directory.glob("*.h5")} == before


def test_other_settings_are_refused_until_overwrite(demo: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = ["landmarks", demo / "photos", "--out", cache, "--limit", 3, "--allow-failures"]
    assert prep(*first).exit_code == 0
    result = prep(*first, "--size", 224)
    assert result.exit_code == 1
    assert "size: 112 there, 224 wanted" in result.stderr
    assert "--overwrite" in result.stderr
    assert "Traceback" not in result.stderr
    result = prep(*first, "--grid", 14)
    assert result.exit_code == 1
    assert "grid: 28 there, 14 wanted" in result.stderr
    assert prep(*first, "--size", 224, "--overwrite").exit_code == 0
    assert FaceCache.open(cache)[0]["image"].shape == (224, 224, 3)


def test_guidance_is_rendered_again_without_detection(demo: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    options = ["--limit", 4, "--allow-failures"]
    assert prep("landmarks", demo / "photos", "--out", cache, *options).exit_code == 0
    faces = contents(cache)
    result = prep("guidance", "--cache", cache, "--grid", 14, "--regions", "points")
    assert result.exit_code in (0, 3)
    opened = FaceCache.open(cache)
    assert opened[0]["heatmap"].shape == (14, 14)
    after = contents(cache)
    assert {k: v for k, v in after.items() if k.startswith("faces")} == {
        k: v for k, v in faces.items() if k.startswith("faces")
    }
    prep("guidance", "--cache", cache)
    assert contents(cache) == faces


def test_landmarks_go_out_and_come_in_again(
    made: tuple[Path, dict[str, object]], demo: Path, tmp_path: Path
) -> None:
    directory, _ = made
    text = tmp_path / "landmarks.txt"
    result = CliRunner().invoke(
        cache_main, ["export", "landmarks", str(directory), "--out", str(text)]
    )
    assert result.exit_code == 0
    cache = tmp_path / "cache"
    result = prep(
        "landmarks", demo / "photos", "--out", cache, "--landmarks", text, "--shard-rows", 5,
        "--json", "--allow-failures",
    )  # fmt: skip
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    ours, theirs = FaceCache.open(directory), FaceCache.open(cache)
    assert summary["origins"]["imported"] == len(ours.select())
    assert summary["status"].get("no_landmarks", 0) == 24 - len(ours.select())
    rows = ours.select()
    assert np.array_equal(rows, theirs.select())
    first, second = (c.read(rows, ["landmarks", "image", "pose"]) for c in (ours, theirs))
    assert np.abs(first["landmarks"] - second["landmarks"])[:, :, :2].max() < 1e-4
    assert np.isnan(second["landmarks"][:, :, 2]).all()
    assert np.abs(first["image"].astype(int) - second["image"]).mean() < 0.1
    assert np.abs(first["pose"] - second["pose"])[:, 2].max() < 5


def test_points_say_what_the_regions_make_of_them(demo: Path, tmp_path: Path) -> None:
    """A radius counts with discs only; the example of the help is a file that works."""
    cache, mine = tmp_path / "cache", tmp_path / "mine.json"
    prep("landmarks", demo / "photos", "--out", cache, "--limit", 4, "--allow-failures")
    text = prep("guidance", "--help").stdout
    assert "pixels at 448" in " ".join(text.split())
    mine.write_text(text[text.index('{"points"') : text.rindex("}}") + 2])
    words = ("guidance", "--cache", cache, "--points", mine)
    hull = prep(*words)
    assert hull.exit_code == 0
    (note,) = (line for line in hull.stderr.splitlines() if line.startswith(f"Note: {mine}: "))
    assert "--regions is hull" in note
    assert "Note" not in prep(*words, "--regions", "points").stderr
    rows = FaceCache.open(cache).select()
    small = FaceCache.open(cache).read(rows, ["regions"])["regions"].astype(float)
    table = json.loads(mine.read_text())
    mine.write_text(json.dumps({**table, "radius": 2 * table["radius"]}))
    assert prep(*words, "--regions", "points").exit_code == 0
    large = FaceCache.open(cache).read(rows, ["regions"])["regions"].astype(float)
    assert large.mean() > 2 * small.mean()
    ours = tmp_path / "ours.json"
    shutil.copy(POINTS_FILE, ours)
    assert "Note" not in prep("guidance", "--cache", cache, "--points", ours).stderr


@needs_face_mesh
def test_masks_go_through_the_same_transform(demo: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    options = ["--limit", 16, "--allow-failures"]
    assert prep("landmarks", demo / "photos", "--out", cache, *options).exit_code == 0
    result = prep("masks", demo / "masks", "--cache", cache)
    assert result.exit_code == 2
    assert "--polarity" in result.stderr
    arguments = ["masks", demo / "masks", "--cache", cache, "--polarity", "visible"]
    assert prep(*arguments, "--clean", ".").exit_code == 0
    opened = FaceCache.open(cache)
    veiled = clean = 0
    for row in opened.select().tolist():
        sample = opened[row]
        mask_file = demo / "masks" / sample["key"].replace(".jpg", "_mask.png")
        assert sample["known"]
        if not mask_file.exists():
            clean += 1
            assert (sample["visibility"] == 1).all()
            continue
        veiled += 1
        mask = cv2.imread(str(mask_file), cv2.IMREAD_GRAYSCALE)
        warped = cv2.warpAffine(
            mask.astype(np.float32) / 255, sample["transform"], (112, 112), flags=cv2.INTER_LINEAR
        )
        rough = warped.reshape(7, 16, 7, 16).mean((1, 3))
        assert np.abs(rough - sample["visibility"].astype(float)).max() < 0.08
        assert sample["visibility"][2].mean() > sample["visibility"][5].mean()
    assert veiled > 1
    assert clean > 1
    result = prep(*arguments)
    assert result.exit_code == 1
    assert "clean: ['.'] there, [] wanted" in result.stderr
    assert prep(*arguments, "--overwrite", "--grid", "14").exit_code == 0
    assert FaceCache.open(cache)[0]["visibility"].shape == (14, 14)


def test_the_niqab_layout_needs_no_polarity(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "kept_faces").mkdir()
    (tmp_path / "masks").mkdir()
    for mask in sorted(demo.glob("masks/*/*_mask.png"))[:4]:
        name = mask.name.removesuffix("_mask.png")
        shutil.copy(demo / "photos" / mask.parent.name / f"{name}.jpg", tmp_path / "kept_faces")
        shutil.copy(mask, tmp_path / "masks")
    shutil.copy(mask, tmp_path / "masks" / "stranger_mask.png")
    cache = tmp_path / "cache"
    prep("landmarks", tmp_path / "kept_faces", "--flat", "--out", cache, "--allow-failures")
    result = prep("masks", tmp_path / "masks", "--cache", cache)
    assert result.exit_code == 0
    opened = FaceCache.open(cache)
    assert len(opened.select(known_occlusion=True)) == len(opened.select())
    assert "stranger_mask.png" in result.stderr


def test_masks_that_do_not_fit_are_refused_by_name(demo: Path, tmp_path: Path) -> None:
    photos, masks = tmp_path / "photos", tmp_path / "masks"
    for folder in ("a", "b"):
        (photos / folder).mkdir(parents=True)
    masks.mkdir()
    bare = sorted(path for path in demo.glob("photos/*/*_0[0134].jpg"))  # 2 and 5 are veiled
    for number, name in enumerate(("a/same", "b/same", "a/wide", "a/cut", "a/good")):
        shutil.copy(bare[number * 3], photos / f"{name}.jpg")
    white = np.full((256, 256), 255, np.uint8)
    cv2.imwrite(str(masks / "same.png"), white)
    cv2.imwrite(str(masks / "wide.png"), white[:100])
    cv2.imwrite(str(masks / "good.png"), white)
    (masks / "cut.png").write_bytes((masks / "good.png").read_bytes()[:60])
    cache = tmp_path / "cache"
    prep("landmarks", photos, "--out", cache, "--allow-failures")
    good = set(FaceCache.open(cache).texts("key", FaceCache.open(cache).select()))
    assert {"a/same.jpg", "b/same.jpg", "a/wide.jpg", "a/cut.jpg", "a/good.jpg"} <= good
    result = prep("masks", masks, "--cache", cache, "--polarity", "visible")
    assert result.exit_code == 3
    assert "4 of 5 images failed" in result.stderr
    listed = CliRunner().invoke(cache_main, ["failures", str(cache)]).stdout
    reasons = {row["key"]: row["reason"] for row in csv.DictReader(listed.splitlines())}
    assert "several images are called 'same'" in reasons["a/same.jpg"]
    assert "several images are called 'same'" in reasons["b/same.jpg"]
    assert "256" in reasons["a/wide.jpg"]
    assert "100" in reasons["a/wide.jpg"]
    assert "cut.png" in reasons["a/cut.jpg"]
    opened = FaceCache.open(cache)
    assert opened.texts("key", opened.select(known_occlusion=True)) == ["a/good.jpg"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_keeps_what_is_finished(
    made: tuple[Path, dict[str, object]], demo: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this system does not let us mount a tmpfs")
    try:
        arguments = [
            "landmarks", demo / "photos", "--out", disk / "cache", "--shard-rows", 5, "--jobs", 1,
            "--allow-failures",
        ]  # fmt: skip
        result = prep(*arguments)
        assert result.exit_code == 1
        assert "the disk is full" in result.stderr
        finished = {path.name for path in disk.glob("cache/faces-*.json")}
        assert finished
        assert not list(disk.glob("cache/.*.tmp"))
        before = {name: (disk / "cache" / name).stat().st_mtime_ns for name in finished}
        grow = ["mount", "-o", "remount,size=20m", str(disk)]
        subprocess.run(grow, check=True, capture_output=True)
        assert prep(*arguments).exit_code == 0
        assert {name: (disk / "cache" / name).stat().st_mtime_ns for name in finished} == before
        assert contents(disk / "cache") == contents(made[0])
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_bad_files_are_recorded_and_the_rest_is_kept(demo: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos" / "a person\nwith ünusual name"
    photos.mkdir(parents=True)
    good = sorted(demo.glob("photos/*/*.jpg"))[0]
    image = cv2.imread(str(good))
    shutil.copy(good, photos / "good one.jpg")
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "text.jpg").write_text("not a picture at all")
    (photos / "cut.jpg").write_bytes(good.read_bytes()[:4000])
    cv2.imwrite(str(photos / "tiny.png"), image[:1, :1])
    cv2.imwrite(str(photos / "blank.png"), np.full((200, 200, 3), 128, np.uint8))
    cv2.imwrite(str(photos / "deep.png"), image.astype(np.uint16) * 257)
    cv2.imwrite(str(photos / "two.png"), np.hstack([image, cv2.resize(image, (200, 256))]))
    (photos / "loop").symlink_to(photos.parent)
    cache = tmp_path / "cache"
    result = prep("landmarks", tmp_path / "photos", "--out", cache, "--json")
    assert result.exit_code == 3
    assert "5 of 8 images failed" in result.stderr
    assert f"cache failures {cache}" in result.stderr
    listed = CliRunner().invoke(cache_main, ["failures", str(cache)])
    reasons = {
        row["key"].rpartition("/")[2]: row["status"]
        for row in csv.DictReader(listed.stdout.splitlines())
    }
    assert reasons == {
        "empty.jpg": "empty",
        "text.jpg": "not_an_image",
        "cut.jpg": "truncated",
        "tiny.png": "too_small",
        "blank.png": "no_face",
    }
    opened = FaceCache.open(cache)
    by_name = {Path(opened[row]["key"]).name: opened[row] for row in opened.select().tolist()}
    assert set(by_name) == {"good one.jpg", "deep.png", "two.png"}
    assert by_name["two.png"]["faces"] == 2
    assert opened.identities == ["a person\nwith ünusual name"]
    again = prep("landmarks", tmp_path / "photos", "--out", cache, "--allow-failures")
    assert again.exit_code == 0


def test_a_csv_keeps_its_columns(demo: Path, tmp_path: Path) -> None:
    source = tmp_path / "list.csv"
    paths = sorted(demo.glob("photos/*/*.jpg"))[:6]
    for path in paths:
        shutil.copy(path, tmp_path / path.name)
    with source.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "identity", "split"])
        for i, path in enumerate(paths):
            writer.writerow([path.name, f"id{i % 2}", "train" if i < 4 else "test"])
    cache = tmp_path / "cache"
    prep("landmarks", source, "--out", cache, "--allow-failures")
    opened = FaceCache.open(cache)
    train = opened.select(status=None, meta={"split": "train"})
    assert sorted(opened.texts("key", train)) == [path.name for path in paths[:4]]
    assert opened.identities == ["id0", "id1"]


def test_packed_sources_become_caches(demo: Path, tmp_path: Path) -> None:
    pictures = [path.read_bytes() for path in sorted(demo.glob("photos/*/*_00.jpg"))]
    rec = tmp_path / "train.rec"
    header = recordio_writer.record(b"", [float(len(pictures) + 1), 0.0])  # as insightface does
    images = [recordio_writer.record(data, float(n % 2)) for n, data in enumerate(pictures)]
    recordio_writer.write(rec, [header, *images])
    packed = tmp_path / "set.bin"
    packed.write_bytes(pickle.dumps((pictures, [True, False])))
    for source, identities in ((rec, ["0", "1"]), (packed, [])):
        cache = tmp_path / source.stem
        result = prep("landmarks", source, "--out", cache, "--json")
        assert result.exit_code == 0
        assert json.loads(result.stdout)["origins"]["detected"] == 4
        opened = FaceCache.open(cache)
        assert opened.identities == identities
        assert len(opened.select(labelled=bool(identities))) == 4


def test_jpeg_storage_and_margin(demo: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    result = prep(
        "landmarks", demo / "photos", "--out", cache, "--limit", 6, "--size", 224, "--margin",
        0.2, "--store", "jpeg", "--allow-failures",
    )  # fmt: skip
    assert result.exit_code == 0
    assert CliRunner().invoke(cache_main, ["verify", str(cache)]).exit_code == 0
    sample = FaceCache.open(cache)[int(FaceCache.open(cache).select()[0])]
    assert sample["image"].shape == (224, 224, 3)
    eyes = sample["landmarks"][[468, 473], :2] * 224
    assert 45 < np.linalg.norm(eyes[0] - eyes[1]) < 55  # 35.2 px at 112, × 2 / 1.4


def test_aligned_images_without_a_face_get_the_template(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "p"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "blank.png"), np.full((112, 112, 3), 90, np.uint8))
    cache = tmp_path / "cache"
    result = prep("landmarks", tmp_path / "photos", "--out", cache, "--align", "none", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["origins"]["template"] == 1
    sample = FaceCache.open(cache)[0]
    assert sample["quality"] == 0
    assert (sample["image"] == 90).all()


def test_a_dry_run_says_everything_and_writes_nothing(demo: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(demo / "photos" / "person_00", photos / "person_00")
    (photos / "person_00" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (photos / "person_00" / "empty.png").write_bytes(b"")
    (photos / "person_00" / "notes.txt").write_text("x")
    cache = tmp_path / "cache"
    result = prep("landmarks", photos, "--out", cache, "--dry-run", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["images"] == 8
    assert found["bytes"] > 8 * 37632
    assert found["seconds"] > 0
    text = "\n".join(found["problems"])
    assert "broken.jpg" in text
    assert "empty.png" in text
    assert "notes.txt" in text
    assert not cache.exists()
    assert "problems" in prep("landmarks", photos, "--out", cache, "--dry-run").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--part", "4/4"], "--part 4/4: expected i/N with i from 0"),
        (["--points", "{source}/nothing.json"], "does not exist"),
        (["--landmarks", "{source}"], "landmark"),
    ],
)
def test_bad_options_are_one_line(
    demo: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    source = demo / "photos"
    filled = [argument.format(source=source) for argument in arguments]
    result = prep("landmarks", source, "--out", tmp_path / "cache", *filled)
    assert result.exit_code in (1, 2)
    assert message in result.stderr.lower() or message in result.stderr
    assert "Traceback" not in result.output


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    result = prep("landmarks", tmp_path / "photos", "--out", tmp_path / "cache")
    assert result.exit_code == 1
    assert "no images found" in result.stderr


@needs_face_mesh
def test_sigterm_stops_cleanly_and_the_same_command_goes_on(
    made: tuple[Path, dict[str, object]], demo: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    command = [
        *PREP, "landmarks", str(demo / "photos"), "--out", str(cache), "--shard-rows", "5",
        "--jobs", "2", "--allow-failures",
    ]  # fmt: skip
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (cache / "plan.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=60)
    if running.returncode != 0:  # the work may have ended before the signal
        assert running.returncode == 4
        assert "Interrupted; what is finished is kept" in said
        assert "Traceback" not in said
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert contents(cache) == contents(made[0])
