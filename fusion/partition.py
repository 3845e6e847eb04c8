"""Which nodes of a functional ATen graph become one kernel: tags, and a typed reason for every node left with torch.

One pass over the topological order grows regions greedily: a node joins the region of the producer whose traffic it
saves most, and then pulls in its other producers' regions. Every group (a region, or a node that stays with torch) has
a level; along every edge between groups the level rises, so the contracted graph has no cycle. A region that must rise
past its users to take a node in pushes them up, at most `_LIFT_BUDGET` groups at a time: linear overall.

Views between two members go into the region and are computed outside too if anything else reads them; constants are
copied into whatever reads them; a view of something that is not in the region stays with torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import fx

from akg_dynamo.core.types import SplitReason, SplitReasonType, Target
from akg_dynamo.fusion.cost import LEAST_ELEMENTS, Facts, Pattern, bytes_of, facts_of, line_up
from akg_dynamo.fusion.ops import (
    HANDLED_DTYPES,
    OpKind,
    base_name,
    classify,
    follows_view,
    fusible,
    is_host_scalar,
    tensors_of,
    window_size,
)
from akg_dynamo.fusion.plan import FusionPlan, cyclic_tags, without
from akg_dynamo.fusion.symbols import Inexpressible, SymbolNames, expression, hint, numel_hint, symbol_sources
from akg_dynamo.fusion.unrolled import unrolled_loops

_MAX_NODES = 64
_MAX_INPUTS = 24
_MAX_OPEN = 24  # values that something outside may still read
_MAX_OPEN_LARGEST = 8  # and all together no more than so many of the largest: they are all held until they are read
_MAX_PATTERNS = 4
_MOST_REPEATS = 12  # of what windows slide over, on average
_LIFT_BUDGET = 96


class PlanOptions(Protocol):
    """What the partitioner reads of the options. gate: "profit", or "correct" to take whatever a kernel can compute."""

    @property
    def gate(self) -> str: ...


def plan(gm: fx.GraphModule, *, target: Target, options: PlanOptions) -> FusionPlan:
    """Partitions a graph, in time linear in its nodes and edges."""
    grower = _Grower(gm.graph, target.backend)
    grower.grow()
    return _Finisher(grower, gated=options.gate != "correct").finish()


# --------------------------------------------------------------------------------------------------------------------
# Growing


class _Group:
    """A region (`members` are its computing nodes) or a single node that torch runs (`members` is empty).

    loop: it is a whole loop, which nothing joins.
    """

    __slots__ = (
        "domain", "epoch", "expensive", "inputs", "level", "loop", "members", "open", "parent", "patterns", "succ"
    )  # fmt: skip

    def __init__(self, level: int, epoch: int) -> None:
        self.level, self.epoch = level, epoch
        self.loop = False
        self.parent: _Group | None = None
        self.members: list[fx.Node] = []
        self.inputs: set[fx.Node] = set()
        self.open: set[fx.Node] = set()
        self.domain = 0
        self.patterns: frozenset[Pattern] = frozenset()
        self.expensive = False
        self.succ: set[_Group] = set()


def _find(group: _Group) -> _Group:
    root = group
    while root.parent is not None:
        root = root.parent
    while group.parent is not None:
        group.parent, group = root, group.parent
    return root


class _Grower:
    """One pass over the nodes; afterwards `group_of` has the region of every computing node."""

    def __init__(self, graph: fx.Graph, device: str) -> None:
        self.graph, self.device = graph, device
        self.sources = symbol_sources(graph)
        self.kind: dict[fx.Node, OpKind] = {}
        self.reason: dict[fx.Node, SplitReason] = {}
        self.facts: dict[fx.Node, Facts] = {}
        self.group_of: dict[fx.Node, _Group] = {}
        # for views inside a kernel and constants: the node whose value they show, and None once it is a constant
        self.root: dict[fx.Node, fx.Node | None] = {}
        # what torch must have run before it can make a constant "like" something, or read a size from it
        self.needs: dict[fx.Node, frozenset[_Group]] = {}
        self.epoch = 0
        self.top = 0
        self.floor = 0
        self.last_random: _Group | None = None
        # Column sums wait until the rest has grown: taken in order they would keep the row reductions of a norm's
        # backward, which come after them, out of the region that computes what both reduce.
        self.columns: list[fx.Node] = []
        loops = unrolled_loops(graph, device) if device == "cuda" else []
        self.loop_of = {node: loop for loop in loops for node in loop}
        self.region_of_loop: dict[frozenset[fx.Node], _Group] = {}

    def grow(self) -> None:
        for node in self.graph.nodes:
            kind = self.kind[node] = classify(node)
            if node in self.loop_of:
                self._into_loop(node, kind)
                continue
            reason = self._reason(node, kind)
            if reason is not None:
                self.reason[node] = reason
            if node.op in ("placeholder", "get_attr", "output"):
                continue
            if kind is OpKind.SYMBOLIC or self._transparent(node, kind):
                self._note_needs(node)
                continue
            if kind is OpKind.GETITEM and node.args[0] in self.group_of:
                self._getitem(node)
            elif reason is None and kind.computes:
                self._place(node, kind)
            else:
                self._stay(node, kind)
        self._join_columns()

    def _reason(self, node: fx.Node, kind: OpKind) -> SplitReason | None:
        reason = fusible(node, self.device)
        if reason is not None or kind is OpKind.GETITEM:
            return reason
        return self._symbols_known(node)

    def _symbols_known(self, node: fx.Node) -> SplitReason | None:
        """A size that the placeholders do not determine, or that no dim can express, keeps a node with torch."""
        for involved in (node, *node.all_input_nodes):
            for tensor in tensors_of(involved.meta["val"]):
                for size in (*tensor.shape, *tensor.stride()):
                    reason = self._symbol_known(size)
                    if reason is not None:
                        return reason
            value = involved.meta["val"]
            if isinstance(value, torch.SymInt) and (reason := self._symbol_known(value)):
                return reason
            if isinstance(value, torch.SymFloat | torch.SymBool):
                return SplitReason(SplitReasonType.UNSUPPORTED, "a symbolic number that is not an integer")
        return None

    def _symbol_known(self, size: object) -> SplitReason | None:
        expr = expression(size)
        if isinstance(expr, int):
            return None
        if any(s not in self.sources for s in expr.free_symbols):
            return SplitReason(SplitReasonType.DATA_DEPENDENT, f"size {expr}")
        try:
            SymbolNames().text(expr)
        except Inexpressible as e:
            return SplitReason(SplitReasonType.UNSUPPORTED, f"size {e}")
        return None

    def _transparent(self, node: fx.Node, kind: OpKind) -> bool:
        """Views of computed values and constants belong to whatever reads them."""
        if kind is OpKind.CREATION:
            value = node.meta["val"]
            if isinstance(value, torch.Tensor) and self._plain_constant(node, value):
                self.root[node] = None
                return True
            return False
        if kind in (OpKind.VIEW, OpKind.GETITEM) and follows_view(node):
            base = node.args[0]
            assert isinstance(base, fx.Node)
            if base in self.root:
                self.root[node] = self.root[base]
                return True
            if base in self.group_of and self.group_of[base].members:
                self.root[node] = base
                return True
        return False

    def _note_needs(self, node: fx.Node) -> None:
        if self.kind[node] is OpKind.SYMBOLIC or self.root[node] is None:
            needs = frozenset(self._producers(node, sizes=True))
            if needs:
                self.needs[node] = needs

    def _plain_constant(self, node: fx.Node, value: torch.Tensor) -> bool:
        if _no_constant(value, self.device) or self._symbols_known(node):
            return False
        if base_name(node.target) == "arange" and any(isinstance(a, float) for a in node.args):
            return False  # its rounding is torch's own
        expected, dense = 1, True
        for size, stride in zip(reversed(value.shape), reversed(value.stride()), strict=True):
            s, t = expression(size), expression(stride)
            dense = dense and (s == 1 or t == expected)
            expected = expected * s
        return dense

    # -- levels --------------------------------------------------------------------------------------------------

    def _producers(self, node: fx.Node, *, sizes: bool = False) -> dict[_Group, list[fx.Node]]:
        """Groups this node depends on, with the values it reads of each (through views of them).

        sizes: also those it reads sizes from; a kernel has them as symbols.
        """
        found: dict[_Group, list[fx.Node]] = {}
        for p in node.all_input_nodes:
            value: fx.Node | None = self.root.get(p, p)
            if value is not None and value in self.group_of:
                found.setdefault(_find(self.group_of[value]), []).append(value)
            elif p in self.needs and (sizes or self.kind[p] is not OpKind.SYMBOLIC):
                for group in self.needs[p]:
                    found.setdefault(_find(group), [])
        return found

    def _new_group(self, producers: Iterable[_Group]) -> _Group:
        producers = list(producers)
        level = max([self.floor, *(g.level for g in producers)]) + 1
        group = _Group(level, self.epoch)
        for g in producers:
            g.succ.add(group)
        self.top = max(self.top, level)
        return group

    def _stay(self, node: fx.Node, kind: OpKind) -> None:
        producers = set(self._producers(node, sizes=True))
        if kind is OpKind.RANDOM and self.last_random is not None:
            producers.add(_find(self.last_random))  # the stream is drawn in the graph's order
        group = self.group_of[node] = self._new_group(producers)
        if kind is OpKind.RANDOM:
            self.last_random = group
        if kind is OpKind.MUTATION:
            self._join_columns()
            # nothing moves across it, either way
            group.level = self.top = self.floor = self.top + 1
            self.epoch += 1
        for p in node.all_input_nodes:
            self._close(p)

    def _getitem(self, node: fx.Node) -> None:
        producer = node.args[0]
        assert isinstance(producer, fx.Node)
        self.group_of[node] = self.group_of[producer]

    def _lift(self, group: _Group, level: int, avoid: set[_Group]) -> bool:
        """Raises a group, and what depends on it, to keep levels rising; False (and nothing done) on a cycle."""
        before: dict[_Group, int] = {}
        stack = [(group, level)]
        ok = True
        while stack:
            g, wanted = stack.pop()
            if g.level >= wanted:
                continue
            if g in avoid or g.epoch != self.epoch or len(before) >= _LIFT_BUDGET:
                ok = False
                break
            before.setdefault(g, g.level)
            g.level = wanted
            if len(g.succ) > _LIFT_BUDGET:
                ok = False
                break
            stack += [(_find(s), wanted + 1) for s in g.succ]
        if not ok:
            for g, old in before.items():
                g.level = old
            return False
        self.top = max([self.top, *(g.level for g in before)])
        return True

    # -- joining --------------------------------------------------------------------------------------------------

    def _place(self, node: fx.Node, kind: OpKind) -> None:
        facts = self.facts[node] = facts_of(node, kind)
        producers = self._producers(node)
        region: _Group | None = None
        if facts.patterns and all(p[-1][0] == "k" for p in facts.patterns) and kind is OpKind.REDUCTION:
            self.columns.append(node)
            self._add(self._new_group(producers), node, facts)
            return
        by_gain = sorted(producers, key=lambda g: -sum(bytes_of(v.meta["val"]) for v in producers[g]))
        for g in by_gain:
            if not producers[g] or not g.members or g.epoch != self.epoch or g.loop:
                continue
            if not self._worth(g, node, kind, facts, producers[g]):
                continue
            if region is None:
                others = {o for o in producers if o is not g}
                if self._fits(g, node) and self._lift_above(g, others):
                    region = g
            elif self._mergeable(region, g, {o for o in producers if _find(o) not in (region, g)}):
                region = self._merge(region, g)
        if region is None:
            region = self._new_group(producers)
        else:
            for o in producers:
                if _find(o) is not region:
                    o.succ.add(region)
        self._add(region, node, facts)

    def _into_loop(self, node: fx.Node, kind: OpKind) -> None:
        """A loop is one region, with the views that it reads. Nothing waits for it before its end."""
        if kind is OpKind.VIEW:
            root = self.root.get(node) if self._transparent(node, kind) else None
            if root is None or self.loop_of.get(root) is not self.loop_of[node]:
                self.root[node] = None  # of a value from outside: made inside, as a constant is
            self.reason[node] = SplitReason(SplitReasonType.VIEW, str(node.target))
            self._note_needs(node)
            return
        facts = self.facts[node] = facts_of(node, kind)
        producers = self._producers(node)
        region = self.region_of_loop.get(self.loop_of[node])
        if region is None:
            region = self.region_of_loop[self.loop_of[node]] = self._new_group(producers)
            region.loop = True
        others = producers.keys() - {region}
        self._lift_above(region, others)  # if it cannot be: what is on a cycle is given up in the end
        for o in others:
            o.succ.add(region)
        self._add(region, node, facts)

    def _join_columns(self) -> None:
        """Merges the regions of column sums into those that compute what they sum, whatever else is reduced there:
        the sum's loops recompute cheap values, where a region of its own would have them written and read back."""
        for node in self.columns:
            own = _find(self.group_of[node])
            values = {g: v for g, v in self._producers(node).items() if v and g is not own and g.members and not g.loop}
            for g, summed in values.items():
                if self._is_written_anyway(g, summed):
                    continue
                others = {o for member in own.members for o in self._producers(member)} - {g, own}
                room = len(g.members) + len(own.members) <= _MAX_NODES and self._holds_little(g.open | own.open)
                same = self.facts[node].domain == g.domain and g.epoch == own.epoch == self.epoch
                patterns = len(g.patterns | own.patterns) <= _MAX_PATTERNS
                if (
                    room
                    and same
                    and patterns
                    and len(g.inputs | own.inputs) <= _MAX_INPUTS
                    and self._lift_above(g, others)
                ):
                    level = g.level
                    merged = self._merge(g, own)
                    merged.level = level
                    merged.inputs -= set(summed)
                    break
        self.columns = []

    def _is_written_anyway(self, g: _Group, summed: list[fx.Node]) -> bool:
        """Whether to sum what others read too from memory: on a GPU, where it is less than what it is computed from.

        The sums are a phase of their own there, which would read all of that again.
        """
        if self.device != "cuda" or g.patterns or not all(map(self._is_read_outside, summed)):
            return False
        large = [p for p in g.inputs if any(numel_hint(t.shape) >= g.domain for t in tensors_of(p.meta["val"]))]
        return sum(bytes_of(p.meta["val"]) for p in large) > sum(bytes_of(v.meta["val"]) for v in summed)

    def _is_read_outside(self, value: fx.Node) -> bool:
        """Whether anything but its region and sums of columns reads it, through views too."""
        todo, region = [value], _find(self.group_of[value])
        while todo:
            for user in todo.pop().users:
                if self.root.get(user) is value:
                    todo.append(user)
                elif user not in self.columns and (
                    user not in self.group_of or _find(self.group_of[user]) is not region
                ):
                    return True
        return False

    def _lift_above(self, group: _Group, others: set[_Group]) -> bool:
        wanted = max((o.level for o in others), default=0) + 1
        return group.level >= wanted or self._lift(group, wanted, others)

    def _worth(self, g: _Group, node: fx.Node, kind: OpKind, facts: Facts, values: list[fx.Node]) -> bool:
        """Whether reading these values inside the region beats reading them from memory."""
        if kind is OpKind.GATHER:
            table = node.args[0]
            assert isinstance(table, fx.Node)
            if (self.root.get(table) or table) in values:
                return False  # the table's every element would be computed, or some many times
        if kind is OpKind.WINDOW and not self._worth_repeating(g, node, facts, values):
            return False
        if len(g.patterns | facts.patterns) > _MAX_PATTERNS:
            return False
        if not all(line_up(a, b) for a in facts.patterns for b in g.patterns):
            return False
        if facts.domain > g.domain:
            # the region's values are broadcast: recomputed for every element, unless it is only placed somewhere
            return not g.patterns and (not g.expensive or kind is OpKind.MOVE)
        return True

    def _worth_repeating(self, g: _Group, node: fx.Node, facts: Facts, values: list[fx.Node]) -> bool:
        """Whether to compute what windows slide over once for every window that an element lies in, unless it is there
        to be read anyway."""
        slides = any(self.kind[m] is OpKind.WINDOW for m in g.members)
        if slides or g.expensive or g.patterns or any(len(v.users) > 1 for v in values):
            return False
        return window_size(node) * facts.domain <= _MOST_REPEATS * g.domain

    def _fits(self, g: _Group, node: fx.Node) -> bool:
        return (
            len(g.members) < _MAX_NODES
            and len(g.inputs) + len(node.all_input_nodes) <= _MAX_INPUTS + 1
            and self._holds_little(g.open | {node})
        )

    def _holds_little(self, values: set[fx.Node]) -> bool:
        """Whether a region may hold these for others to read."""
        sizes = [self.facts[v].out_bytes for v in values]
        return len(values) <= _MAX_OPEN and sum(sizes) <= _MAX_OPEN_LARGEST * max(sizes, default=0)

    def _mergeable(self, a: _Group, b: _Group, others: set[_Group]) -> bool:
        if len(a.members) + len(b.members) >= _MAX_NODES or len(a.inputs | b.inputs) > _MAX_INPUTS:
            return False
        if not self._holds_little(a.open | b.open) or len(a.patterns | b.patterns) > _MAX_PATTERNS:
            return False
        if not all(line_up(p, q) for p in a.patterns for q in b.patterns):
            return False
        low, high = (a, b) if a.level <= b.level else (b, a)
        return low.level == high.level or self._lift(low, high.level, {high, *others})

    def _merge(self, a: _Group, b: _Group) -> _Group:
        if len(a.members) < len(b.members):
            a, b = b, a
        b.parent = a
        a.members += b.members
        a.inputs |= b.inputs
        a.open |= b.open
        a.domain = max(a.domain, b.domain)
        a.patterns |= b.patterns
        a.expensive |= b.expensive
        larger, smaller = (a.succ, b.succ) if len(a.succ) >= len(b.succ) else (b.succ, a.succ)
        larger |= smaller
        a.succ = larger
        return a

    def _add(self, region: _Group, node: fx.Node, facts: Facts) -> None:
        self.group_of[node] = region
        region.members.append(node)
        region.domain = max(region.domain, facts.domain)
        region.patterns |= facts.patterns
        region.expensive |= facts.expensive
        for p in node.all_input_nodes:
            value = self.root.get(p, p)
            inside = value is not None and value in self.group_of and _find(self.group_of[value]) is region
            if value is not None and not inside and self.kind[p] is not OpKind.SYMBOLIC:
                region.inputs.add(p)
        for p in node.all_input_nodes:
            self._close(p)
        region.open.add(node)

    def _close(self, value: fx.Node) -> None:
        """Forgets, as an open value, one whose readers are all in its region (a guess where it has many)."""
        root = self.root.get(value, value)
        while root is not None and self.kind.get(root) is OpKind.GETITEM:
            base = root.args[0]
            assert isinstance(base, fx.Node)
            root = base
        if root is None or root not in self.group_of:
            return
        region = _find(self.group_of[root])
        if root in region.open and all(
            u in self.group_of and _find(self.group_of[u]) is region for u in itertools.islice(root.users, 8)
        ):
            region.open.discard(root)


def _no_constant(value: torch.Tensor, device: str) -> bool:
    """Whether a constant cannot be made inside a kernel."""
    empty = any(isinstance(s, int) and s == 0 for s in value.shape)
    elsewhere = value.device.type != device and not is_host_scalar(value)
    return value.dtype not in HANDLED_DTYPES or elsewhere or empty


# --------------------------------------------------------------------------------------------------------------------
# Finishing: which regions are kept, what comes along with them, and the check


class _Finisher:
    """Turns regions into tags, copies and reasons. gated: without those that cannot pay; otherwise every region."""

    def __init__(self, grower: _Grower, *, gated: bool) -> None:
        self.g = grower
        self.gated = gated
        self.tags: dict[fx.Node, int] = {}
        self.copies: dict[fx.Node, tuple[int, ...]] = {}
        self.reasons: dict[fx.Node, SplitReason] = {}

    def finish(self) -> FusionPlan:
        number: dict[_Group, int] = {}
        kept = itertools.count()
        for node in self.g.facts:
            region = _find(self.g.group_of[node])
            if region not in number:
                number[region] = next(kept) if self._keep(region) else -1
        for node in self.g.graph.nodes:
            group = self.g.group_of.get(node)
            if group is None or not _find(group).members:
                continue
            tag = number[_find(group)]
            if tag >= 0:
                self.tags[node] = tag
            else:
                self.reasons[node] = SplitReason(SplitReasonType.TOO_SMALL, "little work to save")
        self._pull_in()
        self._tag_unread()
        for node in self.g.graph.nodes:
            if node not in self.tags and node not in self.reasons:
                self.reasons[node] = self.g.reason.get(node) or SplitReason(SplitReasonType.TOO_SMALL)
        plan = FusionPlan(self.tags, self.reasons, self.copies)
        while cyclic := cyclic_tags(self.g.graph, plan):
            # Levels exclude this for what regions read; a size or a constant read through a refused region can do it.
            plan = without(self.g.graph, plan, min(cyclic))
        return plan

    def _keep(self, region: _Group) -> bool:
        """Whether the profit gate lets it be tried; simple operators by themselves are as fast as they can be."""
        if not self.gated or len(region.members) > 2:
            return True
        if region.domain < LEAST_ELEMENTS:
            return False
        first, *others = region.members
        whole = self.g.kind[first] in (OpKind.NORM, OpKind.REDUCTION, OpKind.WINDOW) or self.g.facts[first].expensive
        return bool(others) or whole or _mixes_layouts(first)

    def _pull_in(self) -> None:
        """Constants, and views of a region's values, go into the regions that read them."""
        wanted: dict[fx.Node, set[int]] = {}
        for node in reversed(self.g.graph.nodes):
            if node in self.g.facts and node in self.tags:
                readers = {self.tags[node]}
            elif node in self.g.root and node in wanted:
                readers = wanted[node]
            else:
                continue
            if self.g.kind[node] is OpKind.CREATION:
                continue
            for p in node.all_input_nodes:
                if p not in self.g.root:
                    continue
                root = self.g.root[p]
                allowed = readers if root is None else readers & {self.tags.get(root, -1)}
                if allowed:
                    wanted.setdefault(p, set()).update(allowed)
        self.copies = {n: tuple(sorted(tags)) for n, tags in wanted.items()}

    def _tag_unread(self) -> None:
        """Views, constants and sizes that nothing outside the regions reads are not run by torch at all."""
        for node in reversed(self.g.graph.nodes):
            symbolic = self.g.kind[node] is OpKind.SYMBOLIC and node.op == "call_function"
            if not (symbolic or node in self.copies) or not node.users:
                continue
            tag = -1
            for user in node.users:
                if user not in self.tags:
                    break
                tag = self.tags[user]
                if not symbolic and not set(self._tags_of(user)) <= set(self.copies[node]):
                    break
            else:
                self.tags[node] = self.copies[node][0] if node in self.copies else tag

    def _tags_of(self, node: fx.Node) -> tuple[int, ...]:
        return self.copies.get(node) or (self.tags[node],)


def _mixes_layouts(node: fx.Node) -> bool:
    """Whether torch runs this on its strided or casting path, where a kernel for the layout has something to win."""
    values = [node.meta["val"], *(p.meta.get("val") for p in node.all_input_nodes)]
    tensors = [t for value in values for t in tensors_of(value) if t.dim() > 0]
    if not tensors:
        return False
    first = tensors[0]
    return any(
        t.dtype != first.dtype or t.dim() != first.dim() or any(map(_differs, t.stride(), first.stride()))
        for t in tensors[1:]
    )


def _differs(a: object, b: object) -> bool:
    return hint(a) != hint(b)


__all__ = ["FusionPlan", "PlanOptions", "plan"]
