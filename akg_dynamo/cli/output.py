"""How commands speak: results on stdout, progress and errors on stderr, JSON when asked, and these exit codes.

0  done
1  the answer is no: a kernel is wrong, the written file does not hold up, something is missing or damaged
2  the command could not be carried out: bad input, no compiler, a folder that cannot be used
130  interrupted, as by Ctrl-C
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from akg_dynamo.core.errors import AkgError, EnvironmentFault, JudgeError, UserError

NO = 1
CANNOT = 2
INTERRUPTED = 130


class Output:
    """One command's output."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        # What is printed is mostly anybody's text: brackets and colons in it are no markup.
        self.console = Console(
            file=sys.stdout, highlight=False, soft_wrap=not sys.stdout.isatty(), markup=False, emoji=False
        )
        self.progress = Console(stderr=True, highlight=False, markup=False, emoji=False)

    def result(self, data: Mapping[str, object], show: Callable[[Console], None]) -> None:
        """The command's answer: as one JSON object, or for people."""
        if self.as_json:
            print(json.dumps(data, indent=2, sort_keys=True), file=self.console.file)
        else:
            show(self.console)

    def complain(self, text: str) -> None:
        """Something is wrong, for people who read along; programs find it in the JSON."""
        if not self.as_json:
            self.progress.print(Text.assemble(("error:", "red"), " ", text), soft_wrap=True)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """A spinner while something takes time, on a terminal only."""
        if self.progress.is_terminal and not self.as_json:
            with self.progress.status(what):
                yield
        else:
            yield


@contextmanager
def command(as_json: bool) -> Iterator[Output]:
    """The frame of every command: where our own exceptions become a paragraph and an exit code."""
    out = Output(as_json)
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=out.progress, show_time=False, show_path=False)],
    )
    # What the user's own file prints is no part of a JSON object.
    aside = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
    try:
        with aside:
            yield out
    except AkgError as error:
        if as_json:
            print(json.dumps({"error": str(error), "kind": type(error).__name__}))
        else:
            out.complain(str(error))
        raise typer.Exit(CANNOT if isinstance(error, UserError | EnvironmentFault | JudgeError) else NO) from error
