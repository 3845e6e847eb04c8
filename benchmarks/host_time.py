"""Host time per call of a compiled function of 1, 3 and 20 kernels at tiny sizes: AKG beside Inductor and eager.

    python benchmarks/host_time.py

Every round times all three, in random order; what is printed is the median of the rounds' ratios.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

import torch

_ROUNDS = 60
_CALLS = 200


def chain(kernels: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A function of that many kernels: a matrix product keeps each from joining the next."""

    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        for i in range(kernels):
            x = torch.sigmoid(x * 2 + 1) * x
            if i + 1 < kernels:
                x = torch.mm(x, w)
        return x

    return f


def interleaved(functions: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Microseconds per call of each, round by round."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    for round_number in range(_ROUNDS + 3):
        random.shuffle(names)
        for name in names:
            function = functions[name]
            start = time.perf_counter()
            for _ in range(_CALLS):
                function()
            if round_number >= 3:  # the first rounds warm up
                times[name].append((time.perf_counter() - start) / _CALLS * 1e6)
    return times


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    x, w = torch.randn(4, 8), torch.randn(8, 8)
    print(f"{'kernels':>8} {'eager us':>9} {'akg us':>8} {'inductor us':>12} {'akg/inductor':>13} {'akg/eager':>10}")
    for kernels in (1, 3, 20):
        f = chain(kernels)
        ours = torch.compile(f, backend="akg", options={"gate": "correct"})
        theirs = torch.compile(f, backend="inductor")
        with torch.no_grad():
            torch.testing.assert_close(ours(x, w), f(x, w))
            times = interleaved(
                {"eager": lambda f=f: f(x, w), "akg": lambda g=ours: g(x, w), "inductor": lambda g=theirs: g(x, w)}
            )
        mid = {name: statistics.median(values) for name, values in times.items()}
        ratio = {
            base: statistics.median(a / b for a, b in zip(times["akg"], times[base], strict=True))
            for base in ("inductor", "eager")
        }
        print(
            f"{kernels:8d} {mid['eager']:9.1f} {mid['akg']:8.1f} {mid['inductor']:12.1f}"
            f" {ratio['inductor']:13.2f} {ratio['eager']:10.2f}"
        )


if __name__ == "__main__":
    main()
