"""BM25 and TF-IDF against loops over tokens in dictionaries."""

import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.maths.lexical import bm25, tfidf

pytestmark = pytest.mark.reference

WORDS = ["Salt", "oil", "tea", "a", "the", "naïve", "x1", "co-op", "don't", "日本", "…", ""]
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), min_size=1, max_size=8)


def _tokens(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _bm25(documents: list[str], query: str, k1: float, b: float) -> list[float]:
    counts = [Counter(_tokens(text)) for text in documents]
    mean = sum(sum(count.values()) for count in counts) / len(counts)
    scores = []
    for count in counts:
        score = 0.0
        for token in _tokens(query):
            holding = sum(token in other for other in counts)
            if holding:
                idf = math.log(1 + (len(counts) - holding + 0.5) / (holding + 0.5))
                norm = k1 * (1 - b + b * sum(count.values()) / mean)
                score += idf * count[token] * (k1 + 1) / (count[token] + norm) if count[token] else 0.0
        scores.append(score)
    return scores


def _tfidf(documents: list[str], query: str) -> list[float]:
    counts = [Counter(_tokens(text)) for text in documents]

    def vector(count: Counter[str]) -> dict[str, float]:
        holding = {token: sum(token in other for other in counts) for token in count}
        return {
            t: n * (math.log((1 + len(counts)) / (1 + holding[t])) + 1)
            for t, n in count.items()
            if holding[t]
        }

    def length(values: dict[str, float]) -> float:
        return math.sqrt(sum(value * value for value in values.values()))

    asked = vector(Counter(_tokens(query)))
    scores = []
    for count in counts:
        own = vector(count)
        product = sum(own.get(token, 0.0) * value for token, value in asked.items())
        scores.append(product / (length(own) * length(asked)) if product else 0.0)
    return scores


@settings(max_examples=120, deadline=None)
@given(TEXTS, TEXTS, st.sampled_from([(1.2, 0.75), (0.0, 0.0), (2.0, 1.0), (0.9, 0.4)]))
def test_every_pair(documents: list[str], queries: list[str], parameters: tuple[float, float]) -> None:
    documents = [*documents, "one more word"]
    k1, b = parameters
    index, rows = bm25(documents, k1=k1, b=b), slice(0, len(documents))
    found = index.similarities(index.queries(queries), rows)
    expected = np.array([_bm25(documents, query, k1, b) for query in queries]).T
    np.testing.assert_allclose(found, expected, atol=1e-12)
    index = tfidf(documents)
    found = index.similarities(index.queries(queries), rows)
    expected = np.array([_tfidf(documents, query) for query in queries]).T
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_tfidf_equals_scikit_learn() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    rng = np.random.default_rng(0)
    documents = [" ".join(rng.choice(WORDS[:7], size=9)) for _ in range(50)]
    vectoriser = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b")
    expected = (vectoriser.fit_transform(documents) @ vectoriser.transform(documents[:5]).T).toarray()
    index = tfidf(documents)
    np.testing.assert_allclose(
        index.similarities(index.queries(documents[:5]), slice(0, 50)), expected, atol=1e-12
    )
