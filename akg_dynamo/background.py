"""Generation beside the user's calls: one thread, and forwards that are exchanged between calls.

The first call runs torch's operators; when the kernels of a graph have been judged its forward is replaced as a whole.
A call that is under way finishes with the forward it began with.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from akg_dynamo.executor import BoxedForward

log = logging.getLogger(__name__)


class SwappableForward:
    """A boxed forward whose body can be exchanged."""

    def __init__(self, forward: BoxedForward) -> None:
        self._boxed_call = True  # in its __dict__, which is what wrappers of a backward copy
        self._forward = forward

    def __call__(self, args: list[Any], /) -> Sequence[Any]:
        return self._forward(args)

    def swap(self, forward: BoxedForward) -> None:
        """Calls that start from now on run `forward`."""
        self._forward = forward


class Background:
    """Jobs run one after the other on one thread: generation itself uses the machine's cores."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._jobs: set[Future[None]] = set()

    def submit(self, job: Callable[[], None]) -> None:
        """Runs `job` when those before it are done. A job that raises is logged; the model goes on with torch."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="akg-background")
                atexit.register(self.cancel)
            future = self._pool.submit(job)
            self._jobs.add(future)
        future.add_done_callback(self._done)

    def _done(self, future: Future[None]) -> None:
        with self._lock:
            self._jobs.discard(future)
        if not future.cancelled() and (error := future.exception()) is not None:
            log.error("generation in the background failed; torch's operators stay in use", exc_info=error)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until everything submitted so far is done; False when time ran out."""
        from concurrent.futures import wait

        with self._lock:
            jobs = set(self._jobs)
        return not wait(jobs, timeout_s).not_done

    def cancel(self) -> None:
        """Drops the jobs that have not begun."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


background = Background()
