"""What `akg bench --out` keeps: every row at once, and the whole when there is no more to come.

bench_<kind>_<when>.jsonl   a row per line while it runs; gone once the others are there
bench_<kind>_<when>.json    everything, raw times included
bench_<kind>_<when>.md      the table
bench_<kind>_<when>.png     the plot, if asked for
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from akg_dynamo.bench import table
from akg_dynamo.bench.worker import Row
from akg_dynamo.core.errors import UserError


class Results:
    """The files of one run.

    trouble: why what was asked for is not there, or not all of it.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        """UserError for a folder that cannot be written: before anything is measured."""
        self.trouble = ""
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--out {folder} is a file. Give a folder: results are several files.")
        stem = f"bench_{kind}_{datetime.now(timezone.utc).strftime('%Y%m%dT%H%M%SZ')}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._rows = _new_file(folder, stem)
        except OSError as error:
            raise UserError(f"--out {folder} cannot be written ({error.strerror}). Give another folder.") from error

    def add(self, row: Row) -> None:
        """Keeps a row, whatever happens next. A disk that is full costs the file, not the measurement."""
        try:
            with self._rows.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(row)) + "\n")
        except OSError as error:
            self.trouble = f"{self._rows} cannot be written ({error.strerror})"

    def finish(self, everything: Mapping[str, object], text: str, plotted: list[Row] | None) -> tuple[Path, ...]:
        """Writes the whole, and a plot of these rows, in place of the rows. Returns which files there are now."""
        whole, read, drawn = (self._rows.with_suffix(f".{kind}") for kind in ("json", "md", "png"))
        try:
            whole.write_text(json.dumps(everything, indent=1) + "\n")
            read.write_text(text)
            if plotted is not None:
                table.plot(plotted, drawn)
        except OSError as error:
            self.trouble = f"the results cannot be written ({error.strerror}). What is there is in {self._rows}"
            return (self._rows,)
        self.discard()
        self.trouble = ""
        return (whole, read) if plotted is None else (whole, read, drawn)

    def discard(self) -> None:
        """There is nothing to keep."""
        self._rows.unlink(missing_ok=True)


def _new_file(folder: Path, stem: str) -> Path:
    """A file that no other run writes, nor has written its results beside."""
    number = 1
    while True:
        path = folder / f"{stem}{f'_{number}' if number > 1 else ''}.jsonl"
        if not path.with_suffix(".json").exists():
            try:
                path.touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                return path
        number += 1
