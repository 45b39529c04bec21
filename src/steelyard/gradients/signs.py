"""Random projections, the part without torch: signs that depend on a seed and a name, not on device or library.

Source: Johnson & Lindenstrauss (1984); Achlioptas (2003), "Database-friendly random projections"; the two-sided
form is that of Choe et al. (2024), "What is Your Data Worth to GPT? LLM-Scale Data Valuation with Influence
Functions" (LoGra), with random in place of PCA initialisation; the sparse forms are those of Hu et al. (2025),
"GraSS: Scalable Data Attribution with Gradient Sparsification and Sparse Projection".
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int64

Kind = Literal["dense", "two-sided", "sparse", "factored-sparse"]


@dataclass(frozen=True)
class Projection:
    """How gradients are made short.

    Attributes:
        dimension: Numbers per example in all (dense), or per block at most (two-sided).
        kind: ``"dense"``: one Rademacher matrix over all parameters, unbiased for dot products, costs
            parameters times dimension multiplications per example. ``"two-sided"``: ``P_out^T G P_in`` per
            block, formed from the factors, costs (in + out) times the square root of dimension.
            ``"sparse"``: per block ``mask`` times dimension entries of the gradient, drawn without replacement,
            with random signs, added up in groups of ``mask``; costs as many multiplications.
            ``"factored-sparse"``: the same from the gradient of drawn rows and columns alone, so that the draw
            needs no index per entry.
        seed: Which matrices.
        mask: Entries per number that is kept; for the sparse kinds.
    """

    dimension: int = 512
    kind: Kind = "dense"
    seed: int = 0
    mask: int = 4


def rademacher(rows: int, columns: int, *, seed: int, name: str) -> Float[np.ndarray, "rows columns"]:
    """Independent signs ±1, the same for the same seed and name on every machine.

    Cost: one pseudo-random bit per entry (Philox counter generator keyed by the name).
    """
    raw = _bits(seed, name).random_raw((rows * columns + 63) // 64)
    signs = np.unpackbits(raw.view(np.uint8), bitorder="little")[: rows * columns]
    return (signs.astype(np.float32) * 2.0 - 1.0).reshape(rows, columns)


def sides(shape: tuple[int, int], dimension: int) -> tuple[int, int]:
    """Kept rows and columns of a two-sided projection, never more than the block has.

    Near square, for the least variance; where a multiple of 8 divides the dimension it is taken (512 = 16 x 32),
    because processors multiply such widths a third faster, and the longer side of the block keeps the fewer.
    """
    rows, columns = shape
    root = int(dimension**0.5)
    exact = [side for side in range(8, root + 1, 8) if dimension % side == 0 and 2 * side >= root]
    side = max(1, max(exact, default=root))
    if columns > rows:
        kept_columns = min(columns, side)
        kept_rows = min(rows, max(1, dimension // kept_columns))
        return kept_rows, min(columns, max(1, dimension // kept_rows))
    kept_rows = min(rows, side)
    kept_columns = min(columns, max(1, dimension // kept_rows))
    return min(rows, max(1, dimension // kept_columns)), kept_columns


def drawn(total: int, kept: int, *, seed: int, name: str) -> Int64[np.ndarray, " kept"]:
    """Different numbers below ``total`` in random order, the same for the same seed and name on every machine.

    Cost: a few pseudo-random words per drawn number, or a sort of ``total`` words where most are drawn.
    """
    bits = _bits(seed, name)
    if 4 * kept >= total:
        return np.argsort(bits.random_raw(total), kind="stable")[:kept].astype(np.int64)
    found = np.zeros(0, dtype=np.int64)
    while len(found) < kept:
        # The remainder favours small numbers by total / 2**64, which no experiment could notice.
        more = (bits.random_raw(2 * kept) % np.uint64(total)).astype(np.int64)
        both = np.concatenate([found, more])
        found = both[np.sort(np.unique(both, return_index=True)[1])]
    return found[:kept]


def _bits(seed: int, name: str) -> np.random.Philox:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()
    return np.random.Philox(key=int.from_bytes(digest, "little"))
