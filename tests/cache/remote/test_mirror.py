"""Caches behind addresses: the rows are those of the cache, whatever the store does."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cache.builder import build
from tests.cache.remote.digests import digest_of_rows
from tests.cache.remote.range_server import RangeServer, serving

import faceguide as fg
from faceguide.cache import CacheError, FaceCache
from faceguide.cache.remote import store as stores

COLUMNS = ("image", "landmarks", "regions", "visibility", "label")
ROWS = 120


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "cache"
    build(folder, rows=ROWS, shard_rows=16)
    return folder


@pytest.fixture
def server(source: Path) -> Iterator[RangeServer]:
    pytest.importorskip("aiohttp")
    with serving(source.parent) as running:
        yield running


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "WAITS", (0.01,) * 4)


def address(folder: Path) -> str:
    return f"file://{folder}"


def equal(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name], values, err_msg=name)


def require_same(remote: FaceCache, local: FaceCache) -> None:
    rows = np.arange(len(local))
    equal(remote.read(rows, remote.columns), local.read(rows, local.columns))
    assert remote.texts("key", rows) == local.texts("key", rows)
    assert remote.identities == local.identities


def held(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.h5"))


def test_only_shards_that_are_read_are_fetched(source: Path, tmp_path: Path) -> None:
    remote = fg.open(address(source), local=tmp_path / "here")
    assert len(remote) == ROWS
    assert held(tmp_path / "here") == []
    remote.read([0, 3], ["label"])
    assert held(tmp_path / "here") == ["faces-00000.h5"]
    remote.read([17], ["heatmap"])
    assert held(tmp_path / "here") == ["faces-00000.h5", "guidance-00001.h5"]
    require_same(remote, FaceCache.open(source))
    # The folder is a cache as any other, and its copies in other processes are too.
    require_same(FaceCache.open(tmp_path / "here"), FaceCache.open(source))
    require_same(pickle.loads(pickle.dumps(remote)), FaceCache.open(source))


@pytest.mark.parametrize("shuffle", [True, False, "blocks"])
def test_a_small_folder_streams_the_same_batches(
    source: Path, tmp_path: Path, shuffle: Any
) -> None:
    pytest.importorskip("torch")
    size = max(path.stat().st_size for path in source.glob("*.h5"))
    limit = 4 * size
    remote = fg.open(address(source), local=tmp_path / "here", limit=limit)
    local = FaceCache.open(source)
    for epoch in range(2):
        ours, theirs = (
            fg.Stream(
                cache, range(ROWS), columns=COLUMNS, batch_size=16, shuffle=shuffle, copy=True
            )
            for cache in (remote, local)
        )
        for stream in (ours, theirs):
            stream.load_state_dict({**stream.state_dict(), "epoch": epoch})
        for mine, wanted in zip(ours, theirs, strict=True):
            equal(mine, wanted)
    remote.read([0], ["label"])
    # What threads hold at the same moment may exceed it: here two and one that is fetched ahead.
    assert sum((tmp_path / "here" / n).stat().st_size for n in held(tmp_path / "here")) <= limit + (
        3 * size
    )


def test_space_of_shards_that_left_is_free(source: Path, tmp_path: Path) -> None:
    """No mapping keeps the blocks of a removed file."""
    size = max(path.stat().st_size for path in source.glob("*.h5"))
    remote = fg.open(address(source), local=tmp_path / "here", limit=2 * size)
    for row in range(0, ROWS, 16):
        remote.read([row], ["image", "label"])
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc")
    mapped = {line.split()[-2] for line in maps.read_text().splitlines() if "(deleted)" in line}
    assert not [path for path in mapped if str(tmp_path) in path]
    assert len(held(tmp_path / "here")) <= 2


def test_a_limit_below_a_shard_is_refused(source: Path, tmp_path: Path) -> None:
    remote = fg.open(address(source), local=tmp_path / "here", limit=1000)
    with pytest.raises(CacheError, match=r"limit of 1,000 bytes is less than faces-00000\.h5"):
        remote.read([0], ["label"])


def test_a_union_of_addresses(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    build(other, rows=40, shard_rows=16, seed=1)
    remote = fg.open([address(source), address(other)], local=tmp_path / "here")
    local = FaceCache.open([source, other])
    assert len(remote) == ROWS + 40
    rows = np.random.default_rng(0).permutation(len(local))
    equal(remote.read(rows, remote.columns), local.read(rows, local.columns))
    size = max(path.stat().st_size for path in source.glob("*.h5"))
    small = fg.open([address(source), address(other)], local=tmp_path / "small", limit=2 * size)
    equal(small.read(rows, local.columns), local.read(rows, local.columns))
    mixed = fg.open([source, address(other)], local=tmp_path / "mixed")
    equal(mixed.read(rows, local.columns), local.read(rows, local.columns))
    assert [path.name for path in (tmp_path / "mixed").iterdir()] == ["1-other"]


def test_clocks_that_disagree_change_no_row(source: Path, tmp_path: Path) -> None:
    """Times of files decide only which shard leaves first: they may be of any clock."""
    local, here = FaceCache.open(source), tmp_path / "here"
    size = max(path.stat().st_size for path in source.glob("*.h5"))
    remote = fg.open(address(source), local=here, limit=3 * size)
    rng = np.random.default_rng(0)
    for _ in range(8):
        for path in here.glob("*.h5"):
            wrong = 1_800_000_000 + int(rng.integers(-(10**9), 10**9))
            os.utime(path, (wrong, wrong))
        rows = rng.integers(0, ROWS, 20)
        equal(remote.read(rows, COLUMNS), local.read(rows, COLUMNS))
        assert sum(path.stat().st_size for path in here.glob("*.h5")) <= 3 * size
    require_same(fg.open(address(source), local=here, limit=3 * size), local)


def test_shards_that_are_all_here_stay_without_being_held(source: Path, tmp_path: Path) -> None:
    local = FaceCache.open(source)
    remote = fg.open(address(source), local=tmp_path / "here")
    kept = next(iter(remote._rows.files.values()))._kept
    remote.read(np.arange(ROWS), ["image"])
    assert not kept.settled(), "the other groups are not here"
    require_same(remote, local)
    assert kept.settled()
    assert not any(map(kept._let_go, held(tmp_path / "here"))), "they are read without being held"
    for path in (tmp_path / "here").glob("*.h5"):  # whoever removes them takes nothing away
        path.unlink()
    require_same(remote, local)
    require_same(fg.open(address(source), local=tmp_path / "here"), local)


def test_what_cannot_be_opened_is_said_in_a_line(source: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="give local="):
        fg.open(address(source))
    with pytest.raises(CacheError, match=r"file://.*nothing: no cache here"):
        fg.open(address(tmp_path / "nothing"), local=tmp_path / "a")
    with pytest.raises(CacheError, match="a cache of its own"):
        fg.open(address(source), local=source)
    with pytest.raises(CacheError, match="no address"):
        fg.open(source, local=tmp_path / "a")
    with pytest.raises(CacheError, match="no reader of such addresses"):
        fg.open("nosuch://bucket/cache", local=tmp_path / "a")
    with pytest.raises(CacheError, match="password"):
        fg.open("http://user:secret@host/cache", local=tmp_path / "a")
    fg.open(address(source), local=tmp_path / "here")
    build(tmp_path / "other", rows=30)
    with pytest.raises(CacheError, match="choose another folder"):
        fg.open(address(tmp_path / "other"), local=tmp_path / "here")


def test_a_replaced_cache_is_noticed(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "store")
    fg.open(address(tmp_path / "store"), local=tmp_path / "here")
    shutil.rmtree(tmp_path / "store")
    build(tmp_path / "store", rows=ROWS, shard_rows=16, seed=5)
    with pytest.raises(CacheError, match="the cache was replaced"):
        fg.open(address(tmp_path / "store"), local=tmp_path / "here")
    # Opened without looking at the store: the shard is not what the manifest says.
    with pytest.raises(CacheError, match=r"not the file that the manifest describes|bytes"):
        FaceCache.open(tmp_path / "here").read([0], ["label"])
    assert held(tmp_path / "here") == []


def test_a_shard_that_was_changed_here_is_fetched_again(source: Path, tmp_path: Path) -> None:
    remote = fg.open(address(source), local=tmp_path / "here")
    remote.read([0], ["label"])
    shard = tmp_path / "here" / "faces-00000.h5"
    shard.write_bytes(shard.read_bytes()[:5000])
    require_same(FaceCache.open(tmp_path / "here"), FaceCache.open(source))


@pytest.mark.parametrize("sound", [True, False])
def test_what_a_killed_process_fetched_is_taken_over(
    source: Path, tmp_path: Path, sound: bool
) -> None:
    remote = fg.open(address(source), local=tmp_path / "here")
    data = (source / "faces-00000.h5").read_bytes()
    left = data[: len(data) // 2] if sound else os.urandom(len(data) // 2)
    stray = tmp_path / "here" / ".faces-00000.h5.0123.tmp"
    stray.write_bytes(left)
    require_same(remote, FaceCache.open(source))
    assert not list((tmp_path / "here").glob(".*.tmp"))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_a_small_folder(source: Path, tmp_path: Path, method: str) -> None:
    """They fetch and remove one another's shards all the time."""
    size = max(path.stat().st_size for path in source.glob("*.h5"))
    remote = fg.open(address(source), local=tmp_path / "here", limit=3 * size)
    remote.read([5], ["label", "image"])  # threads and mappings that a fork must not carry over
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    workers = [
        context.Process(target=digest_of_rows, args=(str(tmp_path / "here"), COLUMNS, seed, queue))
        for seed in range(3)
    ]
    for worker in workers:
        worker.start()
    found = {queue.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    wanted = FaceCache.open(source).read(np.arange(ROWS), COLUMNS)
    joined = b"".join(wanted[name].tobytes() for name in COLUMNS)
    assert found == {hashlib.sha256(joined).hexdigest()}


def test_http_with_and_without_ranges(server: RangeServer, source: Path, tmp_path: Path) -> None:
    for ranges in (True, False):
        server.ranges = ranges
        remote = fg.open(f"{server.address}/cache/", local=tmp_path / str(ranges))
        require_same(remote, FaceCache.open(source))


def test_a_failing_store_is_asked_again_and_named(
    server: RangeServer, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.fail = {"plan.json": 2, "faces-00001.h5": 3}
    server.cut = {"faces-00002.h5": 2, "manifest-faces.json": 1}
    remote = fg.open(f"{server.address}/cache", local=tmp_path / "here")
    require_same(remote, FaceCache.open(source))
    said = capsys.readouterr().err
    assert len(re.findall(r"cache/faces-00001.h5: 503.*next try in", said)) == 3
    assert len(re.findall(r"cache/faces-00002.h5: .*next try in", said)) == 2


def test_a_store_that_fails_for_good_is_one_line_and_resumable(
    server: RangeServer, source: Path, tmp_path: Path
) -> None:
    remote = fg.open(f"{server.address}/cache", local=tmp_path / "here")
    server.fail = {"faces-00003.h5": 1000}
    rows = np.arange(ROWS)
    with pytest.raises(CacheError, match=r"faces-00003.h5: the store keeps failing \(503") as error:
        remote.read(rows, ["label"])
    assert "\n" not in str(error.value)
    server.fail = {}
    require_same(remote, FaceCache.open(source))


def test_a_shard_is_fetched_by_one_of_several_processes(
    server: RangeServer, source: Path, tmp_path: Path
) -> None:
    server.slow = 0.01
    fg.open(f"{server.address}/cache", local=tmp_path / "here")
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [
        context.Process(target=digest_of_rows, args=(str(tmp_path / "here"), COLUMNS, 0, queue))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    assert len({queue.get(timeout=60) for _ in workers}) == 1
    for worker in workers:
        worker.join()
    asked = [name for name in server.asked if name.endswith(".h5")]
    assert len(asked) <= len(set(asked)) + 4  # two that begin in the same moment both fetch


def test_a_kill_while_fetching_costs_no_row(
    server: RangeServer, source: Path, tmp_path: Path
) -> None:
    server.slow = 0.005
    fg.open(f"{server.address}/cache", local=tmp_path / "here")
    code = (
        "import sys, numpy as np\nfrom faceguide.cache import FaceCache\n"
        "c = FaceCache.open(sys.argv[1])\nprint('begun', flush=True)\n"
        "c.read(np.arange(len(c)), c.columns)"
    )
    strays = 0
    for number in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "here")], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.05 + 0.06 * number)
        child.send_signal(signal.SIGKILL)
        child.wait()
        strays += len(list((tmp_path / "here").glob(".*.tmp")))
    assert strays
    server.slow = 0.0
    require_same(FaceCache.open(tmp_path / "here"), FaceCache.open(source))
    # What a kill between the two names of a shard leaves is a link; it goes when space is needed.
    for stray in (tmp_path / "here").glob(".*.tmp"):
        assert (tmp_path / "here" / stray.name[1:].partition(".h5")[0]).with_suffix(".h5").exists()
