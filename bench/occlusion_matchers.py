"""The matchers that bench/occlusion.py compares, trained where they can be."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from occlusion_faces import TRAINING_DRAWS, Faces, join
from occlusion_measures import Score, maps_only, visible_score
from occlusion_pieces import all_matches, projected, train_locations, train_tail

from faceguide.evaluate.score.fusion_fit import Fit, fit
from faceguide.train.models import create
from faceguide.train.models.matchers.qaconv import WEIGHTINGS, QAConv
from faceguide.train.models.matchers.visible_embedding import VisibleEmbedding

TRAINING_PROBES = 150
FIXED_ROWS = 4  # of 7: what a medical mask leaves free
DIFFERENCES = (
    ("common", "none"),
    ("mask", "none"),
    ("scale", "none"),
    ("common", "mask"),
    ("trained_common", "trained_none"),
    ("visible_embedding", "cosine"),
    ("visible_embedding", "fixed_rows"),
    ("trained_visible_embedding", "cosine"),
    ("trained_visible_embedding", "trained_cosine"),
    ("trained_cosine", "cosine"),
    ("common", "cosine"),
    ("projected_common", "projected_none"),
    ("qaconv+visible_embedding", "visible_embedding"),
    ("qaconv+cosine", "cosine"),
)


def fixed(faces: Faces) -> Faces:
    seen = torch.zeros_like(faces.visibility)
    seen[:, :FIXED_ROWS] = 1.0
    return Faces(faces.maps, seen, faces.person, faces.name)


def remembered(score: Score) -> Score:
    """The same, which keeps its last answer: fusions ask again for what was just computed."""
    last: list[Any] = [None, None, None]

    def again(probe: Faces, gallery: Faces) -> NDArray[np.float32]:
        if last[0] is not probe or last[1] is not gallery:
            last[:] = [probe, gallery, score(probe, gallery)]
        return last[2]

    return again


def qaconv_scores(matcher: QAConv, trained: QAConv, cells: VisibleEmbedding | None = None):
    """Scores before and after training: the best matches are those of the maps, found once."""

    def both(probe: Faces, gallery: Faces):
        if cells is not None:
            probe, gallery = projected(cells, probe), projected(cells, gallery)
        matches = all_matches(matcher, probe, gallery)
        with torch.inference_mode():
            return matcher.score(matches).numpy(), trained.score(matches).numpy()

    kept = remembered(both)
    return (lambda p, g: kept(p, g)[0]), (lambda p, g: kept(p, g)[1])


def fused(parts: dict[str, Score], probe: Faces, gallery: Faces) -> tuple[Score, Fit]:
    """A fusion by the code of `evaluate --matcher qaconv+…`, fitted on training pairs."""
    other = np.array([[a != b for b in gallery.name] for a in probe.name])
    same = (probe.person[:, None] == gallery.person[None])[other]
    fitted = fit({name: score(probe, gallery)[other] for name, score in parts.items()}, same)

    def score(probe: Faces, gallery: Faces) -> NDArray[np.float32]:
        scores = {name: part(probe, gallery) for name, part in parts.items()}
        return fitted.score(scores).astype(np.float32)

    return score, fitted


def make_matchers(backbone, mean, clean, drawn) -> tuple[dict[str, Score], dict[str, Any]]:
    visible = visible_score(VisibleEmbedding.of(backbone, mean))
    plain = visible_score(VisibleEmbedding.of(backbone))
    # Training pairs: covered and clean images of identities with several, against one each.
    counts = np.bincount(clean.person)
    several = np.flatnonzero(counts[clean.person] > 1)
    versions = [clean, *drawn]
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(versions), len(several))
    probe = join([versions[k].at(several[chosen == k]) for k in range(len(versions))])
    one_each = np.unique(clean.person, return_index=True)[1]
    chosen = rng.choice(len(versions), len(one_each), p=[0.6] + [0.1] * TRAINING_DRAWS)
    gallery = join([versions[k].at(one_each[chosen == k]) for k in range(len(versions))])

    picked = np.sort(rng.permutation(len(probe.name))[:TRAINING_PROBES])
    probe = probe.at(picked)
    people = np.unique(probe.person)
    picked = np.flatnonzero(np.isin(gallery.person, people) | (rng.random(len(gallery.name)) < 0.3))
    gallery = gallery.at(picked)

    notes: dict[str, Any] = {"training_pairs": [len(probe.name), len(gallery.name)]}
    matchers: dict[str, Score] = {
        "cosine": lambda p, g: plain(maps_only(p), maps_only(g)),
        "centred_cosine": lambda p, g: visible(maps_only(p), maps_only(g)),
        "visible_embedding": visible,
        "fixed_rows": lambda p, g: visible(fixed(p), fixed(g)),
    }
    cells = VisibleEmbedding.of(backbone, mean)
    with torch.no_grad():
        probe_cells, gallery_cells = projected(cells, probe), projected(cells, gallery)
    for prefix, channels, metric, one, other in (
        ("", 512, None, probe, gallery),
        ("projected_", 128, cells, probe_cells, gallery_cells),
    ):
        for weighting in WEIGHTINGS:
            matcher = create("qaconv", weighting=weighting, channels=channels)
            torch.nn.init.zeros_(matcher.fc.bias)
            trained, notes[f"pull of {prefix}{weighting}"] = train_locations(
                matcher.eval(), one, other
            )
            before, after = qaconv_scores(matcher, trained, metric)
            matchers[prefix + weighting] = before
            matchers[f"trained_{prefix}{weighting}"] = after
    covered = join([clean, *drawn])
    for name, seen in (("trained_cosine", False), ("trained_visible_embedding", True)):
        tail = train_tail(backbone, mean, covered, clean, visible=seen)
        score = visible_score(VisibleEmbedding.of(tail, mean))
        matchers[name] = (
            score if seen else lambda p, g, score=score: score(maps_only(p), maps_only(g))
        )
    matchers = {name: remembered(score) for name, score in matchers.items()}
    qaconv = matchers["trained_projected_common"]
    for other_part in ("cosine", "visible_embedding"):
        parts = {"qaconv": qaconv, other_part: matchers[other_part]}
        name = f"qaconv+{other_part}"
        matchers[name], fitted = fused(parts, probe, gallery)
        notes[f"fit of {name}"] = asdict(fitted)
    return matchers, notes
