"""An encoder without a model: hashed character n-grams, weighted by rarity and reduced by SVD. It needs nothing but the training texts, and reads spelling, not meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planish.lazy import require

NGRAMS = (2, 5)
BUCKETS = 2**14
DIMENSIONS = 256


@dataclass(frozen=True)
class CharNgrams:
    """`idf` (F,) is the weight of each bucket; `components` (H, F) turns weighted counts into a vector."""

    idf: NDArray[np.float64]
    components: NDArray[np.float64]

    def embed(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Unit-length vectors (n, H); a text of which nothing is known is all zeros."""
        vectors: NDArray[np.float64] = np.asarray(_normalised(_counts(texts).multiply(self.idf).tocsr()) @ self.components.T, dtype=np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors


def fit(texts: Sequence[str], *, seed: int = 0) -> CharNgrams:
    """Learn rarity and directions from the training texts. Deterministic for one seed. Source: latent semantic analysis, Deerwester et al. 1990.

    idf = ln((1 + N) / (1 + n)) + 1, as scikit-learn's TfidfTransformer has it."""
    counts = _counts(texts)
    having = np.asarray((counts > 0).sum(axis=0)).ravel()
    idf = np.log((1 + len(texts)) / (1 + having)) + 1
    weighted = _normalised(counts.multiply(idf).tocsr())
    wanted = min(DIMENSIONS, len(texts) - 1, BUCKETS - 1)
    svd = require("sklearn.decomposition", extra="classifier").TruncatedSVD(max(1, wanted), random_state=seed).fit(weighted)
    return CharNgrams(idf, np.asarray(svd.components_, dtype=np.float64))


def _counts(texts: Sequence[str]) -> Any:
    """How often each bucket occurs in each text, (n, F) sparse; n-grams do not cross words."""
    vectoriser = require("sklearn.feature_extraction.text", extra="classifier").HashingVectorizer
    return vectoriser(analyzer="char_wb", ngram_range=NGRAMS, n_features=BUCKETS, alternate_sign=False, norm=None).transform(texts)


def _normalised(rows: Any) -> Any:
    return require("sklearn.preprocessing", extra="classifier").normalize(rows)
