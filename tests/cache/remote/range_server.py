"""Python's HTTP server with ranges, and with the faults of a network."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class RangeServer(ThreadingHTTPServer):
    """Serves a folder.

    Attributes:
        fail: name → how many of its next requests get status 503.
        cut: name → how many of its next requests break off in the middle.
        other: name → how many of its next requests are answered with a changed byte.
        slow: seconds between pieces of 16 KiB.
        ranges: whether ranges are known.
        asked: how often each name was asked for.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fail: dict[str, int] = {}
        self.cut: dict[str, int] = {}
        self.other: dict[str, int] = {}
        self.slow = 0.0
        self.ranges = True
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(SimpleHTTPRequestHandler):
    server: RangeServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.server.asked.append(name)
        path = self.server.folder / self.path.lstrip("/")
        if self.server.fail.get(name, 0):
            self.server.fail[name] -= 1
            self.send_error(503)
            return
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        if data and self.server.other.get(name, 0):
            self.server.other[name] -= 1
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        size, status = len(data), 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and self.server.ranges:
            start, end = int(wanted[1]), int(wanted[2] or size - 1)
            data, status = data[start : end + 1], 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{start + len(data) - 1}/{size}")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.server.cut.get(name, 0):
            self.server.cut[name] -= 1
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        for piece in range(0, len(data), 1 << 14):
            time.sleep(self.server.slow)
            self.wfile.write(data[piece : piece + (1 << 14)])

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[RangeServer]:
    server = RangeServer(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
