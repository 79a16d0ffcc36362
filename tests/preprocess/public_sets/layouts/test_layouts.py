"""Each layout is found by its own lists and folders, and says what is absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.preprocess.public_sets.set_builder import (
    lfw,
    rfw,
    tinyface,
    verification_bin,
    write_images,
    write_text,
)

from faceguide.preprocess.public_sets.benchmarks import BENCHMARKS
from faceguide.preprocess.public_sets.find_sets import find_sets
from faceguide.preprocess.public_sets.found_set import FoundSet, named
from faceguide.preprocess.public_sets.listed_images import are_aligned


def only(root: Path) -> FoundSet:
    inventory = find_sets(root)
    assert not inventory.doubtful
    (found,) = inventory.found
    return found


def test_lfw_is_found_by_its_list_wherever_its_images_are(tmp_path: Path) -> None:
    paths = lfw(tmp_path / "lfw_home")
    found = only(tmp_path)
    assert (found.benchmark, found.place) == ("lfw", tmp_path / "lfw_home" / "lfw")
    listed = found.pairs[""]
    assert set(listed.first) | set(listed.second) == set(found.images) <= set(paths)
    assert listed.fold is not None
    assert set(listed.fold.tolist()) == {0, 1}
    assert found.images["P00/P00_0001.jpg"] == "P00"
    assert found.notes == (f"the list has {len(listed)} pairs, the published one 6,000",)
    assert are_aligned(found.place, found.images)


def test_of_two_copies_the_aligned_one_is_taken_and_absent_images_are_kept(tmp_path: Path) -> None:
    """XQLFW comes twice; an image that one copy lacks stays in the list by its name."""
    root = tmp_path / "XQLFW"
    lfw(root, name="xqlfw_pairs.txt")
    (root / "lfw").rename(root / "xqlfw_aligned_112")
    write_images(root / "original", [("P00/P00_0001.jpg", "P00")])
    (root / "xqlfw_aligned_112" / "P01" / "P01_0001.jpg").unlink()
    found = only(tmp_path)
    assert (found.benchmark, found.place.name) == ("xqlfw", "xqlfw_aligned_112")
    assert "P01/P01_0001.jpg" not in found.images
    assert "P01/P01_0001" in found.pairs[""].first


def test_calfw_has_two_lines_a_pair(tmp_path: Path) -> None:
    root = tmp_path / "calfw"
    write_images(root / "images", [(f"Ann_Lee_000{n}.jpg", "Ann") for n in (1, 2)])
    write_images(root / "images", [("Bob_0001.jpg", "Bob")])
    lines = ["Ann_Lee_0001.jpg 1", "Ann_Lee_0002.jpg 1", "Ann_Lee_0001.jpg 0", "Bob_0001.jpg 0"]
    write_text(root / "pairs_CALFW.txt", *lines)
    found = only(tmp_path)
    assert found.benchmark == "calfw"
    assert found.images["Ann_Lee_0002.jpg"] == "Ann_Lee"
    assert found.pairs[""].same.tolist() == [True, False]


def test_a_folder_that_is_not_an_identity_names_none(tmp_path: Path) -> None:
    root = tmp_path / "mlfw"
    write_images(root / "images", [(f"aligned/Ann_000{n}.jpg", "Ann") for n in (1, 2)])
    write_text(root / "pairs.txt", "aligned/Ann_0001.jpg aligned/Ann_0002.jpg 1")
    assert set(only(tmp_path).images.values()) == {""}


def test_rfw_has_a_list_a_group_without_a_header(tmp_path: Path) -> None:
    rfw(tmp_path / "RFW", ["African", "Asian", "Indian"])
    found = only(tmp_path)
    assert list(found.pairs) == ["African", "Asian", "Indian"]
    assert found.notes[0] == "Caucasian: no test/txts/Caucasian/Caucasian_pairs.txt"
    listed = found.pairs["African"]
    assert listed.first[0] == "data/African/m.0a0/m.0a0_0001.jpg"
    assert listed.same.tolist() == [True] * 3 + [False] * 3 + [True] * 3 + [False] * 3
    assert found.images[listed.first[0]] == "m.0a0"


def test_cfp_has_folds_of_numbers(tmp_path: Path) -> None:
    root = tmp_path / "cfp-dataset"
    frontal = [f"Data/Images/00{i}/frontal/0{n}.jpg" for i in (1, 2) for n in (1, 2)]
    profile = [f"Data/Images/00{i}/profile/01.jpg" for i in (1, 2)]
    write_images(root, [(path, path.split("/")[2]) for path in frontal + profile])
    for name, paths in (("F", frontal), ("P", profile)):
        lines = [f"{number} ../{path}" for number, path in enumerate(paths, 1)]
        write_text(root / "Protocol" / f"Pair_list_{name}.txt", *lines)
    for fold, (same, diff) in enumerate([("1,1", "2,2"), ("3,2", "4,1")], 1):
        for split, extra in (("FP", same), ("FF", "1,2" if fold == 1 else "3,4")):
            folder = root / "Protocol" / "Split" / split / f"{fold:02d}"
            write_text(folder / "same.txt", extra)
            write_text(folder / "diff.txt", diff if split == "FP" else "1,3")
    inventory = find_sets(tmp_path)
    found = {one.benchmark: one for one in inventory.found}
    assert set(found) == {"cfp-ff", "cfp-fp"}
    listed = found["cfp-fp"].pairs[""]
    assert list(zip(listed.first, listed.second, strict=True)) == [
        (frontal[0], profile[0]), (frontal[1], profile[1]),
        (frontal[2], profile[1]), (frontal[3], profile[0]),
    ]  # fmt: skip
    assert listed.same.tolist() == [True, False] * 2
    assert listed.fold is not None
    assert listed.fold.tolist() == [0, 0, 1, 1]
    assert found["cfp-fp"].images[profile[1]] == "002"
    write_text(root / "Protocol" / "Split" / "FP" / "01" / "same.txt", "1,9")
    (doubtful,) = find_sets(tmp_path).doubtful
    assert "same.txt: line 1: expected `number,number`" in str(doubtful)


def test_bfw_has_all_pairs_and_those_within_a_subgroup(tmp_path: Path) -> None:
    root = tmp_path / "bfw"
    groups = ("asian_females", "black_males")
    paths = [f"{group}/n00000{i}/000{n}_01.jpg" for group in groups for i in (1, 2) for n in (1, 2)]
    write_images(root / "faces", [(path, path.rsplit("/", 1)[0]) for path in paths])
    lines = ["ID,fold,p1,p2,label,att1,att2,vgg16"]
    for number, (a, b, same) in enumerate([(0, 1, 1), (0, 2, 0), (4, 5, 1), (4, 6, 0), (0, 4, 0)]):
        att = [paths[place].split("/")[0] for place in (a, b)]
        lines.append(f"{number},{1 + number % 2},{paths[a]},{paths[b]},{same},{att[0]},{att[1]},.5")
    write_text(root / "bfw-v0.1.5-datatable.csv", *lines)
    found = only(tmp_path)
    assert {name: len(listed) for name, listed in found.pairs.items()} == {
        "all": 5,
        "asian_females": 2,
        "black_males": 2,
    }
    assert found.images[paths[0]] == "asian_females/n000001"
    assert found.pairs["black_males"].same.tolist() == [True, False]


def test_tinyface_enrols_each_distractor_by_itself(tmp_path: Path) -> None:
    tinyface(tmp_path / "tinyface")
    lists = only(tmp_path).searches[""]
    assert lists.probes[0] == ("Probe/1_2.jpg", "1")
    assert lists.gallery[0] == ("Gallery_Match/1_1.jpg", "1")
    assert len({identity for _, identity in lists.gallery}) == 4 + 3
    tinyface(tmp_path / "half" / "tinyface", distractors=0)
    notes = [one.notes for one in find_sets(tmp_path).found if "half" in str(one.place)]
    assert notes == [("no Gallery_Distractor: without its images the search is easier",)]


def test_scface_and_rmfrd_are_searched(tmp_path: Path) -> None:
    images = [(f"mugshot_frontal_cropped_all/00{i}_frontal.JPG", str(i)) for i in (1, 2)]
    for distance in (1, 3):
        for camera in (1, 6):
            folder = f"surveillance_cameras_distance_{distance}/cam_{camera}"
            images += [(f"{folder}/00{i}_cam{camera}_{distance}.jpg", str(i)) for i in (1, 2)]
    write_images(tmp_path / "SCface_database", images)
    masked, bare = "AFDB_masked_face_dataset", "AFDB_face_dataset"
    people = [(f"{part}/ann/{n}.jpg", "ann") for part in (masked, bare) for n in (1, 2)]
    write_images(tmp_path / "rmfrd", people)
    found = {one.benchmark: one for one in find_sets(tmp_path).found}
    scface, rmfrd = found["scface"], found["rmfrd"]
    assert list(scface.searches) == ["distance 1", "distance 3"]
    assert [identity for _, identity in scface.searches["distance 1"].probes] == ["001", "002"]
    assert scface.notes == ("no images of cameras 1 to 5 in surveillance_cameras_distance_2",)
    assert rmfrd.searches[""].probes[0] == (f"{masked}/ann/1.jpg", "ann")
    assert rmfrd.searches[""].gallery[1] == (f"{bare}/ann/2.jpg", "ann")


def test_ocfr_has_a_list_a_protocol_and_one_of_answers(tmp_path: Path) -> None:
    root = tmp_path / "OCFR"
    names = ["Ann_0001", "Ann_0002_probe", "Bob_0001"]
    for protocol in ("C_O1", "C_O3"):
        write_images(root / protocol, [(f"lfw/{name}.jpg", name[:3]) for name in names])
        lines = [f"{protocol}/lfw/{name}.jpg 10 20 90 100" for name in names]
        write_text(root / f"{protocol}_list.txt", *lines)
    write_text(root / "pairs.txt", "Ann_0001 Ann_0002_probe", "Ann_0001 Bob_0001")
    write_text(root / "issame.txt", "1", "0")
    found = only(tmp_path)
    assert list(found.pairs) == ["C_O1", "C_O3"]
    assert found.pairs["C_O3"].second[0] == "C_O3/lfw/Ann_0002_probe.jpg"
    assert found.pairs["C_O3"].same.tolist() == [True, False]
    assert set(found.images.values()) == {""}
    write_text(root / "issame.txt", "1")
    (doubtful,) = find_sets(tmp_path).doubtful
    assert "1 answers for the 2 pairs" in str(doubtful)


def test_twins_have_a_figure_a_split(tmp_path: Path) -> None:
    root = tmp_path / "nd-twin"
    images = {i: [f"{i}/{n}.jpg" for n in (1, 2)] for i in ("90001", "90002")}
    write_images(root / "images", [(path, i) for i, paths in images.items() for path in paths])
    write_text(root / "id_to_images.json", json.dumps(images))
    write_text(root / "pairs.json", json.dumps({"test": [["90001", "90002"]]}))
    found = only(tmp_path)
    assert found.pairs["pairs test"].same.tolist() == [True, True] + [False] * 4
    assert found.images["90002/1.jpg"] == "90002"
    assert found.notes == ()
    twins = [["90001", "90002"], ["90001", "90003"]]
    write_text(root / "pairs.json", json.dumps({"test": twins}))
    assert "90001, 90003" in only(tmp_path).notes[0]


def test_bin_files_are_known_by_name_and_numbered_next_to_a_folder(tmp_path: Path) -> None:
    lfw(tmp_path / "lfw_home")
    verification_bin(tmp_path / "lfw.bin")
    verification_bin(tmp_path / "own.bin")
    (tmp_path / "agedb_30.bin").write_bytes(b"\x80\x04nothing")
    inventory = find_sets(tmp_path)
    forms = sorted((one.benchmark, one.form) for one in inventory.found)
    assert forms == [("lfw", "bin"), ("lfw", "images")]
    assert sorted(name for name, _ in named(inventory.found)) == ["lfw", "lfw-2"]
    assert "agedb_30.bin" in str(inventory.doubtful[0])


@pytest.mark.parametrize("name", ["RFW", "tinyface_raw", "IJB-C"])
def test_another_layout_is_named_with_the_tree_that_is_expected(tmp_path: Path, name: str) -> None:
    write_images(tmp_path / name / "somewhere", [("a.jpg", "a")])
    inventory = find_sets(tmp_path)
    assert not inventory.found
    (doubtful,) = inventory.doubtful
    assert BENCHMARKS[doubtful.benchmark].tree in str(doubtful)
    assert str(tmp_path / name) in str(doubtful)


def test_what_is_not_supported_says_so(tmp_path: Path) -> None:
    write_images(tmp_path / "rof" / "masks", [("a.jpg", "a")])
    write_images(tmp_path / "profile" / "masks", [("a.jpg", "a")])
    (doubtful,) = find_sets(tmp_path).doubtful
    assert str(doubtful).endswith("ROF is not supported yet")
