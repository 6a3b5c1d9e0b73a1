from typing import Any

from tinynet.data.arrays import Arrays
from tinynet.data.dataset import Dataset


def as_dataset(data: Any) -> Dataset:
    """A data set of ours as it is; (X, y) or (X, y, weight) as `Arrays`."""
    if isinstance(data, Dataset):
        return data
    if isinstance(data, (tuple, list)) and len(data) in (2, 3):
        return Arrays(*data)
    raise TypeError(
        f"data {type(data).__name__} is not understood: give a data set, or a tuple (X, y) or (X, y, weight)"
    )
