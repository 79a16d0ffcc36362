"""What `evaluate ijb` does, start to finish."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.cache.files import replacing, write_json
from faceguide.evaluate import ijb, ijb_faces, ijb_meta, templates
from faceguide.evaluate.embed import fill
from faceguide.evaluate.errors import EvaluationError
from faceguide.evaluate.network import Network
from faceguide.evaluate.pair_rows import LeftOut
from faceguide.evaluate.prepare import MatcherOptions, build_matcher
from faceguide.evaluate.run_directory import begin
from faceguide.evaluate.runs import RunOptions
from faceguide.evaluate.store import FaceStore
from faceguide.evaluate.verification import write_left_out


def run_ijb(
    folder: Path,
    network: Network,
    options: MatcherOptions,
    template_options: ijb.TemplateOptions,
    run: RunOptions,
) -> dict[str, Any]:
    """Both protocols of IJB-B or IJB-C.

    Writes run.json, ijb.json, ijb_scores.npz and, if an image could not be read, left_out.csv.

    Returns:
        The record of ijb.json.

    Raises:
        ListError: when a meta file is not in its layout.
        EvaluationError: when no image can be read.
    """
    options.names()
    meta = ijb_meta.read_meta(folder)
    network.check_size(112, f"{folder} (aligned by its five points)")
    settings = {
        **options.settings(),
        "norm": template_options.norm,
        "detector_score": template_options.detector_score,
        "images_per_template": template_options.images,
        "replicates": run.replicates,
    }
    content = ijb_faces.content_key(meta)
    begin(
        run.out,
        "ijb",
        settings,
        overwrite=run.overwrite,
        folder=str(folder.resolve()),
        content=content,
        backbone=network.name,
        weights_sha256=network.sha256,
    )
    store = FaceStore.open(run.embeddings or run.out, {"ijb": content, **network.key()})
    images = np.unique(meta.image)
    failures: dict[int, str] = {}

    def embed(into: FaceStore, groups: frozenset[str]) -> NDArray[np.int64]:
        def batches(
            wanted: NDArray[np.int64],
        ) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
            return ijb_faces.crops(meta, wanted, failures, options.batch_size)

        fill(into, network, images, groups, batches, run.progress("faces", len(images)))
        there = np.setdiff1d(images, np.array(sorted(failures), np.int64))
        if not len(there):
            reason = failures.get(int(images[0]), "")
            raise EvaluationError(
                f"{folder}: none of its {len(images)} images can be read; the first, "
                f"{ijb_faces.FOLDER}/{meta.images[int(images[0])]}: {reason}"
            )
        return there

    reader, matcher = build_matcher(store, network, options, None, embed, run.out)
    usable = ~np.isin(meta.image, np.array(sorted(failures), np.int64))
    uses = templates.sort_uses(
        meta.image, meta.template, meta.medium, meta.detector_score[meta.image], usable
    )
    scorer = ijb.TemplateScorer(reader, matcher, uses, template_options)
    verification, arrays = ijb.verify(meta, scorer, uses)
    left_out = [
        LeftOut(place, meta.images[place], "", f"{meta.images[place]}: {reason}")
        for place, reason in sorted(failures.items())
    ]
    record = {
        "matcher": options.matcher,
        "set": meta.name,
        "images": len(images) - len(failures),
        "listed": len(images),
        "templates": len(uses.template),
        "templates_without_image": len(np.unique(meta.template)) - len(uses.template),
        "left_out": write_left_out(run.out, left_out),
        "rule": template_options.rule(options.matcher),
        "verification": verification,
        "identification": ijb.identify(
            meta, scorer, uses, replicates=run.replicates, seed=options.seed
        ),
    }
    with replacing(run.out / "ijb_scores.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    write_json(run.out / ijb.RECORD, record)
    return record
