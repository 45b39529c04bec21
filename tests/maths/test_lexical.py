"""Lexical similarity: bad input and size."""

import numpy as np
import pytest

from steelyard.errors import DataError, SettingError
from steelyard.maths.lexical import bm25, tfidf


@pytest.mark.parametrize("build", [bm25, tfidf])
def test_documents_without_words_are_refused_and_read_once(build) -> None:
    with pytest.raises(DataError, match="holds a word"):
        build(["…", "", "?!"])
    index = build(text for text in ["salt and oil", "", "tea"])
    found = index.similarities(index.queries(["oil", "nothing known", ""]), slice(0, 3))
    assert found[0, 0] > 0 and np.count_nonzero(found) == 1


@pytest.mark.parametrize(("k1", "b"), [(-0.1, 0.5), (1.2, 1.1), (1.2, -0.1)])
def test_settings_out_of_range_are_refused(k1: float, b: float) -> None:
    with pytest.raises(SettingError, match="between 0 and 1"):
        bm25(["a"], k1=k1, b=b)


def test_shards_of_documents_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    documents = [" ".join(rng.choice(["a", "b", "c", "d"], size=5)) for _ in range(30)]
    index = bm25(documents)
    queries = index.queries(documents[:4])
    parts = [index.similarities(queries, slice(start, start + 7)) for start in range(0, 30, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), index.similarities(queries, slice(0, 30)))
