"""The helpers of the C++ lowering are written where they are needed, each after what it uses."""

from __future__ import annotations

import re

from akg_dynamo.agents.lowering import prelude


def test_no_section_uses_a_later_one() -> None:
    """Within a template a later one would be looked for among the arguments' own namespaces only, and not be found."""
    sections, defined = prelude._sections(prelude.CPP), prelude.definitions(prelude.CPP)
    order = list(sections)
    for name, code in sections.items():
        words = set(prelude._WORD.findall(re.sub(r"//[^\n]*", "", code)))
        used = {defined[word] for word in words if word in defined}
        later = {section for section in used if order.index(section) > order.index(name)}
        assert not later, f"{name} uses {sorted(later)}, which come later"
