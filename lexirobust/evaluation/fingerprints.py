"""What tells classifiers apart: their weights, and what they say of a few samples."""

import hashlib
from typing import Any, Final

import keras
import numpy as np

_CLASSES: Final = 10


def digest_weights(classifier: Any) -> str | None:
    """Tells two Keras models apart; other callables show no weights.

    Args:
        classifier: Any callable.

    Returns:
        16 hexadecimal digits, or `None`.
    """
    if not isinstance(classifier, keras.Layer):
        return None
    digest = hashlib.sha256()
    for weight in classifier.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()[:16]


def few_logits(logits: Any, again: Any) -> list[list[float]] | None:
    """Tells two callables apart, and networks of the same weights around which something differs.

    Numbers and no digest of them: other machines, devices and types round differently, and however
    coarse a digest is, some number lies where it changes.

    Args:
        logits: `[n, C]`: of a few samples.
        again: The same of a second call.

    Returns:
        Those of the first classes, with four digits; `None` where they are not finite, or two calls
        differ, as of randomized classifiers.
    """
    logits = np.asarray(logits, np.float64)
    if not np.isfinite(logits).all() or not np.array_equal(logits, again):
        return None
    return [[float(f"{value:.4g}") for value in row[:_CLASSES]] for row in logits]
