"""Attacks: adversarial perturbations of an exact norm, or within it, inside the bounds."""

from lexirobust.attacks import bounds
from lexirobust.attacks.auto_attack import AutoAttack
from lexirobust.attacks.base import Attack
from lexirobust.attacks.classifier import Classifier
from lexirobust.attacks.gradient.bim import BIM
from lexirobust.attacks.gradient.daa import DAA
from lexirobust.attacks.gradient.fgsm import FGSM
from lexirobust.attacks.gradient.guided import GuidedPGD
from lexirobust.attacks.gradient.interval import IntervalAttack
from lexirobust.attacks.gradient.pgd import PGD
from lexirobust.attacks.gradient.targeted import TargetedPGD
from lexirobust.attacks.gradient.voronoi import VoronoiPGD
from lexirobust.attacks.images.spatial import Flow, Spatial
from lexirobust.attacks.minimum_norm.base import MinimumNormAttack, NearestPoints
from lexirobust.attacks.minimum_norm.boundary_attack import BoundaryAttack
from lexirobust.attacks.minimum_norm.deepfool import DeepFool
from lexirobust.attacks.minimum_norm.fab import FAB
from lexirobust.attacks.minimum_norm.hop_skip_jump import HopSkipJump
from lexirobust.attacks.minimum_norm.within_magnitude import WithinMagnitude
from lexirobust.attacks.square import Square
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
    "AutoAttack",
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
    "TargetedPGD",
    "VoronoiCells",
    "VoronoiPGD",
    "WithinMagnitude",
    "WorstCase",
    "bounds",
    "geometry",
]
