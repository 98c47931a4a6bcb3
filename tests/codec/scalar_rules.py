"""The rules of docs/format.md, one element at a time in Python's own floats: slow, and independent of numpy.

A float64 operation on two float32, rounded to float32, is that operation rounded once (Figueroa, 1995).
"""

import math
import struct

INFINITY = math.inf
LARGEST = 2.0**128 - 2.0**103  # from here on the nearest float32 is infinity


def floats(data):
    return [number for (number,) in struct.iter_unpack("<f", data)]


def single(number):
    if abs(number) >= LARGEST:
        return math.copysign(INFINITY, number)
    return struct.unpack("<f", struct.pack("<f", number))[0]


def divide(a, b):
    if b == 0:
        return math.nan if a == 0 or a != a else math.copysign(INFINITY, math.copysign(1, a) * math.copysign(1, b))
    return a / b


def root(a):
    return a if a == 0 else math.nan if not a >= 0 else math.sqrt(a)


def stored(number):
    return b"\0\0\xc0\x7f" if number != number else struct.pack("<f", number)


def second_moment(numbers, v0, m0, m1):
    g = single(m0 + (m1 - m0) * numbers["gain"])
    return stored(single(single(v0 * numbers["keep"]) + single(g * numbers["take"]) * g))


def weight(numbers, w0, m1, v1):
    below = single(single(divide(single(root(v1)), numbers["root"])) + numbers["eps"])
    step = single(divide(single(m1 * numbers["rate"]), below))
    return stored(single(single(w0 * numbers["decay"]) + step))


def apply(rule, numbers, bases):
    one = {"adamw.second_moment": second_moment, "adamw.weight": weight}[rule]
    return b"".join(one(numbers, *each) for each in zip(*map(floats, bases), strict=True))
