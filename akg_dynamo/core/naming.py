"""Readable names for subgraphs, from what they compute."""

from __future__ import annotations

import re
from collections.abc import Sequence

from akg_dynamo.core.types import Subgraph


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PLAIN = {
    "native_layer_norm": "layer_norm", "native_group_norm": "group_norm", "_softmax": "softmax",
    "_log_softmax": "log_softmax", "_native_batch_norm_legit_no_training": "batch_norm",
    "native_batch_norm": "batch_norm",
    "_native_batch_norm_legit": "batch_norm", "_fused_rms_norm": "rms_norm", "_safe_softmax": "softmax",
    "rsub": "sub", "var_mean": "var", "linalg_vector_norm": "norm", "nll_loss_forward": "nll_loss",
}  # fmt: skip
_SILENT = _words(
    """getitem _to_copy clone view _unsafe_view expand permute transpose t unsqueeze squeeze select slice alias detach
    reshape full ones zeros arange scalar_tensor lift_fresh_copy copy split split_with_sizes unbind"""
)


def op_name(sub: Subgraph) -> str:
    """A readable name for a subgraph, from what it computes: ``add_rms_norm``, ``softmax``, ``mul_sum``."""
    names = []
    for node in sub.nodes:
        base = node.target.removeprefix("aten.").partition(".")[0]
        if base not in _SILENT:
            names.append(_PLAIN.get(base, base.strip("_")))
    text = " ".join(names)
    # x * rsqrt(mean(x * x) + eps) * w, as most models write it
    text = re.sub(r"\b(pow|square|mul) mean add rsqrt mul( mul)?\b", "rms_norm", text)
    text = re.sub(r"\bsigmoid mul\b", "silu", text)
    distinct = list(dict.fromkeys(text.split())) or ["copy"]
    if len(distinct) > 4:
        distinct = [*distinct[:3], "and", str(len(distinct) - 3), "more"]
    return "_".join(distinct)


def distinct_names(subs: Sequence[Subgraph]) -> list[str]:
    """`op_name` of each, told apart by a number where two are the same."""
    seen: dict[str, int] = {}
    names = []
    for sub in subs:
        name = op_name(sub)
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return names


def camel(name: str) -> str:
    """``add_rms`` as ``AddRms``."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))
