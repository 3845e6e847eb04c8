"""Whether a ModelNew can stand in for Model beyond the inputs that the task gives: at other sizes and in other layouts.

    DropIn(values, refuses, unjudged).check()

**Sizes.** A task whose inputs come in several sizes (`get_inputs_dyn_list()`) has a class of them, and that is tried at
its corners: each size at 0 and 1 and all of them at 1, one long and the others 1, and beside the blocks that the
kernel's source names. A task of one set of sizes is a contract for those: they may be baked in, no others are tried,
and the verdict says so.

**Layouts.** Whatever the sizes, the same values may come transposed, as slices of something wider, broadcast or as
windows that overlap. Their values are held to what any other outputs are held to; the strides of outputs are not, as
eager's own follow those of its inputs.

What Model itself refuses, or computes otherwise than where it was traced (tracing takes 0 and 1 for constants), is not
judged. A kernel that raises on another layout or on an empty tensor is not wrong, for nobody takes an error for a
result; the verdict names what it refuses. It must compute all else.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from akg_dynamo.agents.verifier import plan, shapes
from akg_dynamo.agents.verifier.layouts import layouts
from akg_dynamo.agents.verifier.model_inputs import alike
from akg_dynamo.agents.verifier.values import Raised, Values
from akg_dynamo.agents.verifier.workers import Failed
from akg_dynamo.core.types import Outcome, TensorSpec, Trick

_LONG = 1031  # a prime past most blocks
_MOST_SYMBOLS = 4
_MOST_BLOCKS = 2
_BLOCKS = re.compile(r"(?<![\w.])(8|16|32|64|128|256|512|1024|2048|4096)(?![\w.])")
_BASE_ELEMENTS = 1 << 14  # of a case whose other sizes are as traced
_MOST_ELEMENTS = 200_000
_WHOLE_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 26}  # of a case that is tried in every layout
_FIRST_NUMBER = 90_000


class DropIn:
    """One job's. refuses, unjudged: what is to be said beside the verdict."""

    def __init__(self, values: Values, refuses: list[str], unjudged: list[str]) -> None:
        assert values.model is not None
        self.values = values
        self.model = values.model
        self.refuses = refuses
        self.unjudged = unjudged
        self.rng = random.Random(f"{values.job.seed}/drop in")
        self.traced = plan.traced(values.sub, values.job.seed, values.means) or {}

    def check(self) -> None:
        """Raise `Failed` for what a kernel gets wrong on inputs that Model takes."""
        if self.values.sub.symbols:
            for sizes in self._corners():
                self._judge(self._group(sizes), may_refuse=0 in sizes.values())
        else:
            self.unjudged.append(
                "other sizes: the task gives one set of inputs, which get_inputs_dyn_list() would vary"
            )
        self._check_layouts()

    # -- sizes --------------------------------------------------------------------------------------------------------

    def _corners(self) -> Iterator[dict[str, int]]:
        """Those of the class, each once."""
        sub = self.values.sub
        base = shapes.within(sub, self.traced, min(_BASE_ELEMENTS, self.values.means.limit_elements))
        base = base or dict(self.traced)
        names = self.rng.sample(list(base), min(_MOST_SYMBOLS, len(base)))
        limits = {s.name: s.hi for s in sub.symbols}
        ones = dict.fromkeys(base, 1)
        found = [ones]
        for name in names:
            found += [{**base, name: 0}, {**base, name: 1}, {**ones, name: _LONG}]
        for block in self._blocks():
            found += [{**base, name: block + aside} for name in names for aside in (-1, 1)]
        room = min(_MOST_ELEMENTS, self.values.means.limit_elements)
        seen: list[dict[str, int]] = [dict(self.traced)]
        for sizes in found:
            inside = all((hi := limits[name]) is None or n <= hi for name, n in sizes.items())
            if inside and sizes not in seen and shapes.elements(sub, sizes) <= room:
                seen.append(sizes)
                yield sizes

    def _blocks(self) -> list[int]:
        """Powers of two in the kernel's source, which are often the sizes of its blocks."""
        named = sorted({int(n) for n in _BLOCKS.findall(self.values.job.candidate.source)})
        return self.rng.sample(named, min(_MOST_BLOCKS, len(named)))

    # -- layouts ------------------------------------------------------------------------------------------------------

    def _check_layouts(self) -> None:
        values, sub = self.values, self.values.sub
        sizes: Mapping[str, int] = self.traced
        if sub.symbols:
            sizes = shapes.within(sub, sizes, plan.RELATIVE_ELEMENTS) or sizes
        room = values.means.limit_bytes
        # Inputs are there twice as they lie, up to twice as far apart, and once more as they were traced.
        if room is not None and 2 * plan.working_bytes(sub, sizes, with_oracle=False) > room:
            self.unjudged.append("other layouts: too big for the memory that is free")
            return
        whole = shapes.elements(sub, sizes) <= _WHOLE_ELEMENTS[values.device]
        for layout in layouts(self._laid_anew(), sizes, self.rng, most=None if whole else 1):
            self._judge(replace(self._group(sizes), sampled=not whole, layout=layout), may_refuse=True)
        if not whole:
            self.unjudged.append("all layouts but one, taken at random: its inputs are large")

    def _laid_anew(self) -> dict[int, TensorSpec]:
        """The arguments: parameters and constants lie where the module has them."""
        inputs = self.values.sub.inputs
        return {i: inputs[i] for i, _ in self.model.call.arguments if i is not None}

    # -- both ---------------------------------------------------------------------------------------------------------

    def _group(self, sizes: Mapping[str, int]) -> plan.Group:
        return plan.Group(sizes, self.values.kind, 1, plan.slack_at(self.values.sub, sizes))

    def _judge(self, group: plan.Group, *, may_refuse: bool) -> None:
        reason = self._unlike_model(group)
        if reason:
            self.unjudged.append(f"{group}: {reason}")
            return
        try:
            self.values.hold([group])
        except Raised as raised:
            if not may_refuse:
                raise
            self.refuses.append(raised.detail)
        except Failed as failed:
            if failed.outcome is Outcome.WRONG and Trick.SHAPE not in failed.tricks:
                failed.tricks = (*failed.tricks, Trick.SHAPE)
            raise

    def _unlike_model(self, group: plan.Group) -> str:
        """Why what was traced does not speak for Model there; empty if it does."""
        values = self.values
        values.arena(group.sizes).reset()
        case = values.lay_out(group, _FIRST_NUMBER, with_outputs=False)
        returned = self.model.model_returns(values.as_laid_out(case), group.sizes)
        if isinstance(returned, Exception):
            first = str(returned).strip().partition("\n")[0]
            return f"Model itself raises {type(returned).__name__}: {first[:200]}"
        traced = values.eager_of(case)
        if traced is None or not all(
            a.dtype == b.dtype and alike(a.to(b.device), b) for a, b in zip(returned, traced, strict=False)
        ):
            return "Model computes something else there than where it was traced"
        return ""
