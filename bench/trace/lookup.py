"""Where each of many keys stands among others."""

import numpy as np
from numpy.typing import NDArray

from bench.trace.intervals import Times

# A table this many times longer than its keys still costs less than searching them.
SPARSEST = 16


def find(keys: Times, wanted: Times) -> NDArray[np.int64]:
    """Index into `keys` of each of `wanted`, -1 for none; of equal keys one of them.

    Correlation ids are counted up, so a table by id serves; without one every look-up is a search.
    """
    found = np.full(len(wanted), -1, np.int64)
    if not len(keys):
        return found
    low, high = int(keys.min()), int(keys.max())
    if high - low < SPARSEST * len(keys):
        table = np.full(high - low + 1, -1, np.int32)
        table[keys - low] = np.arange(len(keys), dtype=np.int32)
        inside = (wanted >= low) & (wanted <= high)
        if inside.all():
            return table[wanted - low].astype(np.int64)
        found[inside] = table[wanted[inside] - low]
        return found
    order = np.argsort(keys)
    place = np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)
    candidate = order[place]
    return np.where(keys[candidate] == wanted, candidate, -1)
