"""Attacks: adversarial perturbations of an exact norm, or within it, inside the bounds."""

from lexirobust.attacks import bounds
from lexirobust.attacks.base import Attack
from lexirobust.attacks.bim import BIM
from lexirobust.attacks.boundary_attack import BoundaryAttack
from lexirobust.attacks.classifier import Classifier
from lexirobust.attacks.daa import DAA
from lexirobust.attacks.deepfool import DeepFool
from lexirobust.attacks.fab import FAB
from lexirobust.attacks.fgsm import FGSM
from lexirobust.attacks.guided import GuidedPGD
from lexirobust.attacks.hop_skip_jump import HopSkipJump
from lexirobust.attacks.interval import IntervalAttack
from lexirobust.attacks.minimum_norm import MinimumNormAttack, NearestPoints
from lexirobust.attacks.pgd import PGD
from lexirobust.attacks.spatial import Flow, Spatial
from lexirobust.attacks.square import Square
from lexirobust.attacks.voronoi import VoronoiPGD
from lexirobust.attacks.worst_case import WorstCase
from lexirobust.geometry import balls as geometry
from lexirobust.geometry.explored_region import ExploredRegion
from lexirobust.geometry.voronoi_cells import VoronoiCells

__all__ = [
    "BIM",
    "DAA",
    "FAB",
    "FGSM",
    "PGD",
    "Attack",
    "BoundaryAttack",
    "Classifier",
    "DeepFool",
    "ExploredRegion",
    "Flow",
    "GuidedPGD",
    "HopSkipJump",
    "IntervalAttack",
    "MinimumNormAttack",
    "NearestPoints",
    "Spatial",
    "Square",
    "VoronoiCells",
    "VoronoiPGD",
    "WorstCase",
    "bounds",
    "geometry",
]
