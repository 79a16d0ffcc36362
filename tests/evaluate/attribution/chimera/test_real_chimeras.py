"""Real faces and real weights: chimeras are told apart, shams are not, noise is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.cache import builder
from tests.evaluate.attribution.networks import settled

from faceguide.cache.pairs.pair_lists import PairList
from faceguide.cache.pairs.pair_rows import PairRows, resolve
from faceguide.cache.reader import FaceCache
from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.cells import pool
from faceguide.evaluate.attribution.chimera.chimera_list import Chimeras, chimeras_of
from faceguide.evaluate.attribution.chimera.composition import (
    PARTS,
    composed,
    part_cells,
    part_mask,
)
from faceguide.evaluate.attribution.chimera.exchange import chimera_scores, judge_exchange
from faceguide.evaluate.attribution.chimera.told_apart import ToldApart, told_apart
from faceguide.evaluate.attribution.methods.cam import hirescam
from faceguide.evaluate.attribution.methods.maps import Batch
from faceguide.evaluate.attribution.methods.target import PairScore, pair_score
from faceguide.train.models.loading.network import load_network

IDENTITIES = 48

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def faces(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[FaceCache, PairRows]:
    """A cache of 48 identities of LFW with three photographs each."""
    folder = shared / "data" / "lfw112_dev" / "images"
    files: dict[str, Path] = {}
    for person, place in enumerate(
        [place for place in sorted(folder.iterdir()) if len(list(place.iterdir())) > 2][:IDENTITIES]
    ):
        for number, path in enumerate(sorted(place.iterdir())[:3], 1):
            files[f"p{person:03d}/{number}.jpg"] = path

    def image_of(key: str, size: int) -> NDArray[np.uint8]:
        found = cv2.imread(str(files[key]))
        assert found is not None
        return np.ascontiguousarray(found[:, :, ::-1]).astype(np.uint8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "image_of", image_of)
        cache = builder.build_keys(tmp_path_factory.mktemp("lfw") / "cache", [*files], size=112)
    names = sorted(files)
    first = [name for name in names if name.endswith("/1.jpg")]
    second = [name.replace("/1.", "/2.") for name in first]
    # Third photographs are no part of the list: they serve the sham.
    pairs = PairList(first, second, np.ones(len(first), bool), None)
    return cache, resolve(cache, pairs)


@pytest.fixture(scope="module")
def score(shared: Path) -> PairScore:
    weights = shared / "data" / "weights" / "mobilefacenet.pt"
    return pair_score(load_network("mobilefacenet", weights), "cosine")


@pytest.fixture(scope="module")
def chimeras(faces: tuple[FaceCache, PairRows]) -> Chimeras:
    found = chimeras_of(*faces, None, 0, "alpha")
    assert len(found) == IDENTITIES // 2
    return found


def scored(
    score: PairScore, cache: FaceCache, chimeras: Chimeras, images: NDArray[np.uint8]
) -> ToldApart:
    """What HiResCAM says of these pictures against the references of P and of Q."""

    def prepared(pixels: NDArray[np.uint8]) -> torch.Tensor:
        return score.input_spec.prepare(torch.from_numpy(pixels))

    maps: list[Any] = []
    for rows in (chimeras.bearer_reference, chimeras.donor_reference):
        reference = score.reference(prepared(cache.read(rows, ["image"])["image"]))
        batch = Batch(prepared(images), reference, tuple(range(len(images))))
        maps.append(pool(hirescam(score, batch, Settings()).values).numpy())
    cells = [part_cells(list(PARTS)[part]) for part in chimeras.part]
    inside, outside = (np.stack(kind) for kind in zip(*cells, strict=True))
    return told_apart(*maps, inside, outside)


def test_chimeras_are_told_apart(
    faces: tuple[FaceCache, PairRows], chimeras: Chimeras, score: PairScore
) -> None:
    cache, _ = faces
    images = chimeras.images(cache, np.arange(len(chimeras)))
    found = scored(score, cache, chimeras, images)
    assert found.told.mean() > 0.7
    assert found.single.mean() > 0.65


def test_an_unmodified_face_is_not(
    faces: tuple[FaceCache, PairRows], chimeras: Chimeras, score: PairScore
) -> None:
    cache, _ = faces
    found = scored(score, cache, chimeras, cache.read(chimeras.bearer, ["image"])["image"])
    assert found.told.mean() == pytest.approx(0.5, abs=0.1)


def test_a_part_of_another_photograph_of_one_identity_is_not(
    faces: tuple[FaceCache, PairRows], chimeras: Chimeras, score: PairScore
) -> None:
    cache, _ = faces
    names = [key.split("/")[0] for key in cache.texts("key", chimeras.bearer)]
    rows = cache.find([f"{name}/3.jpg" for name in names])
    donors = cache.read([rows[f"{name}/3.jpg"] for name in names], ["image"])["image"]
    bearers = cache.read(chimeras.bearer, ["image"])["image"]
    images = np.stack(
        [
            composed(bearer, donor, part_mask(list(PARTS)[part], 112))
            for bearer, donor, part in zip(bearers, donors, chimeras.part, strict=True)
        ]
    )
    found = scored(score, cache, chimeras, images)
    assert found.told.mean() == pytest.approx(0.5, abs=0.1)


def test_trained_weights_are_accepted_and_random_ones_refused(
    faces: tuple[FaceCache, PairRows], chimeras: Chimeras, score: PairScore
) -> None:
    cache, _ = faces
    known = judge_exchange(chimera_scores(score, cache, chimeras), 1e-7, 0)
    assert known["separates"] is True
    noise = PairScore(settled("mobilefacenet"))
    found = judge_exchange(chimera_scores(noise, cache, chimeras), 1e-7, 0)
    assert found["separates"] is False
    assert found["exchange_interval"][0] < 1
