"""The kernel cache: one folder, shared by every process of a user.

    <folder>/v1/db/        diskcache: one row of text per key (see entry.py); never pickle, reading or writing
    <folder>/v1/objects/   built shared objects, named by the hash of their source
    <folder>/v1/graphs/    one empty file per graph whose kernels have all been asked for
    <folder>/v1/locks/     one lock file per key being generated
    <folder>/v1/flights/   one file per living process: the kernels it is launching for the first time

A cache that cannot be used (unwritable, full, garbage) costs a warning, once, and nothing else: every method then
behaves as on an empty cache, remembering within this process only.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
import sqlite3
import stat
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from akg_dynamo.cache.entry import FORMAT, Entry, parse_outside, seal, to_json, unseal
from akg_dynamo.cache.flights import Flights
from akg_dynamo.core import settings
from akg_dynamo.core.errors import CacheError, UserError

if TYPE_CHECKING:
    import diskcache
    import filelock

log = logging.getLogger(__name__)
_T = TypeVar("_T")

OBJECTS = "objects"
"""The folder of what is built, in a store's."""
GRAPHS = "graphs"
_DB = "db"
_FOLDERS = (OBJECTS, GRAPHS, "locks", "flights")
SIZE_LIMIT_BYTES = 1 << 30
_BUSY_S = 5.0


class Claim:
    """The right to generate for one key, held until `release` or until the process ends."""

    def __init__(self, lock: filelock.FileLock | None) -> None:
        self._lock = lock

    def release(self) -> None:
        """Lets another process try."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Store:
    """A cache folder. Opening is lazy and never raises; see `trouble`."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else settings.cache_dir()
        self.root = self.folder / f"v{FORMAT}"
        self.trouble = ""
        """Why the folder cannot be used, once that was found."""
        self._db: diskcache.Cache | None = None
        self._flights: Flights | None = None
        self._memory: dict[str, Entry] = {}
        self._spare_objects: tempfile.TemporaryDirectory[str] | None = None
        self._opening = threading.Lock()

    # -------------------------------------------------------------------------------- the folder

    def _open(self) -> diskcache.Cache:
        """The database, opened on first use."""
        if self._db is not None:
            return self._db
        with self._opening:
            if self._db is None:
                if self.trouble:
                    raise CacheError(self.trouble)
                _make_private(self.root)
                for name in _FOLDERS:
                    _make_private(self.root / name)
                db = _open_database(self.root / _DB)
                flights = Flights(self.root / "flights")
                lost = flights.lost()
                self._flights, self._db = flights, db
                for key in lost:
                    self._update(db, key, lambda entry: replace(entry, quarantined="it took its process down"))
        return self._db

    def _on_disk(self, what: Callable[[diskcache.Cache], _T], otherwise: _T, *, quietly: bool = False) -> _T:
        """Runs `what` on the database. The one place where a cache that fails is given up, with a warning, once.

        quietly: without the warning, as the caller says it.
        """
        if self.trouble:
            return otherwise
        import diskcache

        try:
            return what(self._open())
        except CacheError as error:
            self.trouble = str(error)
        except diskcache.Timeout:
            self.trouble = f"{self.folder} is kept locked by another process"
        except (OSError, sqlite3.Error) as error:
            self.trouble = f"{self.folder}: {error}"
        if quietly:
            return otherwise
        log.warning(
            "the kernel cache cannot be used, going on without it: %s. "
            "Free or repair the folder, run `akg cache clear`, or set AKG_CACHE_DIR to another one.",
            self.trouble,
        )
        return otherwise

    def open_or_raise(self) -> None:
        """For those who cannot go on without: CacheError when the folder cannot be used."""
        if not self._on_disk(lambda _: True, False, quietly=True):
            raise CacheError(
                f"the kernel cache cannot be used: {self.trouble}. Free or repair the folder, run `akg cache clear`, "
                "or set AKG_CACHE_DIR to another one."
            )

    @property
    def objects(self) -> Path:
        """Where built objects live (BUILD_DIR): in the cache, or a temporary folder when that is unusable."""
        if self._on_disk(lambda _: True, False):
            return self.root / OBJECTS
        if self._spare_objects is None:
            self._spare_objects = tempfile.TemporaryDirectory(prefix="akg-objects-")
        return Path(self._spare_objects.name)

    # -------------------------------------------------------------------------------- entries

    @property
    def is_new(self) -> bool:
        """Whether nobody has kept anything in this folder yet."""
        return not os.path.exists(self.root / _DB)  # Path.exists raises for what can be no path

    def has_graph(self, name: str) -> bool:
        """Whether `add_graph` has been told of it."""
        return os.path.exists(self.root / GRAPHS / name)

    def add_graph(self, name: str) -> None:
        """Remembers that every kernel of that graph has been asked for."""
        self._on_disk(lambda _: (self.root / GRAPHS / name).touch(), None)

    def get(self, key: str) -> Entry | None:
        """The entry under `key`, unless it expired. A damaged entry is dropped, and so made again."""
        entry = self._on_disk(lambda db: _read(db, key), None) if not self.trouble else None
        if entry is None:
            entry = self._memory.get(key)
        return None if entry is None or entry.expired() else entry

    def put(self, entry: Entry) -> None:
        """Files an entry under its key; timings already there for other devices are kept."""

        def write(db: diskcache.Cache) -> bool:
            with db.transact():
                old = _read(db, entry.key)
                same = old is not None and old.candidate == entry.candidate
                worth = {**old.worth, **entry.worth} if old is not None and same else entry.worth
                db.set(entry.key, seal(replace(entry, worth=worth)))
            return True

        if not self._on_disk(write, False):
            self._memory[entry.key] = entry

    def quarantine(self, key: str, reason: str) -> None:
        """Marks the kernel under `key` as never to be run again."""
        log.warning("kernel %s is quarantined: %s", key[:12], reason)
        self._change(key, lambda entry: replace(entry, quarantined=reason))

    def _change(self, key: str, change: Callable[[Entry], Entry]) -> None:
        if not self._on_disk(lambda db: self._update(db, key, change), False):
            self._memory[key] = change(self._memory.get(key, Entry(key, "")))

    @staticmethod
    def _update(db: diskcache.Cache, key: str, change: Callable[[Entry], Entry]) -> bool:
        with db.transact():
            db.set(key, seal(change(_read(db, key) or Entry(key, ""))))
        return True

    # -------------------------------------------------------------------------------- making and launching

    def claim(self, key: str) -> Claim | None:
        """The right to generate for `key`, or None while another process holds it. `get` again once you have it.

        Held through a file lock, which the system drops when the holder dies.
        """

        def acquire(_: diskcache.Cache) -> Claim | None:
            import filelock

            # thread_local=False: a background thread may release what another thread claimed
            lock = filelock.FileLock(self.root / "locks" / f"{key}.lock", thread_local=False)
            try:
                lock.acquire(blocking=False)
            except filelock.Timeout:
                return None
            return Claim(lock)

        nobody_else: Claim | None = Claim(None)
        return self._on_disk(acquire, nobody_else)

    @contextmanager
    def launching(self, key: str) -> Iterator[None]:
        """Around a kernel's first launch here: if the process dies inside, the next one quarantines the kernel."""
        self.mark_launching(key)
        try:
            yield
        finally:
            self.mark_ok(key)

    def mark_launching(self, key: str) -> None:
        """Writes the marker. Call `mark_ok` as soon as Python has control again, whether the kernel raised or not."""
        self._on_disk(lambda _: self._flights.add(key) if self._flights else None, None)

    def mark_ok(self, key: str) -> None:
        """Removes the marker."""
        if self._flights is not None:
            self._flights.remove(key)

    # -------------------------------------------------------------------------------- for people

    def ls(self) -> list[Entry]:
        """Every readable entry, newest first."""
        nothing: list[Entry] = []
        entries = self._on_disk(lambda db: [e for k in list(db) if (e := _read(db, k)) is not None], nothing)
        return sorted([*entries, *self._memory.values()], key=lambda e: -e.provenance.created_at)

    def find(self, prefix: str) -> list[Entry]:
        """Entries whose key or operation starts with `prefix`."""
        return [e for e in self.ls() if e.key.startswith(prefix) or e.provenance.op == prefix]

    def clear(self, keys: list[str] | None = None) -> int:
        """Removes these entries, or (None) everything the cache keeps, also from a damaged folder. Returns how many."""
        if keys is not None:
            for key in keys:
                self._memory.pop(key, None)
            return self._on_disk(lambda db: sum(1 for key in keys if db.delete(key)), 0)
        count = len(self.ls())
        self.close()
        self._memory.clear()
        try:
            for root in self.folder.glob("v[0-9]*"):  # of older formats too; nothing else in the user's folder
                _remove_ours(root)
        except OSError as error:
            raise CacheError(f"{self.folder} cannot be cleared: {error.strerror or error}") from error
        self.trouble = ""
        return count

    def check(self) -> list[str]:
        """What is wrong with the folder: one line each. Damaged entries are dropped on the way."""
        if (self._on_disk(lambda _: True, False)) is False:
            return [self.trouble]

        def inspect(db: diskcache.Cache) -> list[str]:
            found = [str(w.message) for w in db.check()]
            for key in list(db):
                if not isinstance(key, str) or _read(db, key) is None:
                    found.append(f"entry {key!s:.12}: damaged, dropped")
            return found

        return self._on_disk(inspect, []) or ([self.trouble] if self.trouble else [])

    def size_bytes(self) -> int:
        """Everything under the folder's root."""
        total = 0
        for folder, _, names in os.walk(self.root):
            for name in names:
                with suppress(OSError):  # another process is using the cache
                    total += os.stat(os.path.join(folder, name)).st_size
        return total

    def export(self, path: Path, keys: list[str] | None = None) -> int:
        """Writes entries to one file (gzipped JSON). Returns how many."""
        entries = [
            e for e in self.ls() if e.candidate is not None and not e.quarantined and (keys is None or e.key in keys)
        ]
        text = json.dumps({"akg_cache": FORMAT, "entries": [to_json(e) for e in entries]}, sort_keys=True)
        if not path.name:
            raise UserError(f"cannot write {path}: it is a folder. Give a file.")
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            scratch.write_bytes(gzip.compress(text.encode(), mtime=0))
            scratch.replace(path)
        except OSError as error:
            scratch.unlink(missing_ok=True)
            raise UserError(f"cannot write {path}: {error.strerror}. Give a file in a folder that exists.") from error
        return len(entries)

    def import_(self, path: Path) -> int:
        """Adds the entries of an exported file, as not yet judged: nothing in it is believed. Returns how many."""
        advice = "Give a file that `akg cache export` wrote."
        try:
            data = json.loads(gzip.decompress(path.read_bytes()))
        except gzip.BadGzipFile as error:
            raise UserError(f"{path} is not a cache export: {error}. {advice}") from error
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}. {advice}") from error
        except (ValueError, EOFError, zlib.error) as error:
            raise UserError(f"{path} is not a cache export: {error}. {advice}") from error
        if not isinstance(data, dict) or data.get("akg_cache") != FORMAT or not isinstance(data.get("entries"), list):
            raise UserError(f"{path} is not a cache export of this version. Export it again with this version of AKG.")
        try:
            entries = [parse_outside(item) for item in data["entries"]]
        except CacheError as error:
            raise UserError(f"{path} holds an entry that is not one: {error}. Nothing was imported.") from error
        new = 0
        for entry in entries:
            if entry.candidate is None or self.get(entry.key) is not None:
                continue  # what was judged here is worth more than what someone else says
            self.put(replace(entry, judged=False, right=None, worth={}, refusal=None, expires_at=None, quarantined=""))
            new += 1
        return new

    def close(self) -> None:
        """Lets go of the files. The store opens again on use."""
        with self._opening:
            if self._db is not None:
                self._db.close()
                self._db = None
            if self._flights is not None:
                self._flights.close()
                self._flights = None


# --------------------------------------------------------------------------------------------------------------------


def _make_private(folder: Path) -> None:
    """A folder of ours that nobody else can write: what lies in it is executed."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = folder.stat()
        if hasattr(os, "geteuid") and info.st_uid != os.geteuid():
            raise CacheError(f"{folder} belongs to another user, and what is in it would be executed")
        if stat.S_IMODE(info.st_mode) & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise CacheError(f"{folder} cannot be used: {error.strerror or error}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CacheError(f"{folder} is not writable")


def _remove_ours(root: Path) -> None:
    """What a store keeps there; the folder itself, which may be named by chance like ours, if nothing else is in it."""
    if not root.is_dir() or root.is_symlink():
        return
    for part in (root / name for name in (_DB, *_FOLDERS)):
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)
    with suppress(OSError):
        root.rmdir()


def _open_database(folder: Path) -> diskcache.Cache:
    import diskcache

    class TextDisk(diskcache.Disk):  # type: ignore[misc]
        """Text in, text out. diskcache's own disks unpickle whatever row says it is a pickle; this one never does."""

        def put(self, key: object) -> tuple[str, bool]:
            if not isinstance(key, str):
                raise TypeError("keys are text")
            return key, True

        def get(self, key: Any, raw: Any) -> str:
            return key if raw and isinstance(key, str) else ""

        def store(self, value: object, read: bool, key: object = None) -> tuple[int, int, None, str]:
            if read or not isinstance(value, str):
                raise TypeError("values are text")
            return 0, _MODE_RAW, None, value

        def fetch(self, mode: int, filename: Any, value: Any, read: bool) -> str:
            return value if mode == _MODE_RAW and not read and isinstance(value, str) else ""

    try:
        return diskcache.Cache(str(folder), disk=TextDisk, timeout=_BUSY_S, size_limit=SIZE_LIMIT_BYTES)
    except (OSError, sqlite3.Error, diskcache.Timeout, TypeError, ValueError, AttributeError) as error:
        # garbage in its settings table surfaces as anything the constructor does with it
        raise CacheError(f"{folder} is not a usable database ({error})") from error


_MODE_RAW = 1


def _read(db: diskcache.Cache, key: str) -> Entry | None:
    """The entry in a row; a row that is not one is removed."""
    text = db.get(key)
    if text is None:
        return None
    try:
        return unseal(text, key)
    except CacheError as error:
        log.info("cache entry %.12s dropped: %s", key, error)
        db.delete(key)
        return None
