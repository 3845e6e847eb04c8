"""What a candidate cannot do, tried in the very processes that candidates run in: on this host, and on poorer ones.

Each probe runs in a worker and says what happened; what it must not have done is also looked for from outside.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from akg_dynamo.agents.verifier import Judge, shut_down
from akg_dynamo.agents.verifier import judge as judge_module
from akg_dynamo.agents.verifier.sandbox import environment, scratch, seccomp
from akg_dynamo.core.protection import Measure, Protection
from akg_dynamo.core.types import Outcome, Trick, Verdict

from .kernels import add_relu, job
from .settling import eventually, settled

MEASURES = {
    "secrets in the environment", "memory", "processor time", "large files", "writing files",
    "reading the user's files", "processes without end", "the network", "tracing, mounting, keys, kernel interfaces",
    "signals to other processes", "processes left behind",
}  # fmt: skip
DAEMON = """
import os, time
child = os.fork()
if child == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
os.waitpid(child, 0)
"""
RIGHT = "return (torch.relu(args[0] + args[1]),)"


def said(judge: Judge, probe: str, **options: object) -> str:
    """What a candidate says (by raising) that runs this; its value is in `said`."""
    body = f"{textwrap.dedent(probe).strip()}\nraise RuntimeError(f'<<{{said}}>>')"
    verdict = judge.judge([job(add_relu(), body, trusted=False, **options)])[0]
    assert "<<" in verdict.detail, verdict
    return verdict.detail.partition("<<")[2].partition(">>")[0]


def tried(judge: Judge, statement: str, imports: str = "os", **options: object) -> str:
    """The error that a statement raises there, or "done"."""
    probe = f"import {imports}\ntry:\n    {statement}\n    said = 'done'\nexcept Exception as e:\n    said = repr(e)"
    return said(judge, probe, **options)


def test_every_measure_is_named_once_and_travels_with_the_verdict(judge: Judge) -> None:
    for trusted in (True, False):
        verdict = judge.judge([job(add_relu(), RIGHT, trusted=trusted)])[0]
        assert verdict.outcome is Outcome.RIGHT
        names = [m.against for m in verdict.protection.measures]
        assert set(names) == MEASURES
        assert len(names) == len(MEASURES)
        assert all(m.how or m.gap for m in verdict.protection.measures)
    assert judge.protection("cpu").measures[0] == verdict.protection.measures[0]
    assert " s, and by the clock" in judge.protection("cpu")["processor time"].how
    assert " s, and by the clock" in verdict.protection["processor time"].how


def test_a_protection_survives_json_and_says_what_is_missing() -> None:
    it = Protection((Measure("a", "by this"), Measure("b", "", "there is no that")))
    assert Protection.from_json(it.to_json()) == it
    assert [m.against for m in it.missing] == ["b"]
    assert [str(m) for m in it.measures] == ["by this", "not prevented: there is no that"]


def test_variables_that_could_be_secrets_are_dropped_whatever_they_begin_with() -> None:
    kept = {"PATH": "/bin", "NVIDIA_VISIBLE_DEVICES": "0", "TRITON_CACHE_DIR": "/x", "OMP_NUM_THREADS": "2"}
    secret = {
        "NVIDIA_API_KEY": "1",
        "TRITON_TOKEN": "1",
        "CUDA_PASSWORD": "1",
        "AWS_REGION": "1",
        "OPENAI_API_KEY": "1",
    }
    assert environment.clean({**kept, **secret}) == kept


@pytest.mark.parametrize("trusted", [True, False])
def test_home_and_temporary_files_are_in_a_folder_that_is_gone_afterwards(judge: Judge, trusted: bool) -> None:
    names = "HOME TMPDIR TRITON_CACHE_DIR XDG_CACHE_HOME"
    probe = f"import os; said = ' '.join(os.environ[n] for n in {names.split()}) + ' ' + os.getcwd()"
    body = f"{probe}\nopen(os.environ['HOME'] + '/mine', 'w').write('x')\nraise RuntimeError(f'<<{{said}}>>')"
    detail = judge.judge([job(add_relu(), body, trusted=trusted)])[0].detail
    folders = detail.partition("<<")[2].partition(">>")[0].split()
    assert len(folders) == 5
    assert all("/akg-judge-" in folder for folder in folders)
    assert os.path.exists(folders[0]) == trusted  # the warm worker still has its own


def test_the_users_files_cannot_be_read_or_written(judge: Judge, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    if judge.protection()["reading the user's files"].how:
        assert "PermissionError" in tried(judge, f"open('{secret}').read()")
        assert "PermissionError" in tried(judge, f"os.listdir('{tmp_path}')")
        assert "PermissionError" in tried(judge, f"os.listdir('{Path.home()}')")
        assert "PermissionError" in tried(judge, "open('/proc/1/environ').read()")
    for statement in (
        f"open('{secret}', 'w')",
        f"open('{tmp_path}/new', 'w')",
        f"os.unlink('{secret}')",
        f"os.rename('{secret}', '{secret}2')",
        f"os.truncate('{secret}', 0)",
        f"os.chmod('{secret}', 0o777)",
        "open('/tmp/akg-probe', 'w')",
        "open('/dev/shm/akg-probe', 'w')",
        "os.mkdir(os.path.dirname(torch.__file__) + '/akg_probe')",
    ):
        assert "PermissionError" in tried(judge, statement) or "Read-only" in tried(judge, statement), statement
    assert secret.read_text() == "key"


def test_kernels_by_rules_build_in_a_folder_that_was_made_anew(judge: Judge, tmp_path: Path) -> None:
    built = tmp_path / "objects"
    body = f"""
    with open(BUILD_DIR + "/built", "a") as f:
        f.write("x")
    {RIGHT}
    """
    for _ in range(2):
        for _ in range(2):
            verdict = judge.judge([job(add_relu(), body, build_dir=built)])[0]
            assert verdict.outcome is Outcome.RIGHT, verdict.detail
            assert (built / "built").read_text()
        shutil.rmtree(built)


def test_there_is_no_network(judge: Judge) -> None:
    for family in ("AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET", "AF_VSOCK", "AF_UNIX"):
        assert "PermissionError" in tried(judge, f"socket.socket(socket.{family})", imports="socket"), family
    assert tried(judge, "socket.socketpair()", imports="socket") == "done"  # within the process


def test_calls_by_which_a_process_reaches_beyond_itself_are_refused(judge: Judge) -> None:
    numbers = {name: n for name, n in seccomp.kernel.numbers().items() if name in seccomp.REFUSED}
    probe = f"""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        said = []
        for name, number in {numbers}.items():
            ctypes.set_errno(0)
            if libc.syscall(number, -1, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != 1:
                said.append((name, ctypes.get_errno()))
    """
    assert said(judge, probe) == "[]"


def test_other_processes_can_be_neither_seen_nor_signalled(judge: Judge) -> None:
    probe = """
        import os
        said = []
        for pid in [-1, *range(2, 4000)]:
            try:
                if pid != os.getpid():
                    os.kill(pid, 0)
                    said.append(pid)
            except OSError:
                pass
    """
    assert said(judge, probe) == "[]"
    assert judge.judge([job(add_relu(), RIGHT)])[0].outcome is Outcome.RIGHT


def test_privileges_are_gone(judge: Judge) -> None:
    lines = said(judge, "said = open('/proc/self/status').read().split(chr(10))")
    assert "NoNewPrivs:\\t1" in lines
    assert "Seccomp:\\t2" in lines
    if os.geteuid() == 0:
        assert "PermissionError" in tried(judge, "os.setuid(0)")
        assert "PermissionError" in tried(judge, "os.chown('.', 0, 0)")


def test_what_a_builder_needs_works(judge: Judge) -> None:
    probe = """
        import ctypes, os, subprocess, tempfile
        folder = tempfile.mkdtemp()
        text = '#include <vector>\\nextern "C" int f() { return (int)std::vector<int>(7).size(); }'
        open(folder + "/k.cpp", "w").write(text)
        subprocess.run(["g++", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", folder + "/k.cpp",
                        "-o", folder + "/k.so"], check=True)
        said = ctypes.CDLL(folder + "/k.so").f()
    """
    assert said(judge, probe) == "7"


@pytest.mark.parametrize(
    ("body", "outcome", "text"),
    [
        ("while True: os.fork() or time.sleep(60)", None, ""),
        ("os.fork() or time.sleep(60); " + RIGHT, Outcome.REJECTED, "still there"),
        ("os.fork() or os.setsid() or os.fork() or time.sleep(60); " + RIGHT, None, ""),
        ("while True: KEPT.append(bytearray(b'x') * (1 << 28))", Outcome.WRONG, "MemoryError"),
        ("kept = [open('/dev/null') for _ in range(100000)]", Outcome.WRONG, "Too many open files"),
        ("open('big', 'wb').truncate(1 << 40)", Outcome.WRONG, "File too large"),
    ],
)
def test_what_has_no_end_ends_as_a_verdict(judge: Judge, body: str, outcome: Outcome | None, text: str) -> None:
    judge.judge([job(add_relu(), RIGHT)])
    before = settled(_processes)
    top = "import os, time\nKEPT = []"
    timeout_s = 30.0 if outcome is None else 300.0  # filling a large machine's memory takes a while
    verdict = judge.judge([job(add_relu(), body, top=top, trusted=False, timeout_s=timeout_s)])[0]
    assert verdict.outcome is not Outcome.RIGHT
    assert outcome is None or verdict.outcome is outcome, verdict
    assert text in verdict.detail
    assert judge.judge([job(add_relu(), RIGHT)])[0].outcome is Outcome.RIGHT
    assert eventually(_processes, lambda now: now <= before) <= before


@dataclass(frozen=True)
class _Left:
    processes: int
    files: int
    folders: int
    rss_bytes: int


def _below(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(child), *_below(int(child))]
    return found


def _processes() -> int:
    return len(_below(os.getpid()))


def _left(judge: Judge) -> _Left:
    pids = [judge._process.popen.pid, *_below(judge._process.popen.pid)]
    files = sum(len(os.listdir(f"/proc/{p}/fd")) for p in pids)
    rss = sum(int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in pids) * os.sysconf("SC_PAGE_SIZE")
    (scratch_folder,) = {
        Path(f"/proc/{p}/cwd").resolve().parent for p in pids if "akg-judge-" in os.readlink(f"/proc/{p}/cwd")
    }
    return _Left(len(pids), files, len(list(scratch_folder.iterdir())), rss)


def test_a_hundred_candidates_leave_nothing_behind(judge: Judge) -> None:
    bodies = [
        RIGHT,
        "return (torch.zeros(3),)",
        "import os; os._exit(0)",
        "import ctypes; ctypes.string_at(0)",
        "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True); " + RIGHT,
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    os.fork()\n    time.sleep(60)\n" + RIGHT,
        "import tempfile; open(tempfile.mkdtemp() + '/x', 'wb').write(bytes(1 << 20)); " + RIGHT,
        "raise ValueError('no')",
        "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start(); " + RIGHT,
        "global kept; kept = torch.ones(1 << 20); " + RIGHT,
    ]

    def batch() -> list[Verdict]:
        return judge.judge([job(add_relu(), body, trusted=False, seed=i) for i in range(10) for body in bodies])

    judge.judge([job(add_relu(), body, trusted=False) for body in bodies])
    before = _left(judge)
    verdicts = batch()
    after = _left(judge)
    assert len(verdicts) == 100
    assert all(v.outcome is Outcome.RIGHT for v in verdicts[::10])
    assert (after.processes, after.files, after.folders) == (before.processes, before.files, before.folders)
    assert after.rss_bytes <= 1.05 * before.rss_bytes


def test_a_scratch_folder_is_removed_however_deep_and_closed_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    (folder / "link").symlink_to(outside)
    (folder / "shut").mkdir()
    (folder / "shut" / "file").write_text("x")
    (folder / "shut").chmod(0)
    here = os.open(folder, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("deeper", dir_fd=here)
        there = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    os.close(here)
    scratch.remove(str(folder))
    assert not folder.exists()
    assert (outside / "kept").read_text() == "x"


def test_a_process_for_a_device_can_name_its_threads_and_has_sockets_of_its_own_kind(tmp_path: Path) -> None:
    code = f"""
import os, socket
from akg_dynamo.agents.verifier.sandbox import Confinement, confine
from akg_dynamo.agents.verifier.sandbox.namespaces import Surroundings
confine(Confinement({str(tmp_path)!r}, "cuda"), Surroundings(why_not="a test"), apart=False)
open(f"/proc/self/task/{{os.getpid()}}/comm", "w").write("named")
socket.socket(socket.AF_UNIX)
os.memfd_create("x")
for attempt in (lambda: socket.socket(socket.AF_INET), lambda: open("/proc/sys/kernel/core_pattern", "w"),
                lambda: open("/dev/shm/akg-probe", "w")):
    try:
        attempt()
    except PermissionError:
        continue
    raise AssertionError("it was allowed")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@pytest.mark.parametrize("alone", [True, False])
def test_a_tool_talks_to_what_it_starts_where_there_is_nobody_else(tmp_path: Path, alone: bool) -> None:
    code = f"""
import os, socket, subprocess, sys
from akg_dynamo.agents.verifier.sandbox import Confinement, confine
from akg_dynamo.agents.verifier.sandbox.namespaces import Surroundings
it = Confinement({str(tmp_path)!r}, "cuda", trusted=False, without=("proc",), because="a test", talks=True)
confine(it, Surroundings(network={alone}, why_not="a test"), apart=False)
subprocess.run([sys.executable, "-c", "open('/proc/self/comm', 'w').write('named')"], check=True)
try:
    listening = socket.create_server(("127.0.0.1", 0))
except PermissionError:
    print("alone")
else:
    talk = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1]))).sendall(b'talks')"
    subprocess.run([sys.executable, "-c", talk, str(listening.getsockname()[1])], check=True)
    print(listening.accept()[0].recv(10).decode())
try:
    socket.socket(socket.AF_NETLINK)
except PermissionError:
    sys.exit()
sys.exit("it was allowed")
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=300, capture_output=True, text=True)
    assert done.stdout.strip() == ("talks" if alone else "alone")


@pytest.fixture
def poorer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A judge of its own for what follows."""
    shut_down()
    yield
    shut_down()


@pytest.mark.parametrize("lacks", ["namespaces", "landlock", "landlock mounts", "seccomp", "identity",
                                   "namespaces landlock mounts seccomp identity"])  # fmt: skip
def test_a_host_that_lacks_something_judges_and_says_so(
    poorer: None, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    monkeypatch.setattr(judge_module, "_WITHOUT", lacks)
    with Judge(keep_warm=False) as one:
        one.wait_ready()
        started = time.monotonic()
        leaves = "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True); " + RIGHT
        bodies = (RIGHT, leaves, DAEMON + RIGHT, RIGHT)
        right, left, daemon, last = one.judge([job(add_relu(), body, trusted=False) for body in bodies])
        assert right.outcome is last.outcome is Outcome.RIGHT
        for verdict in (left, daemon):
            assert verdict.outcome is Outcome.REJECTED
            assert verdict.tricks == (Trick.THREADS,)
        assert time.monotonic() - started < 55, "it waited for what sleeps for 60 s"
        protection = right.protection
        assert {m.against for m in protection.measures} == MEASURES
        gaps = " ".join(m.gap for m in protection.measures)
        assert gaps
        if "landlock" in lacks:
            assert not protection["reading the user's files"].how
        if "mounts" in lacks:
            assert not protection["writing files"].how
        elif "landlock" in lacks and "namespaces" not in lacks:
            assert "Read-only" in tried(one, "open('/var/tmp/akg-probe', 'w')")
        if "seccomp" in lacks:
            assert not protection["tracing, mounting, keys, kernel interfaces"].how
        if "seccomp" in lacks and "namespaces" in lacks:
            assert not protection["the network"].how
