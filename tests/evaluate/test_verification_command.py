from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from tests.cache.builder import estimate_unknown
from tests.evaluate.builder import (
    key,
    pairs_csv,
    small_cache,
    training_run,
    usable_pairs,
    weights_file,
)

from faceguide.cache.reader import FaceCache
from faceguide.core.errors import EvaluationError
from faceguide.evaluate.cli import main
from faceguide.evaluate.score.embed import embed_rows
from faceguide.evaluate.score.face_store import FaceStore
from faceguide.evaluate.verification import load_scores
from faceguide.train.models.loading.network import load_network


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """cache/, weights.pt, run/ (a training run), pairs.csv, and a/: a finished evaluation."""
    folder = tmp_path_factory.mktemp("verification")
    small_cache(folder / "cache")
    weights_file(folder / "weights.pt")
    training_run(folder / "run")
    pairs_csv(folder / "pairs.csv", usable_pairs())
    result = verification(folder, "a")
    assert result.exit_code == 0, result.output
    return folder


def verification(folder: Path, out: str, *more: str, pairs: str = "pairs.csv") -> Result:
    weights = () if "--weights" in more else ("--weights", str(folder / "weights.pt"))
    backbone = () if "--weights" in more else ("--backbone", "mobilefacenet")
    return CliRunner().invoke(
        main,
        [
            "verification",
            str(folder / "cache"),
            *("--pairs", str(folder / pairs), "--out", str(folder / out)),
            *("--bootstrap", "50", "--json", *weights, *backbone, *more),
        ],
    )


def record_of(result: Result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_json_is_the_contract(place: Path) -> None:
    record = json.loads((place / "a" / "verification.json").read_text())
    record.pop("self")
    again = record_of(verification(place, "a"))  # the same command goes on in its directory
    assert again == record
    assert again["pairs"] == again["listed"] == 60
    assert (again["genuine"], again["impostors"]) == (30, 30)
    assert 0 <= again["accuracy"]["mean"] <= 1
    assert again["accuracy"]["std"] >= 0
    assert 0 <= again["auc"] <= 1
    assert 0 <= again["eer"] <= 1
    assert list(again["tar"]) == ["1e-6", "1e-5", "1e-4", "1e-3", "1e-2", "1e-1"]
    assert again["tar"]["1e-3"] is None
    assert again["left_out"] == {"count": 0, "reasons": {}}
    assert again["shared_identities"] is None
    assert again["people_from"] == "labels"
    low, high = again["intervals"]["auc"]
    assert low <= again["auc"] <= high


def test_scores_are_cosines_of_the_two_rows_that_are_named(place: Path) -> None:
    cache = FaceCache.open(place / "cache")
    network = load_network("mobilefacenet", place / "weights.pt")
    table = load_scores(place / "a")
    for number in (0, 7, 59):
        _, a, b, same = usable_pairs()[number]
        rows = cache.find([a, b])
        images = cache.read([rows[a], rows[b]], ["image"])["image"]
        found = network.describe(torch.from_numpy(images), frozenset({"embedding"}))["embedding"]
        assert table["score"][number] == pytest.approx(float(found[0] @ found[1]), abs=1e-5)
        assert table["same"][number] == bool(same)
    assert np.ptp(table["score"]) > 0.05


def test_run_json_says_what_was_done(place: Path) -> None:
    about = json.loads((place / "a" / "run.json").read_text())
    assert about["command"] == "verification"
    assert about["settings"]["matcher"] == "cosine"
    assert about["settings"]["seed"] == 0
    assert about["cache"] == str((place / "cache").resolve())
    assert about["weights_sha256"] == load_network("mobilefacenet", place / "weights.pt").sha256
    assert len(about["cache_manifest"]) == 64
    assert {"faceguide", "torch", "numpy"} <= about["versions"].keys()
    assert about["argv"]


def test_other_settings_do_not_overwrite_a_run(place: Path) -> None:
    before = (place / "a" / "verification.json").read_bytes()
    result = verification(place, "a", "--no-flip")
    assert result.exit_code == 1
    assert "other settings (flip True → False)" in result.stderr
    assert (place / "a" / "verification.json").read_bytes() == before
    shutil.copytree(place / "a", place / "copy")
    assert record_of(verification(place, "copy", "--no-flip", "--overwrite"))["auc"] >= 0
    result = CliRunner().invoke(
        main,
        [
            *("identification", str(place / "cache"), "--out", str(place / "a")),
            *("--backbone", "mobilefacenet", "--weights", str(place / "weights.pt")),
        ],
    )
    assert result.exit_code == 1
    assert "holds a run of `evaluate verification`" in result.stderr


def test_embeddings_are_computed_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from faceguide.train.models.loading.network import Network

    command = ["embed", str(place / "cache"), "--backbone", "mobilefacenet", "--json"]
    command += ["--weights", str(place / "weights.pt"), "--out", str(place / "faces")]
    first = CliRunner().invoke(main, command)
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout)["computed"] == json.loads(first.stdout)["rows"] == 54
    again = CliRunner().invoke(main, command)
    assert json.loads(again.stdout)["computed"] == 0

    def fail(*_: object) -> None:
        raise AssertionError("an image was embedded again")

    monkeypatch.setattr(Network, "describe", fail)
    reused = record_of(verification(place, "reused", "--embeddings", str(place / "faces")))
    own = json.loads((place / "a" / "verification.json").read_text())
    assert reused["auc"] == own["auc"]
    assert reused["accuracy"] == own["accuracy"]


def test_a_killed_run_goes_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from faceguide.evaluate.score import embed
    from faceguide.train.models.loading.network import Network

    monkeypatch.setattr(embed, "block_rows", lambda rows: 8)
    real, calls = Network.describe, []

    def killed(self: Network, images, groups):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, images, groups)

    more = ("--batch-size", "8")
    monkeypatch.setattr(Network, "describe", killed)
    assert verification(place, "killed", *more).exit_code != 0
    (store,) = (place / "killed").glob("embeddings-*")
    assert len(FaceStore(store).rows("embedding")) == 16
    assert not list(store.glob(".*"))
    monkeypatch.setattr(Network, "describe", real)
    record = record_of(verification(place, "killed", *more))
    assert record["auc"] == json.loads((place / "a" / "verification.json").read_text())["auc"]


def test_pairs_without_a_row_are_counted_and_named(place: Path) -> None:
    lines = [*usable_pairs(), (0, key(1), key(10), 0), (1, "no\x1b[31mbody.jpg", key(2), 1)]
    pairs_csv(place / "lost.csv", lines)
    result = verification(place, "lost", pairs="lost.csv")
    assert result.exit_code == 3
    record = json.loads(result.stdout)
    assert (record["listed"], record["pairs"]) == (62, 60)
    assert record["left_out"] == {"count": 2, "reasons": {"no_face": 1, "missing": 1}}
    assert "2 of 62 pairs left out" in result.stderr
    text = (place / "lost" / "left_out.csv").read_text()
    assert "\x1b" not in text
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["number"] for row in rows] == ["60", "61"]
    assert rows[0]["reason"] == f"{key(10)}: no_face"
    assert rows[1]["a"] == r"no\x1b[31mbody.jpg"
    allowed = verification(place, "lost", "--allow-failures", pairs="lost.csv")
    assert allowed.exit_code == 0


def test_no_usable_pair_at_all(place: Path) -> None:
    pairs_csv(place / "none.csv", [(0, "x.jpg", "y.jpg", 1)])
    result = verification(place, "none", pairs="none.csv")
    assert result.exit_code == 1
    assert "none of its 1 pairs has both images" in result.stderr
    assert "x.jpg, y.jpg; keys look like person_0" in result.stderr


@pytest.mark.parametrize(
    ("matcher", "more"),
    [
        ("qaconv", ()),
        ("qaconv+occlusion", ()),
        ("qaconv+occlusion", ("--visibility", "cache")),
        ("visible-embedding", ()),
        ("visible-embedding", ("--visibility", "cache")),
        ("fused", ("--fuse", "cosine=0.6", "--fuse", "qaconv+occlusion=0.4")),
    ],
)
def test_every_matcher(place: Path, matcher: str, more: tuple[str, ...]) -> None:
    out = f"m-{matcher}-{len(more)}"
    record = record_of(
        verification(place, out, "--weights", str(place / "run"), "--matcher", matcher, *more)
    )
    assert record["matcher"] == matcher
    assert record["pairs"] == 60
    assert record["accuracy"]["published_grid"] is None
    scores = load_scores(place / out)["score"]
    assert np.isfinite(scores).all()
    assert np.ptp(scores) > 0
    if matcher == "fused":
        kept = json.loads((place / out / "fusion.json").read_text())
        assert kept["weights"] == {"cosine": 0.6, "qaconv+occlusion": 0.4}
        again = record_of(
            verification(
                place,
                f"{out}-again",
                *("--weights", str(place / "run"), "--matcher", matcher, *more),
                *("--fusion-scales", str(place / out / "fusion.json"), "--seed", "5"),
            )
        )
        assert again["auc"] == record["auc"]


def test_visibility_changes_the_score_and_its_source_is_checked(place: Path) -> None:
    run = ("--weights", str(place / "run"), "--matcher", "qaconv+occlusion")
    record_of(verification(place, "v-head", *run, "--visibility", "head"))
    record_of(verification(place, "v-cache", *run, "--visibility", "cache"))
    head, cached = (load_scores(place / out)["score"] for out in ("v-head", "v-cache"))
    assert np.abs(head - cached).max() > 1e-3
    result = verification(place, "v-none", "--matcher", "qaconv+occlusion", "--visibility", "head")
    assert result.exit_code == 1
    assert "these weights hold no occlusion head" in result.stderr


def test_estimated_visibility_is_a_doubt(place: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(place / "cache", cache)
    estimate_unknown(cache)
    weights, pairs = str(place / "weights.pt"), str(place / "pairs.csv")
    for matcher, expected in (("visible-embedding", True), ("cosine", False)):
        words = ["--weights", weights, "--pairs", pairs, "--matcher", matcher, "--json"]
        result = CliRunner().invoke(
            main,
            [
                "verification",
                str(cache),
                *words,
                "--bootstrap",
                "50",
                "--out",
                str(tmp_path / matcher),
            ],
        )
        assert ("estimated_visibility" in record_of(result)["doubts"]) == expected
        assert ("not one from a mask" in result.stderr) == expected
    # A cosine looks at no visibility; tables by occlusion do, whatever was matched.
    words = ["--weights", weights, "--json", "--bootstrap", "0", "--out", str(tmp_path / "search")]
    shown = CliRunner().invoke(main, ["identification", str(cache), *words])
    rows = FaceCache.open(cache).estimated(np.arange(60))
    assert 0 < record_of(shown)["doubts"]["estimated_visibility"] <= rows.sum()
    assert "not one from a mask" in shown.stderr


def test_cal_features_are_matched_by_cosine(place: Path) -> None:
    weights_file(place / "cal.pt", "cal_mobilefacenet", num_classes=5, heads=2)
    more = ("--weights", str(place / "cal.pt"), "--backbone", "cal_mobilefacenet")
    record = record_of(verification(place, "cal", *more))
    assert record["pairs"] == 60
    (store,) = (place / "cal").glob("embeddings-*")
    found = FaceStore(store)
    assert found.read("embedding", found.rows("embedding")[:1]).shape == (1, 2 * 512)


def test_persons_of_the_training_set_are_named(place: Path) -> None:
    cache = place / "cache"
    by_cache = training_run(place / "leak1", cache=str(cache.resolve()))
    by_file = training_run(place / "leak2", identities="identities.txt")
    (by_file / "identities.txt").write_text("person_03\nsomebody else\nperson_05\n")
    apart = training_run(place / "leak3", identities="identities.txt")
    (apart / "identities.txt").write_text("somebody else\n")
    every = [f"person_{number:02d}" for number in range(7)]
    for run, names in ((by_cache, every), (by_file, [every[3], every[5]]), (apart, [])):
        result = verification(place, f"{run.name}-out", "--weights", str(run))
        assert record_of(result)["shared_identities"] == {"count": len(names), "names": names}
        assert ("in the training set" in result.stderr) == bool(names)


def test_a_training_cache_that_is_gone_is_no_clean_bill(place: Path) -> None:
    run = training_run(place / "leak4", cache=str(place / "gone"))
    result = verification(place, "leak4-out", "--weights", str(run))
    assert result.exit_code == 1
    assert "gone is gone" in result.stderr


def test_crops_of_another_size_are_refused(place: Path, tmp_path: Path) -> None:
    from tests.cache.builder import build

    build(tmp_path / "cache", 60, 32, size=16)
    shutil.copy(place / "pairs.csv", tmp_path)
    shutil.copy(place / "weights.pt", tmp_path)
    result = verification(tmp_path, "out")
    assert result.exit_code == 1
    assert "16 pixels, mobilefacenet was trained on 112" in result.stderr


def test_a_list_too_small_for_folds_still_has_an_auc(place: Path) -> None:
    lines = [f"{a},{b},{same}" for _, a, b, same in usable_pairs(8)]
    (place / "few.csv").write_text("a,b,same\n" + "\n".join(lines) + "\n")
    record = record_of(verification(place, "few", pairs="few.csv"))
    assert record["accuracy"]["mean"] is None
    assert "10 pairs of each kind, found 4" in record["accuracy"]["refused"]
    assert record["auc"] is not None


def test_a_signal_ends_with_its_own_code(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    from faceguide.train.models.loading.network import Network

    def killed(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Network, "describe", killed)
    result = verification(place, "signalled")
    assert result.exit_code == 4
    assert "Rerun the same command to resume" in result.stderr


def test_a_damaged_crop_is_not_embedded(place: Path) -> None:
    cache = FaceCache.open(place / "cache")
    row = cache.find([key(1)])[key(1)]
    crop = cache[row]["image"].tobytes()
    for path in (place / "cache").glob("faces-*.h5"):
        data = path.read_bytes()
        if crop in data:
            break
    damaged = bytearray(data)
    damaged[data.index(crop) + 4000] ^= 16
    path.write_bytes(damaged)
    try:
        result = verification(place, "damaged")
    finally:
        path.write_bytes(data)
    assert result.exit_code == 1
    assert "differs from its digest" in result.stderr


def test_embed_keeps_off_another_run(place: Path) -> None:
    before = (place / "a" / "run.json").read_bytes()
    command = ["embed", str(place / "cache"), "--backbone", "mobilefacenet"]
    command += ["--weights", str(place / "weights.pt"), "--out", str(place / "a")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "holds a run of `evaluate verification`" in result.stderr
    assert (place / "a" / "run.json").read_bytes() == before


def test_the_same_seed_gives_the_same_bits(place: Path) -> None:
    assert verification(place, "again").exit_code == 0
    first, second = (place / run for run in ("a", "again"))
    assert (first / "scores.safetensors").read_bytes() == (
        second / "scores.safetensors"
    ).read_bytes()
    records = [json.loads((run / "verification.json").read_text()) for run in (first, second)]
    for record in records:
        assert Path(record.pop("store")).is_relative_to(place)
        del record["self"]  # the digest, which names the store
    assert records[0] == records[1]
    (one,), (other,) = (
        (place / run).glob("embeddings-*/embedding/*.safetensors") for run in ("a", "again")
    )
    assert one.read_bytes() == other.read_bytes()
    assert verification(place, "other", "--seed", "1").exit_code == 0
    intervals = [
        json.loads((place / run / "verification.json").read_text())["intervals"]
        for run in ("a", "other")
    ]
    assert intervals[0] != intervals[1]


def test_a_face_without_a_finite_embedding_is_named(place: Path, tmp_path: Path) -> None:
    network = load_network("mobilefacenet", place / "weights.pt")
    network.backbone.bn.weight[0] = float("inf")
    cache = FaceCache.open(place / "cache")
    with pytest.raises(EvaluationError, match=rf"plain_embedding of {key(12)} is not finite"):
        embed_rows(
            cache,
            network,
            FaceStore(tmp_path),
            np.array([cache.find([key(12)])[key(12)]]),
            frozenset({"plain"}),
        )
