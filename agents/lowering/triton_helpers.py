"""Small jit functions that generated kernels may call; a file gets those that it uses."""

from __future__ import annotations

import re

_SOURCES = (
    """\
@triton.jit
def largest(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
""",
    """\
@triton.jit
def smallest(a, b):
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)
""",
    """\
@triton.jit
def product(a, b):
    return a * b
""",
    """\
@triton.jit
def first_largest(a, i, b, j):
    # NaN (the one value that differs from itself) is the largest; of equals the first counts.
    better = (a > b) | ((a != a) & (b == b))
    tie = (a == b) | ((a != a) & (b != b))
    keep = better | (tie & (i < j))
    return tl.where(keep, a, b), tl.where(keep, i, j)
""",
    """\
@triton.jit
def first_smallest(a, i, b, j):
    # NaN (the one value that differs from itself) is the smallest; of equals the first counts.
    better = (a < b) | ((a != a) & (b == b))
    tie = (a == b) | ((a != a) & (b != b))
    keep = better | (tie & (i < j))
    return tl.where(keep, a, b), tl.where(keep, i, j)
""",
    """\
@triton.jit
def divide(a, b):
    # Correctly rounded: the / of f32 is not.
    if a.dtype == tl.float32:
        return tl.div_rn(a, b)
    else:
        return a / b
""",
    """\
@triton.jit
def sigmoid(x):
    return divide(tl.full([], 1.0, x.dtype), 1.0 + libdevice.exp(-x))
""",
    """\
@triton.jit
def one_plus_erf(x):
    # For results of 16 bits, in 60% of the instructions: 2 to a polynomial that is 0 at 0 is erfc of |x|, to 1e-5 up to
    # 4 and 1e-3 up to 9, where it vanishes. Nothing cancels, as it does in a sum that comes near 0.
    a = tl.abs(x)
    p = tl.fma(a, -3.52101068e-08, 2.0268551e-06)
    p = tl.fma(a, p, -4.91580759e-05)
    p = tl.fma(a, p, 0.000672387599)
    p = tl.fma(a, p, -0.00586296571)
    p = tl.fma(a, p, 0.0351185389)
    p = tl.fma(a, p, -0.153640628)
    p = tl.fma(a, p, -0.916515648)
    p = tl.fma(a, p, -1.62815046)
    tail = tl.exp2(a * p)
    return tl.where(x < 0, tail, 2.0 - tail)
""",
    """\
@triton.jit
def float_mod(a, b):
    # torch.remainder: the sign of b.
    r = libdevice.fmod(a, b)
    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)
""",
    """\
@triton.jit
def float_floor_div(a, b):
    # torch.floor_divide, with its intermediate roundings.
    r = libdevice.fmod(a, b)
    q = divide(a - r, b)
    q = tl.where((r != 0) & ((r < 0) != (b < 0)), q - 1, q)
    whole = tl.floor(q)
    whole = tl.where(q - whole > 0.5, whole + 1, whole)
    exact = divide(a, b)
    return tl.where(b == 0, exact, tl.where(q != 0, whole, exact * 0))
""",
    """\
@triton.jit
def floor_div(a, b):
    # Rounds towards minus infinity, where // rounds towards zero.
    q = a // b
    return tl.where((a % b != 0) & ((a < 0) != (b < 0)), q - 1, q)
""",
    """\
@triton.jit
def floor_mod(a, b):
    # The sign of b, where % has that of a.
    r = a % b
    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)
""",
    """\
@triton.jit
def int_pow(a, b, BITS: tl.constexpr):
    # By squaring; a negative exponent gives 0, but ±1 for a base of ±1.
    result = a * 0 + 1
    power = a
    rest = b
    for _ in tl.static_range(BITS):
        result = tl.where((rest & 1) != 0, result * power, result)
        power = power * power
        rest = rest >> 1
    of_negative = tl.where(a == 1, a, tl.where(a == -1, tl.where((b & 1) != 0, a, a * 0 + 1), a * 0))
    return tl.where(b < 0, of_negative, result)
""",
    """\
@triton.jit
def unsigned_pow(a, b, BITS: tl.constexpr):
    result = a * 0 + 1
    power = a
    rest = b
    for _ in tl.static_range(BITS):
        result = tl.where((rest & 1) != 0, result * power, result)
        power = power * power
        rest = rest >> 1
    return result
""",
    """\
@triton.jit
def shift_left(a, b, BITS: tl.constexpr):
    inside = (b >= 0) & (b < BITS)
    return tl.where(inside, a << tl.where(inside, b, b * 0), a * 0)
""",
    """\
@triton.jit
def shift_right(a, b, BITS: tl.constexpr):
    inside = (b >= 0) & (b < BITS)
    return a >> tl.where(inside, b, b * 0 + (BITS - 1))
""",
    """\
@triton.jit
def unsigned_shift_right(a, b, BITS: tl.constexpr):
    inside = b < BITS
    return tl.where(inside, a >> tl.where(inside, b, b * 0), a * 0)
""",
    """\
@triton.jit
def to_int32(x):
    # What does not fit, NaN included, becomes the least integer.
    return tl.where((x >= -2147483648.0) & (x < 2147483648.0), x, -2147483648.0).to(tl.int32)
""",
    """\
@triton.jit
def to_int64(x):
    # What does not fit, NaN included, becomes the least integer.
    return tl.where((x >= -9223372036854775808.0) & (x < 9223372036854775808.0), x, -9223372036854775808.0).to(tl.int64)
""",
    """\
@triton.jit
def next_half(a, b, INF: tl.constexpr):
    # The next 16-bit float after a towards b, by their bits; INF is the pattern of infinity.
    i = a.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
    j = b.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
    size = i & 0x7FFF
    # On the line of all values, with both zeros at 0.
    here = tl.where(i >= 0x8000, -size, size)
    there = tl.where(j >= 0x8000, -(j & 0x7FFF), j)
    moved = tl.where(here < there, here + 1, here - 1)
    bits = tl.where(moved < 0, 0x8000 - moved, tl.where((moved == 0) & (here < 0), 0x8000, moved))
    bits = tl.where(here == there, i, bits)
    bits = tl.where((size > INF) | ((j & 0x7FFF) > INF), 0x7FFF, bits)
    return bits.to(tl.int16).to(a.dtype, bitcast=True)
""",
)
_DEFINED = re.compile(r"^def (\w+)\(", re.MULTILINE)
_CALLED = re.compile(r"(?<![\w.])([A-Za-z_]\w*)(?=[(,)])")


def _named() -> dict[str, str]:
    named: dict[str, str] = {}
    for source in _SOURCES:
        found = _DEFINED.search(source)
        assert found is not None
        named[found[1]] = source
    return named


HELPERS: dict[str, str] = _named()
"""Function -> source, in an order in which they can stand."""


def helpers(body: str) -> list[str]:
    """The sources of the helpers that `body` calls or passes on, and of those that they call."""
    used: set[str] = set()
    todo = [body]
    while todo:
        for word in set(_CALLED.findall(todo.pop())):
            if word in HELPERS and word not in used:
                used.add(word)
                todo.append(HELPERS[word])
    return [source for name, source in HELPERS.items() if name in used]
