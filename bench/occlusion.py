"""Does weighting by visibility tell covered faces apart better than not weighting?

    python bench/occlusion.py --data DATA --probes DATA/mfr2_dev --json occlusion.json --work WORK

DATA holds lfw112_dev (aligned photographs, pairs.csv with folds), maskedface_seg_dev (surgical
masks and their outlines) and weights/mobilefacenet.pt; --probes is a folder with images/ and
labels.csv (identity, number, mask) in which some faces wear real masks. Caches and feature maps
are made once and kept in --work.

Everything that is trained learns from the persons of LFW fold 0 and half of the mask photographs;
the tests use other persons. Tests, each a full matrix of probes × gallery:

* probes mixed: every real photograph against every other one, with masks or without, visibility
  predicted by the head; `difference` in the JSON file is of this test, the others are under
  `difference_by_test`;
* probes: masked faces against unmasked ones, predicted;
* lfw COVER: covered photographs against clean ones, exact visibility of the drawn cover;
* lfw mixed: clean and covered probes against a clean and covered gallery, exact and predicted;
* lfw clean: what each matcher costs where nothing is covered.

Intervals are those of a bootstrap over persons of the difference between two matchers, each pair
counting by the draws of its two persons.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import occlusion_faces as source
import torch
from numpy.typing import NDArray
from occlusion_faces import COVERS, TRAINING_DRAWS, Faces, join
from occlusion_pieces import (
    all_matches,
    predicted,
    projected,
    train_head,
    train_locations,
    train_tail,
)

from faceguide.evaluate.bootstrap import draw_counts, interval
from faceguide.evaluate.roc import measure, rank
from faceguide.train.models import create
from faceguide.train.models.checkpoint import load_weights
from faceguide.train.models.occlusion_head import OcclusionHead
from faceguide.train.models.qaconv import WEIGHTINGS, QAConv
from faceguide.train.models.visible_embedding import VisibleEmbedding, mean_map
from faceguide.train.occluders import KINDS

FARS = (1e-2, 1e-3)
TRAINING_PROBES = 150
TEST_PROBES = 250
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

Score = Callable[[Faces, Faces], NDArray[np.float32]]


@dataclass
class Test:
    """A matrix of pairs; an image is not compared with itself."""

    name: str
    probe: Faces
    gallery: Faces
    triangle: bool = False

    def pairs(self) -> NDArray[np.bool_]:
        if self.triangle:
            return np.triu(np.ones((len(self.probe.name),) * 2, bool), 1)
        # Covered and clean versions of one photograph are one image.
        return np.array([[a != b for b in self.gallery.name] for a in self.probe.name])


def maps_only(faces: Faces) -> Faces:
    return Faces(faces.maps, torch.ones_like(faces.visibility), faces.person, faces.name)


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


def visible_score(matcher: VisibleEmbedding) -> Score:
    def score(probe: Faces, gallery: Faces) -> NDArray[np.float32]:
        with torch.inference_mode():
            return matcher(probe.maps, gallery.maps, probe.visibility, gallery.visibility).numpy()

    return score


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


def fused(first: Score, second: Score, probe: Faces, gallery: Faces) -> tuple[Score, float]:
    """A weighted sum of two matchers; scales and weight from training pairs."""
    both = [score(probe, gallery) for score in (first, second)]
    other = np.array([[a != b for b in gallery.name] for a in probe.name])
    same = (probe.person[:, None] == gallery.person[None])[other]
    scaled, scale = [], []
    for scores in both:
        values = scores[other]
        scale.append((float(values.mean()), float(values.std())))
        scaled.append((values - scale[-1][0]) / scale[-1][1])
    shares = np.linspace(0, 1, 21)
    aucs = [measure(rank(w * scaled[0] + (1 - w) * scaled[1], same)).auc for w in shares]
    share = float(shares[int(np.argmax(aucs))])

    def score(probe: Faces, gallery: Faces) -> NDArray[np.float32]:
        one, two = (
            (part(probe, gallery) - mean) / std
            for part, (mean, std) in zip((first, second), scale, strict=True)
        )
        return share * one + (1 - share) * two

    return score, share


def measured(test: Test, scores: NDArray[np.float32], replicates: int) -> dict[str, Any]:
    """AUC, TAR and rank-1, and the same of every replicate of the persons."""
    pairs = test.pairs()
    same = test.probe.person[:, None] == test.gallery.person[None]
    people, where = np.unique(
        np.concatenate([test.probe.person, test.gallery.person]), return_inverse=True
    )
    of_probe, of_gallery = where[: len(test.probe.person)], where[len(test.probe.person) :]
    first = np.broadcast_to(of_probe[:, None], same.shape)[pairs]
    second = np.broadcast_to(of_gallery[None], same.shape)[pairs]
    ranking = rank(scores[pairs], same[pairs])
    found = measure(ranking, FARS)
    # Rank 1 over all other faces, for probes that have somebody to find.
    allowed = pairs | pairs.T if test.triangle else pairs
    hits = np.where(allowed, scores if not test.triangle else np.triu(scores, 1)
                    + np.triu(scores, 1).T, -np.inf)  # fmt: skip
    answers = np.flatnonzero((same & allowed).any(1))
    right = same[answers, hits[answers].argmax(1)]
    genuine, impostor = ranking.genuine, ranking.impostor
    drawn = np.full((replicates, 2 + len(FARS)), np.nan)
    for number in range(replicates):
        counts = draw_counts(len(people), 0, number)
        one = measure(
            ranking,
            FARS,
            counts[first[genuine]],
            counts[first[impostor]] * counts[second[impostor]],
        )
        weight = counts[of_probe[answers]]
        found_share = (weight * right).sum() / max(weight.sum(), 1)
        drawn[number] = (one.auc, *one.tar, found_share)
    return {
        "auc": found.auc,
        "tar_1e-2": float(found.tar[0]),
        "tar_1e-3": float(found.tar[1]),
        "rank1": float(right.mean()),
        "genuine": len(genuine),
        "impostor": len(impostor),
        "drawn": drawn,
    }


MEASURES = ("auc", "tar_1e-2", "tar_1e-3", "rank1")


def difference(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Differences of two matchers on one test, with 95 % intervals of the paired replicates."""
    found: dict[str, Any] = {}
    for place, name in enumerate(MEASURES):
        bounds = interval(one["drawn"][:, place] - other["drawn"][:, place])
        low, high = bounds if bounds else (None, None)
        found[name] = {"difference": one[name] - other[name], "low": low, "high": high}
    return {
        "auc": found["auc"]["difference"],
        "low": found["auc"]["low"],
        "high": found["auc"]["high"],
        **{name: found[name] for name in MEASURES[1:]},
    }


def visibility_errors(found: torch.Tensor, true: torch.Tensor) -> dict[str, float]:
    """MSE, and the overlap of the cells that are more than half hidden, over all faces."""
    one, other = found < 0.5, true < 0.5
    union = float((one | other).sum())
    return {
        "mse": float((found - true).square().mean()),
        "iou": float((one & other).sum()) / union if union else 1.0,
    }


@click.command(help=__doc__.splitlines()[0])
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--probes", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--json", "out", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), help="Kept caches and maps.")
@click.option("--replicates", default=300, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(
    data: Path, probes: Path, out: Path, work: Path | None, replicates: int, threads: int
) -> None:
    torch.set_num_threads(threads)
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as temporary:
        folder = work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = run(data, probes, folder, replicates)
    result["cpu_seconds"] = time.process_time() - begun
    out.write_text(json.dumps(result, indent=1))
    click.echo(f"\n{result['cpu_seconds']:.0f} s of processor time")


def run(data: Path, probes: Path, work: Path, replicates: int) -> dict[str, Any]:
    backbone = create("mobilefacenet")
    load_weights(backbone, data / "weights" / "mobilefacenet.pt")
    backbone.eval()
    lfw, masked = source.lfw_faces(data, work), source.masked_faces(data, work)
    probe_cache = source.probe_faces(probes, work)
    fold = source.folds(data)
    labels = lfw.read(np.arange(len(lfw)), ["label"])["label"]
    number = np.array([fold.get(name, -1) for name in lfw.identities])[labels]
    first = int(number[number >= 0].min())
    learn, test_rows = np.flatnonzero(number == first), np.flatnonzero(number != first)
    learn = learn[lfw.read(learn, ["origin"])["origin"] > 0]

    clean = source.plain(backbone, lfw, learn, work / "train_clean.npy")
    drawn = [
        source.drawn(backbone, lfw, learn, k, KINDS, work / f"train_{k}.npy")
        for k in range(TRAINING_DRAWS)
    ]
    real = source.plain(backbone, masked, masked.select(known_occlusion=True), work / "masked.npy")
    learn_real, held_real = (real.at(list(range(start, len(real.name), 2))) for start in (0, 1))
    mean = mean_map(clean.maps.split(256))

    tests, held = make_tests(backbone, lfw, test_rows, probe_cache, probes, work)
    head = kept_head(work / "head.pt", join([clean, *drawn, *[learn_real] * 8]))
    heads = head_table(head, join([clean, *drawn, learn_real]), learn_real, held_real, held)
    for test in tests:
        if test.name.startswith("probes") or test.name.endswith("predicted"):
            test.probe, test.gallery = predicted(head, test.probe), predicted(head, test.gallery)

    matchers, notes = make_matchers(backbone, mean, clean, drawn)
    table, differences = [], {}
    for test in tests:
        found = {}
        for name, score in matchers.items():
            compared = any(name in pair for pair in DIFFERENCES)
            scores = score(test.probe, test.gallery)
            found[name] = measured(test, scores, replicates if compared else 0)
            row = {key: value for key, value in found[name].items() if key != "drawn"}
            table.append({"test": test.name, "matcher": name, **row})
        differences[test.name] = {
            f"{one}-{other}": difference(found[one], found[other]) for one, other in DIFFERENCES
        }
        show(test, found, differences[test.name])
    return {
        "table": table,
        "difference": differences["probes mixed"],
        "difference_by_test": differences,
        "visibility": heads,
        "notes": notes,
    }


def kept_head(path: Path, faces: Faces) -> OcclusionHead:
    """The visibility head; training it is the longest part, so --work keeps it."""
    if not path.exists():
        torch.save(train_head(faces, 512).state_dict(), path)
    head = create("occlusion_head", channels=512)
    head.load_state_dict(torch.load(path, weights_only=True))
    return head.eval()


def make_tests(backbone, lfw, rows, probe_cache, probes, work) -> tuple[list[Test], Faces]:
    """The tests, and all covered LFW faces with their exact visibility."""
    faces = source.plain(backbone, probe_cache, probe_cache.select(), work / "probes.npy")
    wears = source.masked_in_labels(probes)
    mask = np.array([wears[Path(name).with_suffix("").as_posix()] for name in faces.name])
    tests = [
        Test("probes", faces.at(np.flatnonzero(mask)), faces.at(np.flatnonzero(~mask))),
        Test("probes mixed", faces, faces, triangle=True),
    ]
    clean = source.plain(backbone, lfw, rows, work / "test_clean.npy")
    covers = {
        cover: source.covered(backbone, lfw, rows, cover, work / f"test_{cover}.npy")
        for cover in COVERS
    }
    gallery = np.unique(clean.person, return_index=True)[1]
    counts = np.bincount(clean.person)
    asked = np.flatnonzero(counts[clean.person] > 1)
    asked = np.sort(np.random.default_rng(0).permutation(asked)[:TEST_PROBES])
    for cover, faces in covers.items():
        tests.append(Test(f"lfw {cover}", faces.at(asked), clean.at(gallery)))
    rng = np.random.default_rng(1)
    versions = [clean, *covers.values()]

    def mixed(places: NDArray[np.int64], shares: list[float]) -> Faces:
        choice = rng.choice(len(versions), len(places), p=shares)
        return join(
            [
                versions[k].at(places[choice == k])
                for k in range(len(versions))
                if (choice == k).any()
            ]
        )

    probe, against = mixed(asked, [1 / 6] * 6), mixed(gallery, [0.5] + [0.1] * 5)
    tests.append(Test("lfw mixed", probe, against))
    tests.append(Test("lfw mixed, predicted", probe, against))
    tests.append(Test("lfw clean", clean.at(asked), clean.at(gallery)))
    tests.append(Test("lfw clean, predicted", clean.at(asked), clean.at(gallery)))
    return tests, join(list(covers.values()))


def make_matchers(backbone, mean, clean, drawn) -> tuple[dict[str, Score], dict[str, Any]]:
    visible = visible_score(VisibleEmbedding.of(backbone, mean))
    plain = visible_score(VisibleEmbedding.of(backbone))
    # Training pairs: covered and clean images of persons with several, against one each.
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
            trained = train_locations(matcher.eval(), one, other)
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
    notes: dict[str, Any] = {"training_pairs": [len(probe.name), len(gallery.name)]}
    matchers = {name: remembered(score) for name, score in matchers.items()}
    best = matchers["trained_projected_common"]
    for name, other in (
        ("qaconv+cosine", "cosine"),
        ("qaconv+visible_embedding", "visible_embedding"),
    ):
        matchers[name], notes[f"share of qaconv in {name}"] = fused(
            best, matchers[other], probe, gallery
        )
    return matchers, notes


def head_table(head, learnt, learn_real, held_real, held) -> dict[str, Any]:
    """The head and its two baselines, on mask photographs and on covers it never saw."""
    found: dict[str, Any] = {}
    click.echo("\n| visibility on | head MSE | IoU | mean map | IoU | all visible | IoU |")
    click.echo("|---|---|---|---|---|---|---|")
    for name, faces, known in (
        ("mask photographs", held_real, learn_real),
        ("covers of the test", held, learnt),
    ):
        true = faces.visibility
        average = known.visibility.mean(0).expand_as(true)
        entries = {
            "head": visibility_errors(predicted(head, faces).visibility, true),
            "mean_map": visibility_errors(average, true),
            "all_visible": visibility_errors(torch.ones_like(true), true),
        }
        found[name] = {"faces": len(faces.name), **entries}
        cells = " | ".join(f"{one['mse']:.4f} | {one['iou']:.3f}" for one in entries.values())
        click.echo(f"| {name} ({len(faces.name)}) | {cells} |")
    return found


def show(test: Test, found: dict[str, Any], differences: dict[str, Any]) -> None:
    one = next(iter(found.values()))
    click.echo(f"\n{test.name}: {one['genuine']} genuine, {one['impostor']} impostor pairs\n")
    click.echo("| matcher | AUC | TAR@1e-2 | TAR@1e-3 | rank-1 |")
    click.echo("|---|---|---|---|---|")
    for name, row in found.items():
        cells = " | ".join(f"{row[key]:.4f}" for key in MEASURES)
        click.echo(f"| {name} | {cells} |")
    click.echo("\n| difference | AUC | TAR@1e-2 | rank-1 |\n|---|---|---|---|")
    for name, row in differences.items():
        cells = [f"{row['auc']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"]
        for key in ("tar_1e-2", "rank1"):
            part = row[key]
            cells.append(f"{part['difference']:+.3f} [{part['low']:+.3f}, {part['high']:+.3f}]")
        click.echo(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
