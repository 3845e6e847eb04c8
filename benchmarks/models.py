"""End-to-end speed of real models with random weights: eager, Inductor and AKG, interleaved in one process.

python benchmarks/models.py [--only PATTERN] [--small] [--no-inductor] [--seconds 6]
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import logging
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import zoo  # noqa: E402
from measure import environment, interleave  # noqa: E402


def main() -> int:
    """Print and keep the table; 1 if a model is slower than 0.98 of eager's speed, or wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="*")
    parser.add_argument("--small", action="store_true", help="the widths of the fast tests")
    parser.add_argument("--no-inductor", action="store_true")
    parser.add_argument("--seconds", type=float, default=6.0, help="of timing per model")
    args = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    about = environment()
    rows = []
    missed = []
    print("| model | eager ms | Inductor ms | AKG ms | AKG over eager | AKG over Inductor | first call s |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in fnmatch.filter(zoo.NAMES, args.only):
        entry = zoo.build(name, large=not args.small)
        torch._dynamo.reset()
        contenders = {"eager": entry.model, "akg": torch.compile(entry.model, backend="akg")}
        if not args.no_inductor:
            contenders["inductor"] = torch.compile(entry.model, backend="inductor")
        with torch.no_grad():
            expected = entry.model(*entry.inputs)
            start = time.perf_counter()
            actual = contenders["akg"](*entry.inputs)
            first_s = time.perf_counter() - start
            close = torch.allclose(actual, expected, rtol=1e-3, atol=1e-3)
            calls = {who: (lambda f=f, x=entry.inputs: f(*x)) for who, f in contenders.items()}
            rounds = interleave(calls, seconds=args.seconds)
        over = {who: rounds.ratio(who, "akg") for who in contenders if who != "akg"}
        if not close or not over["eager"].at_least(0.98):
            missed.append(name)
        inductor_ms = f"{rounds.median_us('inductor') / 1e3:.2f}" if "inductor" in over else ""
        print(
            f"| {name}{'' if close else ' WRONG'} | {rounds.median_us('eager') / 1e3:.2f} | {inductor_ms} "
            f"| {rounds.median_us('akg') / 1e3:.2f} | {over['eager']} | {over.get('inductor', '')} | {first_s:.1f} |",
            flush=True,
        )
        rows.append({"model": name, "close": close, "first_call_s": first_s, "us": dict(rounds.us)})
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    result = {"environment": about, "small": args.small, "rows": rows}
    (results / f"models_{stamp}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nslower than 0.98 of eager, or wrong: {', '.join(missed) or 'none'}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
