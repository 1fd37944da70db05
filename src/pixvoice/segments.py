"""Which unit each frame of speech is, where beginning another one has a price: fewer, longer segments, and less noise.

Source: Kamper and van Niekerk 2021, "Towards unsupervised phone and word segmentation using self-supervised
vector-quantized neural networks" (arXiv 2012.07551): a price that is linear in the number of segments.

Letters: F frames, N units.
"""

from __future__ import annotations

import numpy as np

from pixvoice.contracts import Codes, Floats


def cheapest_units(distances: Floats, segment_cost: float) -> Codes:
    """The units of frames (F,) whose ``distances`` (F, N), and ``segment_cost`` for each change, sum to least.

    Dynamic programming over frames; without a price it is the nearest unit of each frame.
    """
    if segment_cost == 0.0 or not len(distances):
        return np.asarray(distances.argmin(axis=1), dtype=np.int64)
    frames, count = distances.shape
    before = np.empty((frames, count), np.int64)  # the unit of the frame before, in the cheapest way to each unit
    costs = distances[0].astype(np.float64)
    for frame in range(1, frames):
        cheapest = int(costs.argmin())
        stays = costs <= costs[cheapest] + segment_cost
        before[frame] = np.where(stays, np.arange(count), cheapest)
        costs = np.where(stays, costs, costs[cheapest] + segment_cost) + distances[frame]
    units = np.empty(frames, np.int64)
    units[-1] = costs.argmin()
    for frame in range(frames - 1, 0, -1):
        units[frame - 1] = before[frame, units[frame]]
    return units
