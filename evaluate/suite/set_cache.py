"""A cache of a set that was found: unaligned photographs are aligned, crops are taken as they are.

The cache is called by all that decides it, the images' sizes included. So it is filled once, is
resumed when that was interrupted, and a set whose images have become more gets another.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import shutil
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from faceguide.cache import manifest
from faceguide.core.files import TEMPORARY, digest, write_bytes, write_error
from faceguide.evaluate.suite.suite_options import SuiteOptions
from faceguide.preprocess.detect.finders.open_finder import chosen_finder
from faceguide.preprocess.face_settings import FaceSettings, faces_recipe
from faceguide.preprocess.face_shards import make_faces
from faceguide.preprocess.guidance.drawing import GuidanceSettings
from faceguide.preprocess.planning import face_plan, settle
from faceguide.preprocess.prep_options import Here, PlanOptions
from faceguide.preprocess.public_sets.found_set import FoundSet
from faceguide.preprocess.public_sets.layouts import arrow_folders
from faceguide.preprocess.public_sets.listed_images import are_aligned
from faceguide.preprocess.work import Work
from faceguide.train.models.loading.network import Network


def prepared(found: FoundSet, caches: Path, network: Network, suite: SuiteOptions) -> Path:
    """The directory of the set's cache, which is filled if need be.

    Landmarks are looked for where they decide the crop or the network asks for them.

    Args:
        caches: where caches of sets are kept.

    Raises:
        FaceguideError: when no finder is installed, or a cache cannot be written.
    """
    place, side = caches.absolute() / found.benchmark, network.input_spec.size
    if found.form == "arrow":
        found = _unpacked(found, place)
    aligned = found.form == "bin" or are_aligned(found.place, found.images)
    if found.form == "bin":
        status = found.place.stat()
        content: list[Any] = [str(found.place.absolute()), status.st_size, status.st_mtime_ns]
        faces = FaceSettings(source=found.place, size=side)
    else:
        content = [[path, _bytes(found.place / path)] for path in sorted(found.images)]
        source = place / f"images-{digest([str(found.place.absolute()), content])[:12]}.csv"
        place.mkdir(parents=True, exist_ok=True)
        write_bytes(source, _csv(found.images))
        faces = FaceSettings(source=source, root=found.place, size=side)
    if aligned:
        faces = replace(faces, align="none", detect=network.needs_keypoints)
    if faces.detect:
        finder, model = chosen_finder("auto", suite.model)
        faces = replace(faces, finder=finder, model=model)
    planned = face_plan(faces, GuidanceSettings(), PlanOptions(directory=place))
    key = digest([faces_recipe(planned.settings, planned.source), content])[:12]
    planned = replace(planned, directory=place / f"{side}-{key}")
    here = Here(jobs=suite.jobs)
    plan, _ = settle(planned, here.processes)
    if manifest.load_manifest(planned.directory, "faces", plan) is None:
        started = time.monotonic()
        work = Work(planned.directory, plan, ("faces",), here)
        work.run(functools.partial(make_faces, planned.directory, plan, planned.settings))
        work.close(started)
    return planned.directory


def _unpacked(found: FoundSet, place: Path) -> FoundSet:
    """The set of an Arrow folder with its images as files, which are written once."""
    content = [[path.name, path.stat().st_mtime_ns] for path in sorted(found.place.iterdir())]
    folder = place / f"images-{digest([str(found.place.absolute()), content])[:12]}"
    if not folder.exists():
        making = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}{TEMPORARY}")
        try:
            making.mkdir(parents=True)
            for name, data in arrow_folders.unpacked(found.place):
                (making / name).write_bytes(data)
            with contextlib.suppress(FileExistsError):  # another run was faster
                making.rename(folder)
        except OSError as error:
            raise write_error(folder, error) from error
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return replace(found, place=folder, form="images")


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _csv(images: Mapping[str, str]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "identity"])
    writer.writerows(sorted(images.items()))
    return text.getvalue().encode("utf-8", "surrogateescape")
