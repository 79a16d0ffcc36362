"""Every family of networks in every command: what `evaluate describe` lists works, the rest is
refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from tests.evaluate.builder import (
    pairs_csv,
    random_module,
    small_cache,
    training_run,
    usable_pairs,
)
from tests.evaluate.ijb.test_ijb import build_ijb
from tests.evaluate.test_networks_in_commands import transformer
from tests.train.models.onnx.graph_files import graph_file

import faceguide as fg
from faceguide.__main__ import main
from faceguide.evaluate.verification import load_scores

pytestmark = pytest.mark.timeout(900)

MATCHERS = ("cosine", "qaconv", "qaconv+occlusion", "visible-embedding")
# family → its network, and what the user has to say of the file.
FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "AdaFace": ("ir_18", ("--colour", "bgr")),
    "arcface_torch": ("iresnet_18", ()),
    "arcface_torch mbf": ("mbf", ()),
    "arcface_torch ViT": ("vit", ("--heads", "3")),
    "CVLFace KP-RPE": ("kprpe", ()),
    "EdgeFace": ("edgeface_xxs", ()),
    "FaceNet": ("inception_resnet_v1", ()),
    "MobileFaceNet": ("mobilefacenet", ()),
    "attention": ("cal_mobilefacenet", ()),
    "ONNX": ("onnx", ("--colour", "rgb")),
    "run": ("run", ()),
}


def written(folder: Path, name: str) -> Path:
    """Random weights of a network as a file."""
    if name == "run":
        return training_run(folder / "run")
    if name == "onnx":
        pytest.importorskip("onnxruntime")
        return graph_file(folder / "w.onnx", scaled=True)
    if name in ("vit", "kprpe"):
        module = transformer(9 if name == "vit" else 16, name == "kprpe")
    else:
        more = {"num_classes": 3, "heads": 4} if name.startswith("cal_") else {}
        module = random_module(name, **more)
    torch.save(module.state_dict(), folder / "w.pt")
    return folder / "w.pt"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """112/ and 160/ (caches of such crops), the same without masks, pairs.csv, IJBC/."""
    folder = tmp_path_factory.mktemp("matrix")
    for size in (112, 160):
        small_cache(folder / str(size), size=size)
        small_cache(folder / f"{size} unmasked", size=size, rows=30, occlusion=False)
    pairs_csv(folder / "pairs.csv", usable_pairs(20))
    build_ijb(folder / "IJBC")
    return folder


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def told(*words: object) -> Any:
    """What a command that works says."""
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*words: object) -> None:
    """The command fails, in one line."""
    result = run(*words)
    assert result.exit_code == 1, result.output
    said = [line for line in result.stderr.splitlines() if not line.startswith("Warning")]
    assert said[-1].startswith("Error: ")
    assert "Traceback" not in result.output


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_works_in_every_command_that_suits_it(
    place: Path, tmp_path: Path, family: str
) -> None:
    name, more = FAMILIES[family]
    weights = written(tmp_path, name)
    network = ("--weights", weights, "--device", "cpu", *more)
    about = told("evaluate", "describe", weights, *more)
    assert about.keys() >= {"network", "side", "colour", "assumed", "sha256"}
    works, cache = set(about["works_with"]), place / str(about["side"])
    shared = (*network, "--embeddings", tmp_path / "faces", "--bootstrap", 0, "--no-flip")
    given: dict[str, Any] = {"onnx": {"colour": "RGB"}, "ir_18": {"colour": "BGR"}}.get(name, {})
    net = fg.load(weights, device="cpu", heads=3 if name == "vit" else None, **given)

    told("evaluate", "embed", cache, *network, "--out", tmp_path / "faces")
    for matcher in MATCHERS:
        out = tmp_path / f"verify {matcher}"
        pairs = ("--pairs", place / "pairs.csv", "--matcher", matcher, "--out", out)
        if matcher not in works:
            refused("evaluate", "verification", cache, *shared, *pairs)
            continue
        assert told("evaluate", "verification", cache, *shared, *pairs)["pairs"] == 20
        found = load_scores(out)
        assert np.ptp(found["score"]) > 1e-4
        if matcher == "qaconv":  # of the images themselves, as here, whatever --no-flip
            faces = fg.open(cache)
            rows = (faces[found["probe"][:4]], faces[found["reference"][:4]])
            scores = net.score(*rows, matcher)
            np.testing.assert_allclose(scores, found["score"][:4], atol=1e-2 * np.ptp(scores))

    for matcher in sorted(works & {"cosine", "qaconv"}):
        words = (*shared, "--matcher", matcher, "--out", tmp_path / f"search {matcher}")
        told("evaluate", "identification", cache, *words)
    local = "visible-embedding" if net.network.occlusion_head else "qaconv"
    for matcher in sorted(works & {"cosine", local}):
        words = (*network, "--bootstrap", 0, "--no-flip", "--matcher", matcher)
        out = ("--out", tmp_path / f"ijb {matcher}", "--embeddings", tmp_path / "ijb faces")
        assert told("evaluate", "ijb", place / "IJBC", *words, *out)["images"] > 0

    maps = ("evaluate", "attribution", cache, *network, "--pairs", place / "pairs.csv")
    maps = (*maps, "--limit", 1, "--infills", "blur", "--metrics", "swap", "--bootstrap", 0)
    maps = (*maps, "--out", tmp_path / "maps", "--anyway")  # random weights separate nobody
    kinds = {"occlusion": "occlusion maps", "saliency": "gradients", "rollout": "rollout"}
    # Occlusion asks for many scores and nothing else: large networks would show nothing new.
    large = name in ("ir_18", "iresnet_18", "inception_resnet_v1")
    suit = [m for m, kind in kinds.items() if kind in works and not (large and m == "occlusion")]
    found = told(*maps, "--methods", ",".join(suit))["methods"]
    assert all(found[method]["n"] == 1 for method in suit)
    for method in {method for method, kind in kinds.items() if kind not in works}:
        refused(*maps, "--overwrite", "--methods", method)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_is_trained_and_exported_where_it_can_be(
    place: Path, tmp_path: Path, family: str
) -> None:
    pytest.importorskip("onnxscript")
    name, more = FAMILIES[family]
    weights = written(tmp_path, name)
    about = told("evaluate", "describe", weights, *more)
    cache, colour = place / str(about["side"]), more[:2] if "--colour" in more else ()
    side = "8" if name == "inception_resnet_v1" else "7"
    words = ("--init", weights, "--out", tmp_path / "trained", "--steps", 1, "--batch-size", 6)
    words = (*words, "--map", side, "--images-per-person", 3, "--device", "cpu", *colour)
    train = ("train", "oaml", place / f"{about['side']} unmasked", *words)
    if "train oaml" in about["works_with"] and name != "run":
        told(*train)
    elif name not in ("run", "vit"):
        refused(*train)

    out = tmp_path / "out.onnx"
    export = ("train", "export", weights, "--onnx", out, *more)
    if name == "onnx":
        refused(*export)
        return
    assert told(*export)["outputs"].keys() >= {"embedding"}
    assert told("evaluate", "describe", out)["exported_from"] == about["network"]
    faces, given = fg.open(cache), fg.load(out, device="cpu")
    rows = faces[faces.select()[:5]]
    same = {"colour": "BGR"} if name == "ir_18" else {}
    net = fg.load(weights, device="cpu", heads=3 if name == "vit" else None, **same)
    np.testing.assert_allclose(given.embed(rows), net.embed(rows), atol=1e-4)
    if name == "kprpe":  # five landmarks of each face are a second input
        words = ("--weights", out, "--pairs", place / "pairs.csv", "--bootstrap", 0)
        told("evaluate", "verification", cache, *words, "--out", tmp_path / "scores")
        with pytest.raises(fg.FaceguideError, match="needs to know where five landmarks lie"):
            given.embed(rows[0]["image"])
