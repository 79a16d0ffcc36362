"""Files appear whole or not at all."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from faceguide.core.errors import CacheError
from faceguide.core.files import (
    file_sha256,
    publish,
    read_json,
    replacing,
    stray_files,
    write_bytes,
    write_json,
)
from faceguide.core.formats.library_files import digest_intact, open_for_library


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with pytest.raises(RuntimeError, match="stop"), replacing(path) as temporary:  # noqa: PT012
        temporary.write_bytes(b"half")
        raise RuntimeError("stop")
    assert path.read_bytes() == b"old"
    assert stray_files(tmp_path) == []


def test_the_first_to_publish_wins(tmp_path: Path) -> None:
    assert publish(tmp_path / "file", b"first")
    assert not publish(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_json_knows_when_it_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, 2.5, "ü"], "a": None})
    first = path.read_bytes()
    write_json(path, {"a": None, "b": [1, 2.5, "ü"]})
    assert path.read_bytes() == first
    assert read_json(path) == {"a": None, "b": [1, 2.5, "ü"]}
    for position in range(len(first)):
        for bit in range(8):
            damaged = bytearray(first)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(CacheError, match=r"a\.json"):
                read_json(path)


def test_a_write_beyond_the_limit_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    code = (
        "import sys; from pathlib import Path; from faceguide.core.files import write_bytes;"
        "from faceguide.core.errors import CacheError\n"
        "try: write_bytes(Path(sys.argv[1]), bytes(5000))\n"
        "except CacheError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "file"],
        preexec_fn=limited,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cannot write" in done.stdout
    assert "what is finished is kept" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_hides_what_the_system_said(tmp_path: Path) -> None:
    """torch.save makes a RuntimeError of a refused write; the line must name the full disk."""
    path = tmp_path / "file"

    def save(file: Any) -> None:
        try:
            file.write(b"half")
            file.flush()
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598") from None

    with pytest.raises(CacheError, match="the disk is full"), replacing(path) as temporary:  # noqa: PT012
        temporary.symlink_to("/dev/full")
        with open_for_library(temporary) as file:
            save(file)
    with replacing(path) as temporary, open_for_library(temporary) as file:
        save(file)
    assert path.read_bytes() == b"half"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_names_the_remedy(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=False
    )
    if mounted.returncode:
        pytest.skip("this system does not let us mount a tmpfs")
    try:
        with pytest.raises(CacheError, match="the disk is full"):
            write_bytes(tmp_path / "file", bytes(1 << 20))
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_read_that_the_system_refuses_names_the_file() -> None:
    """Reading the start of this process's own memory is an input/output error."""
    with pytest.raises(CacheError, match=r"/proc/self/mem: cannot read: .*check the disk"):
        file_sha256(Path("/proc/self/mem"))
    with pytest.raises(CacheError, match=r"/proc/self/mem: cannot read: "):
        digest_intact(Path("/proc/self/mem"))
