"""The error of a backend that was asked for and cannot run."""


class BackendUnavailable(RuntimeError):
    """A known backend that cannot run here; the message says what to install."""
