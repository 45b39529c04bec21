"""Farthest-point clustering on a matrix of similarities (Gonzalez 1985), as used by Guo et al. (2024)."""

import numpy as np
from jaxtyping import Float, Int


def farthest_point_clusters(
    similarity: Float[np.ndarray, "point point"], count: int, first: int | None = None
) -> tuple[Int[np.ndarray, " cluster"], Int[np.ndarray, " point"]]:
    """Heads, each the point that is least like its own head so far, and the head that every point is most like.

    Cost: count times points.

    Args:
        similarity: Symmetric; high is alike.
        count: How many clusters.
        first: The first head; the point with the largest similarity to itself if None, as in the official code.

    Returns:
        Positions of the heads in the order in which they were found, and for every point the number of its cluster.

    Example:
        >>> heads, member = farthest_point_clusters(np.array([[1, .9, 0], [.9, 1, 0], [0, 0, 1]]), 2, first=0)
        >>> heads.tolist(), member.tolist()
        ([0, 2], [0, 0, 1])
    """
    start = int(np.argmax(np.diag(similarity))) if first is None else first
    heads, member = [start], np.zeros(len(similarity), dtype=np.int64)
    nearest = similarity[start].astype(np.float64).copy()
    nearest[start] = np.inf
    while len(heads) < min(count, len(similarity)):
        head = int(np.argmin(nearest))
        closer = similarity[head] > nearest
        nearest = np.where(closer, similarity[head], nearest)
        member[closer] = len(heads)
        nearest[head], member[head] = np.inf, len(heads)
        heads.append(head)
    return np.array(heads), member
