"""The process that runs candidates. It draws no inputs, knows no expected output, and judges nothing.

It is forked by the zygote, told what to do over its channel, and answers with JSON; outputs are left as bytes in the
arena. Whatever it says is checked by the judge or is a diagnostic.
"""

from __future__ import annotations

import ctypes
import pickle
import sys
import time
import types
from typing import Any

import torch

from akg_dynamo.agents.verifier.arena import Arena, typed
from akg_dynamo.agents.verifier.channel import Channel, ChannelClosed
from akg_dynamo.fusion.reference import reference

_M_PERTURB = -6
_PERTURB = 0x80  # malloc fills new blocks with its complement, 0x7F: 3.4e38 as a float, NaN as a half


def dtype_of(name: str) -> torch.dtype:
    """torch's dtype of that name."""
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


def _poison(on: bool) -> None:
    """Fresh memory holds NaN (torch.empty) or a huge value (malloc), so that relying on it shows."""
    # torch.use_deterministic_algorithms would load Inductor's configuration, 0.6 s for nothing.
    torch._C._set_deterministic_algorithms(on, warn_only=True)
    torch._C._set_deterministic_fill_uninitialized_memory(on)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_PERTURB, _PERTURB if on else 0)


def _load(message: dict[str, Any]) -> types.ModuleType:
    module = types.ModuleType(message["name"])
    module.__dict__["BUILD_DIR"] = message["build_dir"]
    sys.modules[message["name"]] = module
    exec(compile(message["source"], f"<{message['name']}>", "exec"), module.__dict__)
    return module


class _Worker:
    def __init__(self, channel: Channel, arena_fd: int) -> None:
        self.channel = channel
        self.arena = Arena(arena_fd)
        self.modules: dict[str, types.ModuleType] = {}
        self.references: dict[str, Any] = {}

    def serve(self) -> None:
        while True:
            message, blob = self.channel.receive()
            reply: dict[str, Any] = {}
            try:
                reply = getattr(self, "_" + message["op"])(message, blob)
            except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever a candidate raises is reported
                reply = {"error": f"{type(error).__name__}: {str(error)[:2000]}"}
            self.channel.send(reply)

    def _load(self, message: dict[str, Any], blob: bytes) -> dict[str, Any]:
        if message["threads"]:
            torch.set_num_threads(message["threads"])
        digest = message["digest"]
        if digest not in self.modules:
            module = _load(message)
            build = getattr(module, "build", None)
            if build is not None:
                build()
            self.modules[digest] = module
        if blob:
            self.references[digest] = reference(pickle.loads(blob))  # from the judge, who is trusted
        return {}

    def _reference(self, message: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """Be the process that eager is timed in."""
        if message["threads"]:
            torch.set_num_threads(message["threads"])
        self.references[message["digest"]] = reference(pickle.loads(blob))
        return {}

    def _inputs(self, case: dict[str, Any]) -> list[Any]:
        self.arena.map(case["arena"])
        tensors: list[Any] = []
        for spec in case["inputs"]:
            flat = typed(self.arena.bytes, spec["offset"], spec["elements"], dtype_of(spec["dtype"]))
            tensors.append(flat.as_strided(spec["shape"], spec["stride"], flat.storage_offset()))
        return [*tensors, *case["symbols"]]

    def _run(self, message: dict[str, Any], blob: bytes) -> dict[str, Any]:
        run = self.modules[message["digest"]].run
        answers = []
        for case in message["cases"]:
            arguments = self._inputs(case)
            calls = []
            for offsets in case["outputs"]:  # one list of places per call asked for
                _poison(True)
                try:
                    outputs = run(*arguments)
                except Exception as error:  # noqa: BLE001 - whatever a candidate raises is reported
                    calls.append({"raised": f"{type(error).__name__}: {str(error)[:2000]}"})
                    continue
                finally:
                    _poison(False)
                calls.append(self._store(outputs, offsets, arguments))
                del outputs
            answers.append(calls)
        return {"answers": answers}

    def _store(self, outputs: Any, places: list[list[int]], arguments: list[Any]) -> dict[str, Any]:
        if type(outputs) is not tuple:
            return {"bad": f"run() returned {type(outputs).__name__}, not a tuple"}
        described = []
        inputs = [a for a in arguments if isinstance(a, torch.Tensor)]
        for i, out in enumerate(outputs):
            if type(out) is not torch.Tensor:
                return {"bad": f"output {i} is {type(out).__name__}, not a Tensor"}
            storage = out.untyped_storage()
            # Inputs all live in the arena: an output that aliases one does too.
            shared = _inside(storage.data_ptr(), self.arena.bytes) and storage.nbytes() > 0 and bool(inputs)
            described.append(
                {
                    "dtype": str(out.dtype).removeprefix("torch."),
                    "shape": list(out.shape),
                    "stride": list(out.stride()),
                    "device": out.device.type,
                    "aliases_input": shared,
                    "aliases_output": any(
                        storage.data_ptr() == other.untyped_storage().data_ptr() and storage.nbytes() > 0
                        for other in outputs[:i]
                    ),
                }
            )
            n_bytes = out.numel() * out.element_size()
            if i < len(places) and out.device.type == "cpu" and n_bytes == places[i][1]:
                typed(self.arena.bytes, places[i][0], out.numel(), out.dtype).view(out.shape).copy_(out)
        return {"outputs": described}

    def _calls(self, message: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """Call once or more, the judge holding the stopwatch."""
        function: Any = self.references[message["digest"]] if message["eager"] else self.modules[message["digest"]].run
        arguments = self._inputs(message["case"])
        for _ in range(message["count"]):
            function(*arguments)
        return {}

    def _time(self, message: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """A whole schedule by this process's clock: for kernels that rules wrote, which do not cheat."""
        from akg_dynamo.agents.profiler.abba import compare

        run, eager = self.modules[message["digest"]].run, self.references[message["digest"]]
        sets = [self._inputs(case) for case in message["cases"]]

        def measure(kernel: bool, n_calls: int, index: int) -> float:
            function = run if kernel else eager
            arguments = sets[index % len(sets)]
            clock = time.perf_counter
            start = clock()
            for _ in range(n_calls):
                function(*arguments)
            return clock() - start

        with torch.no_grad():
            timing = compare(measure, message["budget_s"])
        return {"timing": [timing.ratio, timing.low, timing.high, timing.eager_us, timing.kernel_us]}

    def _forget(self, message: dict[str, Any], blob: bytes) -> dict[str, Any]:
        self.modules.clear()
        self.references.clear()
        return {}


def _inside(address: int, buffer: torch.Tensor) -> bool:
    return buffer.data_ptr() <= address < buffer.data_ptr() + buffer.numel()


def main(channel: Channel, arena_fd: int) -> None:
    """Serve until the judge closes the channel."""
    try:
        _Worker(channel, arena_fd).serve()
    except ChannelClosed:
        return
