"""scikit-learn estimators: `MLPClassifier` and `MLPRegressor`, the extra ``sklearn``."""

try:
    import sklearn  # noqa: F401
except ImportError as e:
    raise ImportError("tinynet.sklearn needs scikit-learn: install the extra sklearn") from e

from tinynet.sklearn.classifier import MLPClassifier
from tinynet.sklearn.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
