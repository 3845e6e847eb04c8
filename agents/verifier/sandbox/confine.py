"""The order in which a process that will run candidates gives up what they must not have.

Each step is tried, and reported as a `Measure`: what is active, by which means, and what is not, and why. A host that
allows little is judged on with less protection, and says so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from akg_dynamo.agents.verifier.sandbox import environment, identity, kernel, landlock, limits, mounts, places, seccomp
from akg_dynamo.agents.verifier.sandbox.limits import Limits
from akg_dynamo.agents.verifier.sandbox.namespaces import LEFT_OUT, Surroundings
from akg_dynamo.core.protection import Measure, Protection


@dataclass(frozen=True)
class Confinement:
    """One worker's.

    folder: its scratch folder, which is there. device: "cpu" or "cuda". trusted: for kernels by rules, which may write
    into `shared` too. without: means to do without, named as in `Surroundings`, and because of what. talks: its
    processes may reach each other through sockets, where a network namespace keeps them from reaching anything else.
    """

    folder: str
    device: str = "cpu"
    trusted: bool = True
    shared: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    without: tuple[str, ...] = ()
    because: str = LEFT_OUT
    talks: bool = False

    @property
    def writable(self) -> list[str]:
        """All folders that can be written."""
        return [self.folder, *(path for path in self.shared if self.trusted and os.path.isdir(path))]

    def to_json(self) -> dict[str, Any]:
        """As a message carries it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Confinement:
        """The inverse of `to_json`."""
        lists = {name: tuple(data[name]) for name in ("shared", "without")}
        return cls(**{**data, **lists, "limits": Limits(**data["limits"])})


def confine(confinement: Confinement, surroundings: Surroundings, *, apart: bool) -> Protection:
    """Give everything up, for this process and all that it starts. It has one thread, and no candidate has run in it.

    apart: it is the first process of a process namespace.
    """
    steps = _Steps(confinement, surroundings, apart)
    os.setsid()
    places_read, devices = places.readable(), places.devices(confinement.device)
    environment.move_into(confinement.folder)
    variables = "only those for tools and threads are left; HOME is in a scratch folder"
    measures = [Measure("secrets in the environment", variables)]
    measures += steps.limit()
    steps.count_apart()
    measures += steps.restrict_files(places_read, devices)
    measures.append(steps.give_up_rights())
    measures += steps.filter_calls()
    measures += [steps.signals(), steps.left_behind()]
    return Protection(tuple(measures))


class _Steps:
    """What later steps must know of earlier ones."""

    def __init__(self, confinement: Confinement, surroundings: Surroundings, apart: bool) -> None:
        self.it = confinement
        self.surroundings = surroundings
        self.without = {*surroundings.without, *confinement.without}
        self.left_out = confinement.because if confinement.without else LEFT_OUT
        self.apart = apart
        self.counted = ""  # by what processes are counted
        self.not_counted = ""
        self.files_restricted = False
        self.signals_scoped = False
        self.filtered = False
        self.is_nobody = False
        self.talks = confinement.talks and surroundings.network

    def limit(self) -> list[Measure]:
        """What each process may take."""
        if "limits" in self.without:
            return [Measure(against, "", self.left_out) for against in ("memory", "processor time", "large files")]
        return limits.set_limits(self.it.limits, self.it.device)

    def count_apart(self) -> None:
        """As a user: before files are restricted, since it takes writing to /proc. Root does it by another identity."""
        if self.it.trusted:
            return
        if "identity" in self.without:
            self.not_counted = self.left_out
        elif os.geteuid() == 0:
            self.not_counted = "it does not count root's processes"
        else:
            try:
                identity.count_apart(self.surroundings)
                self.counted = "in a user namespace of its own"
            except OSError as error:
                self.not_counted = kernel.reason(error)

    def restrict_files(self, readable: list[str], devices: list[str]) -> list[Measure]:
        """By Landlock, or as far as mounts do it."""
        writing, reading = "writing files", "reading the user's files"
        why_not = self.left_out
        if "landlock" not in self.without:
            on_host = self.it.device == "cpu"
            try:
                proc = places.own_proc(self.it.device, widely="proc" in self.without)
                writable = [*self.it.writable, *proc]
                abi = landlock.restrict(readable, writable, devices, abstract_sockets=not on_host, tcp=self.talks)
            except OSError as error:
                why_not = f"no Landlock: {kernel.reason(error)}"
            else:
                self.files_restricted, self.signals_scoped = True, landlock.scopes_signals(abi)
                how = f"Landlock (version {abi})"
                where = "its scratch folder" if not self.it.trusted else "its scratch folder and the built kernels"
                return [Measure(writing, how, f"but {where}"), Measure(reading, how)]
        if "mounts" not in self.without:
            try:
                proc = places.own_proc(self.it.device, widely=True)
                mounts.read_only_but([*self.it.writable, *proc])
            except OSError as error:
                why_not += f"; no mounts: {kernel.reason(error)}"
            else:
                return [Measure(writing, "read-only mounts", why_not), Measure(reading, "", why_not)]
        return [Measure(writing, "", why_not), Measure(reading, "", why_not)]

    def give_up_rights(self) -> Measure:
        """All that root may do, and, for kernels that nobody trusts, being root."""
        against, count = "processes without end", self.it.limits.processes
        is_root = os.geteuid() == 0 and not self.surroundings.user
        if is_root and not self.it.trusted and "identity" not in self.without:
            folders = [path for path, _, _ in os.walk(self.it.folder)]
            try:
                uid = identity.become_nobody(folders, files_are_restricted=self.files_restricted)
                self.counted = f"of user id {uid}, which has nothing else"
                self.is_nobody = True
            except OSError as error:
                self.not_counted = kernel.reason(error)
        if not self.is_nobody and "privileges" not in self.without:
            identity.give_up(files_are_restricted=self.files_restricted)
        if self.it.trusted:
            return Measure(against, "", "kernels by rules are not limited in this")
        watched = "a watch on their number and memory"
        if not self.counted:
            return Measure(against, watched, f"the kernel does not limit them: {self.not_counted}")
        limits.limit_processes(count)
        return Measure(against, f"{count} processes and threads {self.counted}, and {watched}")

    def filter_calls(self) -> list[Measure]:
        """The last step: the others make calls that are refused from here on."""
        on_host = self.it.device == "cpu"
        signals_open = not self.apart and not self.signals_scoped
        rules = seccomp.Rules(
            unix_sockets=not on_host,
            internet_sockets=self.talks,
            memory_files=not on_host,
            signals=signals_open,
            attributes=not self.it.trusted and not self.is_nobody,
        )
        why_not = self.left_out
        if "seccomp" not in self.without:
            try:
                seccomp.install(rules)
                self.filtered = True
            except OSError as error:
                why_not = kernel.reason(error)
        ways, gaps = [], []
        if self.surroundings.network:
            ways.append("a network namespace with nothing in it")
        else:
            gaps.append(f"no network namespace: {self.surroundings.why_not}")
        if self.filtered:
            ways.append("a filter of system calls")
        else:
            gaps.append(f"no filter of system calls: {why_not}")
        if not on_host and ways:
            gaps.append("CUDA needs Unix sockets")
        filtered = "a filter of system calls" if self.filtered else ""
        return [
            Measure("the network", " and ".join(ways), "; ".join(gaps)),
            Measure("tracing, mounting, keys, kernel interfaces", filtered, "" if self.filtered else why_not),
        ]

    def signals(self) -> Measure:
        """By whatever is there."""
        against = "signals to other processes"
        if self.apart:
            return Measure(against, "a process namespace of its own")
        if self.signals_scoped:
            return Measure(against, "Landlock")
        if self.filtered:
            return Measure(against, "a filter of system calls", "it cannot signal its own children either")
        return Measure(against, "", self.surroundings.why_not or "it shares a process namespace with the judge")

    def left_behind(self) -> Measure:
        """What ends with the worker."""
        against = "processes left behind"
        if self.apart:
            return Measure(against, "a process namespace of its own, which ends with the worker")
        if self.surroundings.processes:
            return Measure(against, "all that a worker starts is found and killed, in the judge's process namespace")
        return Measure(against, "all that a worker starts is found and killed", self.surroundings.why_not)
