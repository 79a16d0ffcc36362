from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file
from tests.evaluate.builder import training_run, weights_file

from faceguide.core.errors import ListError
from faceguide.core.faces import align
from faceguide.evaluate.cli import main
from faceguide.evaluate.ijb import ijb_faces, ijb_points, templates
from faceguide.evaluate.ijb.ijb_meta import read_meta, read_subjects, read_template_pairs
from faceguide.evaluate.ijb.ijb_protocol import TemplateOptions, TemplateScorer
from faceguide.evaluate.score.face_reader import FaceReader, score_pairs
from faceguide.evaluate.score.face_store import FaceStore
from faceguide.evaluate.score.scores import make_matcher
from faceguide.train.models.loading.network import load_network

SUBJECTS, TEMPLATES = 6, 3  # templates of each subject: gallery, probe, probe


@dataclass(frozen=True)
class Use:
    image: str
    template: int
    medium: int


def picture(subject: int, image: int) -> np.ndarray:
    """A smooth picture of a subject, RGB 112×112, with something of its own in every image."""
    coarse = np.random.default_rng(subject).integers(30, 226, (5, 5, 3))
    own = np.random.default_rng(1000 + image).integers(-25, 26, (5, 5, 3))
    return cv2.resize((coarse + own).clip(0, 255).astype(np.uint8), (112, 112))


def build_ijb(folder: Path) -> list[Use]:
    """IJB-C in small: loose crops of other sizes and angles, five points, templates, subjects."""
    (folder / "loose_crop").mkdir(parents=True)
    (folder / "meta").mkdir()
    uses, points, number = [], [], 0
    for subject in range(SUBJECTS):
        for template in range(TEMPLATES):
            name = 100 * subject + template
            # A still, and a video of two or three frames.
            media = [(10 * name, 1), (10 * name + 1, 2 + (subject + template) % 2)]
            if name == 300:
                media = media[1:]  # one medium only
            for medium, frames in media:
                for _ in range(frames):
                    number += 1
                    angle, scale = np.deg2rad(3 * (number % 7) - 9), 1.1 + 0.05 * (number % 5)
                    turn = scale * np.array(
                        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
                    )
                    matrix = np.hstack([turn, [[25.0], [22.0]]])
                    loose = cv2.warpAffine(picture(subject, number), matrix, (200, 190))
                    path = folder / "loose_crop" / f"{number}.png"
                    cv2.imwrite(str(path), loose[:, :, ::-1])
                    five = align.apply(matrix, align.template(112)).ravel()
                    score = 0.5 + 0.04 * (number * 7 % 12)
                    points.append(" ".join([path.name, *(f"{x:.3f}" for x in [*five, score])]))
                    uses.append(Use(path.name, name, medium))
    meta = folder / "meta"
    (meta / "ijbc_name_5pts_score.txt").write_text("\n".join(points) + "\n")
    lines = [f"{use.image} {use.template} {use.medium}" for use in uses]
    (meta / "ijbc_face_tid_mid.txt").write_text("\n".join(lines) + "\n")
    names = [100 * s + t for s in range(SUBJECTS) for t in range(TEMPLATES)]
    pairs = [f"{a} {b} {int(a // 100 == b // 100)}" for a in names for b in names if a < b]
    (meta / "ijbc_template_pair_label.txt").write_text("\n".join(pairs) + "\n")
    header = "TEMPLATE_ID,SUBJECT_ID,FILENAME\n"
    for gallery, subjects in (("gallery_G1", range(3)), ("gallery_G2", range(3, SUBJECTS))):
        rows = "".join(f"{100 * s},{s},x.png\n" for s in subjects)
        (meta / f"ijbc_1N_{gallery}.csv").write_text(header + rows)
    rows = "".join(f"{100 * s + t},{s},x.png\n" for s in range(SUBJECTS) for t in (1, 2))
    (meta / "ijbc_1N_probe_mixed.csv").write_text(header + rows)
    return uses


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ijb")
    build_ijb(folder / "IJBC")
    weights_file(folder / "weights.pt")
    training_run(folder / "run")
    return folder


def invoke(folder: Path, out: str, *more: str, root: str = "IJBC"):
    return CliRunner().invoke(
        main,
        [
            *("ijb", str(folder / root), "--out", str(folder / out), "--json"),
            # Mirror images cost as much again, and one test of their own.
            *("--weights", str(folder / "run"), "--bootstrap", "20", "--no-flip", *more),
        ],
    )


def test_crops_are_cut_by_the_five_points(place: Path) -> None:
    meta = read_meta(place / "IJBC")
    assert meta.name == "ijbc"
    for number in (0, 5, 20):
        read = ijb_faces.read_crop(meta, number, 112)
        assert not isinstance(read, str)
        crop, points = read
        assert np.abs(points * 112 - align.template(112)).max() < 2
        subject = int(meta.template[number]) // 100
        inside = (slice(8, 104), slice(8, 104))
        difference = crop[inside].astype(int) - picture(subject, number + 1)[inside]
        assert np.abs(difference).mean() < 2


@functools.cache
def described(place: Path) -> dict[str, np.ndarray]:
    """What the network says of every image."""
    meta = read_meta(place / "IJBC")
    network = load_network(None, place / "run")
    crops = np.stack(
        [ijb_faces.read_crop(meta, number, 112)[0] for number in range(len(meta.images))]
    )
    return network.describe(torch.from_numpy(crops), frozenset({"plain", "embedding"}))


def by_hand(place: Path, *, flip: bool, norm: bool, detector_score: bool) -> dict[int, np.ndarray]:
    """Template embeddings straight from the definition."""
    meta, found = read_meta(place / "IJBC"), described(place)
    vectors = found["embedding" if flip else "plain_embedding"].astype(np.float64)
    if norm:
        vectors = vectors * found["norm" if flip else "plain_norm"][:, None]
    if detector_score:
        vectors = vectors * meta.detector_score[:, None]
    pooled = {}
    for template in sorted(set(meta.template.tolist())):
        total = 0
        for medium in set(meta.medium[meta.template == template].tolist()):
            total = total + vectors[(meta.template == template) & (meta.medium == medium)].mean(0)
        pooled[template] = total / np.linalg.norm(total)
    return pooled


@pytest.mark.parametrize(
    ("flip", "norm", "detector_score"),
    [(True, True, True), (False, True, True), (True, False, True), (True, True, False)],
)
def test_pooling_within_and_over_media(place: Path, flip, norm, detector_score) -> None:
    pooled = by_hand(place, flip=flip, norm=norm, detector_score=detector_score)
    out = f"pool-{flip}-{norm}-{detector_score}"
    switches = [
        "--flip" if flip else "--no-flip",
        "--norm" if norm else "--no-norm",
        "--detector-score" if detector_score else "--no-detector-score",
    ]
    result = invoke(place, out, *switches, "--embeddings", str(place / "shared"))
    assert result.exit_code == 0, result.output
    found = load_file(place / out / "ijb_scores.safetensors")
    assert len(found["score"]) == 153  # 18 templates
    for (a, b), score in zip(found["template"].tolist(), found["score"], strict=True):
        assert score == pytest.approx(float(pooled[a] @ pooled[b]), abs=1e-4)
    record = json.loads(result.stdout)["verification"]
    assert (record["pairs"], record["genuine"], record["impostors"]) == (153, 18, 135)
    assert record["tar"]["1e-1"] is not None
    assert record["tar"]["1e-2"] is None


def test_one_to_many_against_each_gallery_by_itself(place: Path) -> None:
    result = invoke(place, "ids", "--flip", "--embeddings", str(place / "shared"))
    record = json.loads(result.stdout)["identification"]
    pooled = by_hand(place, flip=True, norm=True, detector_score=True)
    probes = [100 * s + t for s in range(SUBJECTS) for t in (1, 2)]
    for name, subjects in (("G1", range(3)), ("G2", range(3, 6)), ("merged", range(6))):
        ranks = []
        for probe in probes:
            if probe // 100 not in subjects:
                continue
            scores = {s: float(pooled[probe] @ pooled[100 * s]) for s in subjects}
            ranks.append(sum(score >= scores[probe // 100] for score in scores.values()))
        assert record[name]["rank"]["1"] == pytest.approx(np.mean(np.array(ranks) == 1))
        assert record[name]["enrolled_probes"] == len(ranks)
        assert record[name]["stranger_probes"] == 12 - len(ranks)
        assert record[name]["gallery_templates"] == len(subjects)


def test_local_matchers_compare_the_stated_images(place: Path) -> None:
    result = invoke(place, "local", "--matcher", "qaconv+occlusion", "--images-per-template", "2")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert "mean over all pairs of at most 2 images" in record["rule"]
    meta = read_meta(place / "IJBC")
    network = load_network(None, place / "run")

    def representatives(template: int) -> list[int]:
        chosen = []
        for medium in set(meta.medium[meta.template == template].tolist()):
            inside = np.flatnonzero((meta.template == template) & (meta.medium == medium))
            chosen.append(int(inside[np.argmax(meta.detector_score[inside])]))
        return sorted(chosen, key=lambda one: -meta.detector_score[one])[:2]

    (directory,) = (place / "local").glob("embeddings-*")
    reader, matcher = FaceReader(FaceStore(directory)), make_matcher("qaconv+occlusion", network)
    found = load_file(place / "local" / "ijb_scores.safetensors")
    for place_ in (0, 17, 90, 152):
        a, b = found["template"][place_].tolist()
        pairs = [(x, y) for x in representatives(a) for y in representatives(b)]
        probe, reference = np.array(pairs).T
        expected = score_pairs(reader, matcher, probe, reference).mean()
        assert found["score"][place_] == pytest.approx(float(expected), abs=1e-4)
    # 1:N by blocks of maps ranks as the pairs do.
    score = {
        tuple(sorted(pair)): value
        for pair, value in zip(found["template"].tolist(), found["score"].tolist(), strict=True)
    }
    ranks = []
    for s in range(3):
        for t in (1, 2):
            scores = [score[tuple(sorted((100 * s + t, 100 * g)))] for g in range(3)]
            ranks.append(sum(value >= scores[s] - 1e-6 for value in scores))
    rate = record["identification"]["G1"]["rank"]["1"]
    assert rate == pytest.approx(np.mean(np.array(ranks) == 1))


@pytest.mark.parametrize("matcher", ["cosine", "qaconv+occlusion"])
def test_blocks_of_templates_are_their_pairs(place: Path, matcher: str) -> None:
    out = place / f"blocks-{matcher}"
    assert invoke(place, out.name, "--flip", "--matcher", matcher).exit_code == 0
    (directory,) = out.glob("embeddings-*")
    meta = read_meta(place / "IJBC")
    every = np.ones(len(meta.image), bool)
    scores = meta.detector_score[meta.image]
    uses = templates.sort_uses(meta.image, meta.template, meta.medium, scores, every)
    network = load_network(None, place / "run")
    scorer = TemplateScorer(
        FaceReader(FaceStore(directory)), make_matcher(matcher, network), uses, TemplateOptions()
    )
    probe, gallery = np.array([1, 0, 17, 5]), np.array([0, 3, 9])
    blocks = np.empty((4, 3), np.float32)
    for rows in (slice(0, 3), slice(3, 4)):
        for part, found in scorer.blocks(probe, gallery)(rows):
            blocks[rows, part] = found
    pairs = scorer.pairs(np.repeat(probe, 3), np.tile(gallery, 4)).reshape(4, 3)
    np.testing.assert_allclose(blocks, pairs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("matcher", ["visible-embedding", "fused"])
def test_the_other_matchers_run_too(place: Path, matcher: str) -> None:
    more = ["--fuse", "cosine=1", "--fuse", "qaconv=0.5"] if matcher == "fused" else []
    result = invoke(place, f"m-{matcher}", "--matcher", matcher, *more)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["verification"]["pairs"] == 153


def test_without_an_occlusion_head_nobody_knows_what_is_visible(place: Path) -> None:
    more = ["--weights", str(place / "weights.pt"), "--backbone", "mobilefacenet"]
    result = invoke(place, "blind", *more, "--matcher", "qaconv+occlusion")
    assert result.exit_code == 1
    assert "these images come without visibility" in result.stderr


def test_images_that_cannot_be_read_are_named_and_the_rest_is_scored(tmp_path: Path) -> None:
    uses = build_ijb(tmp_path / "IJBC")
    training_run(tmp_path / "run")
    crops = tmp_path / "IJBC" / "loose_crop"
    (crops / uses[0].image).unlink()
    (crops / uses[1].image).write_bytes(b"no picture")
    gone = [use for use in uses if use.template == 200]
    for use in gone:
        (crops / use.image).unlink()
    result = invoke(tmp_path, "out")
    assert result.exit_code == 3, result.output
    record = json.loads(result.stdout)
    assert record["left_out"]["count"] == 2 + len(gone)
    assert record["templates_without_image"] == 1
    assert record["verification"]["listed"] == 153
    assert record["verification"]["pairs"] == 153 - 17
    assert record["identification"]["G1"]["templates_without_image"] == {"gallery": 1, "probes": 0}
    text = (tmp_path / "out" / "left_out.csv").read_text()
    assert uses[0].image in text
    assert "No such file" in text
    again = invoke(tmp_path, "out")
    assert json.loads(again.stdout) == record


def edited_points(folder: Path, change) -> list[str]:
    """Rewrite the file of points, line by line: `change(number, values)` of eleven values."""
    path = folder / "meta" / "ijbc_name_5pts_score.txt"
    names, out = [], []
    for number, line in enumerate(path.read_text().splitlines()):
        name, *values = line.split()
        names.append(name)
        out.append(" ".join([name, *(f"{v:.4f}" for v in change(number, [*map(float, values)]))]))
    path.write_text("\n".join(out) + "\n")
    return names


def scored(*places: int, score: float):
    return lambda number, values: [*values[:10], score if number in places else values[10]]


def mirrored(values: list[float]) -> list[float]:
    eye, other, nose, mouth, corner, score = (values[k : k + 2] for k in range(0, 12, 2))
    return [*other, *eye, *nose, *corner, *mouth, *score]


def test_images_that_no_detector_found_are_left_out(tmp_path: Path) -> None:
    uses = build_ijb(tmp_path / "IJBC")
    training_run(tmp_path / "run")
    edited_points(tmp_path / "IJBC", scored(0, score=0.0))
    edited_points(tmp_path / "IJBC", scored(4, score=-1.0))
    result = invoke(tmp_path, "out", "--matcher", "visible-embedding")
    assert result.exit_code == 3, result.output
    record = json.loads(result.stdout)
    assert record["left_out"] == {"count": 2, "reasons": {"detector score of 0 or less": 2}}
    assert record["images"] == len(uses) - 2
    assert uses[4].image in (tmp_path / "out" / "left_out.csv").read_text()
    whole = invoke(tmp_path, "all", "--no-detector-score")
    assert json.loads(whole.stdout)["left_out"]["count"] == 0


def test_a_set_without_detector_scores_is_refused_by_name(tmp_path: Path) -> None:
    build_ijb(tmp_path / "IJBC")
    training_run(tmp_path / "run")
    edited_points(tmp_path / "IJBC", lambda number, values: [*values[:10], 0.0])
    result = invoke(tmp_path, "out")
    assert result.exit_code == 1
    assert "--no-detector-score" in result.stderr
    assert invoke(tmp_path, "out", "--no-detector-score").exit_code == 0


WRONG_POINTS = (
    (mirrored, "points miss the template"),
    (lambda v: [*np.ravel([v[1:10:2], v[0:10:2]], "F"), v[10]], "points miss the template"),
    (lambda v: [*(x / 200 for x in v[:10]), v[10]], "too near each other"),
    (lambda v: [*(x + 400 for x in v[:10]), v[10]], "points lie outside the image"),
    (lambda v: [*(x * 4 for x in v[:10]), v[10]], "points lie outside the image"),
)  # mirrored, x and y exchanged, shares of the size, of a photograph, of another scale


def test_points_of_another_space_are_left_out(tmp_path: Path) -> None:
    build_ijb(tmp_path / "IJBC")
    training_run(tmp_path / "run")
    wrong = {7 + 9 * number: change for number, (change, _) in enumerate(WRONG_POINTS)}
    names = edited_points(
        tmp_path / "IJBC", lambda n, values: wrong[n](values) if n in wrong else values
    )
    result = invoke(tmp_path, "out")
    assert result.exit_code == 3, result.output
    assert json.loads(result.stdout)["left_out"]["count"] == len(wrong)
    lines = (tmp_path / "out" / "left_out.csv").read_text().splitlines()
    for number, (_, reason) in zip(wrong, WRONG_POINTS, strict=True):
        (line,) = [line for line in lines if f"{names[number]}:" in line]
        assert reason in line


def test_points_that_are_all_shares_are_refused(tmp_path: Path) -> None:
    build_ijb(tmp_path / "IJBC")
    training_run(tmp_path / "run")
    edited_points(tmp_path / "IJBC", lambda n, v: [*(x / 200 for x in v[:10]), v[10]])
    result = invoke(tmp_path, "out")
    assert result.exit_code == 1
    assert "0 … 1, expected pixels" in result.stderr


def test_profiles_keep_their_points() -> None:
    """Points of a face that is turned away lie on a line, and no two photographs are level."""
    for turned in (0.0, 0.2, 1.0):
        points = align.template(112)
        points[:, 0] = 56 + turned * (points[:, 0] - 56)
        meta_points = np.stack([points, points[:, ::-1] * [-1, 1] + [150, 0]]).astype(np.float32)
        assert (ijb_points._misfit(meta_points) < 0.7).all()


def test_lists_without_a_header_lose_no_line(place: Path, tmp_path: Path) -> None:
    build_ijb(tmp_path / "IJBC")
    for path in (tmp_path / "IJBC" / "meta").glob("ijbc_1N_*.csv"):
        lines = path.read_text().splitlines()[1:]
        path.write_bytes("\r\n".join(lines).replace(",", ";").encode("utf-16"))
    meta, whole = read_meta(tmp_path / "IJBC"), read_meta(place / "IJBC")
    for name in ("gallery_G1", "gallery_G2", "probe_mixed"):
        assert read_subjects(meta, name) == read_subjects(whole, name)


def test_lists_that_contradict_each_other(tmp_path: Path) -> None:
    build_ijb(tmp_path / "IJBC")
    training_run(tmp_path / "run")
    meta = tmp_path / "IJBC" / "meta"
    pairs = meta / "ijbc_template_pair_label.txt"
    lines = pairs.read_text().splitlines()
    assert lines[0] == "0 1 1"
    lines[0] = "0 1 0"
    pairs.write_text("\n".join([*lines, "2 0 1", "5 5 1"]).replace("5 5", "102 102") + "\n")
    uses = meta / "ijbc_face_tid_mid.txt"
    first, *rest = uses.read_text().splitlines()
    uses.write_text("\n".join([first, f"{first.split()[0]} 200 9", *rest]) + "\n")
    result = invoke(tmp_path, "out")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["doubts"] == {
        "contradict_labels": 1,
        "self_pairs": 1,
        "repeated_pairs": 1,
        "two_identities": 1,
    }
    assert "Warning: 1 pair contradicts" in result.stderr


def test_a_search_in_which_nobody_is_enrolled_ends_with_3(tmp_path: Path) -> None:
    build_ijb(tmp_path / "IJBC")
    training_run(tmp_path / "run")
    path = tmp_path / "IJBC" / "meta" / "ijbc_1N_probe_mixed.csv"
    head, *lines = path.read_text().splitlines()
    moved = [f"{line.split(',')[0]},{int(line.split(',')[1]) + 90},x" for line in lines]
    path.write_text("\n".join([head, *moved]) + "\n")
    (path.parent / "ijbc_template_pair_label.txt").write_text("0 1 1\n0 100 0\n")
    result = invoke(tmp_path, "out")
    assert result.exit_code == 3
    found = json.loads(result.stdout)
    assert found["doubts"]["not_enrolled"] == 3
    assert found["identification"]["merged"]["rank"]["1"] is None


def test_when_too_much_is_left_out_the_rest_is_named(tmp_path: Path) -> None:
    uses = build_ijb(tmp_path / "IJBC")
    training_run(tmp_path / "run")
    lost = [place for place, use in enumerate(uses) if use.template % 100 < 2]
    edited_points(tmp_path / "IJBC", scored(*lost, score=-1))
    result = invoke(tmp_path, "out")
    assert result.exit_code == 3, result.output
    record = json.loads(result.stdout)
    assert record["left_out"]["count"] == len(lost)
    assert record["verification"]["auc"] is None
    assert "of 153 pairs 0 of one and 15 of two" in record["verification"]["refused"]
    assert "of the gallery 0 templates" in record["identification"]["G1"]["refused"]["rank 1"]
    page = tmp_path / "r.html"
    report = CliRunner().invoke(main, ["report", str(tmp_path / "out"), "--out", str(page)])
    assert report.exit_code == 0, report.output


def test_a_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    build_ijb(tmp_path / "IJBC")
    meta = tmp_path / "IJBC" / "meta"
    for name in ("ijbc_name_5pts_score.txt", "ijbc_face_tid_mid.txt"):
        text = (meta / name).read_text().replace("1.png ", "../../secret.png ", 1)
        (meta / name).write_text(text)
    cv2.imwrite(str(tmp_path / "secret.png"), np.zeros((112, 112, 3), np.uint8))
    found = read_meta(tmp_path / "IJBC")
    assert found.images[0] == "../../secret.png"
    assert ijb_faces.read_crop(found, 0, 112) == "outside loose_crop"


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("name_5pts_score.txt", "1.png 1 2 3", "line 1: expected an image, ten coordinates"),
        ("name_5pts_score.txt", "1.png" + " nan" * 11, "line 1: expected an image, ten coord"),
        ("face_tid_mid.txt", "nobody.png 1 2", "line 1: expected an image of ijbc_name_5pts"),
        ("face_tid_mid.txt", "1.png 1 x", "line 1: expected a whole number, found 'x'"),
    ],
)
def test_faults_in_meta_files(tmp_path: Path, name: str, line: str, message: str) -> None:
    build_ijb(tmp_path)
    path = tmp_path / "meta" / f"ijbc_{name}"
    path.write_text("\n".join([line, *path.read_text().splitlines()[1:]]))
    with pytest.raises(ListError, match=message):
        read_meta(tmp_path)


def test_faults_in_protocol_files(tmp_path: Path) -> None:
    build_ijb(tmp_path)
    meta = read_meta(tmp_path)
    pairs = tmp_path / "meta" / "ijbc_template_pair_label.txt"
    for text in ("0 1\n", "0 1 2\n", "0 one 1\n", ""):
        pairs.write_text(text)
        with pytest.raises(ListError, match="expected rows of"):
            read_template_pairs(meta)
    (tmp_path / "meta" / "ijbc_1N_gallery_G1.csv").write_text("T,S\n1,1\n1,2\n")
    with pytest.raises(ListError, match="line 3: template 1 "):
        read_subjects(meta, "gallery_G1")
    with pytest.raises(ListError, match=r"expected meta/ijbb_face_tid_mid\.txt or"):
        read_meta(tmp_path / "meta")


def test_pooling_does_not_depend_on_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    store = FaceStore.open(tmp_path, {"k": 1})
    vectors = rng.normal(size=(200, 8)).astype(np.float32)
    store.add("embedding", np.arange(200), {"embedding": vectors, "norm": np.ones(200, np.float32)})
    uses = templates.sort_uses(
        np.arange(200),
        rng.integers(0, 30, 200),
        rng.integers(0, 4, 200),
        rng.random(200, np.float32),
        rng.random(200) < 0.9,
    )
    whole = templates.pool(store, uses, flip=True, norm=True, detector_score=True)
    for size in (1, 5, 37):
        monkeypatch.setattr(templates, "_BLOCK", size)
        part = templates.pool(store, uses, flip=True, norm=True, detector_score=True)
        np.testing.assert_allclose(part, whole, atol=1e-6)
