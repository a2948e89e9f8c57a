"""Callbacks for `fit`: curves, conflicts and pictures by epoch, backups, and the best model."""

from lexirobust.callbacks.attack_check import AttackCheck
from lexirobust.callbacks.backup import Backup
from lexirobust.callbacks.checkpoint import LexicographicCheckpoint
from lexirobust.callbacks.conflict_monitor import ConflictMonitor
from lexirobust.callbacks.figure_callback import FigureCallback
from lexirobust.callbacks.held_out_targets import HeldOutTargets
from lexirobust.callbacks.robustness_curve import RobustnessCurve

__all__ = [
    "AttackCheck",
    "Backup",
    "ConflictMonitor",
    "FigureCallback",
    "HeldOutTargets",
    "LexicographicCheckpoint",
    "RobustnessCurve",
]
