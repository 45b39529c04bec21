"""Lexical similarity of texts: BM25 and TF-IDF as products of sparse matrices.

Tokens are runs of word characters (Unicode letters, digits, underscore), lowercased; nothing is stemmed and no
word is left out. Only words that occur in a document count. Both similarities are built once over the documents
and answer any number of queries by one sparse product, without a loop over tokens.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from steelyard.errors import DataError, SettingError

if TYPE_CHECKING:
    from scipy import sparse

TOKEN = r"(?u)\b\w+\b"


@dataclass(frozen=True, eq=False)
class LexicalIndex:
    """Documents with weighted terms, and what turns queries into the same terms.

    Attributes:
        documents: ``float64["document term"]`` Sparse weights; a similarity is a dot product with a query's row.
        idf: Weight of each term on the query side.
        cosine: Whether both sides have length one.
        counter: The fitted tokeniser and vocabulary.
    """

    documents: "sparse.csr_matrix"
    idf: Float[np.ndarray, " term"]
    cosine: bool
    counter: Any

    def queries(self, texts: Iterable[str]) -> "sparse.csr_matrix":
        """``float64["query term"]`` Queries as rows; words that no document has are ignored."""
        counts = self.counter.transform(texts).astype(np.float64)
        return _unit(counts.multiply(self.idf[None, :]).tocsr()) if self.cosine else counts

    def similarities(self, queries: "sparse.csr_matrix", rows: slice) -> Float[np.ndarray, "document query"]:
        """Similarity of the documents in ``rows`` to every query; higher is more similar, 0 shares no word."""
        return (self.documents[rows] @ queries.T).toarray()


def bm25(texts: Iterable[str], *, k1: float = 1.2, b: float = 0.75) -> LexicalIndex:
    r"""Okapi BM25 over the documents.

    .. math:: s(q, d) = \sum_{t \in q} \ln\Big(1 + \frac{N - n_t + 1/2}{n_t + 1/2}\Big)
        \frac{f_{td} (k_1 + 1)}{f_{td} + k_1 (1 - b + b\, l_d / \bar l)}

    with :math:`f_{td}` the occurrences of t in d, :math:`n_t` the documents with t, and :math:`l_d` the number of
    tokens in d. A word that the query repeats counts each time.

    Cost: one pass over the texts; memory one number per distinct word of each document.

    Args:
        texts: The documents; read once.
        k1: How soon repetitions stop counting; 0 counts presence only.
        b: How much long documents are discounted: 0 not at all, 1 in proportion.

    Raises:
        SettingError: If ``k1`` is negative or ``b`` not between 0 and 1.
        DataError: If no document holds a word.

    Example:
        >>> index = bm25(["the cat sat", "the dog ran far", "a cat and a dog"])
        >>> index.similarities(index.queries(["cat"]), slice(0, 3)).ravel().round(3)
        array([0.524, 0.   , 0.426])

    Source: Robertson & Zaragoza (2009), "The Probabilistic Relevance Framework: BM25 and Beyond", eq. 3.15, with
    k1 and b as Lucene sets them. Deviations: 1 + inside the logarithm (as in Lucene), so that words in more than
    half of the documents do not count against; no saturation of repeated query words (k3 unlimited).
    """
    if k1 < 0 or not 0 <= b <= 1:
        raise SettingError(f"k1={k1}, b={b}.", fix="k1 is at least 0, b lies between 0 and 1.")
    counter, counts = _count(texts)
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    total, holding = len(lengths), counts.getnnz(axis=0)
    idf = np.log1p((total - holding + 0.5) / (holding + 0.5))
    discount = k1 * (1.0 - b + b * lengths / lengths.mean())
    frequency = counts.data
    counts.data = frequency * (k1 + 1.0) / (frequency + np.repeat(discount, np.diff(counts.indptr)))
    return LexicalIndex(counts.multiply(idf[None, :]).tocsr(), np.ones(len(idf)), False, counter)


def tfidf(texts: Iterable[str]) -> LexicalIndex:
    r"""Cosine of TF-IDF vectors: occurrences times :math:`\ln\frac{1 + N}{1 + n_t} + 1`, at length one.

    Cost: as :func:`bm25`.

    Raises:
        DataError: If no document holds a word.

    Example:
        >>> index = tfidf(["the cat sat", "the dog ran far", "the cat sat"])
        >>> index.similarities(index.queries(["the cat sat"]), slice(0, 3)).ravel().round(3)
        array([1.   , 0.155, 1.   ])

    Source: Salton & Buckley (1988), "Term-weighting approaches in automatic text retrieval", with the smoothed
    inverse document frequency of scikit-learn's ``TfidfTransformer``.
    """
    counter, counts = _count(texts)
    total, holding = len(counts.indptr) - 1, counts.getnnz(axis=0)
    idf = np.log((1.0 + total) / (1.0 + holding)) + 1.0
    return LexicalIndex(_unit(counts.multiply(idf[None, :]).tocsr()), idf, True, counter)


def _count(texts: Iterable[str]) -> tuple[Any, "sparse.csr_matrix"]:
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(token_pattern=TOKEN)
    try:
        counts: Any = counter.fit_transform(texts)
    except ValueError as error:
        if "empty vocabulary" not in str(error):
            raise
        raise DataError(
            "no training text holds a word (a run of letters or digits).",
            fix="name the text column, or use embedding_cosine.",
        ) from error
    return counter, counts.astype(np.float64).tocsr()


def _unit(rows: "sparse.csr_matrix") -> "sparse.csr_matrix":
    lengths = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    rows.data = rows.data / np.repeat(lengths, np.diff(rows.indptr))
    return rows
