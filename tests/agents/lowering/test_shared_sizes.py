"""A size that two loop nests compare lanes with is computed in each of them."""

from __future__ import annotations

import numpy as np
from lowered import arrays_for, compare

from akg_dynamo.agents.sketch import parse

_JOINED_COLUMN_SUM = """
sketch joined_column_sum {
  symbols: n1, n2, n3
  tensors: x0[n2, n1]: f32 in, x1[n2, n1]: f32 in, y0[n2, n3]: f32 out, y1[n3]: f32 out
  constexpr: BC = 64

  @llm_hint("parallel", "coreidx")
  for j in range(0, n3, BC):
    s = alloc([j], f32, init=0.0)
    v = lanes(j)
    first = v < index(n1)
    for r in range(0, n2):
      t = where(first, load(x0[r, j:j+BC]), load(x1[r, j+(0 - n1):j+(0 - n1)+BC]))
      s = s + t
      store(t -> y0[r, j:j+BC])
    store(s -> y1[j:j+BC])
}
"""


def test_an_index_that_is_used_in_two_nests() -> None:
    sketch = parse(_JOINED_COLUMN_SUM)
    for n1, n2 in ((1, 1), (37, 5), (100, 3)):
        symbols = {"n1": n1, "n2": n2, "n3": 2 * n1}
        rng = np.random.default_rng(n1)
        compare(sketch, arrays_for(sketch, symbols, rng), symbols)
