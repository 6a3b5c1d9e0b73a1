"""scikit-learn's own callbacks (`sklearn.callback`, from 1.9 on): what they are told of a fit. Before, nothing."""

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


__all__ = ["CallbackSupportMixin", "Watch", "watched", "with_callbacks"]


class Watch:
    """A task of fitting, with a subtask for each epoch; of no effect without a context."""

    def __init__(self, context: Any = None, **told: Any) -> None:
        self.context, self.told = context, told

    def begin_epoch(self) -> None:
        if self.context is not None:
            self.epoch = self.context.subcontext(task_name="epoch")
            self.epoch.call_on_fit_task_begin(**self.told)

    def end_epoch(self, fitted: Callable[[], dict[str, Any]]) -> bool:
        """Whether a callback wants to stop. ``fitted`` gives the attributes of the estimator as it would be then."""
        if self.context is None:
            return False
        return bool(self.epoch.call_on_fit_task_end(**self.told, reconstruction_attributes=fitted))


@contextmanager
def watched(estimator: Any, X: Any, y: Any, sample_weight: Any) -> Iterator[Watch]:
    """Tell the callbacks of ``estimator`` that fitting begins and, unless it fails, that it is over."""
    if not hasattr(estimator, "_init_callback_context"):
        yield Watch()
        return
    metadata = None if sample_weight is None else {"sample_weight": sample_weight}
    told = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
    context = estimator._init_callback_context(max_subtasks=estimator.max_iter)
    context.call_on_fit_task_begin(**told)
    yield Watch(context, **told)
    context.call_on_fit_task_end(**told, reconstruction_attributes={})
