"""Damaged forms of a file by a seeded generator: bytes changed, cut, doubled or exchanged, numbers made extreme."""

import re
from collections.abc import Callable

import numpy as np

Mutation = Callable[[np.random.Generator, bytes, bytes], bytes]

EXTREMES = [0, 1, -1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1]
WORDS = [b"0", b"-1", b"7", b"255", b"65536", b"1000000000", b"99999999999999999999", b"1e999", b"NaN", b"0.5", b'"x"']


def mutated(rng: np.random.Generator, content: bytes, other: bytes) -> bytes:
    """The file's content after one to three mutations; `other` is a file of the same format, to take parts from."""
    for mutation in rng.choice(len(MUTATIONS), rng.integers(1, 4)):
        content = MUTATIONS[mutation](rng, content, other) or b"\0"
    return content


def _place(rng: np.random.Generator, content: bytes) -> int:
    """A position in the file, often among the headers at its beginning or end."""
    near = min(len(content), 300)
    start = [0, 0, len(content) - near][way := rng.integers(3)]
    return int(start + rng.integers(len(content) if way == 0 else near))


def _length(rng: np.random.Generator) -> int:
    return int(2 ** rng.uniform(0, 9))


def _changed(rng: np.random.Generator, content: bytes, other: bytes) -> bytes:
    found = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        found[_place(rng, content)] = rng.integers(256)
    return bytes(found)


def _cut(rng: np.random.Generator, content: bytes, other: bytes) -> bytes:
    return content[: _place(rng, content)]


def _doubled(rng: np.random.Generator, content: bytes, other: bytes) -> bytes:
    at, length = _place(rng, content), _length(rng)
    return content[: at + length] + content[at:]


def _left_out(rng: np.random.Generator, content: bytes, other: bytes) -> bytes:
    at = _place(rng, content)
    return content[:at] + content[at + _length(rng) :]


def _spliced(rng: np.random.Generator, content: bytes, other: bytes) -> bytes:
    at, there, length = _place(rng, content), _place(rng, other), _length(rng)
    return content[:at] + other[there : there + length] + content[at + length :]


def _numbered(rng: np.random.Generator, content: bytes, other: bytes) -> bytes:
    """With an extreme number in binary."""
    at, size = _place(rng, content), int(rng.choice([1, 2, 4, 8]))
    number = EXTREMES[rng.integers(len(EXTREMES))] % 2 ** (8 * size)
    return content[:at] + number.to_bytes(size, rng.choice(["little", "big"])) + content[at + size :]


def _reworded(rng: np.random.Generator, content: bytes, other: bytes) -> bytes:
    """With another number in the place of one in digits, near a random position."""
    at = _place(rng, content)
    number = re.compile(rb"\d+").search(content, at, at + 200)
    if number is None:
        return content
    return content[: number.start()] + WORDS[rng.integers(len(WORDS))] + content[number.end() :]


MUTATIONS: list[Mutation] = [_changed, _cut, _doubled, _left_out, _spliced, _numbered, _reworded]
