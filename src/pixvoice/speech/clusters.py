"""k-means over frames of speech, and which cluster a frame belongs to.

Sources: Lloyd 1982, "Least squares quantization in PCM"; Arthur and Vassilvitskii 2007, "k-means++".

Letters: N clusters, F frames, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pixvoice.errors import InputError

ROUNDS = 30  # after so many, centroids of speech hardly move
SEEDING = 100  # frames a cluster that k-means++ chooses its beginning from


def nearest(frames: Tensor, centroids: Tensor) -> Tensor:
    """Frames (..., D) and centroids (N, D) -> the number of each frame's nearest centroid (...)."""
    return torch.argmax(frames @ centroids.T - 0.5 * centroids.square().sum(-1), dim=-1)


def fit_kmeans(frames: Tensor, count: int, seed: int) -> Tensor:
    """Frames (F, D) -> ``count`` centroids (N, D); the same for the same ``seed``.

    A cluster that nothing is nearest to takes the frame that lies farthest from its own centroid.

    Raises InputError if there are fewer frames than clusters.
    """
    if len(frames) < count:
        raise InputError(f"{len(frames)} frames of speech are too few for {count} clusters: give more recordings")
    centroids = _spread(frames, count, torch.Generator().manual_seed(seed))
    for _ in range(ROUNDS):
        owner = nearest(frames, centroids)
        sizes = torch.bincount(owner, minlength=count)
        sums = torch.zeros_like(centroids).index_add_(0, owner, frames)
        moved = sums / sizes.clamp(min=1)[:, None]
        empty = sizes == 0
        if empty.any():
            distances = (frames - centroids[owner]).square().sum(-1)
            moved[empty] = frames[distances.topk(int(empty.sum())).indices]
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return centroids


def _spread(frames: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of the frames, each drawn with a probability that grows with its distance from those before it."""
    some = frames[torch.randperm(len(frames), generator=generator)[: SEEDING * count]]
    chosen = [0]
    distances = (some - some[0]).square().sum(-1)
    for _ in range(count - 1):
        weights = distances if bool(distances.any()) else torch.ones_like(distances)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
        distances = torch.minimum(distances, (some - some[chosen[-1]]).square().sum(-1))
    return some[chosen].clone()
