"""File systems on which a file has one name only: exFAT, CIFS, S3 and others under FUSE."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.cache.builder import build
from tests.campaigns.injection import unavailable
from tests.conftest import REPOSITORY

from faceguide.cache.inspect.verify import verify
from faceguide.core.files import publish

PUBLISH = """
import sys
from pathlib import Path
from faceguide.core.errors import CacheError
from faceguide.core.files import publish
try:
    print(publish(Path(sys.argv[1]), b"this one"))
except CacheError as error:
    print(error)
"""
HOLD = """
import fcntl, sys, time
lock = open(sys.argv[1] + "/.lock", "ab")
fcntl.flock(lock, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(60)
"""
# Eight processes, twenty files that all create at the same instant: who won, whose it is.
RACE = """
import os, sys, time
from pathlib import Path
from faceguide.core.files import publish
start = time.time() + 2
for number in range(8):
    if os.fork() == 0:
        for file in range(20):
            time.sleep(max(start + file * .05 - time.time(), 0))
            path, mine = Path(sys.argv[1]) / str(file), str(number) * 5000
            won = publish(path, mine.encode())
            assert (path.read_text() == mine) is won and len(path.read_text()) == 5000
            if won:
                os.write(1, b"%d\\n" % file)  # in one piece
        os._exit(0)
for _ in range(8):
    assert os.wait()[1] == 0
"""


def without(program: str, argument: Path, *inject: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program whose system calls fail as the system would let them fail."""
    if unavailable():
        pytest.skip(unavailable())
    names = ",".join(rule.partition(":")[0] for rule in inject)
    words = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", f"trace={names}"]
    for rule in inject:
        words += ["-e", f"inject={rule}"]
    return subprocess.run(
        [*words, sys.executable, "-c", program, str(argument)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )


@pytest.mark.parametrize("error", ["EPERM", "EOPNOTSUPP", "ENOSYS", "EMLINK"])
def test_the_first_to_publish_wins_without_hard_links(tmp_path: Path, error: str) -> None:
    path = tmp_path / "file"
    links = (f"link:error={error}", f"linkat:error={error}")
    done = without(PUBLISH, path, *links)
    assert done.stdout == "True\n", done.stderr
    assert path.read_bytes() == b"this one"
    path.write_bytes(b"another's")
    assert without(PUBLISH, path, *links).stdout == "False\n"
    assert path.read_bytes() == b"another's"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".lock", "file"]


def test_of_many_writers_at_once_one_wins(tmp_path: Path) -> None:
    done = without(RACE, tmp_path, "link:error=EPERM", "linkat:error=EPERM")
    assert sorted(map(int, done.stdout.split())) == list(range(20)), done.stderr


def test_a_writer_that_was_killed_under_the_lock_holds_up_nobody(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    path, links = tmp_path / "file", ("link:error=EPERM", "linkat:error=EPERM")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(without, PUBLISH, path, *links)
        time.sleep(1.5)
        assert not waiting.done()
        assert not path.exists()
        holder.kill()
        assert waiting.result(30).stdout == "True\n"
    holder.wait()


def test_neither_links_nor_locks_is_one_honest_line(tmp_path: Path) -> None:
    links = ("link:error=EPERM", "linkat:error=EPERM")
    done = without(PUBLISH, tmp_path / "file", *links, "flock:error=ENOSYS")
    assert done.stdout.startswith(f"{tmp_path}/file: this file system has neither hard links nor")
    assert done.stdout.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == [".lock"]


def test_a_directory_that_cannot_be_flushed(tmp_path: Path) -> None:
    """So CIFS answers on older kernels; a refused flush of a file stays an error."""
    path = tmp_path / "file"
    program = f"import os; sync = os.open({str(tmp_path)!r}, os.O_RDONLY)\n{PUBLISH}"
    assert without(program, path, "fsync:error=EINVAL:when=2").stdout == "True\n"
    path.unlink()
    assert "cannot write" in without(program, path, "fsync:error=EINVAL:when=1").stdout
    assert not path.exists()


@pytest.fixture
def exfat(tmp_path: Path) -> Iterator[Path]:
    """A real file system without hard links, in a file."""
    image, folder = tmp_path / "image", tmp_path / "exfat"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    folder.mkdir()

    def run(*words: object) -> str:
        try:
            done = subprocess.run([*map(str, words)], capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip(f"{words[0]} is not installed")
        if done.returncode:
            pytest.skip(f"{' '.join(map(str, words))}: {done.stderr.strip()}")
        return done.stdout.strip()

    run("mkfs.exfat", image)
    device = run("losetup", "--find", "--show", image)
    try:
        run("mount.exfat-fuse", device, folder)
        try:
            yield folder
        finally:
            subprocess.run(["umount", folder], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_a_cache_on_exfat_is_the_cache_elsewhere(exfat: Path, tmp_path: Path) -> None:
    (exfat / "a").touch()
    with pytest.raises(PermissionError):
        (exfat / "b").hardlink_to(exfat / "a")
    build(exfat / "cache")
    build(tmp_path / "cache")
    assert verify(exfat / "cache") == ([], [])
    for path in (tmp_path / "cache").rglob("*.*"):
        assert (exfat / "cache" / path.relative_to(tmp_path / "cache")).read_bytes() == (
            path.read_bytes()
        )
    assert publish(exfat / "file", b"first")
    assert not publish(exfat / "file", b"second")
