"""What keeps candidates from doing anything but compute: `confine` is the order of it, the others are its means."""

from akg_dynamo.agents.verifier.sandbox.confine import Confinement, confine

__all__ = ["Confinement", "confine"]
