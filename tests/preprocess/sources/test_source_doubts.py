"""Sources as other programs leave them: read rightly, or said in one line and in --json."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image, features
from tests.core.formats.recordio_writer import record, write
from tests.prep_command import prep

from faceguide.cache import FaceCache
from faceguide.cache.cli import main as cache_main
from faceguide.cache.plan import load_plan, read_identities, read_sources


def cache(*arguments: object) -> Result:
    return CliRunner().invoke(cache_main, [str(argument) for argument in arguments])


def picture(path: Path, seed: int = 0, side: int = 48, **options: Any) -> Path:
    """A colourful picture; its format is that of the name, or `format`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
    Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(path, **options)
    return path


def mask(path: Path, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((48, 48), 255, np.uint8)
    values[30:] = 0
    Image.fromarray(values).convert(mode).save(path)


def planned(source: Path, out: Path, *options: object) -> tuple[dict[str, int], dict[str, str]]:
    """The doubts of `prep plan`, and the identity of each key that it planned."""
    result = prep("plan", source, "--out", out, "--json", *options)
    assert result.exit_code == 0, result.output
    doubts = json.loads(result.stdout)["doubts"]
    assert len([line for line in result.stderr.splitlines() if "Warning:" in line]) == len(doubts)
    plan = load_plan(out)
    assert plan is not None
    names = [*read_identities(out), ""]
    rows = [row for shard in range(plan.shards) for row in read_sources(out, plan, shard)]
    assert len({row.key for row in rows}) == len(rows)
    return doubts, {row.key: names[row.label] for row in rows}


def listed(tmp_path: Path, text: str | bytes) -> tuple[dict[str, int], dict[str, str]]:
    path = tmp_path / "set.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return planned(path, tmp_path / "cache", "--overwrite")


# Identities


@pytest.mark.parametrize(
    ("names", "doubted"),
    [
        (["train/Ann/1", "train/Bob/1", "val/Cid/1", "val/Dan/1"], 2),
        (["Train/Ann/1", "Ann/1", "Bob/1", "Cid/1", "Dan/1"], 1),  # next to identities
        (["images/1", "images/2", "masks/1"], 2),  # without folders below
        (["fold1/Ann/1", "fold1/Bob/1", "fold1/Cid/1", "fold2/Dan/1", "fold2/Eve/1"], 2),
        (["lfw/Ann/1", "lfw/Bob/1", "lfw/Cid/1"], 1),  # one folder around all
        (["Ann/1", "Bob/1"], 0),
        (["Ann/monday/1", "Ann/friday/1", "Bob/monday/1", "Bob/friday/1"], 0),  # sessions
        (["Ann/1", "Bob/1", "Test/1", "Cid/1", "Dev/1"], 0),  # may be somebody's name
        ([f"id{n}/video{m}{n}/1" for n in range(12) for m in range(9)], 0),
    ],
)
def test_parts_of_a_set_are_no_identities(tmp_path: Path, names: list[str], doubted: int) -> None:
    for name in names:
        picture(tmp_path / "set" / f"{name}.jpg")
    doubts, _ = planned(tmp_path / "set", tmp_path / "cache")
    assert doubts.get("parts_as_identities", 0) == doubted
    flat, _ = planned(tmp_path / "set", tmp_path / "flat", "--flat")
    assert flat == {}


def test_the_part_to_give_is_named(tmp_path: Path) -> None:
    for part in ("train", "val"):
        picture(tmp_path / f"set/{part}/Ann/1.jpg")
    result = prep("landmarks", tmp_path / "set", "--out", tmp_path / "cache", "--dry-run")
    assert result.exit_code == 0
    assert "--flat (the first: 'set/train')" in result.stderr


def test_one_identity_alone(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / f"set/Ann/{number}.jpg", number)
    assert planned(tmp_path / "set", tmp_path / "cache")[0] == {"single_identity": 1}
    assert listed(tmp_path, "path,identity\na.jpg,x\nb.jpg,x\n")[0] == {"single_identity": 1}
    assert listed(tmp_path, "path\na.jpg\nb.jpg\n")[0] == {}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("anna", "Anna"),
        ("anna", "anna "),
        ("anna  lee", "Anna_Lee"),
        (unicodedata.normalize("NFC", "José"), unicodedata.normalize("NFD", "José")),
        ("3", "3.0"),
        ("007", "7"),
        ("an\u200bna", "anna"),
    ],
)
def test_one_identity_under_two_spellings(tmp_path: Path, first: str, second: str) -> None:
    for name in (first, second, "other"):
        picture(tmp_path / "set" / name / "1.jpg")
    doubts, found = planned(tmp_path / "set", tmp_path / "cache")
    assert doubts == {"spellings": 1}
    assert len(set(found.values())) == 3  # said, not merged
    line = prep("plan", tmp_path / "set", "--out", tmp_path / "cache").stderr
    assert ascii(first) in line  # again, by a rerun, and to be told apart
    assert ascii(second) in line


@pytest.mark.parametrize("names", [("an na", "anna"), ("1", "11"), ("1_1", "11"), ("Jose", "José")])
def test_two_identities_are_not_one_spelling(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        picture(tmp_path / "set" / name / "1.jpg")
    assert planned(tmp_path / "set", tmp_path / "cache")[0] == {}


def test_names_of_nobody(tmp_path: Path) -> None:
    lines = ["", "nan", "-1", "NaN", " ", "None", "-1.0", "<NA>", "Nan", "Ann"]
    text = "".join(f"{n}.jpg,{name}\n" for n, name in enumerate(lines))
    doubts, found = listed(tmp_path, "path,identity\n" + text)
    assert doubts == {"no_identity": 8}
    assert {key: name for key, name in found.items() if name} == {"8.jpg": "Nan", "9.jpg": "Ann"}
    for name in ("nan", "-1", "Ann", "Bob"):
        picture(tmp_path / "set" / name / "1.jpg")
    doubts, found = planned(tmp_path / "set", tmp_path / "folders")
    assert doubts == {"no_identity": 2}
    assert set(found.values()) == {"", "Ann", "Bob"}


# CSVs

PLAIN = "path,identity\na/1.jpg,x\nb/2.jpg,y\n"


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", "|"),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        PLAIN.encode("utf-16-le"),
        PLAIN.replace(",", "\t").replace("\n", "\r\n").encode("utf-16"),  # Excel's "Unicode text"
        PLAIN.encode("utf-32"),
        PLAIN.replace("path,identity", "Path,IDENTITY"),
        PLAIN.replace("/", "\\"),
        PLAIN.replace("a/", "./a/").replace("b/", ".\\b\\"),
        PLAIN.replace(",", ", ").replace(" y", "  y "),
        'path, identity\na/1.jpg, "x"\nb/2.jpg, "y"\n',
        ",path,identity\n0,a/1.jpg,x\n1,b/2.jpg,y\n",
        "Unnamed: 0;path;identity\n0;a/1.jpg;x\n1;b/2.jpg;y\n",
        "identity,path\nx,a/1.jpg\ny,b/2.jpg\n",
    ],
)
def test_csvs_of_other_programs(tmp_path: Path, text: str | bytes) -> None:
    assert listed(tmp_path, text) == ({}, {"a/1.jpg": "x", "b/2.jpg": "y"})


@pytest.mark.parametrize("column", ["label", "id", "Label", "person_id", "subject"])
def test_a_column_that_is_not_called_identity(tmp_path: Path, column: str) -> None:
    doubts, found = listed(tmp_path, PLAIN.replace("identity", column))
    assert doubts == {"guessed_identity_column": 1}
    assert found == {"a/1.jpg": "x", "b/2.jpg": "y"}
    plan = load_plan(tmp_path / "cache")
    assert plan is not None
    assert plan.meta == (column,)  # and it stays what it was


def test_columns_without_one_of_identities(tmp_path: Path) -> None:
    doubts, found = listed(tmp_path, "path,celebrity\na.jpg,x\nb.jpg,y\n")
    assert (doubts, set(found.values())) == ({"no_identity_column": 1}, {""})
    assert listed(tmp_path, "path\na.jpg\nb.jpg\n")[0] == {}


def test_identity_goes_before_label(tmp_path: Path) -> None:
    doubts, found = listed(tmp_path, "label,path,identity\n7,a.jpg,x\n8,b.jpg,y\n")
    assert (doubts, found) == ({}, {"a.jpg": "x", "b.jpg": "y"})


def test_a_file_may_be_called_so(tmp_path: Path) -> None:
    picture(tmp_path / "a\\1.jpg")
    picture(tmp_path / " b.jpg")
    _, found = listed(tmp_path, "path,identity\na\\1.jpg,x\n b.jpg,y\n")
    assert set(found) == {"a\\1.jpg", " b.jpg"}


def test_half_a_utf16_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_bytes(PLAIN.encode("utf-16")[:-1])
    result = prep("plan", tmp_path / "set.csv", "--out", tmp_path / "cache")
    assert result.exit_code == 1
    assert "set.csv: begins as utf-16-le, but" in result.stderr
    assert "save it as UTF-8" in result.stderr
    assert "Traceback" not in result.output


def test_a_list_and_its_files_in_two_unicode_forms(tmp_path: Path) -> None:
    picture(tmp_path / unicodedata.normalize("NFD", "José/é.jpg"))
    source = tmp_path / "set.csv"
    source.write_text(unicodedata.normalize("NFC", "path,identity\nJosé/é.jpg,x\n"))
    result = prep("landmarks", source, "--out", tmp_path / "cache", "--dry-run", "--json")
    assert json.loads(result.stdout)["problems"] == []


# What lies in folders


def test_images_by_any_name(tmp_path: Path) -> None:
    for name in ("0.jfif", "1.jpe", "2", "3.jpg_large", "4.JPEG", "5.jpg?w=640", "6.heic"):
        picture(tmp_path / "set/Ann" / name, format="JPEG")
    picture(tmp_path / "set/Bob/photo", format="WEBP")
    (tmp_path / "set/Bob/README").write_text("BM is how this text begins")
    (tmp_path / "set/Bob/notes.txt").write_text("x")
    if features.check("avif"):
        picture(tmp_path / "set/Ann/7.avif")
    doubts, found = planned(tmp_path / "set", tmp_path / "cache")
    assert doubts == {}
    assert len(found) == 8 + features.check("avif")
    result = prep("landmarks", tmp_path / "set", "--out", tmp_path / "x", "--dry-run", "--json")
    assert json.loads(result.stdout)["problems"] == [
        "files that are not images: 2 (the first: 'Bob/README')"
    ]


def test_formats_that_are_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "set/Ann"
    folder.mkdir(parents=True)
    (folder / "1.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    (folder / "2").write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64))
    (folder / "3.nef").write_bytes(b"II*\0" + bytes(64))
    result = prep("plan", tmp_path / "set", "--out", tmp_path / "cache")
    assert result.exit_code == 1
    assert "no images found; 3 pictures " in result.stderr
    assert "Ann/" in result.stderr
    picture(folder / "4.jpg")
    doubts, found = planned(tmp_path / "set", tmp_path / "cache")
    assert (doubts, set(found)) == ({"unread_formats": 3}, {"Ann/4.jpg"})


def test_masks_and_thumbnails_beside_photographs(tmp_path: Path) -> None:
    for number, ending in enumerate(("_mask.png", "_gt.png", "_MASK.bmp", "-mask.jpg")):
        picture(tmp_path / f"set/Ann/{number}.jpg", number)
        mask(tmp_path / f"set/Ann/{number}{ending}", "RGB" if ending == "_gt.png" else "L")
    mask(tmp_path / "set/Ann/0.jpg_gt.png")
    picture(tmp_path / "set/Bob/portrait_mask.jpg")  # nothing next to it that it could be a mask of
    for place in ("@eaDir/0.jpg/SYNOPHOTO_THUMB_M", "__MACOSX/0", ".thumbnails/0", "._0"):
        picture(tmp_path / f"set/Ann/{place}.jpg")
    doubts, found = planned(tmp_path / "set", tmp_path / "cache")
    assert doubts == {"masks_beside_images": 5, "thumbnail_folders": 2}
    assert set(found) == {*(f"Ann/{n}.jpg" for n in range(4)), "Bob/portrait_mask.jpg"}
    flat, found = planned(tmp_path / "set", tmp_path / "flat", "--flat")
    assert (flat, len(found)) == (doubts, 5)


def test_a_photograph_of_a_masked_face_is_no_mask(tmp_path: Path) -> None:
    for name in ("Ann", "Bob"):
        picture(tmp_path / f"set/{name}/1.png", 1)
        picture(tmp_path / f"set/{name}/1_mask.png", 2)
    doubts, found = planned(tmp_path / "set", tmp_path / "cache")
    assert (doubts, len(found)) == ({}, 4)


def test_links_out_of_the_source_are_named_with_a_way(tmp_path: Path) -> None:
    for name in ("Ann", "Bob"):
        picture(tmp_path / f"shared/{name}/1.jpg")
        (tmp_path / "farm").mkdir(exist_ok=True)
        (tmp_path / "farm" / name).symlink_to(tmp_path / "shared" / name)
    result = prep("plan", tmp_path / "farm", "--out", tmp_path / "cache")
    assert result.exit_code == 1
    assert "no images found; 2 folder links " in result.stderr
    assert "a CSV of " in result.stderr
    picture(tmp_path / "farm/Cid/1.jpg")
    picture(tmp_path / "farm/Dan/1.jpg")
    (tmp_path / "farm/Dan/up").symlink_to("..")
    (tmp_path / "farm/Eve").symlink_to("Cid")
    (tmp_path / "farm/Fay").symlink_to("Cid")
    doubts, found = planned(tmp_path / "farm", tmp_path / "cache")
    assert doubts == {"links_outside": 2, "links_upwards": 1, "links_repeated": 1}
    assert set(found) == {"Cid/1.jpg", "Dan/1.jpg", "Eve/1.jpg"}
    # The way that the line offers.
    (tmp_path / "farm.csv").write_text("path,identity\nfarm/Ann/1.jpg,Ann\nfarm/Bob/1.jpg,Bob\n")
    result = prep(
        "landmarks", tmp_path / "farm.csv", "--out", tmp_path / "x", "--dry-run", "--json"
    )
    assert json.loads(result.stdout)["problems"] == []


# One image, several times


def test_one_image_under_two_identities(tmp_path: Path) -> None:
    for seed, name in enumerate(("Ann/1", "Ann/2", "Bob/1", "Cid/1", "Cid/2", "Dan/1", "Eve/1")):
        picture(tmp_path / f"set/{name}.png", seed)
    picture(tmp_path / "set/Bob/copy.png", 0)  # Ann's first
    picture(tmp_path / "set/Cid/copy.bmp", 5)  # Dan's, in another format: the same pixels
    picture(tmp_path / "set/Eve/again.png", 6)
    picture(tmp_path / "set/Eve/and again.png", 6)
    wanted = {"two_identities": 2, "repeated_images": 2}
    run = ["landmarks", tmp_path / "set", "--align", "none", "--json", "--jobs", 1]
    dry = prep(*run, "--out", tmp_path / "none", "--dry-run")
    assert json.loads(dry.stdout)["doubts"] == wanted
    assert "identity (the first: 'Ann/1.png' and 'Bob/copy.png')" in dry.stderr
    for store in ("raw", "jpeg"):
        out = tmp_path / store
        done = prep(*run, "--out", out, "--shard-rows", 3, "--store", store)
        assert done.exit_code == 0
        assert json.loads(done.stdout)["doubts"] == wanted
        line = next(line for line in done.stderr.splitlines() if "more than one identity" in line)
        assert "2 images stand under more than one identity" in line
        # A finished command says it again; so does `cache info`, and nothing stumbles over it.
        assert (
            json.loads(prep(*run, "--out", out, "--shard-rows", 3, "--store", store).stdout)[
                "doubts"
            ]
            == wanted
        )
        assert json.loads(cache("info", out, "--json").stdout)["doubts"] == wanted
        assert "doubt: 2 images stand under more than one identity" in cache("info", out).stdout
        assert cache("verify", out).exit_code == cache("seal", out).exit_code == 0
    guidance = prep("guidance", "--cache", tmp_path / "raw", "--json", "--jobs", 1)
    assert json.loads(guidance.stdout)["doubts"] == {}


def test_parts_tell_it_together(tmp_path: Path) -> None:
    for seed, name in enumerate(("Ann", "Bob", "Cid", "Dan")):
        picture(tmp_path / f"set/{name}/1.png", seed)
        picture(tmp_path / f"set/{name}/2.png", 9)
    (tmp_path / "set.csv").write_text(
        "path,label\n"
        + "".join(f"set/{name}/{n}.png,{name}\n" for name in ("Ann", "Bob", "Cid") for n in (1, 2))
    )
    found = []
    for part in ("0/2", "1/2"):
        done = prep(
            "landmarks", tmp_path / "set.csv", "--align", "none", "--out", tmp_path / "cache",
            "--jobs", 1, "--shard-rows", 2, "--part", part, "--json",
        )  # fmt: skip
        found.append(json.loads(done.stdout)["doubts"])
    # What the listing found is said by every part; what the rows tell, once all are there.
    assert found == [
        {"guessed_identity_column": 1},
        {"guessed_identity_column": 1, "two_identities": 1},
    ]
    assert "guessed" not in json.dumps(
        json.loads(
            prep(
                "landmarks", tmp_path / "set", "--align", "none", "--out", tmp_path / "cache",
                "--jobs", 1, "--overwrite", "--json",
            ).stdout
        )["doubts"]
    )  # fmt: skip
    assert len(FaceCache.open(tmp_path / "cache")) == 8


# Records


def recorded(tmp_path: Path, labels: list[float], header: list[float]) -> Path:
    path = tmp_path / "train.rec"
    write(path, [record(b"", header), *(record(b"image", label) for label in labels)])
    return path


def test_labels_that_are_no_numbers_of_identities(tmp_path: Path) -> None:
    path = recorded(tmp_path, [3.7, 3.2, 3.0, -1.0, float("nan"), 4.0], [7.0, 8.0])
    doubts, found = planned(path, tmp_path / "cache")
    assert doubts == {"odd_labels": 2, "no_identity": 2}
    assert list(found.values()).count("") == 2
    assert set(found.values()) == {"3.7", "3.2", "3", "4", ""}  # none are merged
    path = recorded(tmp_path, [float(1 << 24), 5.0, -2.0], [4.0, 5.0])
    assert planned(path, tmp_path / "large")[0] == {"odd_labels": 2}


@pytest.mark.parametrize("end", [3.0, 9.0])
def test_a_header_that_promises_another_number(tmp_path: Path, end: float) -> None:
    path = recorded(tmp_path, [1.0, 2.0, 3.0], [end, end + 1])
    doubts, found = planned(path, tmp_path / "cache")
    assert doubts == {"header_count": 1}
    assert set(found.values()) == {"1", "2", "3"}
    path.with_suffix(".idx").unlink()
    assert planned(path, tmp_path / "walked")[0] == {"header_count": 1}


def test_a_header_of_one_number_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "train.rec"
    write(path, [record(b"", 3.0), record(b"one", 5.0), record(b"two", 6.0)])
    doubts, found = planned(path, tmp_path / "cache")
    assert (doubts, found) == ({}, {"00000001": "5", "00000002": "6"})
    path.with_suffix(".idx").unlink()
    assert planned(path, tmp_path / "walked") == (doubts, found)
