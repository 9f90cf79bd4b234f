"""Random numbers that are a pure function of where they are used: Philox4x32-10.

Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3.
The rounds use only operators on 64-bit integers, with wrap-around and either kind of right shift,
so NumPy arrays, torch tensors and compiled scalars all run this one definition.
"""

from typing import Any

__all__ = ["normal", "philox"]

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: int, k1: int) -> tuple[Any, Any, Any, Any]:
    """Four random 32-bit words for a counter of four words under a key of two.

    Args:
        c0, c1, c2, c3: 64-bit integers (arrays of them) below 2^32.
        k0, k1: integers below 2^32.
    """
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _LOW) ^ c1 ^ k0,
            p1 & _LOW,
            ((p0 >> 32) & _LOW) ^ c3 ^ k1,
            p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def normal(array: Any, index: Any, *, seed: int, t: int, stream: int) -> Any:
    """One draw from N(0, 1) for each element, by Box & Muller's transform in float64.

    Args:
        array: the module that has `index`'s functions: `numpy` or `torch`.
        index: the row-major positions of the elements, int64.
        seed: which noise.
        t: the step.
        stream: which parameter.
    """
    zero = index * 0
    bits = philox(index & _LOW, (index >> 32) & _LOW, zero + t, zero + stream, seed & _LOW, 0)
    # torch divides whole numbers in its default dtype, so they are made float64 first. The first
    # is in (0, 1], so that its logarithm is finite.
    first, second = (array.asarray(b, dtype=array.float64) for b in (bits[0] + 1, bits[1]))
    first, second = first / 2.0**32, second / 2.0**32
    return array.sqrt(-2 * array.log(first)) * array.cos(6.283185307179586 * second)
