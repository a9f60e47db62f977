"""A circuit breaker: what is out of order is left alone, and tried again ever less often."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable


class CircuitBreaker:
    """Closed while all is well; open after a failure, with one probe after each wait.

    Waits double from one failed probe to the next and carry jitter, so that many clients of one
    server do not come back at the same moment. Thread-safe.

    Args:
        first_wait_s: wait after the first failure, in seconds.
        longest_wait_s: longest wait, in seconds.
        clock: monotonic time, in seconds.
        rng: source of the jitter.
    """

    def __init__(
        self,
        first_wait_s: float,
        longest_wait_s: float,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._first_wait_s = first_wait_s
        self._longest_wait_s = longest_wait_s
        self._clock = clock
        self._rng = rng or random.Random()
        self._lock = threading.Lock()
        self._failures = 0
        self._probe_at = 0.0
        self.open_since: float | None = None
        """When it opened, in the clock's seconds; ``None`` while it is closed."""
        self.reason = ""
        """The last failure."""

    def failed(self, reason: str) -> None:
        """Opens it, or sets the next probe further off."""
        with self._lock:
            now = self._clock()
            if self.open_since is None:
                self.open_since = now
            self.reason = reason
            self._failures += 1
            self._set_probe(now)

    def succeeded(self) -> None:
        """Closes it."""
        with self._lock:
            self._failures, self.open_since, self.reason = 0, None, ""

    def wait_s(self) -> float:
        """Seconds until the next probe may go; 0 where it is closed or a probe is due."""
        with self._lock:
            return 0.0 if self.open_since is None else max(0.0, self._probe_at - self._clock())

    def take_probe(self) -> bool:
        """Whether a request may go now.

        Always while it is closed; while it is open, for one caller after each wait.
        """
        with self._lock:
            now = self._clock()
            if self.open_since is None:
                return True
            if now < self._probe_at:
                return False
            self._set_probe(now)
            return True

    def _set_probe(self, now: float) -> None:
        doublings = min(max(0, self._failures - 1), 30)
        wait = min(self._longest_wait_s, self._first_wait_s * 2.0**doublings)
        self._probe_at = now + wait * self._rng.uniform(0.75, 1.25)
