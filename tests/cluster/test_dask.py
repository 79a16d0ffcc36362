"""`prep --dask` on real Dask workers, one of them killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import click
import pytest
from tests.cluster.prep import PREP
from tests.contents import contents

from faceguide.core.errors import FaceguideError
from faceguide.preprocess import aligned_face, parallel
from faceguide.preprocess.face_settings import FaceSettings
from faceguide.preprocess.prep_options import Here

distributed = pytest.importorskip("distributed", reason="pip install 'faceguide[dask]'")


@pytest.mark.timeout(200)
def test_a_killed_worker_changes_no_byte(photos: Path, undisturbed: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None
    ) as cluster:
        command = [
            *PREP, "landmarks", str(photos / "photos"), "--out", str(cache), "--shard-rows", "6",
            "--allow-failures", "--dask", cluster.scheduler_address,
        ]  # fmt: skip
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        nanny = cluster.workers[0]
        first = nanny.pid
        deadline = time.monotonic() + 90
        # Once the first shard stands, each worker has others in hand.
        while not list(cache.glob("faces-*.h5")) and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(first, signal.SIGKILL)
        unfinished = 8 - len(list(cache.glob("guidance-*.json")))
        _, said = running.communicate(timeout=120)
    assert running.returncode == 0, said.decode()
    assert unfinished > 0
    clean = [sys.executable, "-m", "faceguide", "cache", "seal", str(cache), "--clean"]
    subprocess.run(clean, check=True)  # what the killed worker had in hand
    assert contents(cache) == contents(undisturbed)


@pytest.mark.parametrize("address", ["nonsense", "tcp://127.0.0.1:1", "tcp://127.0.0.1:99999"])
def test_an_address_without_a_scheduler_is_one_line(address: str) -> None:
    with pytest.raises(FaceguideError, match=f"--dask {address}: no scheduler answers there"):
        parallel.run_dask(lambda number, tick: number, [0], address)


def test_processes_here_and_workers_elsewhere_exclude_each_other() -> None:
    with pytest.raises(click.UsageError, match="--jobs is for this machine"):
        Here(jobs=2, dask="tcp://127.0.0.1:8786")


def test_a_thread_builds_its_graphs_once_and_shares_them_with_none() -> None:
    settings = FaceSettings(Path())
    ours = aligned_face._finder(settings)
    assert aligned_face._finder(settings) is ours
    others: list[object] = []
    thread = threading.Thread(target=lambda: others.append(aligned_face._finder(settings)[0]))
    thread.start()
    thread.join()
    assert others[0] is not ours[0]
