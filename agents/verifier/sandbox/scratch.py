"""Scratch folders: one for all workers of a judge, one in it for each worker, none of them left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from pathlib import Path

_PREFIX = "akg-judge-"
_LOCK = "lock"


def make() -> str:
    """A folder for one judge's workers, which is its own as long as one of its processes lives."""
    while True:
        folder = os.path.realpath(tempfile.mkdtemp(prefix=_PREFIX))
        os.chmod(folder, 0o711)  # its workers' identities own folders in it, and nothing else
        lock = os.open(f"{folder}/{_LOCK}", os.O_RDWR | os.O_CREAT, 0o600)  # open in all processes forked from here
        fcntl.flock(lock, fcntl.LOCK_SH)
        if os.fstat(lock).st_nlink:
            return folder
        os.close(lock)  # another judge that began just now took it for an old one's, and has swept it away


def sweep() -> None:
    """Remove the folders of judges that were killed."""
    for path in Path(tempfile.gettempdir()).glob(_PREFIX + "*"):
        with contextlib.suppress(OSError):  # somebody else's, or gone meanwhile
            if path.is_symlink() or path.stat().st_uid != os.geteuid():
                continue
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(str(path))
            finally:
                os.close(lock)


def remove(folder: str) -> None:
    """Remove it with all that is in it, however deep, and whatever its modes: whoever filled it may not wish that.

    Folders inside are moved up before they are emptied, so that no path gets long; links are not followed. What cannot
    be removed stays for the next sweep.
    """
    token = os.urandom(8).hex()
    left = [folder]
    moved = 0
    while left:
        here = left.pop()
        for entry in _entries(here):
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    os.chmod(entry.path, stat.S_IRWXU)  # moving a folder writes into it
                    moved += 1
                    os.rename(entry.path, f"{folder}/.{token}-{moved}")
                    left.append(f"{folder}/.{token}-{moved}")
                else:
                    os.unlink(entry.path)
        if here != folder:
            with contextlib.suppress(OSError):
                os.rmdir(here)
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        os.chmod(folder, stat.S_IRWXU)
        return list(os.scandir(folder))
    except OSError:
        return []
