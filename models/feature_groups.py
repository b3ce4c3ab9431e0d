"""Groups of neighbouring features, for which the service watches drift."""

import itertools

Span = tuple[str, int, int]  # name, start and stop of a group of neighbouring features
MAX_GROUPS = 32  # groups of features that have no order of their own


def even(n_features: int) -> list[Span]:
    """One group for each feature, or `MAX_GROUPS` runs of neighbours if there are more features than that.

    Example
    -------
    >>> even(2), even(64)[:2]
    ([('0', 0, 1), ('1', 1, 2)], [('0–1', 0, 2), ('2–3', 2, 4)])
    """
    n = min(MAX_GROUPS, n_features)
    edges = [round(i * n_features / n) for i in range(n + 1)]
    return [(f"{a}" if b == a + 1 else f"{a}–{b - 1}", a, b) for a, b in itertools.pairwise(edges)]
