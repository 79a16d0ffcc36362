from __future__ import annotations

import csv
import io
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceguide.cache.pairs.pair_lists import read_pairs
from faceguide.core.errors import FaceguideError, ListError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def as_rows(path: Path, split: str | None = None) -> list[tuple[str, str, bool, int | None]]:
    found = read_pairs(path, split)
    folds = [None] * len(found) if found.fold is None else found.fold.tolist()
    return list(zip(found.first, found.second, found.same.tolist(), folds, strict=True))


def test_our_csv(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", 'fold,a,b,same\n0,x/1.jpg,x/2.jpg,1\n1,"a,b.jpg",y.jpg,0\n\n')
    assert as_rows(path) == [
        ("x/1.jpg", "x/2.jpg", True, 0),
        ("a,b.jpg", "y.jpg", False, 1),
    ]


def test_csv_of_other_tools_with_and_without_folds(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "image_a,image_b,is_same\nu.jpg,v.jpg,True\nu.jpg,w.jpg,0\n")
    assert as_rows(path) == [("u.jpg", "v.jpg", True, None), ("u.jpg", "w.jpg", False, None)]


def test_csv_with_image_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "a,a_num,b,b_num,same\nRoy,3,Zoe,15,0\n")
    assert as_rows(path) == [("Roy/Roy_0003", "Zoe/Zoe_0015", False, None)]


@pytest.mark.parametrize("separator", ["\t", " "])
def test_lfw_pairs(tmp_path: Path, separator: str) -> None:
    lines = ["2 1", "Ann 1 4", "Ann 2 Bob 13", "Bob 1 2", "Bob 3 Ann 1"]
    text = "\n".join(line.replace(" ", separator) for line in lines)
    assert as_rows(write(tmp_path / "pairs.txt", text)) == [
        ("Ann/Ann_0001", "Ann/Ann_0004", True, 0),
        ("Ann/Ann_0002", "Bob/Bob_0013", False, 0),
        ("Bob/Bob_0001", "Bob/Bob_0002", True, 1),
        ("Bob/Bob_0003", "Ann/Ann_0001", False, 1),
    ]


def test_lfw_development_pairs_have_no_folds(tmp_path: Path) -> None:
    path = write(tmp_path / "pairsDevTest.txt", "1\nAnn\t1\t4\nAnn\t2\tBob\t13\n")
    assert as_rows(path) == [
        ("Ann/Ann_0001", "Ann/Ann_0004", True, None),
        ("Ann/Ann_0002", "Bob/Bob_0013", False, None),
    ]


def test_names_with_blanks_survive_tabs(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.txt", "1\t1\nMary Ann\t1\t4\nMary Ann\t2\tBob\t3\n")
    assert as_rows(path)[0][:2] == ("Mary Ann/Mary Ann_0001", "Mary Ann/Mary Ann_0004")


def test_path_path_label_in_either_order(tmp_path: Path) -> None:
    expected = [("a/1.jpg", "a/2.jpg", True, None), ("a/1.jpg", "b/1.jpg", False, None)]
    label_last = write(tmp_path / "test_pairs.txt", "a/1.jpg a/2.jpg 1\na/1.jpg b/1.jpg 0\n")
    assert as_rows(label_last) == expected
    label_first = write(tmp_path / "first.txt", "1 a/1.jpg a/2.jpg\n-1 a/1.jpg b/1.jpg\n")
    assert as_rows(label_first) == expected


def test_calfw_and_cplfw_two_lines_a_pair(tmp_path: Path) -> None:
    text = "Ann_0001.jpg 3\nAnn_0004.jpg 3\nAnn_0001.jpg 0\nBob_0001.jpg 0\n"
    assert as_rows(write(tmp_path / "pairs_CALFW.txt", text)) == [
        ("Ann_0001.jpg", "Ann_0004.jpg", True, None),
        ("Ann_0001.jpg", "Bob_0001.jpg", False, None),
    ]


def test_insightface_bin(tmp_path: Path) -> None:
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps(([b"\xff\xd8\xff"] * 4, [True, False])))
    assert as_rows(path) == [
        ("00000000", "00000001", True, None),
        ("00000002", "00000003", False, None),
    ]


def test_twins(tmp_path: Path) -> None:
    write(tmp_path / "id_to_images.json", json.dumps({"1": ["a", "b"], "2": ["c"], "3": ["d"]}))
    path = write(tmp_path / "twin_pairs_infor.json", json.dumps({"test": [["1", "2"], [2, 1]]}))
    assert as_rows(path, "test") == [
        ("a", "b", True, None),
        ("a", "c", False, None),
        ("b", "c", False, None),
    ]


PAIR = [("a/1.jpg", "b/1.jpg", True, None), ("a/1.jpg", "c/1.jpg", False, None)]
LFW = [("Ann/Ann_0001", "Ann/Ann_0004", True, None), ("Ann/Ann_0002", "Bob/Bob_0013", False, None)]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        # separators
        ("p.csv", "a;b;same\na/1.jpg;b/1.jpg;1\na/1.jpg;c/1.jpg;0\n", PAIR),
        ("p.csv", "a\tb\tsame\t\na/1.jpg\tb/1.jpg\t1\t\na/1.jpg\tc/1.jpg\t0\n", PAIR),
        ("p.txt", "a/1.jpg,b/1.jpg,1\na/1.jpg,c/1.jpg,0\n", PAIR),
        ("p.txt", "a/1.jpg; b/1.jpg; 1;\na/1.jpg; c/1.jpg; 0;\n", PAIR),
        ("p.txt", "a/1.jpg\tb/1.jpg\t1\t\t\na/1.jpg\tc/1.jpg\t0\t\n", PAIR),
        ("p.txt", "a,b,same\na/1.jpg,b/1.jpg,1\na/1.jpg,c/1.jpg,0\n", PAIR),
        # labels and headers of other programs
        ("p.csv", "a,b,same\na/1.jpg,b/1.jpg,1.0\na/1.jpg,c/1.jpg,0.0\n", PAIR),
        ("p.txt", "a/1.jpg b/1.jpg 1.0\na/1.jpg c/1.jpg -1.0\n", PAIR),
        ("p.csv", "path1,path2,issame\na/1.jpg,b/1.jpg,1\na/1.jpg,c/1.jpg,0\n", PAIR),
        ("p.csv", "Image 1,Image 2,Label\na/1.jpg,b/1.jpg,1\na/1.jpg,c/1.jpg,0\n", PAIR),
        ("p.csv", ",file_1,file_2,same\n0,a/1.jpg,b/1.jpg,1\n1,a/1.jpg,c/1.jpg,0\n", PAIR),
        ("p.csv", "a,b,same,label\na/1.jpg,b/1.jpg,1,x\na/1.jpg,c/1.jpg,0,y\n", PAIR),
        ("p.csv", "a/1.jpg,b/1.jpg,1\na/1.jpg,c/1.jpg,0\n", PAIR),
        ("p.csv", "fold,a,b,same\n1.0,a,b,1\n", [("a", "b", True, 1)]),
        # comments
        ("p.txt", "# probe reference 1\na/1.jpg b/1.jpg 1\na/1.jpg c/1.jpg 0\n", PAIR),
        ("p.txt", "#first second same\na/1.jpg b/1.jpg 1\na/1.jpg c/1.jpg 0\n", PAIR),
        ("p.csv", "# mine\na,b,same\na/1.jpg,b/1.jpg,1\na/1.jpg,c/1.jpg,0\n", PAIR),
        ("p.txt", "#1.jpg #2.jpg 1\n", [("#1.jpg", "#2.jpg", True, None)]),
        ("p.csv", "a,b,same\n#1.jpg,#2.jpg,1\n", [("#1.jpg", "#2.jpg", True, None)]),
        # LFW without its first line, as MFR2 and Kaggle have it
        ("pairs.txt", "Ann\t1\t4\nAnn\t2\tBob\t13\n", LFW),
        ("pairs.txt", "Ann, 1, 4\nAnn, 2, Bob, 13\n", LFW),
        ("pairs.csv", "name,imagenum1,imagenum2,\nAnn,1,4,\nAnn,2,Bob,13\n", LFW),
        ("match.csv", "name,imagenum1,imagenum2\nAnn,1,4\n", LFW[:1]),
        ("mismatch.csv", "name,imagenum1,name,imagenum2\nAnn,2,Bob,13\n", LFW[1:]),
        # names that are labels or blanks to others
        ("p.txt", "1 0 1\n0 2 3\n", [("0", "1", True, None), ("2", "3", False, None)]),
        ("p.txt", "a/\u20281.jpg\tb\x85.jpg\t1\n", [("a/\u20281.jpg", "b\x85.jpg", True, None)]),
        ("p.csv", "a,b,same\na\x0b1,b\u2029,1\n", [("a\x0b1", "b\u2029", True, None)]),
    ],
)  # fmt: skip
def test_lists_of_other_programs(tmp_path: Path, name: str, text: str, expected: list) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert as_rows(path) == expected
    if name != "p.txt" or text.isascii():
        path.write_bytes(text.replace("\n", "\r\n").encode("utf-16"))
        assert as_rows(path) == expected
    if text.isascii():  # without a mark
        path.write_bytes(text.encode("utf-16-le"))
        assert as_rows(path) == expected


@pytest.mark.parametrize(
    ("name", "text", "split", "message"),
    [
        ("p.csv", "x,y\n1,2\n", None, "expected a header with a, b, same"),
        ("p.csv", "a,b,same\nx,y\n", None, "line 2: expected 3 cells, found 2"),
        ("p.csv", "a,b,same\nx,y,maybe\n", None, "line 2: expected 1 or 0"),
        ("p.csv", "a,b,same\n", None, "expected pairs, found none"),
        ("p.csv", "a,b,same,is_same\nx,y,1,0\n", None, "columns same and is_same mean the same"),
        ("p.csv", "img1,path1,img2,same\nx,y,z,0\n", None, "columns img1 and path1 mean the same"),
        ("p.csv", "a,b,same\nx,y,7.0\n", None, "line 2: expected 1 or 0"),
        ("p.csv", "x,y,z\n1,2,3\n", None, "expected a header with a, b, same"),
        ("p.txt", "1 2\nAnn Lee 1 2\nAnn Lee 1 Bo 2\n", None, "announces 4 pairs, found 2 lines"),
        ("p.txt", "1 1\nAnn Lee X 1 2\nAnn 1 Bo 2\n", None, "tabs must part the fields"),
        ("p.csv", "fold,a,b,same\nx,u,v,1\n", None, "whole number for fold, found 'x'"),
        ("p.txt", "", None, "found an empty file"),
        ("p.txt", "1 2 3 4 5\n", None, "line 1 is in no known layout"),
        ("p.txt", "10 300\nAnn 1 2\n", None, "announces 6000 pairs, found 1 lines"),
        ("p.txt", "1 1\nAnn 1 2\nAnn 1\n", None, "line 3: expected 3 or 4 fields, found 2"),
        ("p.txt", "1 1\nAnn 1 x\nAnn 1 Bob 2\n", None, "whole number for the image number"),
        ("p.txt", "a.jpg 1\nb.jpg 0\n", None, "two lines of `name label` with one label"),
        ("p.txt", "a.jpg 1\nb.jpg 1\nc.jpg 0\n", None, "expected two lines a pair, found 3"),
        ("p.txt", "a b 1\na b\n", None, "line 2: expected `path path 0|1`, found 2 fields"),
        ("p.json", "{", None, "not JSON"),
        ("p.json", '{"test": []}', "train", "choose its split, .* from test"),
        ("p.json", '{"test": [["1"]]}', "test", r"list of \[id, id\] under 'test'"),
        ("p.json", '{"test": [["1", "1"]]}', "test", "expected pairs, found none"),
        ("p.json", '{"test": [["1", "9"]]}', "test", "expected pairs, found none"),
        ("p.csv", "a,b,same\nx,y,1\n", "test", "a split is for ND-TWIN"),
    ],
)
def test_faults_name_the_line(
    tmp_path: Path, name: str, text: str, split: str | None, message: str
) -> None:
    write(tmp_path / "id_to_images.json", json.dumps({"1": ["a"]}))
    with pytest.raises(ListError, match=message):
        read_pairs(write(tmp_path / name, text), split)


def test_a_missing_file(tmp_path: Path) -> None:
    for name in ("p.csv", "p.txt", "p.json", "p.bin"):
        with pytest.raises(ListError, match=r"[Nn]o such file"):
            read_pairs(tmp_path / name)


names = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"), exclude_characters="\x85"),
    min_size=1,
).map(str.strip)


@given(st.lists(st.tuples(names.filter(bool), names.filter(bool), st.booleans()), min_size=1))
def test_csv_keeps_any_name(tmp_path_factory, rows) -> None:
    path = tmp_path_factory.mktemp("csv") / "p.csv"
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["a", "b", "same"])
    writer.writerows([(a, b, int(same)) for a, b, same in rows])
    path.write_bytes(out.getvalue().encode())
    found = read_pairs(path)
    assert list(zip(found.first, found.second, found.same.tolist(), strict=True)) == rows


@given(
    st.sampled_from(["p.csv", "p.txt", "p.json", "p.bin"]),
    st.one_of(
        st.binary(max_size=200),
        st.text("01 \t\n,ab.jpg{}[]\"':fold", max_size=200).map(str.encode),
    ),
)
def test_any_bytes_give_pairs_or_one_line(tmp_path_factory, name: str, data: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(data)
    message = ""
    try:
        assert len(read_pairs(path, "test" if name.endswith("json") else None)) > 0
    except FaceguideError as error:
        message = str(error)
    assert not message or str(path.parent) in message
