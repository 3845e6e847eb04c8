"""Is a candidate right? Draws its inputs, has a worker run it on them, and compares with eager and the oracle.

While the worker runs a batch of cases, this process evaluates eager and the oracle on its private copy of the inputs:
the two cores of a small machine work at once, and the expected outputs never are where a candidate could read them.

On a device both do so there, each in a context of its own. Small cases are drawn and compared on the host, since every
operation on a device takes as long as one on a few thousand elements; large ones never leave it.
"""

from __future__ import annotations

import functools
import random
import time
from collections import deque
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch

from akg_dynamo.agents.verifier import degenerate, luck, plan
from akg_dynamo.agents.verifier.answers import check_answers, trick_of_error
from akg_dynamo.agents.verifier.arena import Buffers, typed
from akg_dynamo.agents.verifier.case import Case, check_form, check_untouched, same_bytes
from akg_dynamo.agents.verifier.guarded import FILLS
from akg_dynamo.agents.verifier.inputs import Drawer, Range, beside, on_host, positions
from akg_dynamo.agents.verifier.job import Job
from akg_dynamo.agents.verifier.model_inputs import GIVEN, ModelInputs, storage_of
from akg_dynamo.agents.verifier.numerics import Contract, Expected, Rule, same_values, same_where
from akg_dynamo.agents.verifier.remembered import Remembered
from akg_dynamo.agents.verifier.shapes import elements, memory_order, storage_bytes, values
from akg_dynamo.agents.verifier.slices import Sliced, blind_slicing, slicing
from akg_dynamo.agents.verifier.truth import REFUSALS, Truth, nth
from akg_dynamo.agents.verifier.workers import Failed, Worker
from akg_dynamo.core.types import Outcome, Subgraph, TensorSpec, Trick
from akg_dynamo.fusion.reference import reference

_SMALL_BYTES = 1 << 18  # of a case that is compared on the host
_LARGE_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 26}  # of a case whose intermediates had better be freed early
_MOST_TRIED_ELEMENTS = 1 << 24  # of a case whose indices are tried on the host
_OUT_OF_RANGE = 20_000
_REMEMBERED = 64  # outputs, to know again


class Raised(Failed):
    """A candidate that raised where eager returns."""


_Wanted: TypeAlias = "list[Expected] | Sliced | Exception"
"""What each output should be near; or what eager raises on these inputs."""


class Values:
    """The values of one job."""

    def __init__(
        self,
        drawer: Drawer,
        worker: Worker,
        job: Job,
        means: plan.Means,
        checked: list[str],
        *,
        kind: str = "normal",
        remembered: Remembered | None = None,
    ) -> None:
        self.drawer = drawer
        self.remembered = remembered or Remembered()
        self.worker = worker
        self.job = job
        self.means = means
        self.device = job.device
        self.sub: Subgraph = job.subgraph
        self.checked = checked
        self.truth = Truth(self.sub, job.numerics)
        self.specs = self.sub.output_specs
        self.narrowing = 0
        self.kind = kind  # of ordinary inputs
        self.slices: dict[str, str] = {}  # by kind, what of a large case was compared with fp64
        self.apart: str | None = None  # an output that is not the same in two calls, and right in both
        self.last: list[Case] = []  # that were run
        self.earlier: deque[tuple[Case, list[torch.Tensor]]] = deque(maxlen=_REMEMBERED)  # those before: outputs
        self.oracle_s = 0.0  # that eager and the oracle took
        self.suspect: Case | None = None  # what a verdict is about
        self._positions: dict[tuple[tuple[str, int], ...], dict[int, Range]] = {}
        self.model = ModelInputs(job.model) if job.model is not None else None
        self._deterministic = job.flags is not None and job.flags.deterministic

    # -- laying out ---------------------------------------------------------------------------------------------------

    def arena(self, sizes: Mapping[str, int]) -> Buffers:
        """Where cases of these sizes are laid out."""
        if self.device == "cpu" or storage_bytes(self.sub, sizes) <= _SMALL_BYTES:
            return self.worker.arena
        return self.worker.arena_on_device()

    def lay_out(self, group: plan.Group, number: int, with_outputs: bool = True, *, neighbour: int = 0) -> Case:
        """Draw one case and reserve its buffers. `neighbour`: which one of it, a few last bits away; 0 is the case."""
        rng = random.Random(f"{self.job.seed}/{group.kind}/{number}/{sorted(group.sizes.items())}")  # of any layout
        arena = self.arena(group.sizes)
        private, offsets, described = [], [], []
        fixed = self.fixed(group, number, arena.device)
        kept = self.model.state if self.model is not None else ()
        for i, spec in enumerate(self.sub.inputs):
            flat = fixed[i] if i in fixed else self.draw(i, group, rng, arena.device)
            if neighbour and i not in kept:
                flat = beside(flat, rng.getrandbits(48) + neighbour)
            n_bytes = flat.numel() * flat.element_size()
            offset = arena.reserve(n_bytes, flat.element_size() if group.misaligned else 0)
            private.append(flat)
            offsets.append(offset)
            shape, stride = values(spec.shape, group.sizes), group.strides(i, spec)
            described.append(
                {"offset": offset, "elements": flat.numel(), "dtype": spec.dtype, "shape": shape, "stride": stride}
            )
        places: list[list[tuple[int, int]]] = []
        twice = group.repeat and (number == 0 or self._deterministic)
        for _ in range((2 if twice else 1) if with_outputs else 0):
            call = []
            for spec in self.specs:
                n = getattr(torch, spec.dtype).itemsize
                for d in values(spec.shape, group.sizes):
                    n *= d
                call.append((arena.reserve(n), n))
            places.append(call)
        symbols = [group.sizes[s.name] for s in self.sub.symbols]
        message = {"inputs": described, "symbols": symbols, "outputs": places}
        if self.model is not None:
            message["model"] = self.job.candidate.digest
        if group.layout is not None:
            message["plainly"] = True
        return Case(group, number, arena, private, offsets, places, message, neighbour, as_drawn=True)

    def fixed(self, group: plan.Group, number: int, device: torch.device) -> dict[int, torch.Tensor]:
        """By input: the storage of what is not drawn here. Parameters, constants, and the task's own inputs."""
        if self.model is None:
            return {}
        seed = random.Random(f"{self.job.seed}/{number}").getrandbits(48)
        known = self.model.fixed(group.kind, number, seed)
        laid = {i: storage_of(t, self.sub.inputs[i], group.sizes, device) for i, t in known.items()}
        return {i: flat for i, flat in laid.items() if flat is not None}

    def _ranges(self, sizes: Any) -> dict[int, Range]:
        """Integers as positions, or, once eager has refused those drawn, fewer and smaller ones."""
        if self.narrowing == 0:
            key = tuple(sizes.items())
            if key not in self._positions:
                self._positions[key] = positions(self.sub, sizes)
            return self._positions[key]
        integers = [i for i, s in enumerate(self.sub.inputs) if s.dtype.startswith(("int", "uint"))]
        return dict.fromkeys(integers, (Range(1, 9), Range(0, 2), Range(0, 1))[self.narrowing - 1])

    def draw(self, i: int, group: plan.Group, rng: random.Random, device: torch.device) -> torch.Tensor:
        """That input's flat storage, drawn once more."""
        span = self._ranges(group.sizes).get(i)
        spec = self.sub.inputs[i]
        if group.layout is not None:
            spec = replace(spec, stride=group.strides(i, spec))
        return self.drawer.draw(spec, group.sizes, group.kind, rng, span, device=device)

    def fill(self, cases: list[Case], *, zone: int = 0xFF) -> dict[str, Any]:
        """Write the inputs into the arena that the cases share, between guard zones; where the worker finds it."""
        arena = cases[0].arena
        arena.commit()
        for case in cases:
            for flat, offset in zip(case.private, case.offsets, strict=True):
                n_bytes = flat.numel() * flat.element_size()
                before, after = arena.guard(offset, n_bytes)
                before.fill_(zone)
                after.fill_(zone)
                if n_bytes:
                    typed(arena.bytes, offset, flat.numel(), flat.dtype).copy_(flat)
        return {**arena.publish(), "device": self.device}

    # -- judging ------------------------------------------------------------------------------------------------------

    def check(self, kinds: Collection[str] | None = None) -> None:
        """Raise `Failed` unless the candidate is right on every case. `kinds`: of inputs, if not all are tried."""
        groups = plan.groups(
            self.sub, self.job.seed, self.means, brief=bool(self.job.relatives), adversarial=not self.job.trusted
        )
        groups = [g for g in groups if kinds is None or g.kind in kinds]
        if not groups:
            raise Failed(Outcome.NOT_JUDGED, "too big to be judged in the memory that is free")
        if self.job.relatives:  # which have found what eager takes
            groups = [replace(g, kind=self.kind) if g.kind == "normal" else g for g in groups]
        else:
            self._find_inputs(groups)
            if self.model is not None and not groups[0].pieces:  # there is no room to have them drawn
                groups.insert(0, replace(groups[0], kind=GIVEN, misaligned=False, repeat=True))
        if not self.job.trusted and self.sub.inputs and not groups[0].pieces:
            passes = degenerate.passes_unseen(self, groups[0])
            if passes is not None:
                raise Failed(Outcome.DEGENERATE, f"{passes} is right on inputs that nobody has looked at")
        self.hold(groups)
        self._check_refusals(groups[0])

    def hold(self, groups: Sequence[plan.Group]) -> None:
        """Raise `Failed` unless the candidate is right on the cases of these groups."""
        contracts: dict[int, Contract] = {}
        batch: list[tuple[int, Case]] = []
        used = 0
        for g, group in enumerate(groups):
            contracts[g] = self.contract(group.slack)
            per_case = self.case_bytes(group)
            arena = self.arena(group.sizes)
            for number in range(group.seeds):
                full = used + per_case > luck.BATCH_BYTES[arena.device.type]
                if batch and (full or batch[0][1].arena is not arena):
                    self.run(batch, contracts)
                    batch, used = [], 0
                if not batch:
                    arena.reset()
                batch.append((g, self.lay_out(group, number)))
                used += per_case
        self.run(batch, contracts)
        for g, group in enumerate(groups):
            reason = contracts[g].finish()
            if reason is not None and self.truth.rule in (Rule.BOUNDED, Rule.STAGED):
                again = not contracts[g].hopeless
                second = luck.second_look(self, group, contracts[g].culprit) if again else "far beyond any draw's luck"
                reason = f"{reason}; {second}" if second is not None else None
            if reason is not None:
                self.suspect = self._again(group, contracts[g].culprit)
                raise Failed(Outcome.WRONG, reason)
            self.checked.append(self._text(group))
        if self.apart is not None:
            self.checked.append(f"not the same in every call, and right in each: {self.apart}")
            self.apart = None

    def _again(self, group: plan.Group, number: int | None) -> Case:
        """That case once more: only what was drawn is of interest."""
        self.arena(group.sizes).reset()
        return self.lay_out(group, number or 0, with_outputs=False)

    def _text(self, group: plan.Group) -> str:
        """What was tried, as the report states it."""
        if not group.sampled:
            return f"{group} ({self.truth.no_wide})" if self.truth.no_wide else str(group)
        slices = self.slices.get(group.kind)
        if group.pieces:
            return f"{group} in full size ({slices} against eager and fp64: there is no room for more)"
        how = f"all of it against eager, {slices} against fp64" if slices else "all of it against fp64"
        return f"{group} in full size ({how})"

    def _check_refusals(self, first: plan.Group) -> None:
        """Indices out of range: eager raises for them on the CPU, and the kernel must not return anything either."""
        if self.device != "cpu" or first.pieces:
            return
        group = plan.Group(first.sizes, "normal", 1)
        self.arena(first.sizes).reset()
        batch = []
        wrong = [(i, value) for i, span in positions(self.sub, first.sizes).items() for value in (span.hi, span.lo - 1)]
        for number, (i, value) in enumerate(wrong):
            case = self.lay_out(group, _OUT_OF_RANGE + number)
            flat = case.private[i]
            limits = torch.iinfo(flat.dtype)
            if flat.numel() and limits.min <= value <= limits.max:
                flat[(self.job.seed + number) % flat.numel()] = value
                case.as_drawn = False
                batch.append((0, case))
        if batch:
            self.run(batch, {0: self.contract(1.0)})
            self.checked.append("indices out of range")

    def check_call(self, case: Case, call: dict[str, Any]) -> None:
        """Raise `Failed` unless one call of that case, made while it was timed, was right."""
        wanted = self.expected(case)
        if isinstance(wanted, Exception):
            return
        contract = self.contract(case.group.slack)
        self.compare(case, wanted, [call], contract)
        reason = luck.breaks_alone(self, case, contract)
        if reason is not None:
            raise Failed(Outcome.WRONG, f"while timed: {reason}")

    def case_bytes(self, group: plan.Group) -> int:
        """What a case takes of the room for a batch."""
        return max(8 * elements(self.sub, group.sizes), storage_bytes(self.sub, group.sizes))

    def _rtol(self) -> float:
        return self.job.rtol if self.job.numerics == "fast" else 0.0

    def _find_inputs(self, groups: list[plan.Group]) -> None:
        """Draw integers eager accepts; replace normal values by positive ones where eager gives mostly NaN."""
        first = min(groups, key=lambda g: elements(self.sub, g.sizes) if g.sampled else 0)
        while True:
            case = self.lay_out(first, 0, with_outputs=False)
            try:
                self._try_indices(case)
                outputs = self._eager_somewhere(case)
                break
            except (torch.OutOfMemoryError, torch.AcceleratorError):
                raise  # it says nothing of the inputs
            except REFUSALS as error:
                self.narrowing += 1
                if self.narrowing > 3 or not any(s.dtype.startswith(("int", "uint")) for s in self.sub.inputs):
                    raise Failed(Outcome.DEGENERATE, f"eager accepts none of the inputs drawn: {error}") from None
        if any(o.is_floating_point() and o.numel() and float(o.isnan().float().mean()) > 0.2 for o in outputs):
            self.kind = "positive"
            groups.insert(0, replace(first, kind="positive", repeat=not first.pieces))

    def _try_indices(self, case: Case) -> None:
        """Raise for an index out of range, as eager does on a host: on a device it takes the context down."""
        whole = elements(self.sub, case.group.sizes) <= _MOST_TRIED_ELEMENTS
        if self.device != "cpu" and whole and positions(self.sub, case.group.sizes):
            views = self._shaped([flat.cpu() for flat in case.private], case)
            reference(on_host(self.sub))(*views, *self._symbols(case))

    def _views(self, case: Case) -> list[torch.Tensor]:
        """The inputs, on the device."""
        if case.moved is None:
            case.moved = [flat.to(self.device) for flat in case.private]
        return self._shaped(case.moved, case)

    def _shaped(self, storages: list[torch.Tensor], case: Case) -> list[torch.Tensor]:
        found = []
        for i, (flat, spec) in enumerate(zip(storages, self.sub.inputs, strict=True)):
            shape, stride = values(spec.shape, case.group.sizes), values(spec.stride, case.group.sizes)
            lies = case.group.strides(i, spec)
            view = flat.as_strided(shape, lies)
            # What was traced takes what it was traced with: a view of these strides may be none of those.
            found.append(
                view
                if lies == stride
                else torch.empty_strided(shape, stride, dtype=view.dtype, device=view.device).copy_(view)
            )
        return found

    def _symbols(self, case: Case) -> list[int]:
        return [case.group.sizes[s.name] for s in self.sub.symbols]

    def arguments(self, case: Case) -> list[Any]:
        """What eager is called with, on the device."""
        return [*self._views(case), *self._symbols(case)]

    def _eager(self, case: Case) -> tuple[torch.Tensor, ...]:
        return self.truth.eager(self._views(case), case.group.sizes)

    def _eager_somewhere(self, case: Case) -> tuple[torch.Tensor, ...]:
        """What eager returns there, or for a slice of what is too large for it."""
        if not case.group.pieces:
            return self._eager(case)
        sliced = self._blind(case)
        return sliced.cut.truth.eager(sliced.cut.inputs(sliced.views, 0), sliced.cut.sizes)

    def _blind(self, case: Case) -> Sliced:
        views = self._views(case)
        cut = blind_slicing(self.sub, self.job.numerics, case.group.sizes, views)
        if cut is None:
            raise Failed(Outcome.NOT_JUDGED, "too big to be judged as a whole in the memory that is free")
        return Sliced(None, views, cut)

    def _is_frugal(self, case: Case) -> bool:
        return elements(self.sub, case.group.sizes) > _LARGE_ELEMENTS[case.arena.device.type]

    def run(self, batch: list[tuple[int, Case]], contracts: dict[int, Contract], *, same_objects: bool = False) -> None:
        """Have the worker run these cases, each for the contract of its number; raise `Failed` if one is wrong.

        same_objects: the inputs are the Python objects that the last such cases were, with other contents.
        """
        cases = [case for _, case in batch]
        self.suspect = cases[0]
        self._remember()
        where = self.fill(cases)
        messages = [c.message for c in cases]
        request = {"op": "run", "digest": self.job.candidate.digest, "cases": messages, "where": where}
        self.worker.send({**request, "same_objects": same_objects})
        expected: list[_Wanted] = []
        broken: Exception | None = None
        large = any(case.group.sampled for case in cases)
        answer = self.worker.answer(self.job.timeout_s) if large else {}  # both would want all cores
        started = time.perf_counter()
        try:
            expected = [self.expected(case) for case in cases]
        except Exception as error:  # noqa: BLE001 - the worker's answer must be read before this is raised again
            broken = error
        self.oracle_s += time.perf_counter() - started
        if not large:
            answer = self.worker.answer(self.job.timeout_s)
        if broken is not None:
            raise broken
        if "error" in answer:
            raise self._gave_up(answer["error"], answer)
        self.last = cases
        check_answers(answer, [len(case.places) for case in cases])
        for (g, case), wanted, calls in zip(batch, expected, answer["answers"], strict=True):
            raised = next((call for call in calls if "raised" in call), None)
            if isinstance(wanted, Exception):
                if raised is None and _is_for_index(wanted):
                    raise Failed(Outcome.WRONG, f"on {case}: run() returns where eager raises: {wanted}")
            elif raised is not None:
                raise self._gave_up(raised["raised"], raised, f"on {case}: ")
            else:
                self.compare(case, wanted, calls, contracts[g])

    def _remember(self) -> None:
        """Keep what the last cases gave, if somebody may ask whether an output has been there before. Their arena is
        laid out anew by now, but what lies in it is still theirs.
        """
        if "running" in self.job.screens:
            small = (c for c in self.last if storage_bytes(self.sub, c.group.sizes) <= _SMALL_BYTES)
            self.earlier += [(c, [t.clone() for t in self.outputs(c)]) for c in small]
        self.last = []

    # -- for those who look further ------------------------------------------------------------------------------------

    def in_another(self, worker: Worker) -> Values:
        """The values of the same job in another process, with what is known of its inputs."""
        other = Values(self.drawer, worker, self.job, self.means, [], kind=self.kind, remembered=self.remembered)
        other.narrowing = self.narrowing
        return other

    def contract(self, slack: float) -> Contract:
        """A new contract of this job."""
        return Contract(self.truth.rule, self._rtol(), slack)

    def outputs(self, case: Case) -> list[torch.Tensor]:
        """What the first call of a case returned, as long as its arena is not used again."""
        return [self._output(case, 0, i, spec) for i, spec in enumerate(self.specs)]

    def eager_of(self, case: Case) -> list[torch.Tensor] | None:
        """What eager returns there, where the outputs are compared; None if it refuses."""
        if case.group.pieces:
            return None
        try:
            return [t.to(case.arena.device) for t in self._eager(case)]
        except REFUSALS:
            return None

    def as_laid_out(self, case: Case) -> list[torch.Tensor]:
        """A case's inputs on the device, in the layout that the candidate is given them in."""
        shaped = []
        for i, (flat, spec) in enumerate(zip(case.private, self.sub.inputs, strict=True)):
            shape = values(spec.shape, case.group.sizes)
            shaped.append(flat.to(self.device).as_strided(shape, case.group.strides(i, spec)))
        return shaped

    def inputs_of(self, case: Case) -> list[torch.Tensor]:
        """A case's inputs, where the outputs are compared."""
        return self._shaped(case.private, case)

    def _gave_up(self, text: str, answer: Mapping[str, Any], where: str = "") -> Failed:
        """The verdict on a candidate that raised."""
        if answer.get("no_memory"):
            # Rules allocate what the task needs: if that is more than was allowed, nothing is known of the kernel.
            self.worker.ask({"op": "trim"}, self.job.timeout_s)
            if self.job.trusted or torch.cuda.mem_get_info()[0] < self.means.candidate_bytes:
                return Failed(Outcome.NOT_JUDGED, f"too little device memory: {text}")
        return Raised(Outcome.WRONG, f"{where}run() raised {text}", *trick_of_error(text))

    def expected(self, case: Case) -> _Wanted:
        """What each output should be near; or what eager raises on these inputs."""
        if case.group.pieces:
            return self._blind(case)
        key = self._key(case)
        known = self.remembered.get(key) if key is not None else None
        if known is not None:
            self.truth.no_wide = self.truth.no_wide or known.no_wide
            return known.outputs
        try:
            eager = self._eager(case)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # it says nothing of the inputs
        except REFUSALS as refusal:
            return refusal
        views, sizes = self._views(case), case.group.sizes
        if case.group.sampled:
            cut = slicing(self.sub, self.job.numerics, sizes, views, eager)
            if cut is not None:
                return Sliced(eager, views, cut)
            limit = self.means.limit_bytes
            if limit is not None and plan.working_bytes(self.sub, sizes, with_oracle=True) > limit:
                raise Failed(Outcome.NOT_JUDGED, "too big to be judged as a whole in the memory that is free")
        found = self.truth.expected(eager, views, sizes, frugal=self._is_frugal(case))
        found = [wanted.to(case.arena.device) for wanted in found]
        if key is not None:
            self.remembered.put(key, found, self.truth.no_wide, sum(t.numel() * t.element_size() for t in views))
        return found

    def _key(self, case: Case) -> Hashable | None:
        """What eager and the oracle follow from; None for cases that are not to be kept."""
        job = self.job
        if not case.as_drawn or case.arena.device.type != "cpu" or case.group.sampled:
            return None
        if job.model is not None and job.model.constants:
            return None
        drawn = (job.seed, case.group.kind, case.number, case.neighbour, self.narrowing, str(case.group.layout))
        task = job.model.task.source if job.model is not None else ""
        return (self.sub.text, task, job.numerics, job.flags, tuple(sorted(case.group.sizes.items())), drawn)

    def compare(
        self, case: Case, wanted: list[Expected] | Sliced, calls: list[dict[str, Any]], contract: Contract
    ) -> None:
        """Take what calls of a case returned into its contract; raise `Failed` for what is wrong in itself."""
        self.suspect = case
        for call in calls:
            check_form(case, call, self.specs)
        check_untouched(case)

        kernel = self.outputs(case)
        if len(calls) > 1:
            self._hold_again(case, wanted, kernel)
        self._hold(case, kernel, wanted, contract)

    def _hold(
        self, case: Case, kernel: list[torch.Tensor], wanted: list[Expected] | Sliced, contract: Contract
    ) -> None:
        if isinstance(wanted, Sliced):
            self._compare_slices(case, kernel, wanted, contract)
            return

        @functools.cache
        def absolute() -> tuple[torch.Tensor, ...]:
            found = self.truth.absolute(self._views(case), case.group.sizes, frugal=self._is_frugal(case))
            return tuple(t.to(case.arena.device) for t in found)

        self._hold_to(case, kernel, wanted, absolute, contract)

    def _compare_slices(self, case: Case, kernel: list[torch.Tensor], wanted: Sliced, contract: Contract) -> None:
        for start, part, expected, absolute in wanted.parts(kernel, random.Random(self.job.seed)):
            self._hold_to(case, part, expected, absolute, contract, first_row=start)
        self.slices[case.group.kind] = wanted.said

    def _hold_to(
        self,
        case: Case,
        kernel: Sequence[torch.Tensor],
        wanted: list[Expected],
        absolute: Callable[[], tuple[torch.Tensor, ...]],
        contract: Contract,
        *,
        first_row: int = 0,
    ) -> None:
        for i, (k, w) in enumerate(zip(kernel, wanted, strict=True)):
            reason = contract.add(i, k, w, str(case), nth(absolute, i), first_row=first_row, number=case.number)
            if reason is not None:
                raise Failed(Outcome.WRONG, reason)

    def _hold_again(self, case: Case, wanted: list[Expected] | Sliced, kernel: list[torch.Tensor]) -> None:
        """Raise `Failed` if a second call, in memory that held something else, shows what one alone does not.

        Threads that add up in the order in which they arrive round differently each time. What counts is whether both
        are right: whether two calls happen to be the same is a matter of luck. But who asked torch for deterministic
        algorithms wants no luck at all.
        """
        again = [self._output(case, 1, i, spec) for i, spec in enumerate(self.specs)]
        pairs = list(zip(kernel, again, strict=True))
        apart = next((i for i, (a, b) in enumerate(pairs) if not (same_bytes(a, b) or same_values(a, b))), None)
        if apart is None:
            return
        name = f"output {apart} on {case}"
        if any(same_where(a, FILLS[0], b, FILLS[1]) for a, b in pairs):
            self._hold(case, kernel, wanted, self.contract(case.group.slack))
            raise Failed(Outcome.WRONG, f"{name}: holds what its memory held: not all is written", Trick.STALE_MEMORY)
        first, second = (self._breaks(case, wanted, outputs) for outputs in (kernel, again))
        if first and second and any(_is_nan_in_one(a, b) for a, b in pairs):
            raise Failed(Outcome.WRONG, first)  # made of what its memory held
        if first or second:
            raise Failed(Outcome.WRONG, f"{name}: differs when called again; {first or second}", Trick.DRIFTS)
        if self._deterministic:
            asked = "torch.use_deterministic_algorithms is set"
            raise Failed(Outcome.WRONG, f"{name}: differs when called again, and {asked}", Trick.DRIFTS)
        self.apart = self.apart or name

    def _breaks(self, case: Case, wanted: list[Expected] | Sliced, outputs: list[torch.Tensor]) -> str | None:
        contract = self.contract(case.group.slack)
        try:
            self._hold(case, outputs, wanted, contract)
        except Failed as failed:
            return failed.detail
        return luck.breaks_alone(self, case, contract)

    def _output(self, case: Case, call: int, i: int, spec: TensorSpec) -> torch.Tensor:
        offset, n_bytes = case.places[call][i]
        dtype: torch.dtype = getattr(torch, spec.dtype)
        flat = typed(case.arena.bytes, offset, n_bytes // dtype.itemsize, dtype)
        shape, stride = values(spec.shape, case.group.sizes), values(spec.stride, case.group.sizes)
        order = memory_order(shape, stride) if case.group.layout is None else None
        return flat.view(shape) if order is None else flat.as_strided(shape, stride, flat.storage_offset())


def _is_nan_in_one(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a.isnan() & ~b.isnan()).any())


def _is_for_index(refusal: Exception) -> bool:
    """Whether eager refused an index, which a kernel must refuse too: all else is known before a kernel is launched."""
    return isinstance(refusal, IndexError) or "out of bounds" in str(refusal)
