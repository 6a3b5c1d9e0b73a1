"""Data sets by index: virtual ones, computed where they are used, stored ones, and the loader."""

from tinynet.data.arrays import Arrays
from tinynet.data.batches import Batches
from tinynet.data.classification import (
    AnisotropicBlobs,
    Blobs,
    Checkerboard,
    Circles,
    GaussianQuantiles,
    Logistic,
    Moons,
    Parity,
    Spirals,
)
from tinynet.data.columns import Columns
from tinynet.data.concatenated import Concatenated
from tinynet.data.dataset import Batch, Dataset, Part
from tinynet.data.loader import Loader
from tinynet.data.regression import (
    Friedman1,
    Friedman2,
    Friedman3,
    Linear,
    Polynomial,
    Sinusoid,
    SparseUncorrelated,
    Teacher,
)
from tinynet.data.sources import as_dataset, read, write
from tinynet.data.subset import Subset, stratified
from tinynet.data.virtual import Virtual
from tinynet.data.wrappers import FeatureNoise, Imbalanced, LabelNoise, Nuisance

DATASETS: dict[str, type[Virtual]] = {
    "spirals": Spirals,
    "blobs": Blobs,
    "anisotropic_blobs": AnisotropicBlobs,
    "moons": Moons,
    "circles": Circles,
    "checkerboard": Checkerboard,
    "parity": Parity,
    "gaussian_quantiles": GaussianQuantiles,
    "logistic": Logistic,
    "linear": Linear,
    "friedman1": Friedman1,
    "friedman2": Friedman2,
    "friedman3": Friedman3,
    "sinusoid": Sinusoid,
    "polynomial": Polynomial,
    "sparse_uncorrelated": SparseUncorrelated,
    "teacher": Teacher,
}

__all__ = [
    "DATASETS",
    "AnisotropicBlobs",
    "Arrays",
    "Batch",
    "Batches",
    "Blobs",
    "Checkerboard",
    "Circles",
    "Columns",
    "Concatenated",
    "Dataset",
    "FeatureNoise",
    "Friedman1",
    "Friedman2",
    "Friedman3",
    "GaussianQuantiles",
    "Imbalanced",
    "LabelNoise",
    "Linear",
    "Loader",
    "Logistic",
    "Moons",
    "Nuisance",
    "Parity",
    "Part",
    "Polynomial",
    "Sinusoid",
    "SparseUncorrelated",
    "Spirals",
    "Subset",
    "Teacher",
    "Virtual",
    "as_dataset",
    "read",
    "stratified",
    "write",
]
