"""The folder `akg optimize` writes into: no name is taken from another model there, and what is replaced is kept."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from akg_dynamo.core.errors import UserError
from akg_dynamo.integrate import Piece
from akg_dynamo.report import markdown
from akg_dynamo.report.markdown import Optimized

_KEY = re.compile(r'^KEY = "(\w+)"', re.MULTILINE)
_KEY_DIGITS = 8  # of a key, in a name


def model_file_name(model: Path) -> str:
    """What the file written for a model is called."""
    return f"{model.stem}_generated.py"


def kernel_file_name(op: str) -> str:
    """What a kernel's file is called."""
    return f"{op}_generated.py"


def check_model_name(target: Path, model: Path) -> None:
    """Whether the model's file may be written.

    Raises:
        UserError: a file of that name is a kernel that another model imports.
    """
    name = model_file_name(model)
    if _key(target / name) and (users := _importers(target, name, model)):
        raise UserError(
            f"{target / name} is a kernel that {users[0]} imports, and the file for {model} would have the same name. "
            "Choose another folder with --out."
        )


def own_name(piece: Piece, target: Path, model: Path) -> str:
    """The piece's `op`, or with some digits of its key where that file is the model's own, or another model's."""
    name = kernel_file_name(piece.op)
    there = target / name
    if name != model_file_name(model):
        key = _key(there)
        unused = key is not None and not _importers(target, name, model)
        if not there.exists() or key == piece.key or unused:
            return piece.op
    return f"{piece.op}_{piece.key[:_KEY_DIGITS]}"


def _key(path: Path) -> str | None:
    """A kernel's key; None for a file that is no kernel of ours, or not there."""
    found = _KEY.search(_text(path))
    return found[1] if found else None


def _text(path: Path) -> str:
    """A file's text; nothing for one that cannot be read, or is not there."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _importers(target: Path, name: str, model: Path) -> list[str]:
    """Other Python files of the folder that name the module `name`."""
    word = re.compile(rf"\b{re.escape(name.removesuffix('.py'))}\b")
    others = [p for p in sorted(target.glob("*.py")) if p.name not in (name, model_file_name(model))]
    return [p.name for p in others if word.search(_text(p))]


def promote(done: Optimized, staging: Path, target: Path) -> Optimized:
    """Moves the finished files into place; what they replace goes to ``backup/`` first."""
    names = [*done.written, "report.md"]
    replaced = tuple(n for n in names if (target / n).exists())
    done = done.with_replaced(replaced)
    (staging / "report.md").write_text(markdown.render(done))
    try:
        for name in replaced:
            shutil.copy2(target / name, _free(target / "backup", name))
        for name in names:
            os.replace(staging / name, target / name)
    except OSError as error:
        raise UserError(f"cannot write into {target}: {error.strerror}. Choose another folder with --out.") from error
    return done


def _free(backup: Path, name: str) -> Path:
    """A path in the backup folder that nothing has yet: an earlier backup is not overwritten."""
    backup.mkdir(exist_ok=True)
    path, n = backup / name, 0
    while path.exists():
        n += 1
        path = backup / f"{name}.{n}"
    return path
