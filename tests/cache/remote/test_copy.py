"""`cache copy`: whole caches and some rows, between folders, HTTP and a real S3 server."""

from __future__ import annotations

import hashlib
import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from tests.cache.builder import build
from tests.cache.remote.range_server import serving

import faceguide as fg
from faceguide.cache import CacheError, FaceCache
from faceguide.cache.cli import main
from faceguide.cache.inspect.verify import verify


def run(*words: object, code: int = 0) -> Result:
    found = CliRunner().invoke(main, [str(word) for word in words])
    assert found.exit_code == code, found.output
    return found


@pytest.fixture(scope="module", params=["raw", "jpeg"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy") / "cache"
    build(folder, rows=90, shard_rows=32, store=request.param)
    return folder


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def require_same(ours: FaceCache, theirs: FaceCache) -> None:
    rows = np.arange(len(theirs))
    one, other = ours.read(rows, ours.columns), theirs.read(rows, theirs.columns)
    for name, values in other.items():
        np.testing.assert_array_equal(one[name], values, err_msg=name)
    assert ours.texts("key", rows) == theirs.texts("key", rows)


def test_a_copy_has_the_files_of_the_cache(source: Path, tmp_path: Path) -> None:
    told = json.loads(run("copy", source, tmp_path / "b", "--dry-run", "--json").output)
    assert told["copied_bytes"] == 0
    assert not (tmp_path / "b").exists()
    told = json.loads(run("copy", source, tmp_path / "b", "--json").output)
    assert (
        told["copied_bytes"]
        == told["bytes"]
        == sum(path.stat().st_size for path in source.glob("*.h5"))
    )
    assert files(tmp_path / "b") == files(source)
    assert verify(tmp_path / "b") == ([], [])
    # A rerun copies what is lacking.
    (tmp_path / "b" / "plan.json").unlink()
    lost = tmp_path / "b" / "guidance-00001.h5"
    size = lost.stat().st_size
    lost.unlink()
    again = json.loads(run("copy", source, tmp_path / "b", "--json").output)
    assert again["copied_bytes"] == size
    assert files(tmp_path / "b") == files(source)


def test_a_damaged_or_another_cache_is_not_copied(source: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(source, bad)
    data = bytearray((bad / "faces-00001.h5").read_bytes())
    data[len(data) // 2] ^= 1
    (bad / "faces-00001.h5").write_bytes(data)
    found = run("copy", bad, tmp_path / "b", code=1)
    assert "not the file that the manifest describes" in found.output
    assert not (tmp_path / "b" / "plan.json").exists()
    assert "not the file" in run("copy", bad, f"file://{tmp_path}/c", code=1).output
    run("copy", source, tmp_path / "b")  # what was sound is kept
    assert files(tmp_path / "b") == files(source)
    build(tmp_path / "other", rows=30)
    for target in (tmp_path / "b", f"file://{tmp_path}/b"):
        assert "holds another cache" in run("copy", tmp_path / "other", target, code=1).output
    assert "no cache here" in run("copy", tmp_path / "none", tmp_path / "d", code=1).output


def test_rows_are_cut_with_all_their_columns(source: Path, tmp_path: Path) -> None:
    cache = FaceCache.open(source)
    rows = cache.select(status=None, meta={"split": "s1"})
    run("copy", source, tmp_path / "cut", "--rows", "split=s1")
    cut = FaceCache.open(tmp_path / "cut")
    assert verify(tmp_path / "cut") == ([], [])
    keys = cut.texts("key", range(len(cut)))
    assert sorted(keys) == sorted(cache.texts("key", rows))
    places = [cache.find(keys)[key] for key in keys]
    ours, theirs = cut.read(range(len(cut)), cut.columns), cache.read(places, cache.columns)
    for name in cut.columns:
        if name not in ("label", "digest"):
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert [cut.identities[label] for label in ours["label"]] == [
        cache.identities[label] for label in theirs["label"]
    ]
    # Reasons of failures go along.
    listed = run("failures", tmp_path / "cut").output.splitlines()
    assert len(listed) - 1 == sum(line.split(",")[2] in keys for line in run(
        "failures", source).output.splitlines()[1:])  # fmt: skip
    assert (
        "other rows" in run("copy", source, tmp_path / "cut", "--rows", "split=s2", code=1).output
    )


def test_a_cut_is_resumed_and_equals_one_in_a_single_run(source: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    wanted = FaceCache.open(source).texts("key", range(10, 60))
    keys.write_text("\n".join([*wanted, "absent.jpg"]) + "\n")
    found = run("copy", source, tmp_path / "a", "--rows", keys, "--rows", "status=ok")
    assert "1 image of the list is not in the cache (the first: absent.jpg)" in found.output
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for name in ("manifest-guidance.json", "guidance-00000.json", "guidance-00000.h5"):
        (tmp_path / "b" / name).unlink()
    run("copy", source, tmp_path / "b", "--rows", keys, "--rows", "status=ok")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    # From a store as from a folder.
    run("copy", f"file://{source}", tmp_path / "c", "--rows", keys, "--rows", "status=ok")
    assert files(tmp_path / "a") == files(tmp_path / "c")
    assert not list(tmp_path.glob(".*"))
    assert (
        "no row passes" in run("copy", source, tmp_path / "d", "--rows", "split=x", code=1).output
    )


def test_a_mirror_is_read_by_commands_and_never_written(source: Path, tmp_path: Path) -> None:
    run("copy", f"file://{source}", tmp_path / "m", "--on-demand", "--limit", "1")
    assert not list((tmp_path / "m").glob("*.h5"))
    assert json.loads((tmp_path / "m" / "mirror.json").read_text())["limit"] == 10**9
    assert "90 rows" in run("info", tmp_path / "m").output
    run("preview", tmp_path / "m", "--out", tmp_path / "sheet.png")
    assert list((tmp_path / "m").glob("*.h5"))
    before = files(source)
    assert "a mirror" in run("verify", tmp_path / "m", code=1).output
    assert "a mirror" in run("failures", tmp_path / "m", code=1).output
    assert "a mirror" in run("copy", source, tmp_path / "m", code=1).output
    assert files(source) == before


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("a", "s3://b/c", "--rows", "x=y"), "--rows cuts into a folder here"),
        (("a", "b", "--limit", "1"), "--limit is for --on-demand"),
        (("a", "b", "--on-demand"), "from an address into a folder"),
    ],
)
def test_options_that_contradict_each_other(words: tuple[str, ...], text: str) -> None:
    assert text in run("copy", *words, code=2).output


def test_http_is_read_and_not_written(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    with serving(source.parent) as server:
        run("copy", f"{server.address}/cache", tmp_path / "b")
        assert files(tmp_path / "b") == files(source)
        found = run("copy", source, f"{server.address}/other", code=1)
        assert "HTTP is only read" in found.output


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a real S3 server on this machine."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        request = urllib.request.Request(f"http://{host}:{port}/faces", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()
        yield "s3://faces"
    server.stop()


@pytest.fixture
def few(tmp_path: Path) -> Path:
    build(tmp_path / "few", rows=40, shard_rows=32, occlusion=False)
    return tmp_path / "few"


def test_a_bucket_gives_back_what_it_got(few: Path, tmp_path: Path, bucket: str) -> None:
    source, place = few, f"{bucket}/cache"
    run("copy", source, place)
    assert json.loads(run("copy", source, place, "--json").output)["copied_bytes"] == 0
    run("copy", place, tmp_path / "b")
    assert files(tmp_path / "b") == files(source)
    size = max(path.stat().st_size for path in source.glob("*.h5"))
    remote = fg.open(place, local=tmp_path / "here", limit=3 * size)
    require_same(remote, FaceCache.open(source))
    with pytest.raises(CacheError, match=r"s3://faces/nothing: no cache here"):
        fg.open(f"{bucket}/nothing", local=tmp_path / "n")
    run("copy", place, f"{bucket}/second")
    require_same(fg.open(f"{bucket}/second", local=tmp_path / "s"), remote)


def test_a_bucket_that_is_damaged_gives_no_row(few: Path, tmp_path: Path, bucket: str) -> None:
    import s3fs

    source, place = few, f"{bucket}/damaged"
    run("copy", source, place)
    data = bytearray((source / "faces-00000.h5").read_bytes())
    data[-1] ^= 1
    s3fs.S3FileSystem().pipe_file(f"{place}/faces-00000.h5", bytes(data))
    remote = fg.open(place, local=tmp_path / "here")
    with pytest.raises(CacheError, match=r"s3://.*faces-00000.h5: not the file"):
        remote.read([0], ["label"])
    s3fs.S3FileSystem().rm_file(f"{place}/faces-00001.h5")
    with pytest.raises(CacheError, match=r"s3://.*faces-00001.h5: not there"):
        remote.read([33], ["label"])
    run("copy", source, place)  # a rerun compares sizes: the damaged one has its size
    assert json.loads(run("copy", source, place, "--json").output)["copied_bytes"] == 0
    assert len(remote.read([33], ["label"])["label"]) == 1
