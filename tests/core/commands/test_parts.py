"""Parts: from i/N, from Slurm's variables, and back to the numbers that are missing."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sbatch import numbers

from faceguide.core.commands.parts import array_part, parse_part, parts_of, shards_of, show_indices
from faceguide.core.errors import FaceguideError


def array(task: int, first: int, last: int, step: int, count: int) -> dict[str, str]:
    """The variables as Slurm 22.05 sets them."""
    values = {"ID": task, "MIN": first, "MAX": last, "STEP": step, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@given(shards=st.integers(0, 300), parts=st.integers(1, 40))
def test_every_shard_belongs_to_one_part(shards: int, parts: int) -> None:
    lists = [shards_of((index, parts), shards) for index in range(parts)]
    assert sorted(itertools.chain.from_iterable(lists)) == list(range(shards))
    assert all(parts_of([shard], parts) == [i] for i, mine in enumerate(lists) for shard in mine)


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        ((0, 0, 7, 1, 8), (0, 8)),
        ((7, 0, 7, 1, 8), (7, 8)),
        ((3, 1, 4, 1, 4), (2, 4)),
        ((20, 10, 40, 10, 4), (1, 4)),
        ((5, 5, 5, 1, 1), (0, 1)),
        ((4, 0, 7, 2, 4), (2, 4)),  # --array=0-7:2; some versions give 7, others 6
    ],
)
def test_a_dense_array_names_the_part(
    variables: tuple[int, int, int, int, int], part: tuple[int, int]
) -> None:
    assert array_part(array(*variables)) == part


def test_outside_an_array_there_is_no_part() -> None:
    assert array_part({"SLURM_JOB_ID": "12"}) is None


@pytest.mark.parametrize("variables", [(1, 1, 3, 1, 2), (3, 1, 7, 1, 3), (5, 0, 8, 2, 5)])
def test_a_sparse_array_is_refused_by_name(variables: tuple[int, int, int, int, int]) -> None:
    with pytest.raises(FaceguideError, match=r"sparse.*--part \$SLURM_ARRAY_TASK_ID/N"):
        array_part(array(*variables))


def test_half_set_and_broken_variables_are_refused_by_name() -> None:
    half = array(0, 0, 3, 1, 4)
    del half["SLURM_ARRAY_TASK_MAX"]
    with pytest.raises(FaceguideError, match="set but not SLURM_ARRAY_TASK_MAX"):
        array_part(half)
    with pytest.raises(FaceguideError, match=r"SLURM_ARRAY_TASK_STEP=x.*whole numbers"):
        array_part({**array(0, 0, 3, 1, 4), "SLURM_ARRAY_TASK_STEP": "x"})


@pytest.mark.parametrize("text", ["4/4", "-1/4", "1", "1/0", "a/b", "1/2/3", ""])
def test_a_part_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(FaceguideError, match=r"expected i/N with i from 0"):
        parse_part(text)
    assert parse_part("3/4") == (3, 4)


@given(st.sets(st.integers(0, 99_999), min_size=1))
def test_indices_are_shown_as_slurm_reads_them(indices: set[int]) -> None:
    assert numbers(show_indices(sorted(indices))) == sorted(indices)


def test_runs_of_indices_are_short() -> None:
    assert show_indices([1, 3, 10, 11, 12]) == "1,3,10-12"
