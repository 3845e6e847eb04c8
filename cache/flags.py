"""The switches of torch that change what eager computes.

They are part of every key (a verdict won under TF32 must never serve a user without it), and the judge's processes
take them over, so that eager is there what it is in the user's process.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from akg_dynamo.core import settings

# torch's newer switches, one per library and operation; the older ones (allow_tf32, set_float32_matmul_precision) set
# several of these at once, and cannot be read any more once a newer one was set.
_PRECISIONS = (
    ("cuda", "matmul"), ("cuda", "conv"), ("cuda", "rnn"), ("mkldnn", "matmul"), ("mkldnn", "conv"), ("mkldnn", "rnn"),
)  # fmt: skip
_ATTENTION = ("flash", "mem_efficient", "math", "cudnn")


@dataclass(frozen=True)
class EagerFlags:
    """The flags at one moment.

    float32_precision: by library and operation, e.g. ("cuda.conv", "tf32").
    tf32_override: what the environment says of TF32, whose word is the last.
    fp16_reduction, bf16_reduction: whether cuBLAS may add up in that type, and whether when it splits the sum.
    attention: the kernels that scaled_dot_product_attention may choose from.
    """

    float32_precision: tuple[tuple[str, str], ...]
    tf32_override: str
    fp16_reduction: tuple[bool, bool]
    bf16_reduction: tuple[bool, bool]
    fp16_accumulation: bool
    attention: tuple[str, ...]
    cudnn: bool
    deterministic: bool
    deterministic_fill: bool
    flush_denormal: bool
    default_dtype: str

    @staticmethod
    def now() -> EagerFlags:
        """The flags as they stand in this process."""
        return EagerFlags(
            float32_precision=tuple((f"{backend}.{op}", _precision(backend, op)) for backend, op in _PRECISIONS),
            tf32_override=settings.tf32_override(),
            fp16_reduction=_reduction("fp16"),
            bf16_reduction=_reduction("bf16"),
            fp16_accumulation=bool(torch.backends.cuda.matmul.allow_fp16_accumulation),
            attention=tuple(name for name in _ATTENTION if getattr(torch._C, f"_get_{name}_sdp_enabled")()),
            cudnn=bool(torch._C._get_cudnn_enabled()),
            deterministic=torch.are_deterministic_algorithms_enabled(),
            deterministic_fill=bool(torch.utils.deterministic.fill_uninitialized_memory),  # type: ignore[attr-defined]
            flush_denormal=_flushes_denormals(),
            default_dtype=str(torch.get_default_dtype()),
        )

    def apply(self) -> None:
        """Make eager in this process what it was where the flags were read.

        All but three: the default dtype does not touch a graph once it is captured, denormals are flushed by thread,
        and a process has the environment it was started with.
        """
        wanted = dict(self.float32_precision)
        # The older switches first: where they say it all, code that reads them finds what the user's process has.
        if wanted["mkldnn.matmul"] == "bf16":
            torch._C._set_float32_matmul_precision("medium")
        else:
            torch._C._set_float32_matmul_precision("high" if wanted["cuda.matmul"] == "tf32" else "highest")
        torch._C._set_cudnn_allow_tf32(wanted["cuda.conv"] == "tf32")
        for name, precision in self.float32_precision:
            backend, op = name.split(".")
            if _precision(backend, op) != precision:
                torch._C._set_fp32_precision_setter(backend, op, precision)
        _set_reduction("fp16", self.fp16_reduction)
        _set_reduction("bf16", self.bf16_reduction)
        torch.backends.cuda.matmul.allow_fp16_accumulation = self.fp16_accumulation
        for name in _ATTENTION:
            getattr(torch._C, f"_set_sdp_use_{name}")(name in self.attention)
        torch._C._set_cudnn_enabled(self.cudnn)
        self.apply_determinism()

    def apply_determinism(self) -> None:
        """Of the flags, what a process that poisons memory switches on and off."""
        # torch.use_deterministic_algorithms would load Inductor's configuration, 0.6 s for nothing.
        torch._C._set_deterministic_algorithms(self.deterministic, warn_only=True)
        torch._C._set_deterministic_fill_uninitialized_memory(self.deterministic_fill)


def _precision(backend: str, op: str) -> str:
    found = torch._C._get_fp32_precision_getter(backend, op)
    return "ieee" if found == "none" else str(found)


def _reduction(dtype: str) -> tuple[bool, bool]:
    matmul = torch.backends.cuda.matmul
    name = f"allow_{dtype}_reduced_precision_reduction"
    return bool(getattr(matmul, name)), bool(getattr(matmul, f"{name}_split_k", True))


def _set_reduction(dtype: str, allowed: tuple[bool, bool]) -> None:
    matmul = torch.backends.cuda.matmul
    name = f"allow_{dtype}_reduced_precision_reduction"
    setattr(matmul, name, allowed if hasattr(matmul, f"{name}_split_k") else allowed[0])


def _flushes_denormals() -> bool:
    """torch has a setter and no getter: half the smallest normal number is 0 exactly when denormals are flushed."""
    return bool((torch.tensor(2.0**-126) * 0.5).item() == 0.0)
