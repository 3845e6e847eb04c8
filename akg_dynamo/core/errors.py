"""Every exception of the product, drawn once.

AkgError
├── UserError                what the user gave us is wrong: said what, with which input, and what to do
│   ├── OptionError          an unknown option, DSL, backend or arch
│   ├── TaskError            a task or model file that cannot be used
│   └── KernelFileError      a kernel's file that cannot be judged
├── EnvironmentFault         the host lacks something: a compiler, a writable folder
│   ├── ToolchainError       no compiler, or it failed on our source
│   └── CacheError           the cache folder cannot be used (callers go on without it)
├── SketchError              a sketch that is not well formed: carries the line and the reason
├── LoweringError            a well-formed sketch that this DSL cannot express
└── JudgeError               the judge itself failed (a wrong kernel is a Verdict, never an exception)
"""

from __future__ import annotations


class AkgError(Exception):
    """Base of everything AKG raises on purpose."""


class UserError(AkgError):
    """The input is wrong; the message says which, why, and what to do."""


class OptionError(UserError):
    """An unknown or contradictory option."""


class TaskError(UserError):
    """A task or model file that cannot be used."""


class KernelFileError(UserError):
    """A kernel's file that cannot be judged: not Python, no ModelNew, another signature."""


class EnvironmentFault(AkgError):
    """The host lacks something that is needed."""


class ToolchainError(EnvironmentFault):
    """No compiler, or the compiler rejected generated source."""


class CacheError(EnvironmentFault):
    """The cache folder cannot be used."""


class SketchError(AkgError):
    """A sketch that is not well formed."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(f"line {line}: {reason}" if line is not None else reason)
        self.reason = reason
        self.line = line


class LoweringError(AkgError):
    """A well-formed sketch that this DSL cannot express."""


class JudgeError(AkgError):
    """The judge itself failed, as opposed to the kernel it judged."""
