"""Plans: every source in one place, decided once."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faceguide.cache.inspect.info import summary
from faceguide.cache.plan import Plan, list_path, load_plan, read_identities, read_sources
from faceguide.cache.planning import shard_lists, spooled_listing
from faceguide.cache.planning.new_plan import default_shard_rows, make_plan
from faceguide.cache.planning.spooled_listing import Row
from faceguide.core.commands.console import Interrupted, interruptible
from faceguide.core.errors import CacheError
from faceguide.core.files import stray_files
from faceguide.preprocess.parallel import over_processes

RECIPE = {"revision": 1, "size": 112}


def listing(n: int) -> list[Row]:
    return [Row(f"p{i % 5}/{i}.jpg", f"p{i % 5}") for i in range(n)]


def all_rows(directory: Path, plan: Plan) -> list[str]:
    return [row.key for shard in range(plan.shards) for row in read_sources(directory, plan, shard)]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(n=st.integers(1, 400), shard_rows=st.integers(1, 90), seed=st.integers(0, 5))
def test_every_source_is_planned_once(
    tmp_path_factory: pytest.TempPathFactory, n: int, shard_rows: int, seed: int
) -> None:
    directory = tmp_path_factory.mktemp("plan")
    plan = make_plan(directory, lambda: listing(n), recipe=RECIPE, seed=seed, shard_rows=shard_rows)
    assert Counter(all_rows(directory, plan)) == Counter(row.key for row in listing(n))
    assert sum(plan.rows_of(shard) for shard in range(plan.shards)) == n


def test_keys_labels_places_and_meta_survive(tmp_path: Path) -> None:
    names = ["Zoë", "new\nline", "back\\slash\\n", "tab\t", "\udcff raw byte", "李"]
    rows = [
        Row(f"{name}/{i} ß.jpg", name, at=i, meta=("train", f"v{i}"))
        for i, name in enumerate(names)
    ]
    plan = make_plan(
        tmp_path, lambda: [*rows, Row("nobody.jpg", meta=("", ""))], recipe=RECIPE,
        meta=("split", "other"),
    )  # fmt: skip
    assert read_identities(tmp_path) == names
    found = {
        row.key: row for shard in range(plan.shards) for row in read_sources(tmp_path, plan, shard)
    }
    for i, row in enumerate(rows):
        assert found[row.key].label == i
        assert found[row.key].at == i
        assert found[row.key].meta == ("train", f"v{i}")
    assert found["nobody.jpg"].label == -1


def test_neighbouring_rows_are_a_random_sample(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, lambda: listing(1000), recipe=RECIPE, shard_rows=100)
    first = [int(Path(row.key).stem) for row in read_sources(tmp_path, plan, 0)]
    assert 350 < sum(first) / len(first) < 650
    assert sorted(first) != first


def test_the_plan_of_a_listing_never_changes(tmp_path: Path) -> None:
    """Faster planning must not move a row: shards of one cache may be years apart."""
    names = ["Zoë", "new\nline", "back\\slash", "tab\t", "\udcff raw", "李", ""]
    rows = [
        Row(
            f'{names[i % 7]}/{i} "ß".jpg', names[i % 7], at=i * 7919 if i % 3 else -1,
            meta=("train", f"v\u2028{i}"),
        )
        for i in range(3000)
    ]  # fmt: skip
    make_plan(
        tmp_path / "cache", lambda: rows, recipe=RECIPE, meta=("split", "other"), seed=3,
        limit=2500, shard_rows=170,
    )  # fmt: skip
    content = hashlib.sha256()
    for path in sorted((tmp_path / "cache").rglob("*")):
        if path.is_file():
            name = path.relative_to(tmp_path / "cache").as_posix()
            content.update(name.encode() + b"\0" + path.read_bytes())
    assert content.hexdigest() == (
        "ca3b62c4fb16ac6758c651565a9a49e1d40ce62a1ac7119050e57327f849a71c"
    )


@given(
    n=st.integers(1, 900),
    limit=st.none() | st.integers(1, 900),
    shard_rows=st.integers(20, 400),
    in_memory=st.integers(10, 700),
    chunk=st.sampled_from([7, 64, 8192]),
)
@settings(max_examples=20, deadline=None)
def test_however_the_work_is_divided_the_lists_are_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    n: int,
    limit: int | None,
    shard_rows: int,
    in_memory: int,
    chunk: int,
) -> None:
    rows = [row._replace(meta=(f"a\tb, {i}", "")) for i, row in enumerate(listing(n))]
    asked = {"recipe": RECIPE, "meta": ("x", "y"), "limit": limit, "shard_rows": shard_rows}
    whole, divided = (tmp_path_factory.mktemp("plan") for _ in range(2))
    plan = make_plan(whole, lambda: rows, **asked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_lists, "IN_MEMORY", in_memory)
        patch.setattr(spooled_listing, "CHUNK", chunk)
        assert make_plan(divided, lambda: rows, spread=backwards, **asked) == plan
    for shard in range(plan.shards):
        assert list_path(divided, shard).read_bytes() == list_path(whole, shard).read_bytes()


def backwards(work: Callable[[int, shard_lists.Tick], None], units: int) -> None:
    for number in reversed(range(units)):
        work(number, lambda: None)


def test_processes_make_the_same_lists(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_lists, "IN_MEMORY", 1 << 12)
        plans = [
            make_plan(
                tmp_path / name, lambda: listing(30_000), recipe=RECIPE, shard_rows=1000,
                spread=over_processes(jobs, "lists"),
            )
            for name, jobs in (("one", 1), ("two", 2))
        ]  # fmt: skip
    assert plans[0] == plans[1], "the listing's digest is in it"


def test_a_worker_needs_no_list_but_its_own(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, lambda: listing(400), recipe=RECIPE, shard_rows=100)
    for path in (tmp_path / "sources").iterdir():
        if path.name != "00002.jsonl":
            path.unlink()
    (tmp_path / "identities.txt").unlink()
    assert load_plan(tmp_path) == plan
    assert len(read_sources(tmp_path, plan, 2)) == 100
    assert summary(tmp_path)["rows"] == 400


def test_limit_draws_a_sample_of_that_size(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, lambda: listing(1000), recipe=RECIPE, limit=100)
    keys = all_rows(tmp_path, plan)
    assert plan.rows == len(set(keys)) == 100
    numbers = [int(Path(key).stem) for key in keys]
    assert min(numbers) < 200
    assert max(numbers) > 800


def test_the_same_command_adopts_the_plan_without_listing_again(tmp_path: Path) -> None:
    first = make_plan(tmp_path, lambda: listing(50), recipe=RECIPE)

    def never() -> list[Row]:
        raise RuntimeError("listed again")

    assert make_plan(tmp_path, never, recipe=RECIPE) == first == load_plan(tmp_path)


def test_another_recipe_is_refused_by_name(tmp_path: Path) -> None:
    make_plan(tmp_path, lambda: listing(50), recipe=RECIPE)
    with pytest.raises(CacheError, match=r"size: 112 there, 224 wanted.*--overwrite"):
        make_plan(tmp_path, lambda: listing(50), recipe={**RECIPE, "size": 224})
    with pytest.raises(CacheError, match="limit: None there, 7 wanted"):
        make_plan(tmp_path, lambda: listing(50), recipe=RECIPE, limit=7)


def test_no_images_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no images found"):
        make_plan(tmp_path, list, recipe=RECIPE)
    assert list(tmp_path.iterdir()) == []


def _plan_in(directory: Path, seed: int, barrier: object, results: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    plan = make_plan(directory, lambda: listing(3000), recipe=RECIPE, seed=0)
    results.put(plan.listing)  # type: ignore[attr-defined]


def test_planners_at_once_agree_on_one_plan(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    planners = [
        context.Process(target=_plan_in, args=(tmp_path / "cache", i, barrier, results))
        for i in range(4)
    ]
    for planner in planners:
        planner.start()
    digests = {results.get(timeout=60) for _ in planners}
    for planner in planners:
        planner.join()
    plan = load_plan(tmp_path / "cache")
    assert plan is not None
    assert digests == {plan.listing}
    assert len(all_rows(tmp_path / "cache", plan)) == 3000
    assert not list((tmp_path / "cache").glob(".*"))


def test_a_planner_killed_before_the_end_is_finished_by_the_next(tmp_path: Path) -> None:
    whole = make_plan(tmp_path / "a", lambda: listing(50), recipe=RECIPE)
    make_plan(tmp_path / "b", lambda: listing(50), recipe=RECIPE)
    (tmp_path / "b" / "plan.json").unlink()  # killed between the lists and the plan
    assert make_plan(tmp_path / "b", lambda: listing(50), recipe=RECIPE) == whole


def test_a_damaged_plan_or_list_is_refused(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, lambda: listing(50), recipe=RECIPE)
    text = (tmp_path / "plan.json").read_text()
    (tmp_path / "plan.json").write_text(text.replace('"rows": 50', '"rows": 51'))
    with pytest.raises(CacheError, match="changed since it was written"):
        load_plan(tmp_path)
    path = tmp_path / "sources" / "00000.jsonl"
    path.write_text(path.read_text().partition("\n")[0])
    with pytest.raises(CacheError, match="1 sources, the plan says 50"):
        read_sources(tmp_path, plan, 0)


@given(rows=st.integers(1, 2 * 10**9), row_bytes=st.integers(1, 4_000_000))
def test_shards_are_neither_too_many_nor_too_large(rows: int, row_bytes: int) -> None:
    per_shard = default_shard_rows(rows, row_bytes)
    assert per_shard >= min(rows, 1)
    assert -(-rows // per_shard) <= 8000
    if rows <= 8000 * 64:
        assert per_shard * row_bytes <= max(512 << 20, 64 * row_bytes)
    if rows <= 8000 * 8192 and row_bytes <= 65_536:
        assert per_shard <= 8192


def test_a_signal_while_it_is_tidied_up_leaves_nothing(tmp_path: Path) -> None:
    def signalled(frame: FrameType, event: str, value: object) -> None:
        if event == "call" and frame.f_code.co_name == "rmtree":
            sys.setprofile(None)
            os.kill(os.getpid(), signal.SIGTERM)

    sys.setprofile(signalled)
    with pytest.raises(Interrupted), interruptible():
        make_plan(tmp_path / "cache", lambda: [Row("a.jpg")], recipe={})
    assert sys.getprofile() is None
    assert load_plan(tmp_path / "cache") is not None
    assert not stray_files(tmp_path / "cache")
