"""Every kind of source lists the same rows each time, and reads nothing outside its folder."""

from __future__ import annotations

import os
import pickle
import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.core.formats.recordio_writer import record, write

from faceguide.core.errors import FaceguideError
from faceguide.core.formats.recordio import RecordError
from faceguide.core.formats.verification_bin import VerificationBinError
from faceguide.preprocess.sources import source_files
from faceguide.preprocess.sources.image_sources import (
    ReadError,
    SourceError,
    SourceRow,
    open_source,
)


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def keys(path: Path, *, flat: bool = False) -> list[str]:
    return [row.key for row in open_source(path, flat=flat).rows()]


def refused(path: Path, key: str) -> ReadError:
    with pytest.raises(ReadError) as caught:
        open_source(path).read(key, -1)
    return caught.value


def test_identities_are_the_first_level(tmp_path: Path) -> None:
    put(tmp_path, "Bob/2.jpg", "Bob/1.PNG", "Ann/x/deep.webp", "alone.jpeg", "Ann-Lee/1.gif")
    source = open_source(tmp_path)
    assert [(row.key, row.identity, row.at) for row in source.rows()] == [
        ("Ann/x/deep.webp", "Ann", -1),
        ("Ann-Lee/1.gif", "Ann-Lee", -1),
        ("Bob/1.PNG", "Bob", -1),
        ("Bob/2.jpg", "Bob", -1),
        ("alone.jpeg", "", -1),
    ]
    assert source.problems() == []
    assert source.read("Bob/2.jpg", -1) == b"Bob/2.jpg"
    assert (source.kind, source.columns) == ("folder", ())


def test_flat_has_no_identities(tmp_path: Path) -> None:
    put(tmp_path, "Bob/2.jpg", "Ann/x/deep.webp")
    rows = list(open_source(tmp_path, flat=True).rows())
    assert [(row.key, row.identity) for row in rows] == [("Ann/x/deep.webp", ""), ("Bob/2.jpg", "")]


def test_names_are_sorted_by_their_bytes_and_survive(tmp_path: Path) -> None:
    raw = [b"\xff.jpg", "é.jpg".encode(), b"new\nline.jpg", b"a b.jpg", b"Z.jpg", b"z.jpg"]
    for name in raw:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:  # noqa: PTH118, PTH123
            file.write(name)
    source = open_source(tmp_path)
    found = [row.key for row in source.rows()]
    assert [os.fsencode(key) for key in found] == sorted(raw)
    assert [source.read(key, -1) for key in found] == sorted(raw)


def test_what_is_no_image_is_counted(tmp_path: Path) -> None:
    put(tmp_path, "a/1.jpg", "a/1.txt", "a/b/2.csv", ".hidden.jpg", ".git/x.jpg", "a/._1.jpg")
    os.mkfifo(tmp_path / "a/pipe.jpg")
    source = open_source(tmp_path)
    assert [row.key for row in source.rows()] == ["a/1.jpg"]
    assert sorted(source.problems()) == [
        "files that are not images: 2 (the first: 'a/1.txt')",
        "named as images, but no files: 1 (the first: 'a/pipe.jpg')",
    ]
    list(source.rows())
    assert len(source.problems()) == 2  # counted anew


def test_the_order_does_not_depend_on_the_file_system(tmp_path: Path) -> None:
    names = [f"{person}/{image}.jpg" for person in range(20) for image in range(5)]
    put(tmp_path / "a", *names)
    put(tmp_path / "b", *reversed(names))
    assert keys(tmp_path / "a") == keys(tmp_path / "b") == sorted(names)


def test_link_loops_end(tmp_path: Path) -> None:
    put(tmp_path, "a/b/1.jpg")
    (tmp_path / "a/b/up").symlink_to("../..")
    (tmp_path / "a/itself").symlink_to("itself")
    (tmp_path / "a/here.jpg").symlink_to(".")
    source = open_source(tmp_path)
    assert [row.key for row in source.rows()] == ["a/b/1.jpg"]
    assert source.doubts.counts() == {"links_upwards": 2}
    assert "entries that could not be read: 1 (the first: 'a/itself')" in source.problems()


def test_links_cannot_multiply_the_rows(tmp_path: Path) -> None:
    # Without loops: every folder has two links to the next, 2²⁰ ways to one picture.
    for level in range(20):
        (tmp_path / f"{level:02d}").mkdir()
        for way in "ab":
            (tmp_path / f"{level:02d}" / way).symlink_to(f"../{level + 1:02d}")
    put(tmp_path, "20/1.jpg")
    assert len(keys(tmp_path)) < 100


def test_links_inside_are_followed_and_links_outside_are_not(tmp_path: Path) -> None:
    put(tmp_path, "secret.jpg", "elsewhere/2.jpg")
    root = tmp_path / "root"
    put(root, "a/1.jpg")
    (root / "linked").symlink_to("a")
    (root / "a/inside.jpg").symlink_to("1.jpg")
    (root / "a/out.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "a/passwd.jpg").symlink_to("/etc/passwd")
    (root / "a/broken.jpg").symlink_to("nothing.jpg")
    (root / "far").symlink_to("../elsewhere")
    source = open_source(root)
    names = ["1.jpg", "broken.jpg", "inside.jpg", "out.jpg", "passwd.jpg"]
    assert [row.key for row in source.rows()] == [
        f"{d}/{n}" for d in ("a", "linked") for n in names
    ]
    assert source.problems() == []
    assert source.doubts.counts() == {"links_outside": 1}
    assert "'far'" in source.doubts.lines()[0]
    assert source.read("a/inside.jpg", -1) == b"a/1.jpg"
    assert refused(root, "a/out.jpg").reason == "outside"
    assert refused(root, "a/passwd.jpg").reason == "outside"
    assert refused(root, "far/2.jpg").reason == "outside"
    assert refused(root, "a/broken.jpg").reason == "missing"


def test_the_source_itself_may_be_a_link(tmp_path: Path) -> None:
    put(tmp_path, "real/a/1.jpg")
    (tmp_path / "link").symlink_to("real")
    assert keys(tmp_path / "link") == ["a/1.jpg"]
    assert open_source(tmp_path / "link").read("a/1.jpg", -1) == b"real/a/1.jpg"


def test_a_folder_that_goes_away_is_reported(tmp_path: Path) -> None:
    put(tmp_path, "a/1.jpg", "b/2.jpg", "c/3.jpg")
    source = open_source(tmp_path)
    rows = source.rows()
    assert next(rows).key == "a/1.jpg"
    shutil.rmtree(tmp_path / "b")
    assert [row.key for row in rows] == ["c/3.jpg"]
    assert source.problems() == ["folders that could not be read: 1 (the first: 'b')"]
    with pytest.raises(ReadError, match=r"'b/2\.jpg': No such file") as caught:
        source.read("b/2.jpg", -1)
    assert caught.value.reason == "missing"


@pytest.mark.parametrize("key", ["/etc/passwd", "../secret.jpg", "a/../../secret.jpg"])
def test_keys_that_leave_the_root(tmp_path: Path, key: str) -> None:
    put(tmp_path, "secret.jpg", "root/a/1.jpg")
    error = refused(tmp_path / "root", key)
    assert error.reason == "outside"
    assert str(error).startswith(repr(key))
    assert "leaves the source's folder" in str(error)


def test_absolute_keys_are_refused_even_inside(tmp_path: Path) -> None:
    put(tmp_path, "a/1.jpg")
    assert refused(tmp_path, str(tmp_path.resolve() / "a/1.jpg")).reason == "outside"


def test_a_sibling_with_the_same_beginning_is_outside(tmp_path: Path) -> None:
    put(tmp_path, "root/1.jpg", "root2/1.jpg")
    assert refused(tmp_path / "root", "../root2/1.jpg").reason == "outside"


@pytest.mark.parametrize("key", ["", "a\0b.jpg", "a" * 300 + ".jpg", "1.jpg/2.jpg", "x" * 5000])
def test_keys_that_name_nothing(tmp_path: Path, key: str) -> None:
    put(tmp_path, "1.jpg")
    assert refused(tmp_path, key).reason in ("missing", "unreadable", "outside")


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    reasons: list[str] = []

    def read() -> None:
        reasons.extend(refused(tmp_path, key).reason for key in ("pipe.jpg", "folder.jpg"))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(5)
    assert reasons == ["unreadable", "unreadable"]


def test_a_file_of_half_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "1.jpg").open("wb") as file:
        file.truncate(source_files.MAXIMUM_BYTES + 1)  # sparse: takes no space
    error = refused(tmp_path, "1.jpg")
    assert error.reason == "too_large"
    assert f"{source_files.MAXIMUM_BYTES + 1} bytes, at most {source_files.MAXIMUM_BYTES}" in str(
        error
    )


def test_control_characters_are_escaped(tmp_path: Path) -> None:
    assert "\x1b" not in str(refused(tmp_path, "\x1b[31m.jpg"))
    put(tmp_path, "\x1b[31m.txt")
    source = open_source(tmp_path)
    list(source.rows())
    assert "\x1b" not in source.problems()[0]


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(ReadError("outside", "a: leaves")))
    assert (error.reason, str(error)) == ("outside", "a: leaves")
    assert isinstance(error, SourceError)
    assert isinstance(error, FaceguideError)


# Manifests


def manifest(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "set.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_manifest(tmp_path: Path) -> None:
    put(tmp_path, "im/1.jpg")
    path = manifest(
        tmp_path,
        "\ufeffidentity,path,split, twin\r\nAnn,im/1.jpg,train,B\r\n\r\n"
        '"B, ""x""","two\nlines.jpg",,\r\n',
    )
    source = open_source(path)
    assert (source.kind, source.columns) == ("manifest", ("split", "twin"))
    assert list(source.rows()) == [
        SourceRow("im/1.jpg", "Ann", {"split": "train", "twin": "B"}),
        SourceRow("two\nlines.jpg", 'B, "x"', {"split": "", "twin": ""}),
    ]
    assert source.read("im/1.jpg", -1) == b"im/1.jpg"
    assert source.problems() == []


def test_manifest_without_identities_and_with_raw_bytes(tmp_path: Path) -> None:
    path = manifest(tmp_path, b"path\n\xff.jpg\n")
    assert [(os.fsencode(r.key), r.identity) for r in open_source(path).rows()] == [
        (b"\xff.jpg", "")
    ]


@pytest.mark.parametrize("key", ["/etc/passwd", "../secret.jpg", "link.jpg"])
def test_manifest_paths_stay_inside(tmp_path: Path, key: str) -> None:
    put(tmp_path, "secret.jpg", "root/1.jpg")
    (tmp_path / "root/link.jpg").symlink_to("../secret.jpg")
    path = manifest(tmp_path / "root", f"path,identity\n{key},Ann\n")
    assert keys(path) == [key]
    assert refused(path, key).reason == "outside"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a header of distinct columns with path and identity, found ''"),
        ("a/1.jpg,Ann\na/2.jpg,Ann\n", "expected a header"),
        ("path,identity,path\n", "expected a header of distinct"),
        ("path,\n", "expected a header"),
        (
            "path,identity\n1.jpg\n",
            r"set.csv, line 2: expected 2 fields \(path, identity\), found 1",
        ),
        ("path,identity\n1.jpg,A\n2.jpg,A,x\n", "line 3: expected 2 fields"),
        ("path,identity\n,A\n", "line 2: the path is empty"),
        ("path\n" + "x" * 200_000 + "\n", "line 2: field larger than field limit"),
        ("path\n" + "x" * 2_000_000, "a line is longer than 1048576 characters"),
    ],
)
def test_wrong_manifests(tmp_path: Path, text: str, message: str) -> None:
    path = manifest(tmp_path, text)
    with pytest.raises(FaceguideError, match=message):
        list(open_source(path).rows())


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(st.binary(max_size=80), st.text(alphabet='path,identity"\r\n\0 é', max_size=60)),
    st.sampled_from([b"", b"path\n", b"path,identity\n"]),
)
@example(text='"\n"\ra', header=b"")
def test_any_manifest_is_listed_or_refused(
    tmp_path: Path, text: bytes | str, header: bytes
) -> None:
    data = header + (text if isinstance(text, bytes) else text.encode())
    path = manifest(tmp_path, data)
    try:
        rows = list(open_source(path).rows())
    except FaceguideError:
        return
    for row in rows:
        with pytest.raises(ReadError):
            open_source(path).read(row.key, row.at)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["..", ".", "/", "a", "link", "up", "\0", "é"]), max_size=8))
def test_no_key_reads_the_secret(tmp_path: Path, pieces: list[str]) -> None:
    root = tmp_path / "root"
    if not root.exists():
        put(tmp_path, "a", "secret/a", "root/a/a")
        (root / "link").symlink_to("../secret")
        (root / "up").symlink_to("..")
    try:
        data = open_source(root).read("/".join(pieces), -1)
    except ReadError:
        return
    assert data == b"root/a/a"


# Records and verification sets


def test_records(tmp_path: Path) -> None:
    path = tmp_path / "train.rec"
    offsets = write(
        path, [record(b"", [3.0, 4.0]), record(b"one", 5.0), record(b"two", [8.0, 1.0])]
    )
    source = open_source(path)
    assert source.kind == "rec"
    assert list(source.rows()) == [
        SourceRow("00000001", "5", {}, offsets[1]),
        SourceRow("00000002", "8", {}, offsets[2]),
    ]
    assert source.read("00000002", offsets[2]) == b"two"
    assert source.problems() == []
    with pytest.raises(ReadError, match="record 00000000 holds no image") as caught:
        source.read("00000000", 0)
    assert caught.value.reason == "damaged"


def test_a_damaged_record_is_a_row_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "train.rec"
    write(path, [record(b"", [4.0, 5.0]), record(b"one", 5.0), record(b"two", float("nan"))])
    path.with_suffix(".idx").write_text(path.with_suffix(".idx").read_text() + "3\t9999\n")
    source = open_source(path)
    rows = list(source.rows())
    assert [(row.key, row.identity) for row in rows] == [
        ("00000001", "5"),
        ("00000002", "nan"),
        ("00000003", ""),
    ]
    assert source.problems() == [
        "records that cannot be read: 1 (the first: the record at byte 9999 lies beyond the "
        f"file's {path.stat().st_size} bytes)"
    ]
    with pytest.raises(ReadError, match=r"train.rec: the record at byte 9999") as caught:
        source.read("00000001", 9999)
    assert caught.value.reason == "damaged"
    path.with_suffix(".idx").write_text("nonsense\n")
    with pytest.raises(RecordError, match="line 1"):
        list(source.rows())
    path.unlink()
    with pytest.raises(ReadError, match="No such file"):
        source.read("00000001", 0)


def test_a_list_may_lie_elsewhere_than_its_images(tmp_path: Path) -> None:
    put(tmp_path, "photos/a/1.jpg")
    path = manifest(tmp_path, "path,identity\na/1.jpg,a\n../set.csv,a\n")
    source = open_source(path, root=tmp_path / "photos")
    assert [row.key for row in source.rows()] == ["a/1.jpg", "../set.csv"]
    assert source.read("a/1.jpg", -1) == b"photos/a/1.jpg"
    with pytest.raises(ReadError, match="leaves the source's folder"):
        source.read("../set.csv", -1)
    with pytest.raises(SourceError, match="--root is for a CSV"):
        open_source(tmp_path / "photos", root=tmp_path)


def test_verification_set(tmp_path: Path) -> None:
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps(([b"one", b"two"], [True])))
    source = open_source(path)
    assert source.kind == "bin"
    assert list(source.rows()) == [
        SourceRow("00000000", "", {}, 0),
        SourceRow("00000001", "", {}, 1),
    ]
    assert source.read("00000001", 1) == b"two"
    assert source.problems() == []
    for at in (-1, 2):
        with pytest.raises(ReadError, match="image 00000009 of 2"):
            source.read("00000009", at)


def test_a_damaged_verification_set(tmp_path: Path) -> None:
    path = tmp_path / "lfw.bin"
    path.write_bytes(b"cos\nsystem\n.")
    with pytest.raises(VerificationBinError, match="nothing was run"):
        list(open_source(path).rows())
    with pytest.raises(ReadError, match="nothing was run"):
        open_source(path).read("00000000", 0)


# Which kind


@pytest.mark.parametrize("name", ["set.txt", "set", "train.idx"])
def test_other_files_are_no_source(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(SourceError, match=r"\.csv, \.rec, \.bin or \.json"):
        open_source(tmp_path / name)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere: no such file or folder"):
        open_source(tmp_path / "nowhere")


def test_flat_is_for_folders(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="--flat is for folders"):
        open_source(manifest(tmp_path, "path\n"), flat=True)


def test_lfw(shared: Path) -> None:
    source = open_source(shared / "data/lfw112_dev/images")
    rows = list(source.rows())
    assert len(rows) == 1583
    assert len({row.identity for row in rows}) == 844
    assert source.read(rows[0].key, rows[0].at)[:2] == b"\xff\xd8"
