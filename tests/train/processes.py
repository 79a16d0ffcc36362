"""Two processes of a training on this machine."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from tests.cache.builder import build
from torch import multiprocessing

# A fork server that has loaded these starts processes; the first to ask for one decides.
PRELOADED = ["faceguide.train.cal.cal_run", "faceguide.train.oaml.oaml_run"]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(PRELOADED)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
    return port


def in_two_processes(work: Callable[[int, Path, int], None], folder: Path) -> Path:
    """Call `work(rank, folder, port)` in each; the folder, with a cache `faces` of 40 rows."""
    build(folder / "faces", rows=40, shard_rows=16, occlusion=False, size=112)
    multiprocessing.start_processes(
        work, (folder, free_port()), nprocs=2, start_method="forkserver"
    )
    return folder
