"""Random covariance matrices and exact factors of them.

A factor L gives correlated noise ``L @ z`` from independent standard normals z. All matrices here are a
random correlation matrix divided by two, as in Li et al. 2023 (arXiv 2301.08940) and fat2thin (arXiv
2501.14373).
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Array = NDArray[np.float32]


def lkj_factor(normals: Array) -> Array:
    """Lower-triangular factor of a uniform (LKJ(1)) random correlation matrix, halved.

    The onion method (Lewandowski, Kurowicka, Joe 2009, section 3.2) at eta = 1: row i of the factor of a k
    x k matrix has squared length of its first i entries ~ Beta(i/2, (k+1-i)/2) and a uniform direction.
    Both come from one point uniform on the sphere in R^(k+1): keep its first i coordinates, put the length
    of the rest on the diagonal.

    Args:
        normals: Standard normals [..., k, k+1, W], W patients last.

    Returns:
        [..., k, k, W] float32: L with L L' = R/2.
    """
    k = normals.shape[-3]
    point = normals / np.sqrt(np.square(normals).sum(axis=-2, keepdims=True))
    factor = np.zeros((*normals.shape[:-3], k, k, normals.shape[-1]), dtype=np.float32)
    for i in range(k):
        factor[..., i, :i, :] = point[..., i, :i, :]
        factor[..., i, i, :] = np.sqrt(np.square(point[..., i, i:, :]).sum(axis=-2))
    factor *= np.float32(np.sqrt(0.5))
    return factor


def published_factor(uniforms: Array) -> Array:
    """Exact factor of the published covariance: the sample correlation of k uniform vectors, halved.

    With X [k samples, k variables] centred and its columns scaled to length one, corrcoef(X) = X'X, so X'
    itself is the factor. Centring k samples leaves rank k-1: the noise lies in a hyperplane.

    Args:
        uniforms: X as [..., sample, variable, W].

    Returns:
        [..., k, k, W] float32: L with L L' = corrcoef(X)/2.
    """
    x = uniforms - uniforms.mean(axis=-3, keepdims=True)
    x /= np.sqrt(np.square(x).sum(axis=-3, keepdims=True))
    x *= np.float32(np.sqrt(0.5))
    return np.ascontiguousarray(np.swapaxes(x, -3, -2))


def shared_lkj_factor(generator: Generator, k: int) -> Array:
    """Draw one LKJ(1) correlation matrix over two and return its factor [k, k]."""
    return lkj_factor(generator.standard_normal((k, k + 1, 1), dtype=np.float32))[..., 0]


def correlate(factor: Array, normals: Array, out: Array) -> None:
    """Write ``factor @ normals`` to ``out`` [B, k, W]; the factor is [k, k] or one each, [B, k, k, W]."""
    if factor.ndim == 2:
        np.matmul(factor, normals, out=out)
    else:
        np.einsum("bijw,bjw->biw", factor, normals, out=out)


def covariance(factor: Array) -> NDArray[np.float64]:
    """Return L L' in float64: [k, k] for a shared factor, [n, k, k] for factors [n, k, k]."""
    wide = factor.astype(np.float64)
    return wide @ np.swapaxes(wide, -1, -2)
