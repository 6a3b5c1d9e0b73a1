"""tinynet: a neural network written once against the array API standard, on NumPy or CuPy, fed by data that is never
stored."""

from tinynet_backends import (
    Backend,
    BackendUnavailable,
    available_backends,
    get_backend,
    overrides,
    set_backend,
    use_backend,
)

from tinynet import data, export, initializers, losses, metrics, optim, schedules
from tinynet.activations import ELU, GELU, Identity, LeakyReLU, ReLU, Sigmoid, SiLU, Softmax, Softplus, Tanh
from tinynet.checkpoints import Checkpoints
from tinynet.data import Arrays, Dataset, Loader
from tinynet.ensemble import Ensemble
from tinynet.errors import DataFileError, DivergedError, ModelFileError, StopTraining
from tinynet.files import load
from tinynet.fitting import EarlyStopping, fit
from tinynet.history import History
from tinynet.layers import Context, Dense, Flatten, Layer, Residual, Sequential
from tinynet.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Hinge,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    Poisson,
    Quantile,
    SumSquaredError,
)
from tinynet.many import fit_many
from tinynet.model import Model
from tinynet.optim import SGD, Adagrad, Adam, AdamW, Lion, NAdam, RMSprop
from tinynet.regularization import BatchNorm, Dropout, LayerNorm
from tinynet.standardize import Standardize
from tinynet.streams import Stream
from tinynet.training import Report, Run, train

__version__ = "0.1.0"

__all__ = [
    "ELU",
    "GELU",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Arrays",
    "Backend",
    "BackendUnavailable",
    "BatchNorm",
    "BinaryCrossEntropy",
    "Checkpoints",
    "Context",
    "CrossEntropy",
    "DataFileError",
    "Dataset",
    "Dense",
    "DivergedError",
    "Dropout",
    "EarlyStopping",
    "Ensemble",
    "Flatten",
    "Hinge",
    "History",
    "Huber",
    "Identity",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Lion",
    "Loader",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Model",
    "ModelFileError",
    "NAdam",
    "Poisson",
    "Quantile",
    "RMSprop",
    "ReLU",
    "Report",
    "Residual",
    "Run",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Standardize",
    "StopTraining",
    "Stream",
    "SumSquaredError",
    "Tanh",
    "available_backends",
    "data",
    "export",
    "fit",
    "fit_many",
    "get_backend",
    "initializers",
    "load",
    "losses",
    "metrics",
    "optim",
    "overrides",
    "schedules",
    "set_backend",
    "train",
    "use_backend",
]
