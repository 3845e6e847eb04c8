"""The judge's processes: started lazily, restarted when they die, gone when their program is gone."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from akg_dynamo.agents.verifier import Judge, foresee, shut_down
from akg_dynamo.agents.verifier import judge as judge_module
from akg_dynamo.core.errors import JudgeError
from akg_dynamo.core.types import Outcome

from .kernels import add_relu, job
from .settling import eventually

RIGHT = "return (torch.relu(args[0] + args[1]),)"


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(child), *_children(int(child))]
    return found


def _running(pids: list[int]) -> list[int]:
    """Those of them that are there and have not ended."""
    found = []
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if " Z " not in Path(f"/proc/{pid}/stat").read_text():
                found.append(pid)
    return found


def _wait_gone(pids: list[int]) -> None:
    assert eventually(lambda: _running(pids), lambda left: not left) == []


@pytest.fixture
def many_open_files() -> Iterator[None]:
    """As a server has them: what is opened from now on has a number that `select` does not know."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 3000:
        pytest.skip("too few files may be open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3000), hard))
    with contextlib.ExitStack() as files:
        for _ in range(1100):
            files.enter_context(open(os.devnull))
        yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_open_files")
def test_its_program_may_have_many_open_files() -> None:
    with Judge() as judge:
        for trusted in (True, False):
            right, wrong = judge.judge(
                [job(add_relu(), body, trusted=trusted) for body in (RIGHT, "return (args[0],)")]
            )
            assert (right.outcome, wrong.outcome) == (Outcome.RIGHT, Outcome.WRONG)


def test_a_judge_that_died_is_an_error_and_the_next_job_gets_a_new_one(judge: Judge) -> None:
    judge.judge([job(add_relu(), RIGHT)])
    started = judge._process.popen.pid
    _, referee, *_ = _children(started)
    pending = judge.submit(job(add_relu(), "import time; time.sleep(20)"))
    time.sleep(0.2)
    os.kill(referee, signal.SIGKILL)
    with pytest.raises(JudgeError):
        pending.result(timeout=100)
    assert judge.judge([job(add_relu(), RIGHT)])[0].outcome is Outcome.RIGHT
    assert judge._process.popen.pid != started


def test_nothing_is_left_when_the_program_is_killed() -> None:
    code = """
import sys, time
from akg_dynamo.agents.verifier import Judge
judge = Judge()
judge.wait_ready()
print("up", flush=True)
time.sleep(60)
"""
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stdout.readline() == b"up\n"
    below = eventually(lambda: _children(program.pid), lambda found: len(found) == 4)
    assert len(below) == 4  # what was started, zygote, judge, warm worker
    program.kill()
    program.wait()
    program.stdout.close()
    _wait_gone(below)


def test_shut_down_ends_everything_and_can_be_repeated() -> None:
    with Judge() as one:
        one.wait_ready()
        below = [one._process.popen.pid, *_children(one._process.popen.pid)]
    shut_down()
    shut_down()
    _wait_gone(below)


def test_a_judge_with_contexts_on_a_device_does_not_hold_them_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    shut_down()
    one = Judge()
    one.warm("cuda")
    assert one.judge([job(add_relu(), RIGHT)])[0].outcome is Outcome.RIGHT
    below = [one._process.popen.pid, *_children(one._process.popen.pid)]
    monkeypatch.setattr(judge_module, "_IDLE_S", 0.5)
    assert one.judge([job(add_relu(), RIGHT, top="import time; time.sleep(0.6)")])[0].outcome is Outcome.RIGHT
    assert one._process.popen.pid == below[0], "it does not end while it judges"
    _wait_gone(below)
    assert one.judge([job(add_relu(), RIGHT)])[0].outcome is Outcome.RIGHT
    assert one._process.popen.pid != below[0]
    shut_down()


def test_secrets_do_not_reach_a_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "secret")
    shut_down()
    body = "import os; assert 'SOME_API_KEY' not in os.environ; return (torch.relu(args[0] + args[1]),)"
    with Judge(keep_warm=False) as one:
        assert one.judge([job(add_relu(), body)])[0].outcome is Outcome.RIGHT


def test_foreseen_processes_are_those_that_judge_later() -> None:
    shut_down()
    foresee()
    process = judge_module._warm
    assert process is not None
    assert process.on_device, "it ends when nothing is asked for a while"
    with Judge() as judge:
        assert judge._process is process
        assert judge.judge([job(add_relu(), RIGHT)])[0].outcome is Outcome.RIGHT


def test_warming_a_judge_that_has_ended_starts_another(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    warmed: list[int] = []
    monkeypatch.setattr(judge_module._Process, "warm", lambda process, ordinal: warmed.append(process.popen.pid))
    judge.judge([job(add_relu(), RIGHT)])
    ended = judge._process.popen.pid
    shut_down()
    judge.warm("cuda")
    assert warmed != [ended]
    assert warmed == [judge._process.popen.pid]


def test_a_fork_asks_processes_of_its_own(judge: Judge) -> None:
    """Both would read one channel, each the other's verdicts."""
    assert judge.judge([job(add_relu(), RIGHT)])[0].outcome is Outcome.RIGHT
    pid = os.fork()
    if pid == 0:
        right = False
        try:
            right = judge.judge([job(add_relu(), RIGHT)])[0].outcome is Outcome.RIGHT
        finally:
            shut_down()
            os._exit(0 if right else 1)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            pytest.fail("the fork waits for a verdict that never comes")
        time.sleep(0.05)
    assert ended == (pid, 0)
    assert judge.judge([job(add_relu(), RIGHT)])[0].outcome is Outcome.RIGHT
