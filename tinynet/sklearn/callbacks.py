"""What `sklearn.callback`, which exists from scikit-learn 1.9 on, is told of a fit; in older versions nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks  # pyright: ignore[reportAssignmentType]
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """No callbacks."""

    def with_callbacks(method: Any) -> Any:
        return method


__all__ = ["CallbackSupportMixin", "FitTask", "fit_task", "with_callbacks"]


class FitTask:
    """The task of fitting, with a subtask for each epoch. Without a context it does nothing."""

    def __init__(self, context: Any = None, **told: Any) -> None:
        self.context, self.told = context, told

    def begin_epoch(self) -> None:
        if self.context is not None:
            self.epoch = self.context.subcontext(task_name="epoch")
            self.epoch.call_on_fit_task_begin(**self.told)

    def end_epoch(self, fitted: Callable[[], dict[str, Any]]) -> bool:
        """Whether a callback asks to stop. ``fitted`` returns the attributes that the estimator would have by now."""
        if self.context is None:
            return False
        return bool(self.epoch.call_on_fit_task_end(**self.told, reconstruction_attributes=fitted))


@contextmanager
def fit_task(estimator: Any, X: Any, y: Any, sample_weight: Any) -> Iterator[FitTask]:
    """Tell the callbacks of ``estimator`` that fitting begins and, unless it fails, that it has ended."""
    if not hasattr(estimator, "_init_callback_context"):
        yield FitTask()
        return
    metadata = None if sample_weight is None else {"sample_weight": sample_weight}
    told = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
    context = estimator._init_callback_context(max_subtasks=estimator.max_iter)
    context.call_on_fit_task_begin(**told)
    yield FitTask(context, **told)
    context.call_on_fit_task_end(**told, reconstruction_attributes={})
