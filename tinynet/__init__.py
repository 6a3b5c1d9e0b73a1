"""A neural network written once against the array API standard, on NumPy or CuPy, fed by data that is never stored."""

from tinynet_backends import (
    Backend,
    BackendUnavailable,
    available_backends,
    get_backend,
    overrides,
    set_backend,
    use_backend,
)

from tinynet import data, export, initializers, losses, metrics, optim, plot, schedules
from tinynet.activations import ELU, GELU, Identity, LeakyReLU, ReLU, Sigmoid, SiLU, Softmax, Softplus, Tanh
from tinynet.checkpoints import Checkpoints
from tinynet.data import Arrays, Dataset, Loader
from tinynet.dense import Dense, Flatten
from tinynet.diagnosis import Diagnosis, Finding
from tinynet.ensemble import Ensemble
from tinynet.epochs import EarlyStopping
from tinynet.errors import DataFileError, DivergedError, GradientError, Interrupted, ModelFileError, StopTraining
from tinynet.files import load
from tinynet.fitting import fit
from tinynet.frozen import Frozen
from tinynet.gradients import check_gradients
from tinynet.history import History
from tinynet.layers import Context, Layer
from tinynet.logs import CSVLog, JSONLines, TensorBoard
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
from tinynet.rates import RateTest, find_rate
from tinynet.regularization import BatchNorm, Dropout, LayerNorm
from tinynet.sequential import Residual, Sequential
from tinynet.standardize import Standardize
from tinynet.step import Run
from tinynet.streams import Stream
from tinynet.training import Report, train

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
    "CSVLog",
    "Checkpoints",
    "Context",
    "CrossEntropy",
    "DataFileError",
    "Dataset",
    "Dense",
    "Diagnosis",
    "DivergedError",
    "Dropout",
    "EarlyStopping",
    "Ensemble",
    "Finding",
    "Flatten",
    "Frozen",
    "GradientError",
    "Hinge",
    "History",
    "Huber",
    "Identity",
    "Interrupted",
    "JSONLines",
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
    "RateTest",
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
    "TensorBoard",
    "available_backends",
    "check_gradients",
    "data",
    "export",
    "find_rate",
    "fit",
    "fit_many",
    "get_backend",
    "initializers",
    "load",
    "losses",
    "metrics",
    "optim",
    "overrides",
    "plot",
    "schedules",
    "set_backend",
    "train",
    "use_backend",
]
