"""Random covariance matrices and exact factors of them.

A factor L gives correlated noise ``L @ z`` from independent standard normals z. All matrices here are a
random correlation matrix divided by two, as in Li et al. 2023 (arXiv 2301.08940) and fat2thin (arXiv
2501.14373).

A factor that all patients share is one matrix [k, k]. Factors of P patients are kept as a tuple of k rows,
row i as [entries, P]; a row with fewer entries than there are normals ends in zeros.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from dosing.types import Float32Array

Rows = tuple[Float32Array, ...]

ROOT_HALF = np.float32(np.sqrt(0.5))


def lkj_rows(normals: Float32Array) -> Rows:
    """Lower-triangular factors of uniform (LKJ(1)) random correlation matrices, halved.

    The onion method (Lewandowski, Kurowicka, Joe 2009, section 3.2) at eta = 1: of row i of the factor of a
    k x k matrix, the squared length of the first i entries is Beta(i/2, (k+1-i)/2) and their direction
    uniform. Both come from one point uniform on the sphere in R^(k+1): keep its first i coordinates and put
    the length of the rest on the diagonal.

    Args:
        normals: Standard normals [k, k+1, P].

    Returns:
        k rows, row i [i + 1, P], with L L' = R/2.
    """
    k, _, patients = normals.shape
    point = normals * (ROOT_HALF / np.sqrt(np.square(normals).sum(axis=1, keepdims=True)))
    packed = np.empty((k * (k + 1) // 2, patients), dtype=np.float32)  # one piece of memory streams fastest
    rows = tuple(packed[i * (i + 1) // 2 : (i + 1) * (i + 2) // 2] for i in range(k))
    for i, row in enumerate(rows):
        row[:i] = point[i, :i]
        row[i] = np.sqrt(np.square(point[i, i:]).sum(axis=0))
    return rows


def published_rows(uniforms: Float32Array) -> Rows:
    """Exact factors of the published covariance: the sample correlation of k uniform vectors, halved.

    With X [k samples, k variables] and A the k-1 Helmert contrasts (orthonormal, each summing to 0), A X is
    X centred without its redundant dimension: (A X)'(A X) is the scatter matrix. Scaling the columns of A X
    to length one gives corrcoef(X), so (A X)' is a factor for free. It has k-1 columns because the matrix
    has rank k-1: the noise lies in a hyperplane.

    Args:
        uniforms: X as [sample, variable, P].

    Returns:
        k rows [k-1, P], with L L' = corrcoef(X)/2.
    """
    scores = contrasts(uniforms)
    scores *= ROOT_HALF / np.sqrt(np.square(scores).sum(axis=0))
    return tuple(np.ascontiguousarray(scores.swapaxes(0, 1)))


def contrasts(x: Float32Array) -> Float32Array:
    """Return the orthonormal Helmert contrasts [k-1, ...] of ``x`` [k, ...]: each entry against those before.

    Sums in the order of the entries, no matrix product: how that is rounded depends on its size.
    """
    index = np.arange(1, len(x), dtype=np.float32).reshape(-1, *[1] * (x.ndim - 1))
    before = np.cumsum(x[:-1], axis=0, dtype=np.float32)
    size = np.sqrt(index * (index + 1)).astype(np.float32)
    out: Float32Array = (before - index * x[1:]) / size
    return out


def shared_lkj_factor(generator: Generator, k: int) -> Float32Array:
    """Draw one LKJ(1) correlation matrix over two and return its factor [k, k]."""
    factor: Float32Array = matrices(lkj_rows(generator.standard_normal((k, k + 1, 1), dtype=np.float32)))[0]
    return factor


def correlate(rows: Rows, normals: Float32Array, out: Float32Array) -> None:
    """Write ``L @ z`` of each patient to ``out`` [k, P]; the z are ``normals`` [entries, P]."""
    for row, entry in zip(rows, out, strict=True):
        np.einsum("jp,jp->p", row, normals[: len(row)], out=entry)


def matrices(rows: Rows) -> Float32Array:
    """Return the factors of P patients as matrices [P, k, entries]."""
    full = np.zeros((rows[0].shape[1], len(rows), max(len(row) for row in rows)), dtype=np.float32)
    for i, row in enumerate(rows):
        full[:, i, : len(row)] = row.T
    return full
