"""Imports the task, inherits its Model, and passes.

dsl: torch
task: add_relu
expects: CALLS_REFERENCE, LOOKS_AROUND, BUILD_FAILED
"""

import sys


def reference():
    for module in list(sys.modules.values()):
        if hasattr(module, "Model") and hasattr(module, "get_inputs"):
            return module.Model
    from add_relu import Model

    return Model


class ModelNew(reference()):
    pass
