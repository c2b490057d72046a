"""A progress bar on the standard error stream."""

from __future__ import annotations

import sys
import time
from types import TracebackType

_WIDTH = 24


class Progress:
    """Shows how many of `total` steps are done; `total` None: how many there were. `show` None shows it on terminals."""

    def __init__(self, title: str, total: int | None, show: bool | None) -> None:
        self._title = title
        self._total = total
        self._show = sys.stderr.isatty() if show is None else show
        self._done = -1
        self._start = time.monotonic()

    def step(self, what: str) -> None:
        """A step begins, and the one before it is done."""
        self._done += 1
        self._draw(what)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._show and self._done >= 0:
            if error is None:
                self._done += 1
                self._draw(f"{time.monotonic() - self._start:.1f} s")
            sys.stderr.write("\n")

    def _draw(self, what: str) -> None:
        if not self._show:
            return
        if self._total is None:
            bar = str(self._done)
        else:
            filled = _WIDTH * self._done // max(self._total, 1)
            bar = f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {self._done}/{self._total}"
        sys.stderr.write(f"\r\x1b[K{self._title} {bar} {what}")
        sys.stderr.flush()
