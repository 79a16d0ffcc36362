"""Images per second of `prep landmarks` next to its limit and next to a plain loop.

    python bench/prep.py FOLDER --images 4000 --rounds 3 --json prep.json

The limit is what the same number of processes do when they only read the image and run Face
Mesh: no command that finds faces this way can be faster. The plain loop is the script that one
writes first: one process, one landmark at a time, one heatmap point at a time, one HDF5 row at
a time; it runs once. All three are whole processes, started anew and interleaved, so that start-up
and the noise of the machine count for each alike. Only images take part in which the first look
finds a face and is sure of it: others cost more looks by design, at the turned picture or in other
boxes. With --second-looks all images take part in which the first look finds a face.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

SURE = 0.88  # score from which the cascade does not look at the turned picture

LIMIT = """
import sys, cv2, joblib
from pathlib import Path

def work(paths):
    import mediapipe as mp
    cv2.setNumThreads(1)
    with mp.solutions.face_mesh.FaceMesh(
        static_image_mode=True, refine_landmarks=True, max_num_faces=5
    ) as mesh:
        return sum(
            mesh.process(cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)).multi_face_landmarks
            is not None
            for path in paths
        )

if __name__ == "__main__":
    jobs = int(sys.argv[2])
    paths = sorted(str(path) for path in Path(sys.argv[1]).rglob("*.*"))
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        parts = [paths[job::jobs] for job in range(jobs)]
        print(sum(joblib.Parallel(n_jobs=jobs)(joblib.delayed(work)(part) for part in parts)))
"""

PLAIN = """
import sys, cv2, h5py, numpy as np, mediapipe as mp
from pathlib import Path

template = np.array([(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366),
                     (41.5493, 92.3655), (70.7299, 92.2041)])
ys, xs = np.mgrid[0:28, 0:28] * 4 + 1.5
hulls = {"eyes": [[33, 133, 159, 145], [362, 385, 380, 386]],
         "nose": [[1, 2, 4, 5, 19, 94, 98, 168, 327]],
         "mouth": [[61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 17, 84, 314]]}
paths = sorted(str(path) for path in Path(sys.argv[1]).rglob("*.*"))
found = 0
with h5py.File(sys.argv[2], "w") as file, mp.solutions.face_mesh.FaceMesh(
    static_image_mode=True, refine_landmarks=True
) as mesh:
    images = file.create_dataset("image", (0, 112, 112, 3), "u1", maxshape=(None, 112, 112, 3))
    points = file.create_dataset("landmarks", (0, 478, 3), "f4", maxshape=(None, 478, 3))
    heat = file.create_dataset("heatmap", (0, 28, 28), "u1", maxshape=(None, 28, 28))
    masks = file.create_dataset("regions", (0, 3, 28, 28), "u1", maxshape=(None, 3, 28, 28))
    for path in paths:
        image = cv2.imread(path)
        faces = mesh.process(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).multi_face_landmarks
        if not faces:
            continue
        h, w = image.shape[:2]
        lm = np.array([(p.x * w, p.y * h, p.z * w) for p in faces[0].landmark])
        matrix, _ = cv2.estimateAffinePartial2D(lm[[468, 473, 1, 61, 291], :2], template)
        crop = cv2.warpAffine(image, matrix, (112, 112))
        lm[:, :2] = lm[:, :2] @ matrix[:, :2].T + matrix[:, 2]
        heatmap = np.zeros((28, 28))
        for x, y, _ in lm:
            heatmap = np.maximum(heatmap, np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 32))
        regions = np.zeros((3, 112, 112), np.uint8)
        for region, parts in enumerate(hulls.values()):
            for part in parts:
                hull = cv2.convexHull(lm[part, :2].round().astype(np.int32))
                cv2.fillConvexPoly(regions[region], hull, 255)
        for dataset, value in (
            (images, crop), (points, lm), (heat, heatmap * 255),
            (masks, regions.reshape(3, 28, 4, 28, 4).mean((2, 4))),
        ):
            dataset.resize(found + 1, axis=0)
            dataset[found] = value
        found += 1
print(found)
"""


def timed(command: list[str]) -> tuple[float, float, str]:
    """Seconds of a whole process by the clock and of its processors, and what it printed last."""
    started, before = time.perf_counter(), os.times()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    elapsed, after = time.perf_counter() - started, os.times()
    busy = sum(after[2:4]) - sum(before[2:4])  # of children, and of theirs
    return elapsed, busy, done.stdout.strip().splitlines()[-1]


def gather(source: Path, folder: Path, images: int, least: float) -> int:
    """Copy images with a face of that score, again and again, until there are enough."""
    from faceguide.core.faces.decode import DecodeError, decode
    from faceguide.preprocess.detect.finders.open_finder import open_finder

    finder = open_finder("face-mesh", None)
    good: list[Path] = []
    for path in sorted(path for path in source.rglob("*.*") if path.is_file()):
        try:
            scores = finder.boxes(decode(path.read_bytes())).scores
            good += [path] if len(scores) and scores[0] >= least else []
        except DecodeError:
            continue
        if len(good) == images:
            break
    for number in range(images):
        path = good[number % len(good)]
        target = folder / f"{number % 97:02d}" / f"{number:06d}{path.suffix}"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    return len(good)


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--images", default=4000, show_default=True, help="Images in each run.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--jobs", default=2, show_default=True)
@click.option("--second-looks", is_flag=True, help="Images that need them take part too.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the table here.")
def main(
    source: Path, images: int, rounds: int, jobs: int, second_looks: bool, json_file: Path | None
) -> None:
    """Compare `prep landmarks` with its limit and with a plain loop over SOURCE."""
    seconds: dict[str, list[float]] = {"limit": [], "faceguide": [], "plain loop": []}
    busy: dict[str, list[float]] = {name: [] for name in seconds}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        (work / "images").mkdir()
        distinct = gather(source, work / "images", images, 0.5 if second_looks else SURE)
        for number in range(rounds):
            commands = {
                "limit": [sys.executable, "-c", LIMIT, str(work / "images"), str(jobs)],
                "faceguide": [
                    sys.executable, "-c", "from faceguide.preprocess.cli import main; main()",
                    "landmarks", str(work / "images"), "--out", str(work / f"cache{number}"),
                    "--jobs", str(jobs), "--json",
                ],
                "plain loop": [
                    sys.executable, "-c", PLAIN, str(work / "images"), str(work / "plain.h5"),
                ],
            }  # fmt: skip
            (work / "limit.py").write_text(LIMIT)
            commands["limit"] = [sys.executable, str(work / "limit.py"), *commands["limit"][3:]]
            for name, command in commands.items():
                if name == "plain loop" and number:
                    continue  # once: it takes longer than both others together
                elapsed, processors, printed = timed(command)
                seconds[name].append(elapsed)
                busy[name].append(processors)
                if name == "faceguide":
                    summary = json.loads(printed)
    ratios = [
        limit / ours for limit, ours in zip(seconds["limit"], seconds["faceguide"], strict=True)
    ]
    rows = [
        {
            "name": name,
            "processes": 1 if name == "plain loop" else jobs,
            "images_per_s": images / statistics.median(times),
            "of_limit": statistics.median(
                limit / ours for limit, ours in zip(seconds["limit"], times, strict=False)
            ),
            "cpu_ms": 1000 * statistics.median(busy[name]) / images,
            "of_limit_cpu": statistics.median(
                limit / ours for limit, ours in zip(busy["limit"], busy[name], strict=False)
            ),
        }
        for name, times in seconds.items()
    ]
    click.echo(f"{images} images ({distinct} distinct), {rounds} interleaved rounds, medians")
    click.echo(
        f"{'':<12}{'processes':>10}{'images/s':>10}{'of limit':>10}{'CPU ms':>8}{'of limit':>10}"
    )
    for row in rows:
        click.echo(
            f"{row['name']:<12}{row['processes']:>10}{row['images_per_s']:>10.0f}"
            f"{row['of_limit']:>10.2f}{row['cpu_ms']:>8.2f}{row['of_limit_cpu']:>10.2f}"
        )
    click.echo(f"faceguide against the limit, round by round: {[round(r, 2) for r in ratios]}")
    click.echo(f"origins: {summary['origins']}")
    if json_file:
        json_file.write_text(json.dumps({"images": images, "table": rows, "ratios": ratios}))


if __name__ == "__main__":
    main()
