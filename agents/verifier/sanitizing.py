"""The last call of a right kernel once more, under compute-sanitizer, if that was asked for and the tool is there.

Its processes talk to each other through sockets, and start CUDA in a process of their own: they get one that may do so,
and that otherwise is confined as candidates are, or as far as the tool works. The findings say what it did without.
"""

from __future__ import annotations

from akg_dynamo.agents.verifier import reproduce, sanitizer
from akg_dynamo.agents.verifier.job import Job
from akg_dynamo.agents.verifier.values import Values
from akg_dynamo.agents.verifier.workers import Failed, Workers
from akg_dynamo.core.types import Outcome, Trick

_RUNGS: tuple[tuple[str, ...], ...] = (
    ("proc",),  # CUDA writes into the /proc of a process that is not there yet
    ("proc", "seccomp"),
    ("landlock", "seccomp"),
    ("landlock", "mounts", "seccomp"),
)
"""What it does without, until the tool works in it: the fewest means first. Identity, limits, namespaces are kept."""
_BECAUSE = "compute-sanitizer does not work under it"
_SAYS_NOTHING = ("could not say", "did not finish")
_START_S = 10.0


class Sanitizing:
    """Remembers under what the tool works here."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.works_under: tuple[str, ...] | None = None

    def check(self, job: Job, values: Values, without: tuple[str, ...]) -> None:
        """Raise `Failed` for what it finds. `without`: what processes on a device do without here anyway."""
        path, program, why_not = sanitizer.installed(), "", ""
        if job.device != "cuda":
            why_not = "it is for kernels on a CUDA device"
        elif not path:
            why_not = "it is not installed"
        elif values.suspect is not None:
            program = reproduce.source(job, values.suspect, Outcome.RIGHT, "")
        if not program:
            values.checked.append(f"not under compute-sanitizer: {why_not or 'its inputs are too large'}")
            return
        found = self._findings(job, path, program, without)
        for tool, said in found.items():
            if said and not said.startswith(_SAYS_NOTHING):
                raise Failed(Outcome.WRONG, f"compute-sanitizer's {tool}: {said}", Trick.OUT_OF_BOUNDS)
        clean = [tool for tool, said in found.items() if not said]
        open_ = [f"{tool} {said}" for tool, said in found.items() if said]
        apart = [name for name in self.works_under or () if name != "proc"]
        spared = f"; confined without {' and '.join(apart)}" if apart else ""
        values.checked.append(f"under compute-sanitizer ({'; '.join([*clean, *open_])}{spared})")

    def _findings(self, job: Job, path: str, program: str, without: tuple[str, ...]) -> dict[str, str]:
        """By tool, what it found; by the first one it is found out under what it works."""
        first, *others = sanitizer.TOOLS
        found: dict[str, str] = {}
        for rung in _RUNGS if self.works_under is None else (self.works_under,):
            found = self._asked(job, path, program, (first,), (*without, *rung))
            if not found[first].startswith(_SAYS_NOTHING):
                self.works_under = rung
                return found | self._asked(job, path, program, tuple(others), (*without, *rung))
        self.works_under = _RUNGS[0]  # whatever it lacks, it is none of these
        return found

    def _asked(
        self, job: Job, path: str, program: str, tools: tuple[str, ...], without: tuple[str, ...]
    ) -> dict[str, str]:
        worker = self.workers.start("cuda", trusted=job.trusted, without=without, because=_BECAUSE, talks=True)
        request = {"op": "sanitized", "path": path, "timeout_s": job.timeout_s, "tools": tools}
        try:
            answer = worker.ask(request, len(tools) * job.timeout_s + _START_S, program.encode())
        except Failed as failed:
            return dict.fromkeys(tools, f"could not say: {failed.detail}")
        finally:
            worker.end()
        found: dict[str, str] = answer.get("found") or {}
        return {tool: found.get(tool, f"could not say: {answer.get('error')}") for tool in tools}
