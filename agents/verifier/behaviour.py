"""How a candidate that nobody trusts behaves beyond single cases: again and again, without its kernels, and sealed.

A candidate that is right on every case may still return what it has kept, turn wrong after a number of calls, or have
torch compute what its kernels pretend to: these are tried, each in a process that has seen nothing yet.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from akg_dynamo.agents.verifier import luck, plan, shapes, symbols
from akg_dynamo.agents.verifier.answers import check_call
from akg_dynamo.agents.verifier.case import Case
from akg_dynamo.agents.verifier.diagnosis import is_one_of
from akg_dynamo.agents.verifier.job import Job
from akg_dynamo.agents.verifier.model_inputs import GIVEN
from akg_dynamo.agents.verifier.naming import UNSEEN, Start
from akg_dynamo.agents.verifier.shapes import elements, full, storage_bytes
from akg_dynamo.agents.verifier.values import Values
from akg_dynamo.agents.verifier.workers import Failed, Worker
from akg_dynamo.core.types import Outcome, Trick

_FIRST_NUMBER = 30_000  # of its cases
_MOST_ROUNDS = 6
_MOST_CALLS = 160
_AGAIN_S = 0.5
_REMEMBERED_BYTES = 64 << 20  # of outputs, to know again
_OWN_KERNELS = ("triton", "cpp", "cuda", "tilelang")
_MOST_INTERPRETED = 1 << 16  # elements of a case
_FEW_VALUES = 64  # of an output: it may be right by chance
_WATCHED_CALLS = 16  # then
_NOISE = 0xC1  # of any key: else signs, magnitudes, or bools and parities were left as they are

Interpret = Callable[[], "tuple[Worker, Values]"]
"""The same on the host, where Triton's kernels are interpreted and their bounds are known."""


class Behaviour:
    """One job's."""

    def __init__(self, job: Job, values: Values, start: Start, interpret: Interpret) -> None:
        self.job = job
        self.values = values
        self.start = start
        self.interpret = interpret
        self.rng = random.Random(f"{job.seed}/behaviour")
        self.sizes = plan.traced(job.subgraph, job.seed, values.means)

    @property
    def group(self) -> plan.Group:
        """Of its cases: ordinary ones. So large that eager has no room, they are compared with it in slices."""
        if self.sizes is None:
            return plan.Group(full(self.job.subgraph), self.values.kind, 1, sampled=True, pieces=True)
        model = self.values.model
        kind = GIVEN if model is not None and model.varies else self.values.kind
        return plan.Group(self.sizes, kind, 1, plan.UNPOOLED_SLACK)

    def check(self) -> None:
        """Raise `Failed` for what only shows over several calls, or without its kernels."""
        self._again()
        self._libraries()
        if self.job.candidate.dsl.startswith(_OWN_KERNELS):
            self._without_kernels()
            self._sealed()
            if self.job.candidate.dsl.startswith("triton") and self.job.device != "cpu":
                self._interpreted()

    def check_large(self) -> str:
        """The same of one so large that eager has no room, as far as one call shows it; or why that cannot be seen."""
        self._libraries()
        if not self.job.candidate.dsl.startswith(_OWN_KERNELS):
            return ""
        values = self.values
        values.last, values.suspect = [], None
        values.worker.shrink(0)  # another process has the next case
        try:
            self._without_kernels()
            self._sealed()
        except _NoRoom as error:
            return f"calls without its kernels: {error}"
        return ""

    def check_backward(self) -> None:
        """The same of gradients, as far as they do not follow from what is seen of `forward`."""
        if self.job.candidate.dsl.startswith(_OWN_KERNELS):
            self._sealed()

    def _libraries(self) -> None:
        """What it has compiled calls nothing that a kernel has no use for."""
        worker = self.values.worker
        found = symbols.suspicious(symbols.mapped(worker.pid, Path(worker.confinement.folder)))
        if found:
            raise Failed(Outcome.REJECTED, "; ".join(map(str, found[:3])), *dict.fromkeys(w.trick for w in found))

    # -- again and again ----------------------------------------------------------------------------------------------

    def _again(self) -> None:
        """New contents of tensors, and at addresses, that it has seen, a number of times that it cannot know."""
        values = self.values
        last = values.last[: 1 + _REMEMBERED_BYTES // max(1, storage_bytes(values.sub, self.group.sizes))]
        seen = [[t.clone() for t in values.outputs(case)] for case in last]
        calls, number = 0, _FIRST_NUMBER
        started = time.perf_counter()
        rounds = self.rng.randint(3, _MOST_ROUNDS)
        most = self.rng.randint(_MOST_CALLS // 2, _MOST_CALLS)
        done = 0
        while done < rounds or (calls < most and time.perf_counter() - started < _AGAIN_S):
            values.arena(self.group.sizes).reset()
            batch = [(i, values.lay_out(self.group, number + i)) for i in range(self.rng.randint(2, 8))]
            contracts = {i: values.contract(self.group.slack) for i, _ in batch}
            try:
                values.run(batch, contracts, same_objects=True)
                for i, case in batch:
                    reason = luck.breaks_alone(values, case, contracts[i])
                    if reason is not None:
                        raise Failed(Outcome.WRONG, reason)
            except Failed as failed:
                if failed.outcome is not Outcome.WRONG or failed.tricks:
                    raise
                trick = Trick.REPLAYS if self._is_old([c for _, c in batch], seen) else Trick.DRIFTS
                detail = f"in call {calls + 1} to {calls + len(batch)} of one series: {failed.detail}"
                raise Failed(Outcome.WRONG, detail, trick) from None
            if _bytes(seen) < _REMEMBERED_BYTES:
                seen += [[t.clone() for t in values.outputs(case)] for _, case in batch]
            calls += len(batch)
            number += len(batch)
            done += 1
        values.checked.append(f"{calls} calls more on new contents at known addresses")

    def _is_old(self, cases: Sequence[Case], seen: list[list[torch.Tensor]]) -> bool:
        """Whether an output is one of an earlier case."""
        for case in cases:
            now = self.values.outputs(case)
            if is_one_of(now, seen):
                return True
            seen.append([t.clone() for t in now])
        return False

    # -- within bounds ------------------------------------------------------------------------------------------------

    def _interpreted(self) -> None:
        """A device reads whatever lies beside a tensor, and where nothing comes of it nobody sees it: an interpreter on
        the host knows what each kernel was given. What it cannot run, or not in time, goes without.
        """
        checked, sizes = self.values.checked, self.group.sizes
        if elements(self.job.subgraph, sizes) > _MOST_INTERPRETED:
            checked.append("bounds of its kernels not watched: too large to be interpreted")
            return
        try:
            worker, values = self.interpret()
        except Failed as failed:
            checked.append(f"bounds of its kernels not watched: {failed.detail}")
            return
        try:
            values.arena(sizes).reset()
            case = values.lay_out(self.group, _FIRST_NUMBER)
            values.run([(0, case)], {0: values.contract(self.group.slack)})
            checked.append("bounds of its kernels watched, interpreted on the host")
        except Failed as failed:
            if Trick.OUT_OF_BOUNDS in failed.tricks:
                raise Failed(failed.outcome, f"interpreted {failed.detail}", *failed.tricks) from None
            checked.append(f"bounds of its kernels watched as far as they could be interpreted: {failed.detail}")
        finally:
            if worker.alive:
                worker.end()

    # -- without its kernels ------------------------------------------------------------------------------------------

    def _without_kernels(self) -> None:
        """With launches that do nothing, no output may be right."""
        right, answer = self._watched("ghost", 0, 1 if self.group.pieces else _WATCHED_CALLS)
        if right and not answer["launches"]:
            raise Failed(Outcome.REJECTED, "it launches no kernel of its own", Trick.CALLS_TORCH)
        if right:
            detail = "its outputs are right when its kernels do nothing"
            raise Failed(Outcome.REJECTED, detail, Trick.DECOY, Trick.CALLS_TORCH)
        self.values.checked.append("without its kernels it is wrong")

    def _sealed(self) -> None:
        """What computes outside a kernel has only noise to compute with."""
        values = sum(math.prod(shapes.values(s.shape, self.group.sizes)) for s in self.values.specs)
        calls = 1 if values >= _FEW_VALUES else _WATCHED_CALLS
        right, answer = self._watched("sealed", _NOISE | self.rng.getrandbits(8), calls)
        seen: dict[str, Any] = {}
        if right:  # it may know noise from numbers
            right, seen = self._watched("sealed", 0, calls)
            right &= not seen.get("computed")
        if right:
            self.values.checked.append("all of its arithmetic is in its kernels")
            return
        computed = _texts(answer) or _texts(seen)
        what = ", ".join(computed[:4]) if computed else UNSEEN
        reason = f" ({answer['error']})" if "error" in answer else ""
        raise Failed(Outcome.REJECTED, f"{what} computes with its inputs{reason}", Trick.CALLS_TORCH)

    def _watched(self, mode: str, key: int, calls: int) -> tuple[bool, dict[str, Any]]:
        """Whether its outputs are right in that mode in so many calls; what was seen, up to the first that is not."""
        worker, values = self.start((mode, key))
        try:
            right = True
            answer: dict[str, Any] = {}
            for number in self.rng.sample(range(_FIRST_NUMBER, 2 * _FIRST_NUMBER), calls):
                right, answer = self._watched_once(worker, values, number)
                if not right:
                    break
            return right, answer
        finally:
            if worker.alive:
                worker.end()

    def _watched_once(self, worker: Worker, values: Values, number: int) -> tuple[bool, dict[str, Any]]:
        values.arena(self.group.sizes).reset()
        case = values.lay_out(self.group, number)
        where = values.fill([case])
        request = {"op": "watched", "digest": self.job.candidate.digest, "case": case.message, "where": where}
        answer = worker.ask(request, self.job.timeout_s)
        if "error" in answer:
            if case.group.pieces and _for_want_of_memory(answer):
                raise _NoRoom(answer["error"])
            return False, answer
        contract = {0: values.contract(self.group.slack)}
        check_call(answer)
        wanted = values.expected(case)
        try:
            if isinstance(wanted, Exception):
                return True, answer  # nothing to compare with
            values.compare(case, wanted, [answer], contract[0])
        except Failed:
            return False, answer
        return luck.breaks_alone(values, case, contract[0]) is None, answer


class _NoRoom(Exception):
    """There is no memory to watch a call in."""


def _for_want_of_memory(answer: dict[str, Any]) -> bool:
    return bool(answer.get("no_memory")) or any(said in answer["error"] for said in ("MemoryError", "allocate memory"))


def _bytes(outputs: Sequence[Sequence[torch.Tensor]]) -> int:
    return sum(t.numel() * t.element_size() for call in outputs for t in call)


def _texts(answer: dict[str, Any]) -> list[str]:
    said = answer.get("computed", [])
    return [text for text in said if isinstance(text, str)] if isinstance(said, list) else []
