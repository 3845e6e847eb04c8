"""What a user may choose: ``torch.compile(model, backend="akg", options={...}, mode=...)``.

Text from the user is parsed once, here, into a frozen `Options`; whatever is not known is an `OptionError` that lists
what is, so that a misspelt option is never silently ignored.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from akg_dynamo.core.errors import OptionError
from akg_dynamo.core.targets import ARCHS, DSLS, check_arch, default_dsl, resolve
from akg_dynamo.core.types import Target

GATES = ("profit", "correct")
NUMERICS = ("bounded", "eager", "fast")
GENERATIONS = ("blocking", "background", "cached")
_DSL_ALIASES = {"c++": "cpp", "cxx": "cpp", "triton": "triton_cuda", "triton-cuda": "triton_cuda"}
_ALL_ARCHS = tuple(dict.fromkeys(arch for archs in ARCHS.values() for arch in archs))


@dataclass(frozen=True)
class Options:
    """One compilation's choices.

    gate: "profit" uses a kernel only where it was judged right and faster; "correct" wherever it was judged right.
    numerics: "bounded": error at most twice eager's own against an fp64 oracle; "fast": within `rtol`, which it needs.
        "eager": rounded where eager rounds. That gives eager's very bits where each of its operators is exact (one
        rounding, whatever the layout); of the others (sums, exp, sigmoid: eager's own differ between layouts and
        numbers of threads) it is "bounded" beside what is rounded likewise.
    dsl: what kernels are written in; None is the default of the device that a graph runs on.
    arch: the hardware to generate for; "native" is the host's.
    generation: "blocking" generates before the first call returns, "background" meanwhile, "cached" never.
    cache_dir: where verdicts and kernels are kept (default: AKG_CACHE_DIR, or the user's cache folder).
    compile_budget_s: after this long, what is not generated yet stays with torch.
    """

    gate: str = "profit"
    numerics: str = "bounded"
    rtol: float | None = None
    dsl: str | None = None
    arch: str = "native"
    generation: str = "blocking"
    cache_dir: Path | None = None
    compile_budget_s: float | None = None
    freezing: bool = False
    mode: str = "default"  # torch.compile's

    def __post_init__(self) -> None:
        if self.numerics == "fast" and self.rtol is None:
            raise OptionError('numerics "fast" needs an rtol: options={"numerics": "fast", "rtol": 1e-2}')
        if self.numerics != "fast" and self.rtol is not None:
            raise OptionError(f'rtol belongs to numerics "fast"; numerics is "{self.numerics}"')
        if self.dsl is not None:
            check_arch(self.dsl, self.arch)
        if self.freezing:
            raise OptionError("freezing is not available: parameters stay inputs, so that changing them is always seen")

    def target_for(self, device: str) -> Target:
        """What to generate for, in a graph that runs on a device of that type ("cpu", "cuda").

        A device that has no DSL gets the CPU's target, for which nothing of its graph can be generated.

        Raises:
            OptionError: the arch does not go with the DSL, or "native" with a DSL whose hardware is not here.
        """
        if self.dsl is not None:
            return resolve(self.dsl, self.arch)
        dsl = default_dsl(device) or "cpp"
        return resolve(dsl, self.arch if self.arch in ARCHS[DSLS[dsl]] else "native")

    def without_effect(self, device: str) -> tuple[str, ...]:
        """What was asked for and changes nothing in a graph on that type of device."""
        found = []
        if self.mode != "default":
            found.append(f"mode={self.mode!r}: kernels are tuned, and launched as cheaply, without it")
        made_for = DSLS[self.dsl] if self.dsl is not None else device
        if made_for != device:
            found.append(f"dsl={self.dsl!r}: it is for {made_for}, and this graph runs on {device}")
        elif self.arch not in ARCHS.get(device, ("native",)):
            found.append(f"arch={self.arch!r}: this graph runs on {device}")
        if self.generation == "cached" and self.compile_budget_s is not None:
            found.append('compile_budget_s: nothing is generated under generation="cached"')
        return tuple(found)


MODES: Mapping[str, Mapping[str, object]] = {
    "default": {},
    # Calls go through generated Python, with nothing to interpret and no CUDA graph to record: nothing to turn on.
    "reduce-overhead": {},
    "max-autotune": {"compile_budget_s": None},
    "max-autotune-no-cudagraphs": {"compile_budget_s": None},
}


def _did_you_mean(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _one_of(known: tuple[str, ...]) -> Callable[[str, object], object]:
    def parse(name: str, value: object) -> object:
        if value not in known:
            hint = _did_you_mean(str(value), list(known))
            raise OptionError(f"{name}={value!r} is not known: one of {', '.join(map(repr, known))}{hint}")
        return value

    return parse


def _dsl(name: str, value: object) -> object:
    return None if value is None else _one_of(tuple(DSLS))(name, _DSL_ALIASES.get(str(value), value))


def _positive(name: str, value: object) -> object:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0 or math.isinf(value):
        raise OptionError(f"{name}={value!r} must be a positive number")
    return float(value)


def _folder(name: str, value: object) -> object:
    if value is None:
        return None
    if not isinstance(value, (str, Path)) or not str(value):
        raise OptionError(f"{name}={value!r} must be a folder's path")
    return Path(value).expanduser()


def _flag(name: str, value: object) -> object:
    if not isinstance(value, bool):
        raise OptionError(f"{name}={value!r} must be True or False")
    return value


_PARSERS: Mapping[str, Callable[[str, object], object]] = {
    "gate": _one_of(GATES),
    "numerics": _one_of(NUMERICS),
    "rtol": _positive,
    "dsl": _dsl,
    "arch": _one_of(_ALL_ARCHS),
    "generation": _one_of(GENERATIONS),
    "cache_dir": _folder,
    "compile_budget_s": _positive,
    "freezing": _flag,
}
assert set(_PARSERS) | {"mode"} == {f.name for f in fields(Options)}


def parse(options: Mapping[str, object] | None = None, mode: str | None = None) -> Options:
    """`Options` from what torch.compile was given.

    Raises:
        OptionError: an unknown mode, option or value.
    """
    mode = str(_one_of(tuple(MODES))("mode", mode or "default"))
    chosen = {**MODES[mode], "mode": mode}
    for name, value in (options or {}).items():
        if name not in _PARSERS:
            known = ", ".join(sorted(_PARSERS))
            raise OptionError(f"unknown option {name!r}{_did_you_mean(str(name), list(_PARSERS))} (known: {known})")
        chosen[name] = _PARSERS[name](name, value)
    return replace(Options(), **chosen)  # type: ignore[arg-type]
