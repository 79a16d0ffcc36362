"""`prep models`, and fetching from a server of its own."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner

from faceguide.core.errors import FaceguideError
from faceguide.preprocess.cli import main
from faceguide.preprocess.detect.model_files import MODELS, ModelFile, fetch, kept_model, state

CONTENT = bytes(range(256)) * 400
needs_pooch = functools.partial(pytest.importorskip, "pooch")


class _Server(BaseHTTPRequestHandler):
    """/model gives the file or the rest of it, /moved leads there, /cut stops halfway through,
    /whole knows no ranges, all else is not found."""

    asked: ClassVar[list[str | None]] = []  # the ranges

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/model")
            self.end_headers()
        elif self.path in ("/model", "/cut", "/whole"):
            wanted = self.headers["Range"]
            self.asked.append(wanted)
            resumed = wanted is not None and self.path != "/whole"
            first = int(wanted[len("bytes=") : -1]) if resumed else 0
            self.send_response(206 if resumed else 200)
            self.send_header("Content-Length", str(len(CONTENT) - first))
            self.end_headers()
            self.wfile.write(CONTENT[first : len(CONTENT) // (2 if self.path == "/cut" else 1)])
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def model_at(address: str, content: bytes = CONTENT) -> ModelFile:
    digest = hashlib.sha256(content).hexdigest()
    return replace(MODELS[0], address=address, sha256=digest, size=len(content))


def test_the_folder_is_the_users_or_the_one_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEGUIDE_MODELS", str(tmp_path))
    assert kept_model("centerface") is None
    (tmp_path / "centerface.onnx").write_bytes(b"x")
    assert kept_model("centerface") == tmp_path / "centerface.onnx"


@pytest.mark.parametrize("path", ["/model", "/moved"])
def test_a_file_is_fetched_checked_and_kept(address: str, path: str, tmp_path: Path) -> None:
    needs_pooch()
    model, folder = model_at(address + path), tmp_path / "new" / "folder"
    assert state(model, folder) == "absent"
    assert fetch(model, folder).read_bytes() == CONTENT
    assert state(model, folder) == "here"
    assert fetch(replace(model, address="http://127.0.0.1:9/"), folder).exists(), "asked again"
    (folder / model.file).write_bytes(CONTENT[:99])
    assert state(model, folder) == "damaged"
    assert fetch(model, folder).read_bytes() == CONTENT
    assert [file.name for file in folder.iterdir()] == [model.file]


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("/absent", CONTENT, r"404 Not Found\); fetch it on another machine and put it at"),
        ("/model", b"other", "gives another file than expected"),
    ],
)
def test_a_fetch_that_fails_leaves_nothing(
    address: str, path: str, content: bytes, message: str, tmp_path: Path
) -> None:
    needs_pooch()
    model = model_at(address + path, content)
    with pytest.raises(FaceguideError, match=message) as caught:
        fetch(model, tmp_path)
    assert str(tmp_path / model.file) in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["/model", "/whole"])
def test_an_interrupted_fetch_is_resumed(address: str, path: str, tmp_path: Path) -> None:
    needs_pooch()
    model = model_at(address + "/cut")
    with pytest.raises(FaceguideError, match="cannot fetch"):
        fetch(model, tmp_path)
    assert state(model, tmp_path) == "absent"
    [part] = tmp_path.iterdir()
    here = part.stat().st_size
    assert len(CONTENT) // 4 < here <= len(CONTENT) // 2
    assert fetch(model_at(address + path), tmp_path).read_bytes() == CONTENT
    assert _Server.asked[-1] == f"bytes={here}-"
    assert [file.name for file in tmp_path.iterdir()] == [model.file]


def test_the_rest_of_another_file_is_not_kept(address: str, tmp_path: Path) -> None:
    needs_pooch()
    model = model_at(address + "/model")
    (tmp_path / f"{model.file}.part").write_bytes(b"x" * 100)
    with pytest.raises(FaceguideError, match="another file than expected"):
        fetch(model, tmp_path)
    assert fetch(model, tmp_path).read_bytes() == CONTENT, "started again"
    (tmp_path / model.file).unlink()
    (tmp_path / f"{model.file}.part").write_bytes(b"x" * (len(CONTENT) + 1))
    assert fetch(model, tmp_path).read_bytes() == CONTENT, "too long"


def test_without_a_network_it_says_where_the_file_belongs(tmp_path: Path) -> None:
    needs_pooch()
    model = model_at("http://127.0.0.1:9/model")  # nobody listens there
    with pytest.raises(FaceguideError, match=r"cannot fetch http://127\.0\.0\.1:9/model") as caught:
        fetch(model, tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / model.file) in str(caught.value)


def test_the_command_lists_and_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEGUIDE_MODELS", str(tmp_path))
    done = CliRunner().invoke(main, ["models", "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["models"]
    assert {row["name"]: row["state"] for row in rows} == {
        "centerface": "absent", "yunet": "absent", "face-landmarker": "absent",
    }  # fmt: skip
    assert all(row["address"].startswith("https://") and row["licence"] for row in rows)
    (tmp_path / "centerface.onnx").write_bytes(b"x")
    done = CliRunner().invoke(main, ["models", "centerface"])
    assert "centerface: damaged" in done.output
    assert done.exit_code == 3
    done = CliRunner().invoke(main, ["models", "retinaface"])
    assert done.exit_code == 2
    assert "there are centerface, yunet, face-landmarker" in done.output


def test_what_others_published_is_what_is_pinned(shared: Path, tmp_path: Path) -> None:
    """The file that lies with the test data is the one that `prep models` would fetch."""
    model = next(known for known in MODELS if known.name == "face-landmarker")
    (tmp_path / model.file).symlink_to(shared / "data" / "mediapipe" / model.file)
    assert state(model, tmp_path) == "here"
    assert (tmp_path / model.file).stat().st_size == model.size


def test_a_centerface_of_the_user_is_the_published_one(centerface: Path) -> None:
    assert hashlib.sha256(centerface.read_bytes()).hexdigest() == MODELS[0].sha256
