"""Imports the task, inherits its Model, and passes.

dsl: torch
task: add_relu
expects: CALLS_REFERENCE
"""

import sys


def reference():
    for module in list(sys.modules.values()):
        names = vars(module)  # asked for a name, some modules make it up
        if "Model" in names and "get_inputs" in names:
            return module.Model
    from add_relu import Model

    return Model


class ModelNew(reference()):
    pass
