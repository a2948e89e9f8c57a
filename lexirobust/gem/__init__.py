"""Ranked gradients: from a Gramian to one update that spends no higher rank on a lower one.

Tensors in, tensors out; nothing here knows Keras models or attacks.
"""

from lexirobust.gem.dual import DualSolution, solve_dual
from lexirobust.gem.gradients import Gradients
from lexirobust.gem.gramian import cosines, gramian, inner_products
from lexirobust.gem.onestep import Onestep, combine, onestep, onestep_weights, project

__all__ = [
    "DualSolution",
    "Gradients",
    "Onestep",
    "combine",
    "cosines",
    "gramian",
    "inner_products",
    "onestep",
    "onestep_weights",
    "project",
    "solve_dual",
]
