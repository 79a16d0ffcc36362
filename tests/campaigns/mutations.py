"""Damaged and hostile variants of valid inputs: bytes, words of text, values of JSON."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from faceguide.core.files import json_bytes

Mutator = Callable[[random.Random, bytes, Sequence[bytes]], bytes]

INTEGERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 32767, 65535, 1 << 24, (1 << 31) - 1, 1 << 31,
            (1 << 32) - 1, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip
PIECES = (b"\0", b"\xff\xfe", b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\r", b"\n\n", b'"', b",",
          b"\x1b]0;x\x07", b"../../../../etc/passwd", b"/etc/passwd", b"%n%s", b"\xef\xbb\xbf",
          b"[" * 3000, b"{\"a\":" * 3000, b"x" * 70_000, b"A" * 5000)  # fmt: skip
WORDS = (b"nan", b"inf", b"-inf", b"1e999", b"-1", b"0", b"00", b"1e308", b"9" * 30,
         b"9" * 5000,
         "²".encode(), "٣".encode(), b"\0", b"..", b"../x", b"/dev/zero", b"", b"true", b"0x10",
         b"1_0", b"\xff", b"a" * 5000, b"\x1b[2J", b"2147483648", b"9" * 19)  # fmt: skip
VALUES: tuple[Any, ...] = (
          None, True, False, 0, -1, 1, 1 << 31, 1 << 40, 1 << 63, 10**30, 0.5, 1e308,
          "", "x", "../../etc/passwd", "/etc/passwd", "\0", "\x1b[2J", "<script>", "x" * 5000, [],
          {}, [[]], {"a": 1}, [1, 2, 3], "1", "nan")  # fmt: skip


def flip(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One to eight bits."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def cut(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """An end, or a piece in the middle."""
    start = rng.randrange(len(data))
    if rng.random() < 0.6:
        return data[:start]
    return data[:start] + data[start + rng.randint(1, 64) :]


def splice(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A piece of another input, or of this one, in or over a place."""
    other = rng.choice(others)
    begin = rng.randrange(len(other) + 1)
    piece = other[begin : begin + rng.randint(1, 256)]
    at = rng.randrange(len(data))
    return data[:at] + piece + data[at + (len(piece) if rng.random() < 0.5 else 0) :]


def insert(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Bytes that parsers stumble over."""
    at = rng.randrange(len(data))
    return data[:at] + rng.choice(PIECES) + data[at:]


def number(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """An extreme number of 1 to 8 bytes over a place, such as a length or an offset."""
    width, at = rng.choice((1, 2, 4, 8)), rng.randrange(len(data))
    value = rng.choice(INTEGERS) % (1 << 8 * width)
    order = "little" if rng.random() < 0.6 else "big"
    return data[:at] + value.to_bytes(width, order) + data[at + width :]  # type: ignore[arg-type]


def word(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One word of a text by another."""
    found = list(re.finditer(rb"[^\s,;\"\[\]{}:]+", data[:100_000]))
    if not found:
        return insert(rng, data, others)
    chosen = rng.choice(found)
    return data[: chosen.start()] + rng.choice(WORDS) + data[chosen.end() :]


def lines(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A line twice, away, or in another place."""
    every = data.splitlines(keepends=True)
    taken = every.pop(rng.randrange(len(every)))
    for _ in range(rng.choice((0, 1, 2))):
        every.insert(rng.randrange(len(every) + 1), taken)
    return b"".join(every)


def value(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One value of a JSON object by another, sealed again as an attacker would."""
    tree = json.loads(data)
    if not isinstance(tree, dict):
        return json.dumps(_replaced(rng, tree)).encode()
    tree.pop("self", None)
    changed = _replaced(rng, tree)
    return json_bytes(changed) if isinstance(changed, dict) else json.dumps(changed).encode()


def _replaced(rng: random.Random, tree: Any) -> Any:
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        children = node.items() if isinstance(node, dict) else enumerate(node)
        for name, child in children:
            places.append((node, name))
            if isinstance(child, dict | list) and child:
                walk(child)

    tree = copy.deepcopy(tree)
    walk(tree)
    if not places:
        return rng.choice(VALUES)
    node, name = rng.choice(places)
    fate = rng.random()
    if fate < 0.1:
        del node[name]
    elif fate < 0.15:
        deep: Any = []
        for _ in range(rng.choice((50, 400, 3000))):
            deep = [deep]
        node[name] = deep
    elif fate < 0.25 and isinstance(node, dict):
        node[str(rng.choice(VALUES))] = node.pop(name)
    else:
        node[name] = copy.deepcopy(rng.choice(VALUES))
    return tree


BYTES: tuple[Mutator, ...] = (flip, flip, cut, splice, insert, number, number)
TEXT: tuple[Mutator, ...] = (word, word, word, lines, flip, cut, splice, insert)
JSON: tuple[Mutator, ...] = (value, value, value, value, value, flip, cut, insert, word)


def mutated(rng: random.Random, seeds: Sequence[bytes], mutators: Sequence[Mutator]) -> bytes:
    """One seed after one to three mutations."""
    data = rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        mutator = rng.choice(mutators)
        if data:
            try:
                data = mutator(rng, data, seeds)
            except (ValueError, RecursionError):  # what is no longer JSON, or too deep to write
                data = flip(rng, data, seeds)
    return data
