"""The first epoch of a remote cache against the link: how long do its files take by themselves?

    pip install -e '.[remote]'
    python bench/remote.py --json remote.json
    python bench/remote.py --megabytes 400            (MB/s of the link)

The samples of bench/stream.py lie behind an HTTP server whose link all connections share. *link*
downloads the cache's shards in four threads of Python's http.client and flushes them to the disk.
*faceguide* opens the address with an empty folder and streams an epoch, which fetches the same
shards, compares them with their digests and delivers every row, also compared: in the order of the
rows, or in an exact shuffle, which needs shards from everywhere at once. Rounds are interleaved; a
ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import os
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path

import click
import numpy as np
from stream_samples import BATCH, NAMES, build_cache, write_samples

import faceguide as fg
from faceguide.cache import Stream

THREADS = 4  # as many shards come at a time in faceguide
PIECE = 1 << 18
SHARDS = 12


def serve(folder: Path, rate: float, port: Connection) -> None:
    """Serve a folder with ranges, all connections together at so many bytes a second."""
    lock, free = threading.Lock(), [0.0]

    def wait(count: int) -> None:
        with lock:
            free[0] = max(free[0], time.monotonic() - 0.05) + count / rate
            ready = free[0]
        time.sleep(max(0.0, ready - time.monotonic()))

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            size, start = path.stat().st_size, 0
            end = size
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted:
                start, end = int(wanted[1]), int(wanted[2] or size - 1) + 1
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            self.send_header("Content-Length", str(end - start))
            self.end_headers()
            with path.open("rb") as file:
                file.seek(start)
                while start < end:
                    data = file.read(min(PIECE, end - start))
                    wait(len(data))
                    self.wfile.write(data)
                    start += len(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.send(server.server_address[1])
    server.serve_forever()


def link(port: int, names: list[str], folder: Path) -> None:
    """Download files and flush them."""
    folder.mkdir()

    def fetch(name: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", f"/{name}")
        answer = connection.getresponse()
        with (folder / name).open("wb") as file:
            while data := answer.read(PIECE):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(fetch, names))


def epoch(port: int, rows: int, folder: Path, shuffle: bool) -> None:
    """Open the address and stream it once."""
    cache = fg.open(f"http://127.0.0.1:{port}", local=folder)
    stream = Stream(
        cache, cache.select(), columns=NAMES, batch_size=BATCH, shuffle=shuffle, ragged="exact"
    )
    delivered = sum(len(batch["label"]) for batch in stream)
    if delivered != rows:
        raise click.ClickException(f"{delivered} of {rows} rows came")


@click.command(help=__doc__.splitlines()[0])
@click.option("--samples", default=20_000, show_default=True)
@click.option("--megabytes", default=100.0, show_default=True, help="MB/s of the link.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--json", "report", type=click.Path(dir_okay=False, path_type=Path))
def main(samples: int, megabytes: float, rounds: int, report: Path | None) -> None:
    with tempfile.TemporaryDirectory(prefix="faceguide-bench-") as temporary:
        place = Path(temporary)
        write_samples(place / "samples.npy", samples)
        served = place / "cache"
        served.mkdir()
        build_cache(served, np.load(place / "samples.npy", mmap_mode="r"), shards=SHARDS)
        names = sorted(path.name for path in served.glob("*-0*.h5"))
        total = sum((served / name).stat().st_size for name in names)
        ours, theirs = multiprocessing.Pipe()
        server = multiprocessing.Process(target=serve, args=(served, megabytes * 1e6, theirs))
        server.start()
        port = ours.recv()
        ways: dict[str, Callable[[Path], None]] = {
            "link": lambda folder: link(port, names, folder),
            "faceguide, in order": lambda folder: epoch(port, samples, folder, shuffle=False),
            "faceguide, shuffled": lambda folder: epoch(port, samples, folder, shuffle=True),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        try:
            for number in range(rounds):
                for name, way in ways.items():
                    began = time.perf_counter()
                    way(place / f"{name} {number}")
                    seconds[name].append(time.perf_counter() - began)
        finally:
            server.kill()
    click.echo(f"{len(names)} shards, {total / 1e6:,.0f} MB, a link of {megabytes:g} MB/s")
    click.echo(f"{'first epoch':<22}{'seconds':>9}{'MB/s':>8}{'of link':>9}   round by round")
    ratios = {}
    for name, found in seconds.items():
        each = [a / b for a, b in zip(seconds["link"], found, strict=True)]
        ratios[name] = statistics.median(each)
        median = statistics.median(found)
        click.echo(
            f"{name:<22}{median:>9.2f}{total / 1e6 / median:>8.0f}{ratios[name]:>9.2f}"
            f"   {min(each):.2f} to {max(each):.2f}"
        )
    if report:
        facts = {"samples": samples, "megabytes": megabytes, "shards": len(names), "bytes": total}
        report.write_text(json.dumps({**facts, "seconds": seconds, "of_link": ratios}, indent=2))


if __name__ == "__main__":
    main()
