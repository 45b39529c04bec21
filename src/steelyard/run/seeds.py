"""Named streams of random numbers from one seed: equal on every machine, and independent of one another.

Each use of randomness names its stream, so that adding one never shifts the numbers of another.
"""

import hashlib

import numpy as np


def stream(seed: int, *names: str | int) -> int:
    """The seed of a named stream: 63 bits of BLAKE2b over the seed and the names.

    Depends on nothing but its arguments: not on the machine, nor on the versions of Python and NumPy.
    The text ``"1"`` and the number ``1`` are different names, and ``("ab", "c")`` is not ``("a", "bc")``.

    Cost: about a microsecond.

    Args:
        seed: The user's seed; any integer.
        *names: What the stream is for, from general to special: ``stream(seed, "ensemble", 3)``.

    Returns:
        An integer in [0, 2**63). Take it modulo 2**32 for scikit-learn.

    Example:
        >>> stream(0, "ensemble", 1) == stream(0, "ensemble", 1)
        True
        >>> stream(0, "ensemble", 1) == stream(0, "ensemble", "1")
        False
    """
    digest = hashlib.blake2b(digest_size=8, person=b"steelyard-1")
    for part in (seed, *names):
        text = f"i{int(part)}" if isinstance(part, int | np.integer) else f"s{part}"
        content = text.encode()
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return int.from_bytes(digest.digest(), "little") >> 1


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator (PCG64) at the start of the named stream.

    Args:
        seed: The user's seed.
        *names: As in :func:`stream`.
    """
    return np.random.Generator(np.random.PCG64(stream(seed, *names)))
