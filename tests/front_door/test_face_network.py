"""A loaded network: the numbers of the commands, from whatever shows a face."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tests.cache.builder import build
from tests.evaluate.attribution.networks import Smooth
from tests.evaluate.builder import (
    pairs_csv,
    random_module,
    small_cache,
    training_run,
    usable_pairs,
    weights_file,
)

import faceguide as fg
from faceguide.evaluate.attribution.attribution_options import Options
from faceguide.evaluate.attribution.cells import pool
from faceguide.evaluate.attribution.protocol.blocks import gather_blocks
from faceguide.evaluate.attribution.protocol.preparation import plan_pairs
from faceguide.evaluate.cli import main
from faceguide.evaluate.evaluation_options import PairOptions
from faceguide.evaluate.score.face_store import FaceStore
from faceguide.evaluate.verification import load_scores
from faceguide.train.models import create
from faceguide.train.models.input_spec import InputSpec


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cache/, run/ (a training run), pairs.csv, and faces/, what the run's network says."""
    folder = tmp_path_factory.mktemp("front_door")
    small_cache(folder / "cache")
    training_run(folder / "run")
    pairs_csv(folder / "pairs.csv", usable_pairs())
    evaluate(
        *("embed", folder / "cache", "--weights", folder / "run", "--maps", "--device", "cpu"),
        *("--out", folder / "faces"),
    )
    return folder


@pytest.fixture(scope="module")
def cache(place: Path) -> fg.FaceCache:
    return fg.open(place / "cache")


@pytest.fixture(scope="module")
def net(place: Path) -> fg.FaceNetwork:
    return fg.load(place / "run", device="cpu")


def evaluate(*arguments: object) -> None:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


def verified(place: Path, out: str, *more: object) -> dict[str, np.ndarray]:
    """scores.npz of `evaluate verification` with the run's network."""
    evaluate(
        *("verification", place / "cache", "--pairs", place / "pairs.csv", "--bootstrap", 0),
        *("--weights", place / "run", "--device", "cpu", "--embeddings", place / "faces"),
        *("--out", place / out, *more),
    )
    return load_scores(place / out)


def test_embeddings_are_those_of_evaluate_embed(
    place: Path, cache: fg.FaceCache, net: fg.FaceNetwork
) -> None:
    (directory,) = (place / "faces").glob("embeddings-*")
    store, rows = FaceStore(directory), cache.select()
    found = net.embed(cache[rows])
    assert found.dtype == np.float32
    # The command runs a frozen graph of the same network.
    np.testing.assert_allclose(found, store.read("embedding", rows), atol=1e-4)
    np.testing.assert_allclose(
        net.visibility(cache[rows]), store.read("visibility", rows), atol=1e-3
    )


def test_one_face_in_every_form_gives_one_embedding(
    cache: fg.FaceCache, net: fg.FaceNetwork
) -> None:
    row = cache[int(cache.select()[4])]
    crop = row["image"]
    expected = net.embed(row)
    assert expected.shape == (1, 128)
    for given in (crop, [crop], crop[None], torch.from_numpy(crop), fg.Face(crop), [row]):
        np.testing.assert_array_equal(net.embed(given), expected)
    assert net.embed([row, fg.Face(crop), crop]).shape == (3, 128)
    assert isinstance(net.score(crop, row), float)
    assert net.score(crop, row) == pytest.approx(1, abs=1e-6)
    assert net.score([crop], row).shape == (1,)
    assert net.score(row, cache[cache.select()[:5]]).shape == (5,)


@pytest.mark.parametrize(
    ("matcher", "more"),
    [
        ("cosine", ()),
        ("qaconv", ()),
        ("qaconv+occlusion", ()),
        ("visible-embedding", ()),
        ("fused", ("--fuse", "cosine=0.6", "--fuse", "qaconv+occlusion=0.4")),
        ("qaconv+cosine", ("--fit-pairs",)),
    ],
)
def test_scores_are_those_of_evaluate_verification(
    place: Path, cache: fg.FaceCache, net: fg.FaceNetwork, matcher: str, more: tuple[str, ...]
) -> None:
    if more == ("--fit-pairs",):
        more = ("--fit-pairs", str(place / "pairs.csv"))
    table = verified(place, matcher, "--matcher", matcher, *more)
    scales = place / matcher / "fusion.json"
    used = np.unique(np.concatenate([table["probe"], table["reference"]]))
    few, expected = slice(0, 60, 5), table["score"][::5]
    found = net.score(
        cache[table["probe"][few]],
        cache[table["reference"][few]],
        matcher,
        mean_of=cache[used] if matcher == "visible-embedding" else None,
        fusion_scales=scales if scales.exists() else None,
    )
    np.testing.assert_allclose(found, expected, atol=1e-2 * np.ptp(expected))
    assert np.ptp(expected) > 1e-3
    if matcher == "qaconv+cosine":
        with pytest.raises(fg.FaceguideError, match=r"holds the fusion of cosine, qaconv"):
            net.score(cache[1], cache[2], "qaconv+visible-embedding", fusion_scales=scales)


def test_without_a_head_the_faces_tell_what_they_show(place: Path, cache: fg.FaceCache) -> None:
    record = json.loads((place / "run" / "run.json").read_text())
    del record["models"]["occlusion_head"]
    headless = place / "headless"
    headless.mkdir()
    for name in ("backbone.pt", "matcher.pt"):
        (headless / name).write_bytes((place / "run" / name).read_bytes())
    (headless / "run.json").write_text(json.dumps(record))
    net = fg.load(headless, device="cpu")
    known = cache.select(known_occlusion=True)[:6]
    np.testing.assert_allclose(
        net.visibility(cache[known]), cache.read(known, ["visibility"])["visibility"], atol=1e-3
    )
    unknown = cache.select(known_occlusion=False)[:6]
    mixed = net.score(cache[known], cache[unknown], "qaconv+occlusion")
    assert np.abs(mixed - net.score(cache[known], cache[unknown], "qaconv")).max() > 1e-3
    crops = [row["image"] for row in cache[unknown]]
    with pytest.raises(fg.FaceguideError, match="no visibility data"):
        net.score(crops[0], crops[1], "visible-embedding")


def test_maps_are_those_of_evaluate_attribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("my_networks")
    module.smooth = lambda weights: Smooth()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_networks", module)
    build(tmp_path / "cache", rows=60, size=28)
    torch.save({}, tmp_path / "none.pt")
    listed = pairs_csv(tmp_path / "pairs.csv", usable_pairs(12))
    methods = ("saliency", "integrated-gradients", "grad-cam")
    evaluate(
        *("attribution", tmp_path / "cache", "--pairs", listed, "--out", tmp_path / "maps"),
        *("--backbone", "my_networks:smooth", "--weights", tmp_path / "none.pt"),
        *("--methods", ",".join(methods), "--block", 8, "--steps", 4, "--bootstrap", 0),
        *("--device", "cpu", "--protocol", "matched", "--anyway"),
    )
    cache = fg.open(tmp_path / "cache")
    net = fg.load(tmp_path / "none.pt", "my_networks:smooth", device="cpu")
    options = Options(block=8, replicates=0, steps=4, protocol="matched")
    inner = net.network
    plan = plan_pairs(
        cache, PairOptions(pairs=listed), options, inner.sha256, inner.input_spec.colour
    ).plan
    for name in methods:
        stored = gather_blocks(tmp_path / "maps", plan, name)
        for place in range(3):
            probe, reference = (int(part[place]) for part in (plan.probe, plan.reference))
            found = fg.explain(net, cache[probe], cache[reference], name, steps=4)
            assert found.shape == (28, 28)
            assert found.dtype == np.float32
            cells = pool(torch.from_numpy(found)[None])[0].numpy()
            expected = stored["signed"][place]
            if name == "grad-cam":  # coarse: interpolated here
                assert np.corrcoef(cells, expected)[0, 1] > 0.9
            else:
                np.testing.assert_allclose(cells, expected, atol=1e-4 * np.abs(expected).max())
                assert np.abs(found).max() == pytest.approx(stored["energy"][place], rel=1e-3)


def test_maps_follow_matcher_settings_and_network(
    cache: fg.FaceCache, net: fg.FaceNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = cache[cache.select()[:2]]
    cosine = fg.explain(net, first, second, "saliency")
    assert np.abs(cosine - fg.explain(net, first, second, "saliency", matcher="qaconv")).max() > 0
    black, grey = (
        fg.explain(net, first, second, "integrated-gradients", steps=4, baseline=baseline)
        for baseline in ("black", "grey")
    )
    assert np.abs(black - grey).max() > 0
    for arguments, text in (
        (("gradcamera",), "no method 'gradcamera'; choose from saliency"),
        (("rollout",), "rollout: .*needs a vision transformer"),
        (("oracle",), "oracle is read off the responses"),
    ):
        with pytest.raises(fg.FaceguideError, match=text):
            fg.explain(net, first, second, *arguments)
    with pytest.raises(fg.FaceguideError, match=r"step; .*seed, steps"):
        fg.explain(net, first, second, "saliency", step=3)
    with pytest.raises(fg.FaceguideError, match="expected one face, found 2"):
        fg.explain(net, [first, second], second, "saliency")


def test_attention_by_head(place: Path, net: fg.FaceNetwork, cache: fg.FaceCache) -> None:
    weights = weights_file(place / "cal.pt", "cal_mobilefacenet", num_classes=5, heads=3)
    cal = fg.load(weights, device="cpu")
    assert repr(cal) == "FaceNetwork('cal_mobilefacenet', 112 pixels, RGB)"
    rows = cache[cache.select()[:2]]
    found = cal.attention(rows)
    model = random_module("cal_mobilefacenet", num_classes=5, heads=3)
    with torch.no_grad():
        images = np.stack([row["image"] for row in rows])
        expected = model(model.input_spec.prepare(images), parts=True).maps
    assert found.shape[1] == 3
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (found >= 0).all()
    assert cal.embed(rows).shape == (2, 3 * 512)
    with pytest.raises(fg.FaceguideError, match="mobilefacenet has no attention maps"):
        net.attention(rows)


def test_the_module_takes_prepared_pixels(cache: fg.FaceCache, net: fg.FaceNetwork) -> None:
    assert isinstance(net.input_spec, InputSpec)
    rows = cache[cache.select()[:2]]
    pixels = net.input_spec.prepare(np.stack([row["image"] for row in rows]))
    embedding, norm = net.module(pixels)
    assert embedding.shape == (2, 128)
    assert norm.shape == (2, 1)
    assert not net.module.training


def test_what_is_doubtful_about_weights_is_a_warning(place: Path) -> None:
    torch.save(create("mobilefacenet").state_dict(), place / "new.pt")
    with pytest.warns(UserWarning, match="as if never trained"):
        assert fg.load(place / "new.pt", device="cpu").network.name == "mobilefacenet"
    torch.save({"a": torch.zeros(2)}, place / "foreign.pt")
    with pytest.raises(fg.FaceguideError, match="does not say which network it is for"):
        fg.load(place / "foreign.pt")
    with pytest.raises(fg.FaceguideError, match="no weights file"):
        fg.load(place / "absent.pt")


def test_a_network_of_ones_own_is_tried_on_the_first_faces(
    place: Path, cache: fg.FaceCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Same(Smooth):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(images), 4)

    module = types.ModuleType("my_networks")
    module.smooth, module.same = (lambda w: Smooth()), (lambda w: Same())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_networks", module)
    torch.save({}, place / "none.pt")
    crops = np.stack([row["image"] for row in cache[cache.select()[:4]]])[:, ::4, ::4]
    assert fg.load(place / "none.pt", "my_networks:smooth").embed(crops).shape == (4, 16)
    with pytest.raises(fg.FaceguideError, match="4 different faces"):
        fg.load(place / "none.pt", "my_networks:same").embed(crops)


def test_what_does_not_fit_is_said_in_one_line(cache: fg.FaceCache, net: fg.FaceNetwork) -> None:
    rows = cache[cache.select()[:3]]
    small = fg.Face(rows[0]["image"][::2, ::2], "small.png")
    for call, text in (
        (lambda: net.embed([]), "expected faces, found an empty list"),
        (lambda: net.embed(small), r"small\.png: its crops are 56 pixels.*size=112"),
        (lambda: net.score(rows, rows[:2]), "3 and 2 faces are no pairs"),
        (lambda: net.score(*rows[:2], "cosin"), "no matcher 'cosin'; choose one of cosine, qaconv"),
        (lambda: net.score(*rows[:2], "fused"), "fused is a fusion: give fusion_scales"),
        (
            lambda: net.score(*rows[:2], "cosine", fusion_scales="f.json"),
            "fusion_scales is for a fusion; leave it out for cosine",
        ),
    ):
        with pytest.raises(fg.FaceguideError, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)
