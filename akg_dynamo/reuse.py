"""Which kernels and operators write into the memory of a tensor that has just died, instead of allocating.

An allocation costs more than launching a small kernel, and a large one is new pages for the system to clear:

    mul = mul_sigmoid(x)                              mul = mul_sigmoid(x)
    mm = torch.mm(mul, w)                             mm = torch.mm(mul, w)
    del mul
    mul_1 = mul_sigmoid(mm)                           mul_1 = mul_sigmoid_into(mul, mm)

It may be one that the kernel itself is the last to read, where the kernel allows that (`mul_sigmoid_into(mm, mm)`). The
dead tensor must be the graph's own, laid out exactly as the kernel's output is, and shared with nothing that lives. Of
several outputs those for which there is none are allocated beside it.
Nothing is kept for a later taker: only what has been used last since the allocation before is taken, so that no more
memory is held at any time than without.

An elementwise operator that stays with torch writes over an operand that dies there, unless a kernel reads it as well:
what runs in the place of a kernel that raised may return its very arguments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from akg_dynamo.overwrite import overwriting
from akg_dynamo.reinplace import Write
from akg_dynamo.schedule import Region, Step, is_view, step_inputs

# Lists of what is needed: a schema does not tell, since many operators return their argument where nothing is to do.
_FRESH = frozenset("mm addmm bmm baddbmm mv addmv".split())  # noqa: SIM905
"""Operators that return contiguous memory of their own."""
_RELAID = frozenset({"linear", "convolution"})
"""The same, but for the layout, which the forward checks where a kernel reads it."""
_ATTENTION = "flash_attention flash_attention_for_cpu efficient_attention cudnn_attention"
_READERS = _FRESH | _RELAID | {f"_scaled_dot_product_{kind}" for kind in _ATTENTION.split()}
"""Operators whose results share nothing with their arguments."""


@dataclass(frozen=True)
class Reuse:
    """What writes where.

    kernels: for a region the dead tensors it writes into, for each output one or None.
    operators: for an operator of torch the operand it writes over.
    """

    kernels: dict[Region, tuple[fx.Node | None, ...]] = field(default_factory=dict)
    operators: dict[fx.Node, fx.Node] = field(default_factory=dict)

    @property
    def taken(self) -> set[fx.Node]:
        """All that is written into."""
        return {n for memory in self.kernels.values() for n in memory if n is not None} | set(self.operators.values())


def plan_reuse(steps: Sequence[Step], output: fx.Node, writes: Mapping[fx.Node, Write]) -> Reuse:
    """The regions that may write into dead tensors, and the operators that may write over an operand."""
    owner = _owners(steps, writes)
    last: dict[fx.Node, int] = {}
    for position, step in enumerate(steps):
        last.update(dict.fromkeys(_owned(_reads(step, writes), owner), position))
    shared = set(_owned(output.all_input_nodes, owner))
    for step in steps:
        if not isinstance(step, Region) and not is_view(step) and not _returns_its_own(step, writes):
            shared.update(_owned(_reads(step, writes), owner))
    by_kernels = {n for step in steps if isinstance(step, Region) for n in (*_owned(step.inputs, owner), *step.outputs)}

    returned = frozenset(output.all_input_nodes)
    reuse = Reuse()
    dead: list[fx.Node] = []
    for position, step in enumerate(steps):
        read = list(_owned(_reads(step, writes), owner))
        dying = [n for n in dict.fromkeys(read) if last[n] == position and n not in shared]
        over = {
            n: owner[n] for n in step_inputs(step) if n in owner and owner[n] in dying and read.count(owner[n]) == 1
        }
        taken: tuple[fx.Node | None, ...] | None = None
        if isinstance(step, Region):
            # The layout of what only torch reads is not checked.
            known = [n for n in dead if n in by_kernels or _is_one_of(n, _FRESH)]
            taken = _taken(step, over, known, returned)
            if taken is not None:
                reuse.kernels[step] = taken
        elif step in owner and not is_view(step):
            operand = _overwritten(step, {n: o for n, o in over.items() if o not in by_kernels}, returned)
            if operand is not None:
                reuse.operators[step] = operand
                taken = (operand,)
        if taken is not None:
            gone = {owner[n] for n in taken if n is not None}
            dead = [n for n in ((*dead, *dying) if None not in taken else dying) if n not in gone]
        elif isinstance(step, Region) or not is_view(step):
            dead = dying  # this step allocates: memory kept over it would come on top
        else:
            dead += dying
    return reuse


def _owners(steps: Sequence[Step], writes: Mapping[fx.Node, Write]) -> dict[fx.Node, fx.Node]:
    """For each tensor in the graph's own memory, the one that memory was allocated for: itself, if it is no view."""
    owner: dict[fx.Node, fx.Node] = {}
    for step in steps:
        if isinstance(step, Region):
            owner.update((n, n) for n in step.outputs)
        elif is_view(step):
            sources = step.all_input_nodes
            if sources and sources[0] in owner:
                owner[step] = owner[sources[0]]
        elif step not in writes and (_is_one_of(step, _FRESH | _RELAID) or overwriting(step) is not None):
            owner[step] = step
    return owner


def _returns_its_own(node: fx.Node, writes: Mapping[fx.Node, Write]) -> bool:
    """Whether the result shares nothing with the arguments."""
    return node not in writes and (_is_one_of(node, _READERS) or overwriting(node) is not None)


def _owned(nodes: Sequence[fx.Node], owner: Mapping[fx.Node, fx.Node]) -> Iterator[fx.Node]:
    return (owner[n] for n in nodes if n in owner)


def _reads(step: Step, writes: Mapping[fx.Node, Write]) -> list[fx.Node]:
    return writes[step].inputs if not isinstance(step, Region) and step in writes else step_inputs(step)


def _is_one_of(node: fx.Node, names: frozenset[str]) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return False
    return target.overloadpacket.__name__ in names and not target._schema.is_mutable


def _taken(
    region: Region, over: Mapping[fx.Node, fx.Node], dead: Sequence[fx.Node], returned: frozenset[fx.Node]
) -> tuple[fx.Node | None, ...] | None:
    """A tensor for each output, if there is one: of the inputs that die here, or of what was dead before.

    over: inputs that die with what they are views of, which nothing else shows.
    """
    if region.run_into is None:
        return None
    taken: list[fx.Node | None] = []
    free = [*dict.fromkeys(over.values()), *dead]
    for position, output in enumerate(region.outputs):
        layout = _layout(output)
        inputs = [x for o, i in region.in_place if o == position and (x := region.inputs[i]) in over]
        # What is returned must be no view: a user may write into it, which autograd would not allow.
        whole = (x for x in inputs if x is over[x] or (output not in returned and _size(x) == _size(over[x])))
        usable = (n for n in (*whole, *dead) if over.get(n, n) in free and _layout(n) == layout)
        found = next(usable, None) if layout is not None else None
        if found is None and not _is_static(layout):
            return None  # only sizes that are known are written as an allocation
        if found is not None:
            free.remove(over.get(found, found))
        taken.append(found)
    return tuple(taken) if any(taken) else None


def _overwritten(node: fx.Node, over: Mapping[fx.Node, fx.Node], returned: frozenset[fx.Node]) -> fx.Node | None:
    """The operand that torch's operator may write over, if there is one.

    over: operands that die with what they are views of, which nothing else shows.
    """
    way = overwriting(node)
    layout = _layout(node)
    if way is None or layout is None:
        return None
    for operand in (n for n in node.args if isinstance(n, fx.Node) and n in over):
        whole = operand is over[operand] or (node not in returned and _size(operand) == _size(over[operand]))
        if whole and _layout(operand) == layout and (way.argument or operand is node.args[0]):
            return operand
    return None


def _size(node: fx.Node) -> Any:
    size = node.meta["val"].numel()
    return size.node.expr if isinstance(size, torch.SymInt) else size


def _is_static(layout: tuple[Any, ...] | None) -> bool:
    return layout is not None and all(isinstance(size, int) for size in layout[3:])


def _layout(node: fx.Node) -> tuple[Any, ...] | None:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return None
    # Expressions are compared, not sizes: that two sizes happen to be equal would be a new guard.
    sizes = (d.node.expr if isinstance(d, torch.SymInt) else d for d in (*value.shape, *value.stride()))
    return (value.dtype, value.device, value.dim(), *sizes)
