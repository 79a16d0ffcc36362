"""What `evaluate ijb` does, start to finish."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from faceguide.cache.pairs.pair_rows import LeftOut
from faceguide.core.commands.doubts import Doubts
from faceguide.core.commands.settings import fixed
from faceguide.core.errors import EvaluationError
from faceguide.core.files import write_json
from faceguide.core.formats.container import write_arrays
from faceguide.evaluate.evaluation_options import ScoreOptions, progress_bar
from faceguide.evaluate.ijb import (
    ijb_doubts,
    ijb_faces,
    ijb_meta,
    ijb_points,
    ijb_protocol,
    templates,
)
from faceguide.evaluate.score import fusion
from faceguide.evaluate.score.block_files import ScoreBlocks
from faceguide.evaluate.score.embed import Beside, Rows, blocks_of, fill, unfinished
from faceguide.evaluate.score.embed_part import embed_part, part_record
from faceguide.evaluate.score.face_store import FaceStore
from faceguide.evaluate.score.matcher_options import TemplateOptions
from faceguide.evaluate.score.prepare import (
    begin_run,
    build_matcher,
    calibration_record,
    needs_of,
    score_key,
)
from faceguide.evaluate.verification import is_backwards, write_left_out
from faceguide.train.models.loading.network import Network


def run_ijb(
    folder: Path,
    network: Network,
    options: TemplateOptions,
    run: ScoreOptions,
) -> dict[str, Any]:
    """Both protocols of IJB-B or IJB-C.

    Writes run.json, ijb.json, ijb_scores.safetensors and, if an image could not be used,
    left_out.csv.

    Returns:
        The record of ijb.json; of a part, `part_record`.

    Raises:
        ListError: when a meta file is not in its layout.
        EvaluationError: when no image can be read.
        Unfinished: when nothing is to be computed and blocks are missing.
    """
    needs = needs_of(network, options, None)
    meta = ijb_meta.read_meta(folder)
    side = network.input_spec.size
    failures = ijb_points.unusable(meta, detector_score=options.detector_score)
    content = ijb_faces.content_key(meta, side)
    begin_run(
        run,
        "ijb",
        fixed(options, run),
        folder=str(folder.resolve()),
        content=content,
        **network.record(),
    )
    listed = np.unique(meta.image)
    images = np.setdiff1d(listed, np.array(sorted(failures), np.int64))
    key = {"ijb": content, **network.key()}

    def compute(store: FaceStore, part: tuple[int, int]) -> int:
        progress = progress_bar("faces", len(images) // part[1])

        def batches(wanted: Sequence[Rows]) -> Iterator[tuple[Rows, torch.Tensor, Beside]]:
            for places, pixels, points in ijb_faces.crops(meta, wanted, side, failures):
                yield places, pixels, {"keypoints": points} if network.needs_keypoints else {}

        return fill(
            store, network, images, needs.groups, batches,
            part=part, batch_size=run.batch_size, progress=progress,
        )  # fmt: skip

    embedded = embed_part(
        lambda: FaceStore.open(run.embeddings or run.out, key),
        compute,
        lambda store: ijb_faces.readable_blocks(
            meta, unfinished(store, images, needs.groups), side, failures
        ),
        len(blocks_of(images)),
        run,
    )
    if embedded.store is None or (run.is_part and needs.cheap):
        return part_record(run, embedded, needs)
    there = np.setdiff1d(images, np.array(sorted(failures), np.int64))
    if not len(there):
        first = int(listed[0])
        raise EvaluationError(
            f"{folder}: none of its {len(listed)} images can be used; the first, "
            f"{ijb_faces.FOLDER}/{meta.images[first]}: {failures.get(first, '')}"
        )
    reader, matcher = build_matcher(embedded.store, network, options, needs, there, run)
    usable = ~np.isin(meta.image, np.array(sorted(failures), np.int64))
    uses = templates.sort_uses(
        meta.image, meta.template, meta.medium, meta.detector_score[meta.image], usable
    )
    scorer = ijb_protocol.TemplateScorer(reader, matcher, uses, options)
    kept = ScoreBlocks(run.out, score_key(key, options), run.todo)
    doubts = Doubts()
    subjects = ijb_doubts.subjects_of(meta, doubts)
    verified = ijb_protocol.verify(meta, scorer, uses, kept, subjects, doubts)
    identified = ijb_protocol.identify(
        meta, scorer, uses, kept, replicates=run.replicates, seed=options.seed
    )
    if verified is None or identified is None:
        return part_record(run, embedded, needs)
    verification, arrays = verified
    if is_backwards(verification):
        doubts.add("ranked_backwards", count=verification["pairs"])
    nobody = sum(not found["enrolled_probes"] for found in identified.values())
    doubts.add("not_enrolled", count=nobody)
    doubts.update(network.doubts)
    doubts.update(needs.doubts)
    left_out = [
        LeftOut(place, meta.images[place], "", f"{meta.images[place]}: {reason}")
        for place, reason in sorted(failures.items())
    ]
    record = {
        "matcher": options.matcher,
        "fusion": fusion.summary(run.out) if len(options.names()) > 1 else None,
        "calibration": calibration_record(needs, options, None, there),
        "set": meta.name,
        "images": len(listed) - len(failures),
        "listed": len(listed),
        "templates": len(uses.template),
        "templates_without_image": len(np.unique(meta.template)) - len(uses.template),
        "doubts": doubts.counts(),
        "left_out": write_left_out(run.out, left_out),
        "rule": options.rule(),
        "verification": verification,
        "identification": identified,
    }
    write_arrays(run.out / "ijb_scores.safetensors", arrays)
    write_json(run.out / ijb_protocol.RECORD, record)
    return record
