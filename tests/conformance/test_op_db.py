"""torch's op_db through the product: no wrong value, no crash, and what can fuse runs a kernel of ours."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import selectors
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LIMIT_S = 900.0  # for one operator: past it the process is killed and the operator has failed
WORKERS = int(os.environ.get("AKG_OP_DB_WORKERS", "2"))
SAMPLES = int(os.environ.get("AKG_OP_DB_SAMPLES", "5"))
FIXED = (
    "add",
    "addcmul",
    "nn.functional.gelu",
    "nn.functional.layer_norm",
    "softmax",
    "var_mean",
    "where",
    "argmax",
    "sum",
)


def ask(process: subprocess.Popen[str], name: str) -> dict[str, Any]:
    """One operator's answer; a failure if the process dies or does not answer in time."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(name + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return _lost(name, f"the process died with {process.wait()}")
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        answered = selector.select(LIMIT_S)
    line = process.stdout.readline() if answered else ""
    if line:
        answer: dict[str, Any] = json.loads(line)
        return answer
    process.kill()
    return _lost(name, f"the process died with {process.wait()}" if answered else f"no answer in {LIMIT_S} s")


def _lost(name: str, message: str) -> dict[str, Any]:
    failure = {"sample": -1, "training": False, "message": message, "aot_eager": False}
    return {"op": name, "samples": 0, "fusible": 0, "ran": 0, "failures": [failure]}


def run_all(names: Sequence[str], samples: int, workers: int, results: Path) -> list[dict[str, Any]]:
    """Answers for all names; those already in `results` are kept, each new one is appended to it."""
    done = {}
    if results.is_file():
        done = {answer["op"]: answer for answer in map(json.loads, results.read_text().splitlines())}
    left: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in names:
        if name not in done:
            left.put(name)
    lock = threading.Lock()

    def serve(index: int) -> None:
        process = None
        with (results.parent / f"{results.stem}.{index}.log").open("a") as log:
            while True:
                try:
                    name = left.get_nowait()
                except queue.Empty:
                    break
                if process is None or process.poll() is not None:
                    command = [sys.executable, str(HERE / "op_db.py"), "--samples", str(samples)]
                    pipe = subprocess.PIPE
                    process = subprocess.Popen(
                        command, stdin=pipe, stdout=pipe, stderr=log, text=True, cwd=results.parent
                    )
                answer = ask(process, name)
                with lock, results.open("a") as file:
                    done[name] = answer
                    file.write(json.dumps(answer) + "\n")
            if process is not None and process.stdin is not None:
                process.stdin.close()
                process.wait()

    threads = [threading.Thread(target=serve, args=(i,)) for i in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [done[name] for name in names]


def report(answers: Sequence[dict[str, Any]]) -> str:
    """Totals, and every failure."""
    total = {key: sum(answer[key] for answer in answers) for key in ("samples", "fusible", "ran")}
    lines = [f"{len(answers)} operators, {total['samples']} samples, {total['ran']} of {total['fusible']} ran a kernel"]
    for answer in answers:
        for f in answer["failures"]:
            mode = "training" if f["training"] else "inference"
            also = " (aot_eager too)" if f["aot_eager"] else ""
            lines.append(f"{answer['op']} sample {f['sample']} {mode}{also}: {f['message']}")
    return "\n".join(lines)


def code_digest() -> str:
    """What the answers depend on: a resumed run must not keep those of other code."""
    digest = hashlib.sha256()
    for top in ("akg_dynamo", "agents", "fusion", "cache"):
        for file in sorted((ROOT / top).rglob("*")):
            if file.suffix in (".py", ".j2", ".h"):
                digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def test_a_few_operators(tmp_path: Path) -> None:
    answers = run_all(FIXED, 2, 1, tmp_path / "results.jsonl")
    assert not [f for answer in answers for f in answer["failures"]], report(answers)
    assert all(answer["samples"] > 0 for answer in answers)
    assert sum(a["ran"] for a in answers) == sum(a["fusible"] for a in answers), report(answers)


@pytest.mark.conformance
def test_every_operator() -> None:
    listing = "import op_db; print('\\n'.join(op_db.operators()))"
    done = subprocess.run([sys.executable, "-c", listing], cwd=HERE, capture_output=True, text=True, check=True)
    names = done.stdout.split()
    assert len(names) > 600
    folder = ROOT / "build" / "op_db"
    folder.mkdir(parents=True, exist_ok=True)
    answers = run_all(names, SAMPLES, WORKERS, folder / f"{code_digest()}_{SAMPLES}.jsonl")
    text = report(answers)
    (folder / "summary.txt").write_text(text + "\n")
    print(text)
    assert not [f for answer in answers for f in answer["failures"]], text
    assert sum(a["ran"] for a in answers) >= 0.8 * sum(a["fusible"] for a in answers), text
