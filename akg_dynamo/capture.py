"""From a Dynamo graph to running code: AOTAutograd with all three compilers ours.

    Dynamo graph -> AOTAutograd (functional ATen graph, composite operators kept) -> plan -> extract -> `compiler.solve`
                 -> `executor.write_forward`

Composite operators are kept (an empty decomposition table): what stays with torch then runs its own fast kernels, and
dropout draws eager's random numbers. Everything is compiled from fake tensors, and no guard is ever added.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from akg_dynamo.attention_gradients import lay_out_gradients
from akg_dynamo.attention_masks import simplify_attention_masks
from akg_dynamo.background import SwappableForward, background
from akg_dynamo.channels_last import channels_last, has_convolutions, on_device, remembered
from akg_dynamo.conv_bias import bias_apart
from akg_dynamo.core.errors import AkgError, UserError
from akg_dynamo.core.types import Kernel, SplitReason, SplitReasonType, Subgraph
from akg_dynamo.dedupe import dedupe
from akg_dynamo.executor import BoxedForward, Outputs, write_forward
from akg_dynamo.explanation import Fallback, GraphReport, KernelUse, LeftNode, records
from akg_dynamo.fusion.extract import Cut, extract
from akg_dynamo.fusion.ops import main_device
from akg_dynamo.fusion.partition import FusionPlan, plan
from akg_dynamo.fusion.reference import reference
from akg_dynamo.fusion.symbols import no_new_guards
from akg_dynamo.linear_bias import put_together, summary, take_apart
from akg_dynamo.mixed_norms import correct_mixed_norms
from akg_dynamo.narrow import narrow
from akg_dynamo.options import Options
from akg_dynamo.products import align_products
from akg_dynamo.recompose import recompose
from akg_dynamo.reinplace import updates
from akg_dynamo.schedule import Region
from akg_dynamo.size_classes import SizeClasses, alike, limits

log = logging.getLogger(__name__)

_said: set[str] = set()


def compile_dynamo_graph(gm: fx.GraphModule, example_inputs: Sequence[Any], options: Options) -> Callable[..., Any]:
    """The backend proper: a callable that computes what `gm` does, its backward included."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch import config

    from akg_dynamo.rematerialise import partition

    reports: list[GraphReport] = []
    # Attention's other kernels round otherwise.
    rewrites = simplify_attention_masks(gm) if options.numerics != "eager" else ()
    layouts: list[str] = []  # of the joint graph, before there are reports

    def cut_in_two(joint: fx.GraphModule, inputs: Any, **settings: Any) -> tuple[fx.GraphModule, fx.GraphModule]:
        layouts.extend(_lay_out(joint, options))
        return partition(joint, inputs, same_products=options.numerics == "eager", **settings)

    def compiler_for(kind: str) -> Callable[[fx.GraphModule, Sequence[Any]], BoxedForward]:
        def compile_aot_graph(aot_gm: fx.GraphModule, _inputs: Sequence[Any]) -> BoxedForward:
            if kind == "inference":
                layouts.extend(_lay_out(aot_gm, options))
            done = compile_graph(aot_gm, kind, options, reports)
            if kind != "backward":
                reports[-1].rewrites += (*rewrites, *layouts)
            return done

        return compile_aot_graph

    # AOTAutograd's own cache does not know backends apart: it would hand us another's artifact, and others ours.
    # A new object per call: AotAutograd.__call__ changes its arguments.
    with config.patch(enable_autograd_cache=False, force_autograd_cache=False):
        compiled: Callable[..., Any] = aot_autograd(
            fw_compiler=compiler_for("forward"),
            bw_compiler=compiler_for("backward"),
            inference_compiler=compiler_for("inference"),
            decompositions={},
            partition_fn=cut_in_two,
            keep_inference_input_mutations=True,
        )(gm, example_inputs)
    if _nothing_gained(reports) and not layouts:
        # AOTAutograd's wrapper costs something on every call, and with no kernel of ours nothing pays for it.
        return gm.forward
    return compiled


def _lay_out(gm: fx.GraphModule, options: Options) -> list[str]:
    """Lays convolutions out as they are fastest. Says what was done."""
    if options.numerics == "eager" or not has_convolutions(gm.graph):  # the library's other kernels round otherwise
        return []
    from akg_dynamo import compiler
    from akg_dynamo.cache import signature

    device = signature.device(options.target_for(main_device(gm.graph)))
    clock = remembered(on_device if options.generation == "blocking" else None, compiler.store_for(options), device)
    done = channels_last(gm, clock)
    return [done] if done else []


def _nothing_gained(reports: Sequence[GraphReport]) -> bool:
    kinds = {report.kind for report in reports}
    whole = kinds in ({"inference"}, {"forward", "backward"})
    return whole and all(not report.kernels and report.state == "ready" for report in reports)


def compile_graph(gm: fx.GraphModule, kind: str, options: Options, reports: list[GraphReport]) -> BoxedForward:
    """One ATen graph as a boxed callable."""
    operators = [n for n in gm.graph.nodes if n.op == "call_function"]
    report = records.add(kind, len(operators))
    reports.append(report)
    _note(report, options.without_effect(main_device(gm.graph)))
    graph = _Graph(gm, kind, options, report)
    with _no_new_guards(gm):
        correct_mixed_norms(gm)
        recompose(gm)
        lay_out_gradients(gm)
        _plain_casts(gm)
        dedupe(gm)
        narrow(gm)
        if options.numerics != "eager":  # the library's other kernels round otherwise
            bias_apart(gm)
            if options.generation != "background":  # such a graph is written twice, first without its kernels
                take_apart(gm.graph)
            align_products(gm.graph)
        return graph.compile()


def _note(report: GraphReport, notes: Sequence[str]) -> None:
    """Files what was asked for in vain, and says it once in a process."""
    report.notes += tuple(notes)
    for text in notes:
        if text not in _said:
            _said.add(text)
            log.warning("without effect: %s", text)


def _plain_casts(gm: fx.GraphModule) -> None:
    """Casts that type promotion wrote as a prim become the operator every other cast is."""
    for node in gm.graph.nodes:
        if node.target is torch.ops.prims.convert_element_type.default:
            source, dtype = node.args
            node.target = torch.ops.aten._to_copy.default
            node.args, node.kwargs = (source,), {"dtype": dtype}


class _Graph:
    """One graph on its way through the pipeline."""

    def __init__(self, gm: fx.GraphModule, kind: str, options: Options, report: GraphReport) -> None:
        self.gm = gm
        self.kind = kind
        self.options = options
        self.report = report
        self.plan: FusionPlan
        self.classes: SizeClasses
        self.refused: dict[fx.Node, SplitReason] = {}  # whenever it was written
        self.apart = ""  # what its report says of linear layers: with other sizes that may not hold

    def compile(self) -> BoxedForward:
        self.plan, cuts = self._cut()
        self.classes = SizeClasses(self.gm.graph, cuts, self._for_other_sizes, self._without_kernels)
        return self._for_sizes(alike(cuts), self.report)

    def _for_sizes(self, cuts: Sequence[Cut], report: GraphReport) -> BoxedForward:
        """A forward with kernels judged for the sizes of these cuts."""
        if self.options.generation != "background" or not cuts:
            return self._write(cuts, _solve(cuts, self.options), report)
        waiting = SplitReason(SplitReasonType.NOT_CACHED, "being generated")
        forward = SwappableForward(self._write(cuts, {c.subgraph.digest: waiting for c in cuts}, report))
        report.state = "generating"

        def generate() -> None:
            try:
                forward.swap(self._write(cuts, _solve(cuts, self.options), report))
            finally:
                report.state = "ready"

        background.submit(generate)
        return forward

    def _for_other_sizes(self, cuts: Sequence[Cut]) -> BoxedForward:
        there = set(self.gm.graph.nodes)  # but for layers that no kernel wanted, and that were put together again
        cuts = [cut for cut in cuts if there.issuperset(cut.inputs)]
        report = records.add(self.kind, self.report.operators)
        report.rewrites = tuple(text for text in self.report.rewrites if text != self.apart)
        with _no_new_guards(self.gm):
            return self._for_sizes(cuts, report)

    def _without_kernels(self) -> BoxedForward:
        return self._write((), {}, GraphReport(self.kind, self.report.number, self.report.operators))

    def _cut(self) -> tuple[FusionPlan, list[Cut]]:
        in_place = SplitReason(SplitReasonType.MUTATION, "updates an input in place")
        for node in updates(self.gm.graph):
            node.meta["stays_with_torch"] = in_place
        target = self.options.target_for(main_device(self.gm.graph))
        chosen = plan(self.gm, target=target, options=self.options)
        return chosen, extract(self.gm, chosen)

    def _write(
        self, cuts: Sequence[Cut], solutions: Mapping[str, Kernel | SplitReason], report: GraphReport
    ) -> BoxedForward:
        cut_of: dict[Region, tuple[Cut, Kernel]] = {}
        refused: dict[fx.Node, SplitReason] = {}
        for cut in cuts:
            solution = solutions[cut.subgraph.digest]
            if isinstance(solution, SplitReason):
                refused.update(dict.fromkeys(cut.nodes, solution))
                continue
            region = Region(
                solution.name,
                frozenset(cut.nodes),
                cut.inputs,
                cut.symbols,
                cut.outputs,
                solution.run,
                first_run=_marked(solution, self.options),
                run_into=solution.run_into,
                in_place=solution.in_place,
                reads_addresses=solution.reads_addresses,
            )
            cut_of[region] = (cut, solution)
        whole = put_together(self.gm.graph, {node for cut, _ in cut_of.values() for node in cut.nodes})
        refused.update((layer, self.plan.reasons[product]) for layer, product in whole.items())
        if apart := summary(self.gm.graph):
            report.rewrites += (apart,)
        if report is self.report:
            self.apart = apart

        def on_raise(
            region: Region, error: Exception, arguments: tuple[Any, ...]
        ) -> tuple[Outputs, Callable[..., Outputs]]:
            cut, kernel = cut_of[region]
            original = reference(cut.subgraph)
            try:
                outputs = original(*arguments)
            except Exception as refusal:  # eager's own error, whatever it is, in its own words
                raise refusal from None
            if isinstance(error, torch.OutOfMemoryError):
                return outputs, kernel.run  # the moment's fault, not the kernel's
            _latch(kernel, error, self.options, report)
            return outputs, original

        most = limits(cuts)
        executable = write_forward(
            self.gm,
            list(cut_of),
            on_raise=on_raise,
            inputs_are_guarded=self.kind != "backward",
            title=f"{self.kind} {report.number}",
            limits=most,
            beyond=self.classes.beyond,
        )
        for region in executable.given_up:
            cut, _ = cut_of.pop(region)
            refused.update(dict.fromkeys(cut.nodes, SplitReason(SplitReasonType.UNSUPPORTED, "it would make a cycle")))
        self.refused.update(refused)
        self._file(report, cut_of.values())
        report.sizes = ", ".join(f"{source.text()} <= {hi}" for source, hi in most.items())
        report.source = executable.source
        return executable.forward

    def _file(self, report: GraphReport, used: Iterable[tuple[Cut, Kernel]]) -> None:
        used = list(used)
        inside = {node for cut, _ in used for node in cut.nodes}
        report.kernels = tuple(
            KernelUse(
                kernel.name,
                kernel.digest,
                tuple(str(n.target) for n in cut.nodes),
                kernel.verdict,
                _promise(cut.subgraph, self.options),
                "x".join(map(str, cut.subgraph.output_specs[0].shape)) or "a number",
            )
            for cut, kernel in used
        )
        no_tensor = SplitReason(SplitReasonType.NOT_TENSOR)  # a size that the plan took in for a kernel's sake
        report.left = tuple(
            LeftNode(n.name, str(n.target), self.refused.get(n) or self.plan.reasons.get(n, no_tensor))
            for n in self.gm.graph.nodes
            if n.op == "call_function" and n not in inside
        )


def _promise(sub: Subgraph, options: Options) -> str:
    """What numerics "eager" means for a subgraph: equal bits only where eager itself is exact."""
    if options.numerics != "eager":
        return ""
    from akg_dynamo.agents.verifier.exactness import is_exact

    return "eager's bits" if is_exact(sub) else "rounded where eager rounds"


def solve(subgraphs: Sequence[Subgraph], options: Options) -> dict[str, Kernel | SplitReason]:
    """`compiler.solve`, imported when the first graph has something to solve."""
    from akg_dynamo import compiler

    return compiler.solve(subgraphs, options)


def _marked(kernel: Kernel, options: Options) -> Callable[..., tuple[torch.Tensor, ...]]:
    """The kernel under a marker on disk: should it take the process down, the next one will not run it again."""

    def run(*arguments: object) -> tuple[torch.Tensor, ...]:
        from akg_dynamo import compiler

        with compiler.store_for(options).launching(kernel.key):
            return kernel.run(*arguments)

    return run


def quarantine(kernel: Kernel, reason: str, options: Options) -> None:
    """Files that the kernel must not be used again, by any process."""
    from akg_dynamo import compiler

    compiler.store_for(options).quarantine(kernel.key, reason)


def _solve(cuts: Sequence[Cut], options: Options) -> dict[str, Kernel | SplitReason]:
    """Kernels for the cuts. What the host lacks costs the kernels, never the model."""
    subgraphs = [cut.subgraph for cut in cuts]
    if not subgraphs:
        return {}
    try:
        return solve(subgraphs, options)
    except UserError:
        raise
    except AkgError as error:
        if str(error) not in _said:
            _said.add(str(error))
            log.warning("no kernels can be made here, the model runs with torch's operators: %s", error)
        return dict.fromkeys((sub.digest for sub in subgraphs), SplitReason(SplitReasonType.BUILD, str(error)))


def _latch(kernel: Kernel, error: Exception, options: Options, report: GraphReport) -> None:
    """Says, and files for all processes, that a kernel raised where the original operators do not."""
    text = f"{type(error).__name__}: {error}"
    report.fallbacks.append(Fallback(kernel.name, kernel.digest, text))
    if kernel.key not in _said:
        _said.add(kernel.key)
        log.error("kernel %s raised; torch's operators replace it from now on", kernel.name, exc_info=error)
        quarantine(kernel, text, options)


def _no_new_guards(gm: fx.GraphModule) -> contextlib.AbstractContextManager[None]:
    from torch._guards import detect_fake_mode

    values = [n.meta["val"] for n in gm.graph.nodes if "val" in n.meta]
    mode = detect_fake_mode([v for v in values if isinstance(v, torch.Tensor)])
    return no_new_guards(mode.shape_env if mode is not None else None)


def reset() -> None:
    """Forgets what was reported and said; jobs in the background that have not begun are dropped."""
    background.cancel()
    records.clear()
    _said.clear()
