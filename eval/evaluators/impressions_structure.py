"""The structure of impressions: which attributes go together, for people and for a model.

Source: Wolfe, Dangol, Hiniker and Howe (2024): matrices of Pearson's r between attributes over faces, compared by their
normalised Frobenius product, and clustered by Ward's method. Here both matrices are clustered in the same way.
"""

import numpy as np
from scipy.cluster import hierarchy

from eval.stats import Floats


def correlation_matrix(values: Floats) -> Floats:
    """Pearson's r between attributes over faces: (faces, k) to (k, k); 0 with an attribute that is constant."""
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = np.atleast_2d(np.nan_to_num(np.corrcoef(values, rowvar=False), nan=0.0))
    np.fill_diagonal(matrix, 1.0)
    return matrix


def frobenius_similarity(one: Floats, other: Floats) -> float:
    """⟨A, B⟩ / (‖A‖ ‖B‖) in the Frobenius norm: 1 for matrices that are equal up to a positive factor.

    The diagonals, all ones, are counted as in the source, so that it is above 0 for unrelated matrices.
    """
    return float((one * other).sum() / (np.linalg.norm(one) * np.linalg.norm(other)))


def ward_clusters(matrix: Floats) -> Floats:
    """Ward's hierarchy of attributes by the Euclidean distance of their rows of correlations: (k - 1, 4) for scipy."""
    links: Floats = hierarchy.linkage(matrix, method="ward")
    return links
