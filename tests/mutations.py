"""Seeded damage to bytes, for fuzzing; imports numpy alone, so that a small process can use it."""

from __future__ import annotations

import numpy as np

# sizes, counts and offsets that break readers
ODD_INTEGERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF)


def mutate(content: bytes, seed: tuple[int, ...]) -> bytes:
    """One to eight changes of `content`; half of them within a kilobyte of its ends, where headers and indices lie."""
    random = np.random.default_rng(seed)
    data = bytearray(content)
    for _ in range(1 + min(int(random.geometric(0.4)), 7)):
        change = CHANGES[random.integers(len(CHANGES))]
        if data:
            change(data, _place(len(data), random), random)
    return bytes(data)


def _place(length: int, random: np.random.Generator) -> int:
    near = int(random.integers(min(1024, length)))
    return (int(random.integers(length)), int(random.integers(length)), near, length - 1 - near)[random.integers(4)]


def _flip_bit(data: bytearray, place: int, random: np.random.Generator) -> None:
    data[place] ^= 1 << int(random.integers(8))


def _set_bytes(data: bytearray, place: int, random: np.random.Generator) -> None:
    span = min(int(random.integers(1, 9)), len(data) - place)
    data[place : place + span] = random.bytes(span)


def _set_integer(data: bytearray, place: int, random: np.random.Generator) -> None:
    width = (1, 2, 4, 8)[random.integers(4)]
    value = ODD_INTEGERS[random.integers(len(ODD_INTEGERS))] & (1 << 8 * width) - 1
    order = ("big", "little")[random.integers(2)]
    data[place : place + width] = value.to_bytes(width, order)[: len(data) - place]


def _zero(data: bytearray, place: int, random: np.random.Generator) -> None:
    span = min(int(random.integers(1, 2048)), len(data) - place)
    data[place : place + span] = bytes(span)


def _truncate(data: bytearray, place: int, _: np.random.Generator) -> None:
    del data[place:]


def _remove(data: bytearray, place: int, random: np.random.Generator) -> None:
    del data[place : place + int(random.integers(1, 512))]


def _repeat(data: bytearray, place: int, random: np.random.Generator) -> None:
    data[place:place] = data[place : place + int(random.integers(1, 512))] * int(random.integers(1, 4))


def _copy_over(data: bytearray, place: int, random: np.random.Generator) -> None:
    start, span = int(random.integers(len(data))), int(random.integers(1, 512))
    piece = data[start : start + span][: len(data) - place]
    data[place : place + len(piece)] = piece


CHANGES = (_flip_bit, _set_bytes, _set_integer, _set_integer, _zero, _truncate, _remove, _repeat, _copy_over)
