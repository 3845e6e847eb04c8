"""A linear layer on a GPU against the product alone: what `akg_dynamo/linear_bias.py` goes by.

    python benchmarks/linear_bias.py [--dtype float32 bfloat16] [--seconds 0.3]

Rows, inputs and outputs are those of ViT, BERT and ConvNeXt at real widths (`zoo.py`, "full"). Interleaved, by the time
of the device.
"""

from __future__ import annotations

import argparse
import json
from functools import partial

import torch
import torch.nn.functional as F
from measure import environment, geometric_mean, interleave

from akg_dynamo.bench.clock import DeviceClock

SHAPES = (
    (100352, 96, 384), (100352, 384, 96), (25088, 192, 768), (25088, 768, 192), (6272, 384, 1536), (6272, 1536, 384),
    (1568, 768, 3072), (1568, 3072, 768), (8192, 768, 768), (8192, 768, 3072), (8192, 3072, 768), (6304, 1024, 1024),
    (6304, 1024, 4096), (6304, 4096, 1024), (8192, 1024, 4096), (8192, 4096, 1024), (8192, 1024, 3072),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--seconds", type=float, default=0.3, help="for each shape")
    args = parser.parse_args()
    print(json.dumps(environment("cuda")))
    for name in args.dtype:
        dtype = getattr(torch, name)
        ratios = []
        print(f"\n| {name}: rows, in, out | with, us | alone, us | as fast alone |\n|---|---:|---:|---|")
        for rows, inner, outer in SHAPES:
            x, w, b = (torch.randn(s, device="cuda", dtype=dtype) for s in ((rows, inner), (outer, inner), (outer,)))
            calls = {"with": partial(F.linear, x, w, b), "alone": partial(F.linear, x, w)}
            rounds = interleave(calls, seconds=args.seconds, timed=DeviceClock(), visit_s=2e-4)
            ratio = rounds.ratio("with", "alone")
            ratios.append(ratio.mid)
            times = (f"{rounds.median_us(who):.1f}" for who in calls)
            print(f"| {rows}, {inner}, {outer} | {' | '.join(times)} | {ratio} |", flush=True)
        print(f"geometric mean: {geometric_mean(ratios):.3f}")


if __name__ == "__main__":
    main()
