"""The error of a backend that was asked for and cannot run, and the line of an error that others quote."""


class BackendUnavailable(RuntimeError):
    """A known backend that cannot run here; the message says why, and what to do."""


def first_line(e: BaseException) -> str:
    """The first line of an error's message, which may be long; the name of its type where there is none."""
    return str(e).strip().partition("\n")[0] or type(e).__name__
