"""The cache folder: what is read back, what is shared between processes, and every way it can be unusable."""

from __future__ import annotations

import gzip
import json
import logging
import os
import pickle
import resource
import sqlite3
import stat
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from akg_dynamo.cache.entry import Entry, Provenance, Right, Worth, refused, seal
from akg_dynamo.cache.store import Store
from akg_dynamo.core.errors import CacheError, UserError
from akg_dynamo.core.types import Candidate, Outcome, SplitReason, SplitReasonType, Timing

WIN = Timing(2.0, 1.9, 2.1, 20.0, 10.0)
LOSS = Timing(0.9, 0.8, 1.0, 10.0, 11.0)


def entry(n: int = 0, **changes: object) -> Entry:
    made = Entry(
        key=f"{n:064x}",
        subgraph="in x\nout (1,)",
        candidate=Candidate("relu", "def run(x):\n    return (x.relu(),)\n", "cpp", "sketch relu", "// C++"),
        right=Right(Outcome.RIGHT, checked=("seed 1",)),
        worth={"cpu a": Worth(WIN, time.time())},
        provenance=Provenance(op="relu", created_at=float(n)),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def in_another_process(code: str, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **env},
        check=False,
    )


def test_another_process_reads_what_was_put(store: Store) -> None:
    store.put(entry())
    again = Store(store.folder).get(entry().key)
    assert again is not None
    assert again.candidate == entry().candidate
    assert again.right == entry().right
    assert again.timing("cpu a") == WIN
    assert again.timing("cpu b") is None
    assert again.usable


def test_the_folder_is_private(store: Store) -> None:
    store.put(entry())
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.objects.stat().st_mode) == 0o700


def test_a_folder_of_another_user_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.root.mkdir(parents=True)
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    assert store.get(entry().key) is None
    assert "belongs to another user" in store.trouble


def test_timings_of_several_devices_are_kept(store: Store) -> None:
    store.put(entry())
    store.put(entry(worth={"cpu b": Worth(LOSS, time.time())}))
    store.put(entry(worth={"cpu c": Worth(WIN, time.time())}))
    found = store.get(entry().key)
    assert found is not None
    assert {d: found.timing(d) for d in found.worth} == {"cpu a": WIN, "cpu b": LOSS, "cpu c": WIN}


def test_another_kernel_does_not_inherit_timings(store: Store) -> None:
    store.put(entry())
    store.put(entry(candidate=Candidate("relu", "other", "cpp"), worth={}))
    found = store.get(entry().key)
    assert found is not None
    assert dict(found.worth) == {}


def test_no_gain_expires_and_a_win_does_not() -> None:
    long_ago = time.time() - 400 * 86400
    assert entry(worth={"d": Worth(LOSS, long_ago)}).timing("d") is None
    assert entry(worth={"d": Worth(LOSS, time.time())}).timing("d") == LOSS
    assert entry(worth={"d": Worth(WIN, long_ago)}).timing("d") == WIN


def test_negative_entries(store: Store) -> None:
    wrong = SplitReason(SplitReasonType.NOT_RIGHT, "seed 3: output 0")
    store.put(refused("a" * 64, "text", wrong))
    found = store.get("a" * 64)
    assert found is not None
    assert found.reason() == wrong
    assert not found.usable
    store.put(replace(refused("b" * 64, "text", SplitReason(SplitReasonType.BUILD)), expires_at=time.time() - 1))
    assert store.get("b" * 64) is None


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("", id="empty"),
        pytest.param("not an entry", id="garbage"),
        pytest.param(seal(entry()).replace("relu", "tanh"), id="changed source"),
        pytest.param(seal(entry()).replace("akg1 ", "akg0 "), id="older format"),
        pytest.param(seal(entry(1)), id="another key"),
        pytest.param(b"\x80\x04", id="bytes"),
    ],
)
def test_a_damaged_entry_is_dropped(store: Store, damage: object) -> None:
    store.put(entry())
    store.put(entry(2))
    with sqlite3.connect(store.root / "db" / "cache.db") as db:
        db.execute("UPDATE Cache SET value = ? WHERE key = ?", (damage, entry().key))
    db.close()
    assert store.get(entry().key) is None
    assert store.trouble == ""
    assert [e.key for e in store.ls()] == [entry(2).key]


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("touch exploded",))


def test_a_pickle_in_the_database_is_never_loaded(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store.put(entry())
    with sqlite3.connect(store.root / "db" / "cache.db") as db:
        db.execute("UPDATE Cache SET value = ?, mode = 4, raw = 0", (pickle.dumps(Bomb()),))
    db.close()
    assert store.get(entry().key) is None
    assert store.ls() == []
    store.check()
    assert not (tmp_path / "exploded").exists()


def unusable(tmp_path: Path, kind: str) -> Path:
    folder = tmp_path / "cache"
    if kind == "a file":
        folder.write_text("")
    elif kind == "below a file":
        (tmp_path / "file").write_text("")
        folder = tmp_path / "file" / "cache"
    elif kind == "not a database":
        (folder / "v1" / "db").mkdir(parents=True)
        (folder / "v1" / "db" / "cache.db").write_bytes(b"garbage" * 4096)
    elif kind == "another database":
        (folder / "v1" / "db").mkdir(parents=True)
        with sqlite3.connect(folder / "v1" / "db" / "cache.db") as db:
            db.execute("CREATE TABLE Settings (key TEXT NOT NULL UNIQUE, value)")
            db.execute("INSERT INTO Settings VALUES ('disk_nonsense', 'x')")
        db.close()
    return folder


KINDS = ["a file", "below a file", "not a database", "another database"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_unusable_folder_costs_one_warning(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(unusable(tmp_path, kind))
    with caplog.at_level(logging.WARNING):
        assert store.get(entry().key) is None
        store.put(entry(worth={"cpu b": Worth(LOSS, time.time())}))
        assert store.claim(entry().key) is not None
        with store.launching(entry().key):
            pass
    remembered = store.get(entry().key)
    assert remembered is not None
    assert remembered.timing("cpu b") == LOSS
    assert store.objects.is_dir()
    assert len(caplog.records) == 1
    assert "AKG_CACHE_DIR" in caplog.text
    with pytest.raises(CacheError, match="cannot be used"):
        store.open_or_raise()


def test_a_full_disk_costs_one_warning(tmp_path: Path) -> None:
    # a limit on file size makes writes fail as a full disk does, without root
    code = """
        import resource, signal, sys, time
        from pathlib import Path
        from akg_dynamo.cache.entry import Entry
        from akg_dynamo.cache.store import Store
        from akg_dynamo.core.types import Candidate
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store = Store(Path(sys.argv[1]))
        store.put(Entry("0" * 64, "text"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        for i in range(1, 40):
            store.put(Entry(f"{i:064d}", "x" * 50_000, Candidate("big", "y" * 50_000, "cpp")))
        assert store.trouble, "the limit was never reached"
        assert store.get(f"{39:064d}") is not None
        print("went on")
    """
    assert resource.RLIMIT_FSIZE is not None
    done = in_another_process(code, tmp_path / "cache")
    assert done.stdout == "went on\n", done.stderr
    assert done.stderr.count("cannot be used") == 1


def test_clear_repairs_a_garbage_folder(tmp_path: Path) -> None:
    folder = unusable(tmp_path, "not a database")
    (folder / "mine.txt").write_text("the user's own")
    store = Store(folder)
    assert store.get(entry().key) is None
    store.clear()
    store.put(entry())
    assert Store(folder).get(entry().key) is not None
    assert (folder / "mine.txt").exists()


def test_clear_leaves_what_is_not_the_caches_own(tmp_path: Path) -> None:
    """A folder may be named like one of the cache's by chance."""
    store = Store(tmp_path)
    store.put(entry())
    for name in ("v1/notes.txt", "v2/api/index.html", "v2.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("the user's own")
    older = Store(tmp_path)
    older.root = tmp_path / "v0"
    older.put(entry())
    older.close()
    assert store.clear() == 1
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert files == ["v1/notes.txt", "v2.txt", "v2/api/index.html"]
    assert not (tmp_path / "v0").exists()


def test_a_name_that_can_be_no_folder_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path / ("x" * 300))
    assert store.is_new
    assert not store.has_graph("graph")
    assert store.get(entry().key) is None
    store.put(entry())
    assert store.size_bytes() == 0
    assert store.check() == [store.trouble]
    assert len(caplog.records) == 1


def test_a_user_who_is_not_known_is_part_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AKG_CACHE_DIR", "~nobody-of-that-name/cache")
    assert Store().folder == Path("~nobody-of-that-name/cache")


def test_one_generator_among_processes(store: Store) -> None:
    code = """
        import sys
        from pathlib import Path
        from akg_dynamo.cache.store import Store
        print(Store(Path(sys.argv[1])).claim(sys.argv[2]) is not None)
    """
    key = entry().key
    claim = store.claim(key)
    assert claim is not None
    assert store.claim(key) is None
    assert in_another_process(code, store.folder, key).stdout == "False\n"
    assert in_another_process(code, store.folder, entry(1).key).stdout == "True\n"
    claim.release()
    # the process above held entry 1 when it ended: the claim ended with it
    assert store.claim(entry(1).key) is not None
    assert in_another_process(code, store.folder, key).stdout == "True\n"


CRASH = """
    import os, sys
    from pathlib import Path
    from akg_dynamo.cache.store import Store
    store = Store(Path(sys.argv[1]))
    with store.launching(sys.argv[2]):
        pass
    if sys.argv[4] == "raises":
        try:
            with store.launching(sys.argv[3]):
                raise ValueError
        except ValueError:
            sys.exit(0)
    store.mark_launching(sys.argv[3])
    {end}
"""


@pytest.mark.parametrize("end", ["os.abort()", "import ctypes; ctypes.string_at(0)", "os.kill(os.getpid(), 9)"])
def test_a_kernel_that_took_its_process_down_is_quarantined(store: Store, end: str) -> None:
    store.put(entry(1))
    store.put(entry(2))
    done = in_another_process(CRASH.format(end=end), store.folder, entry(1).key, entry(2).key, "dies")
    assert done.returncode < 0
    after = Store(store.folder)
    came_back, lost = after.get(entry(1).key), after.get(entry(2).key)
    assert came_back is not None
    assert came_back.usable
    assert lost is not None
    assert not lost.usable
    assert "took its process down" in str(lost.reason())


def test_a_kernel_that_raised_in_python_is_not_lost(store: Store) -> None:
    store.put(entry(2))
    in_another_process(CRASH.format(end=""), store.folder, entry(1).key, entry(2).key, "raises")
    found = Store(store.folder).get(entry(2).key)
    assert found is not None
    assert found.usable


def test_a_living_process_is_not_taken_for_a_dead_one(store: Store) -> None:
    store.put(entry())
    with store.launching(entry().key):
        found = Store(store.folder).get(entry().key)
        assert found is not None
        assert not found.quarantined


def test_quarantine_is_shared(store: Store) -> None:
    store.put(entry())
    store.quarantine(entry().key, "raised RuntimeError")
    found = Store(store.folder).get(entry().key)
    assert found is not None
    assert not found.usable
    assert "raised RuntimeError" in str(found.reason())


def test_export_and_import_judge_again(store: Store, tmp_path: Path) -> None:
    store.put(entry(1))
    store.put(entry(2, quarantined="raised"))
    store.put(refused("a" * 64, "text", SplitReason(SplitReasonType.NO_GAIN)))
    assert store.export(tmp_path / "kernels.akg") == 1
    other = Store(tmp_path / "other")
    assert other.import_(tmp_path / "kernels.akg") == 1
    found = other.get(entry(1).key)
    assert found is not None
    assert found.candidate == entry(1).candidate
    assert not found.usable
    assert not found.judged
    assert found.right is None
    assert dict(found.worth) == {}
    assert store.import_(tmp_path / "kernels.akg") == 0
    kept = store.get(entry(1).key)
    assert kept is not None
    assert kept.usable


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not gzip", "not a cache export"),
        (gzip.compress(b"not json"), "not a cache export"),
        (gzip.compress(b"[]"), "not a cache export of this version"),
        (gzip.compress(b'{"akg_cache": 99, "entries": []}'), "not a cache export of this version"),
        (gzip.compress(b'{"akg_cache": 1, "entries": [{"key": 3}]}'), "an entry that is not one"),
        (
            gzip.compress(b'{"akg_cache": 1, "entries": [{"key": "k", "subgraph": "", "extra": 1}]}'),
            "unknown field 'extra'",
        ),
        (gzip.compress(json.dumps({"akg_cache": 1}).encode())[:-6], "not a cache export"),
    ],
)
def test_a_bad_export_is_refused_whole(store: Store, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match=message):
        store.import_(tmp_path / "file")
    with pytest.raises(UserError, match="cannot read"):
        store.import_(tmp_path / "absent")
    assert store.ls() == []


def test_check_names_damage(store: Store) -> None:
    store.put(entry())
    assert store.check() == []
    with sqlite3.connect(store.root / "db" / "cache.db") as db:
        db.execute("UPDATE Cache SET value = 'x'")
    db.close()
    assert store.check() == [f"entry {entry().key:.12}: damaged, dropped"]
    assert store.check() == []


def test_many_processes_write_at_once(store: Store) -> None:
    code = """
        import sys
        from pathlib import Path
        from akg_dynamo.cache.entry import Entry, Worth
        from akg_dynamo.cache.store import Store
        from akg_dynamo.core.types import Timing
        store = Store(Path(sys.argv[1]))
        for i in range(25):
            store.put(Entry(f"{sys.argv[2]}{i:060d}", "text"))
            store.put(Entry("shared", "text", worth={sys.argv[2]: Worth(Timing(2, 2, 2, 2, 1), 0.0)}))
        assert not store.trouble, store.trouble
    """
    running = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(store.folder), str(n)]) for n in range(4)
    ]
    assert [p.wait(timeout=300) for p in running] == [0, 0, 0, 0]
    assert len(store.ls()) == 101
    shared = store.get("shared")
    assert shared is not None
    assert sorted(shared.worth) == ["0", "1", "2", "3"]


def test_twenty_lookups_are_quick(store: Store) -> None:
    for n in range(20):
        store.put(entry(n, candidate=Candidate("k", "x" * 20_000, "cpp", "s" * 2_000, "y" * 10_000)))
    again = Store(store.folder)
    again.get("absent")
    best = min(_lookup_s(again) for _ in range(5))
    assert best < 0.02


def _lookup_s(store: Store) -> float:
    start = time.perf_counter()
    assert all(store.get(entry(n).key) is not None for n in range(20))
    return time.perf_counter() - start


def test_a_lookup_does_not_import_pydantic(store: Store) -> None:
    store.put(entry())
    code = """
        import sys
        from pathlib import Path
        from akg_dynamo.cache.store import Store
        assert Store(Path(sys.argv[1])).get(sys.argv[2]) is not None
        print("pydantic" in sys.modules)
    """
    assert in_another_process(code, store.folder, entry().key).stdout == "False\n"
