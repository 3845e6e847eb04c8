"""The process that runs candidates. It draws no inputs, knows no expected output, and judges nothing.

It is forked by the zygote, told what to do over its channel, and answers with JSON; outputs are left as bytes in the
arena. Whatever it says is checked by the judge or is a diagnostic. CUDA starts here and never in the zygote.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import gc
import itertools
import linecache
import logging
import pickle
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from akg_dynamo.agents.lowering.triton_bounds import Bounds
from akg_dynamo.agents.profiler.abba import compare
from akg_dynamo.agents.profiler.cold import cold_on_host
from akg_dynamo.agents.profiler.device import CudaQueue, DeviceMeasure, DeviceRace, Queue, compare_on_device
from akg_dynamo.agents.profiler.race import race
from akg_dynamo.agents.verifier import cuda_memory, given, sanitizer
from akg_dynamo.agents.verifier.arena import typed
from akg_dynamo.agents.verifier.channel import Channel, ChannelClosed
from akg_dynamo.agents.verifier.ground import Ground
from akg_dynamo.agents.verifier.guarded import FILLS, Zones, guarding
from akg_dynamo.agents.verifier.model_call import Bound
from akg_dynamo.agents.verifier.patched import Snapshot
from akg_dynamo.agents.verifier.shapes import memory_order
from akg_dynamo.agents.verifier.timed import DataSets, copies, data_sets, timed
from akg_dynamo.agents.verifier.watch import Watch, watching
from akg_dynamo.cache.flags import EagerFlags
from akg_dynamo.core.types import Timing, Trick
from akg_dynamo.fusion.reference import reference

log = logging.getLogger(__name__)

# As they are before a candidate can put others in their place.
_TENSOR = torch.Tensor
_copy = torch.Tensor.copy_
_set: Callable[..., torch.Tensor] = torch.Tensor.set_
_sleep = time.sleep

_HOST_SAMPLE_S = 0.0003
_M_PERTURB = -6
_MOST_MODULES = 100
_PERTURB = {0xFF: 0x80, 0x4B: 0xB4}  # malloc fills new blocks with the complement. 0x7F: 3.4e38, or NaN as a half

Run = Callable[..., Any]


def dtype_of(name: str) -> torch.dtype:
    """torch's dtype of that name."""
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


def _poison(on: bool, fill: int = FILLS[0]) -> None:
    """Fresh memory holds NaN (torch.empty) or, by default, a huge value (malloc), so that relying on it shows."""
    # torch.use_deterministic_algorithms would load Inductor's configuration, 0.6 s for nothing.
    torch._C._set_deterministic_algorithms(on, warn_only=True)
    torch._C._set_deterministic_fill_uninitialized_memory(on)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_PERTURB, _PERTURB[fill] if on else 0)


def _execute(message: Mapping[str, Any]) -> types.ModuleType:
    source, filename = message["source"], f"<{message['name']}>"
    module = types.ModuleType(message["name"])
    module.__dict__["BUILD_DIR"] = message["build_dir"]
    sys.modules[message["name"]] = module
    # Triton compiles from the source of its functions, and asks linecache for it.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec"), module.__dict__)
    return module


class _Worker:
    def __init__(self, channel: Channel, ground: Ground) -> None:
        self.channel = channel
        self.ground = ground
        self.device = "cpu"
        self.flags = EagerFlags.now()
        self.modules: dict[str, types.ModuleType] = {}
        self.bound: dict[str, Bound] = {}
        self.for_ever = contextlib.ExitStack()
        self.watch: Watch | None = None
        self.bounds: Bounds | None = None  # of interpreted kernels
        self.references: dict[str, Run] = {}
        self.objects: dict[tuple[int, int], torch.Tensor] = {}  # by case and input: as they were given before
        self.layout: dict[str, Any] = {}
        self.sets: tuple[DataSets, torch.Tensor] | None = None
        self.queue: Queue | None = None

    def serve(self) -> None:
        while True:
            message, blob = self.channel.receive()
            reply: dict[str, Any] = {}
            try:
                reply = getattr(self, "_" + message["op"])(message, blob)
            except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever a candidate raises is reported
                reply = self._failure(error)
            self.channel.send({**reply, "nonce": message.get("nonce")})

    def _failure(self, error: BaseException) -> dict[str, Any]:
        reply: dict[str, Any] = {"error": _text(error)}
        if self.device == "cpu":
            return reply
        if isinstance(error, torch.OutOfMemoryError):
            reply["no_memory"] = True
        while error.__context__ is not None:  # their frames hold tensors
            error.__traceback__, error = None, error.__context__
        error.__traceback__ = None
        try:
            self._trim({}, b"")
        except RuntimeError:  # the context is lost: nothing more can be run in this process
            reply["broken"] = True
        return reply

    # -- a device -----------------------------------------------------------------------------------------------------

    def _warm(self, message: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """Make a context on a device ahead of need, and load the kernels that every judgement there needs."""
        self._use_device(message)
        self.queue = CudaQueue()
        zones = Zones(torch.device("cuda", message["ordinal"]))
        zones.allocate((4,), (1,), torch.float32).copy_(torch.ones(4))
        zones.settle()
        zones.violated()
        return {}

    def _use_device(self, message: Mapping[str, Any]) -> None:
        if message["device"] == "cuda":
            cuda_memory.start(message["ordinal"])
            total = torch.cuda.get_device_properties(message["ordinal"]).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, message["memory_bytes"] / total), message["ordinal"])
        self.device = message["device"]

    def _trim(self, message: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """Give memory back that nobody uses: the user's program runs on the same device."""
        self.sets = None
        self.objects.clear()
        self.ground.copy = None
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return {}

    def _attach(self, message: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """Try whether the judge's memory can be had."""
        self.ground.open(message["where"])
        return {}

    def _detach(self, message: dict[str, Any], blob: bytes) -> dict[str, Any]:
        self.sets = None
        self.objects.clear()
        self.ground.detach()
        return {}

    # -- values -------------------------------------------------------------------------------------------------------

    def _load(self, message: dict[str, Any], blob: bytes) -> dict[str, Any]:
        if message["threads"]:
            torch.set_num_threads(message["threads"])
        try:
            self._use_device(message)
        except RuntimeError as error:
            return {"no_device": _text(error)}
        self.flags, subgraph, call = pickle.loads(blob)  # from the judge, who is trusted
        self.flags.apply()
        digest = message["digest"]
        snapshot = Snapshot() if message.get("screened") else None
        if call is not None and call.interpreted:
            from akg_dynamo.agents.lowering.triton_bounds import watched_bounds
            from akg_dynamo.agents.lowering.triton_interpreter import interpreted

            self.for_ever.enter_context(interpreted())  # this process ends with this candidate
            self.bounds = self.for_ever.enter_context(watched_bounds())
        if message.get("watch") is not None:
            mode, key = message["watch"]
            self.watch = self.for_ever.enter_context(watching(mode, key, message["source"], message["name"]))
        if digest not in self.modules:
            module = _execute(message)
            build = getattr(module, "build", None)
            if build is not None:
                build()
            if call is not None:
                module = self.bound[digest] = Bound(module, call)
            self.modules[digest] = module
            while len(self.modules) > _MOST_MODULES:
                oldest = next(iter(self.modules))
                name = self.modules.pop(oldest).__name__
                sys.modules.pop(name, None)
                linecache.cache.pop(f"<{name}>", None)
                self.bound.pop(oldest, None)
                self.references.pop(oldest, None)
        elif call is not None:
            self.bound[digest].call = call  # the same module, asked for something else
        if subgraph is not None:
            self.references[digest] = reference(subgraph)
        return {"patched": snapshot.changed()[:4]} if snapshot is not None else {}

    def _reference(self, message: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """Be the process that eager is timed in."""
        if message["threads"]:
            torch.set_num_threads(message["threads"])
        self._use_device(message)
        self.sets = None
        self.flags, subgraph = pickle.loads(blob)
        self.flags.apply()
        self.references[message["digest"]] = reference(subgraph)
        return {}

    def _inputs(self, memory: torch.Tensor, case: Mapping[str, Any], same: int | None = None) -> list[Any]:
        """The arguments. `same`: as the very objects that they were when this number was given last."""
        tensors: list[Any] = []
        for i, spec in enumerate(case["inputs"]):
            flat = typed(memory, spec["offset"], spec["elements"], dtype_of(spec["dtype"]))
            tensor = flat.as_strided(spec["shape"], spec["stride"], flat.storage_offset())
            tensors.append(tensor if same is None else self._as_before((same, i), tensor))
        bound = self.bound.get(case.get("model", ""))
        return [*tensors, *case["symbols"]] if bound is None else bound.arguments(tensors, case["symbols"])

    def _as_before(self, place: tuple[int, int], tensor: torch.Tensor) -> torch.Tensor:
        """That tensor, as the object that was given there before, if there was one of its kind."""
        known = self.objects.get(place)
        if known is None or known.requires_grad or (known.dtype, known.device) != (tensor.dtype, tensor.device):
            self.objects[place] = tensor
            return tensor
        return _set(known, tensor)

    def _run(self, message: dict[str, Any], blob: bytes) -> dict[str, Any]:
        module = self.modules[message["digest"]]
        memory = self.ground.open(message["where"])
        answers = []
        guarded: list[tuple[dict[str, Any], Zones]] = []
        for number, case in enumerate(message["cases"]):
            arguments = self._inputs(memory, case, number if message.get("same_objects") else None)
            calls = []
            for places, fill in zip(case["outputs"], itertools.cycle(FILLS)):  # a list of places per call asked for
                zones = Zones(memory.device, fill)
                try:
                    outputs = self._poisoned(module, arguments, zones)
                except Exception as error:  # noqa: BLE001 - whatever a candidate raises is reported
                    broken = {"raised": _text(error), "no_memory": isinstance(error, torch.OutOfMemoryError)}
                    calls.append(self._out_of_bounds() or broken)
                    continue
                if message.get("late_s"):
                    _sleep(message["late_s"])
                calls.append(_store(outputs, places, memory, plainly=case.get("plainly", False)))
                calls[-1] |= self._out_of_bounds()
                if len(case["outputs"]) > 1 and not calls[1:] and "bad" not in calls[0]:
                    calls[0] |= self._into_given(module, arguments, outputs, zones)
                del outputs
                zones.settle()
                guarded.append((calls[-1], zones))
            answers.append(calls)
            if (bound := self.bound.get(case.get("model", ""))) is not None:
                bound.show_state(arguments[0])
        self.ground.close()
        for call, zones in guarded:
            if zones.violated():
                call |= {"bad": "wrote past an end of memory it allocated", "trick": Trick.OUT_OF_BOUNDS.name}
        return {"answers": answers}

    def _sanitized(self, message: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """A program under compute-sanitizer, confined as this process is."""
        return {"found": sanitizer.findings(message["path"], blob.decode(), message["timeout_s"], message["tools"])}

    def _out_of_bounds(self) -> dict[str, Any]:
        """What an interpreted kernel did outside its arguments, even if its caller passed over it."""
        if self.bounds is None or not self.bounds.broken:
            return {}
        return {"bad": self.bounds.broken, "trick": Trick.OUT_OF_BOUNDS.name}

    def _watched(self, message: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """One call under the eyes of `watch`, on copies of the inputs."""
        assert self.watch is not None
        memory = self.ground.open(message["where"])
        case = message["case"]
        arguments = [_copied(a) if isinstance(a, torch.Tensor) else a for a in self._inputs(memory, case)]
        with torch.no_grad():
            outputs = self.watch.call(self.modules[message["digest"]].run, arguments)
        answer = _store(outputs, case["outputs"][0], memory)
        self.ground.close()
        return {**answer, "launches": self.watch.launches, "computed": list(self.watch.computed)}

    def _poisoned(self, module: types.ModuleType, arguments: list[Any], zones: Zones) -> Any:
        """One call, whose fresh memory holds no zeros and nothing of earlier calls, and lies between guard zones."""
        _poison(True, zones.fill)
        try:
            with guarding(module.module if isinstance(module, Bound) else module, zones):
                return module.run(*arguments)
        finally:
            _poison(False)
            self.flags.apply_determinism()

    def _into_given(
        self, module: types.ModuleType, arguments: list[Any], outputs: tuple[torch.Tensor, ...], zones: Zones
    ) -> dict[str, Any]:
        try:
            bad = given.wrong(module, arguments, outputs, zones)
        except Exception as error:  # noqa: BLE001 - whatever a candidate raises is reported
            text = f"run_into(): {_text(error)}"
            return {"raised": text, "no_memory": isinstance(error, torch.OutOfMemoryError)}
        return {"bad": bad} if bad else {}

    # -- time ---------------------------------------------------------------------------------------------------------

    def _lay(self, message: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """Find the data sets that calls will be timed on, one by one."""
        self.layout, self.sets = message["layout"], None
        self._data_sets(message)
        return {}

    def _data_sets(self, message: dict[str, Any]) -> tuple[DataSets, torch.Tensor]:
        memory = self.ground.open(message["where"])
        if self.sets is None or self.sets[1] is not memory:  # small arenas are copied to a device again and again
            self.sets = data_sets(memory, self.layout, self._inputs), memory
        return self.sets

    def _timed(self, message: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """So many calls, each on a data set of its own, the judge holding the stopwatch."""
        return self._calls(message, self._called(message))

    def _copies(self, message: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """The same without the calls: only outputs are left behind."""
        with torch.no_grad():
            return self._calls(message, copies(self._called(message), self._data_sets(message)[0]))

    def _called(self, message: dict[str, Any]) -> Run:
        digest: str = message["digest"]
        return self.references[digest] if message["eager"] else self.modules[digest].run

    def _calls(self, message: dict[str, Any], run: Run) -> dict[str, Any]:
        sets, memory = self._data_sets(message)
        with torch.no_grad():  # as eager is called
            outputs = timed(run, sets, message["first"], message["count"])
        if self.device != "cpu":
            torch.cuda.synchronize()
        if self.ground.copy is not None:
            self.ground.close()
        return _store(outputs, [], memory)

    def _time(self, message: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """A whole schedule by this process's clock: for kernels that rules wrote, which do not cheat."""
        run, eager = self.modules[message["digest"]].run, self.references[message["digest"]]
        memory = self.ground.open(message["where"])
        sets = [self._inputs(memory, case) for case in message["cases"]]
        compared = _compare_on_host if self.device == "cpu" else self._compare_on_device
        with torch.no_grad():
            timing = compared(run, eager, sets, message["budget_s"])
            if message["cold"]:
                cold = (timing.eager_device_us, timing.kernel_device_us)  # which are taken after flushes
                cold = cold_on_host(run, eager, sets) if self.device == "cpu" else cold
                timing = dataclasses.replace(timing, eager_cold_us=cold[0], kernel_cold_us=cold[1])
        return {"timing": dataclasses.astuple(timing)}

    def _race(self, message: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """What a call of each of several kernels costs by this process's clock; nothing for those that raise."""
        runs = [self.modules[digest].run for digest in message["runners"]]
        memory = self.ground.open(message["where"])
        sets = [self._inputs(memory, case) for case in message["cases"]]
        seconds: list[float | None] = [None] * len(runs)
        with torch.no_grad():
            running = [i for i, run in enumerate(runs) if _runs(run, sets)]
            calls = [functools.partial(_call_on, runs[i], sets) for i in running]
            if self.device == "cpu":
                found = race(functools.partial(_host_cost, calls), len(calls), message["budget_s"])
            else:
                self.queue = self.queue or CudaQueue()
                found = race(DeviceRace(self.queue, calls).cost_s, len(calls), message["budget_s"])
        for i, cost in zip(running, found, strict=True):
            seconds[i] = cost
        return {"seconds": seconds}

    def _compare_on_device(self, run: Run, eager: Run, sets: list[list[Any]], budget_s: float) -> Timing:
        self.queue = self.queue or CudaQueue()
        n = len(sets)
        measure = DeviceMeasure(self.queue, lambda i: eager(*sets[i % n]), lambda i: run(*sets[i % n]), n)
        return compare_on_device(measure, budget_s)


def _text(error: BaseException) -> str:
    text = str(error)
    if text.startswith("CUDA error"):
        text = text.partition("\n")[0]  # what follows is advice on debugging
    elif isinstance(error, torch.OutOfMemoryError):
        text = text.partition(" Process ")[0]  # who else is there
    return f"{type(error).__name__}: {text[:2000]}"


def _call_on(run: Run, sets: list[list[Any]], index: int) -> Any:
    return run(*sets[index % len(sets)])


def _runs(run: Run, sets: list[list[Any]]) -> bool:
    try:
        _call_on(run, sets, 0)
    except Exception:  # whatever a candidate raises puts it out of the race
        log.info("a variant raised, and does not race", exc_info=True)
        return False
    return True


def _host_cost(calls: Sequence[Callable[[int], Any]], who: int, index: int) -> float:
    clock = time.perf_counter
    start, n_calls = clock(), 0
    while not n_calls or clock() - start < _HOST_SAMPLE_S:
        calls[who](index + n_calls)
        n_calls += 1
    return (clock() - start) / n_calls


def _compare_on_host(run: Run, eager: Run, sets: list[list[Any]], budget_s: float) -> Timing:
    def measure(kernel: bool, n_calls: int, index: int) -> float:
        function = run if kernel else eager
        arguments = sets[index % len(sets)]
        clock = time.perf_counter
        start = clock()
        for _ in range(n_calls):
            function(*arguments)
        return clock() - start

    return compare(measure, budget_s)


def _modes() -> int:
    """How many modes are on that see torch's operators or functions."""
    return torch._C._len_torch_dispatch_stack() + torch._C._len_torch_function_stack()


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """The same values and strides in memory of its own."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def _store(outputs: Any, places: list[list[int]], memory: torch.Tensor, *, plainly: bool = False) -> dict[str, Any]:
    """Leave the outputs' bytes in their places, and describe them. `plainly`: last dim nearest, however they lie."""
    if _modes() > 0:
        return {"bad": "it left a mode on, which sees what is done with its outputs", "trick": Trick.PATCHES.name}
    if type(outputs) is not tuple:
        return {"bad": f"run() returned {type(outputs).__name__}, not a tuple", "trick": Trick.FORM.name}
    described = []
    for i, out in enumerate(outputs):
        if type(out) is not _TENSOR:
            trick = Trick.SUBCLASS if isinstance(out, _TENSOR) else Trick.FORM
            return {"bad": f"output {i} is {type(out).__name__}, not a Tensor", "trick": trick.name}
        storage = out.untyped_storage()
        described.append(
            {
                "dtype": str(out.dtype).removeprefix("torch."),
                "shape": list(out.shape),
                "stride": list(out.stride()),
                "device": out.device.type,
                # Inputs all live in the arena: an output that aliases one does too.
                "aliases_input": _inside(storage.data_ptr(), memory) and storage.nbytes() > 0,
                "aliases_output": any(
                    storage.data_ptr() == other.untyped_storage().data_ptr() and storage.nbytes() > 0
                    for other in outputs[:i]
                ),
            }
        )
        n_bytes = out.numel() * out.element_size()
        if i < len(places) and out.device == memory.device and n_bytes == places[i][1]:
            if not plainly and (order := memory_order(out.shape, out.stride())) is not None:
                out = out.permute(order)  # as it lies: turning a large one would take longer than to compute it
            _copy(typed(memory, places[i][0], out.numel(), out.dtype).view(out.shape), out)
    return {"outputs": described}


def _inside(address: int, buffer: torch.Tensor) -> bool:
    return buffer.data_ptr() <= address < buffer.data_ptr() + buffer.numel()


def main(channel: Channel, arena_fd: int) -> None:
    """Serve until the judge closes the channel."""
    try:
        _Worker(channel, Ground(arena_fd)).serve()
    except ChannelClosed:
        return
