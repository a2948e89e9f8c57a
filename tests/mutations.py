"""Faults made on purpose, and the test that catches each: `python -m tests.mutations`.

Each mutation is one small fault that a programmer could make and that a user would be harmed by.
One after the other is put into a copy of the repository, and the tests of what it touches are run
there until one fails, the doctests of the file itself last. All of these must pass in the copy as
it is, which is tried first: a test that fails anyway would seem to catch every mutation.

`--list` only names the mutations, and `--only=fab` takes those whose name or file holds the text.
`--marker="not release"` leaves tests out as pytest's `-m` does. `--out=FILE.json` keeps what was
found, and goes on from there: with what was not tried, and with what tests of another marker have
not caught. `--earlier=docs/results/mutations.json` tries first what has caught a mutation before,
which takes a fraction of the time.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import rich.console
import rich.table
import rich.text
from absl import app, flags

from lexirobust.atomic_files import write_whole

ROOT: Final = pathlib.Path(__file__).resolve().parents[1]
TIMEOUT: Final = 900.0  # Seconds.
TIMED_OUT: Final = "timeout"
"""In place of a test, where none has failed in time: an endless loop, or a busy CPU."""
LEFT_OUT: Final = (
    ".git",
    ".venv*",
    ".nox",
    "venv",
    "*.egg-info",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
)
"""What the tests do not need of the repository, in whatever folder."""
LEFT_OUT_OF_ROOT: Final = ("results", "build", "dist")
"""What they do not need of its root alone: they read docs/results."""


class Mutation(NamedTuple):
    """A fault in one place of the package.

    Attributes:
        name: The fault in a few plain words.
        file: Where it is, relative to `lexirobust/`.
        old: What is there; the file holds it once.
        new: What is put in its place.
        tests: Files and folders of tests that may see it, the most likely first. Those that are not
            there are left out, so that an older suite can be tried by the same faults.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, source: str) -> str:
        """Put the fault into the source of the file."""
        if source.count(self.old) != 1:
            raise ValueError(
                f"`old` must be in {self.file} once. Received: {source.count(self.old)} times for "
                f"{self.name!r}."
            )
        return source.replace(self.old, self.new)


DUAL = ("tests/gem/test_dual.py", "tests/gem/test_onestep.py")
BOUNDS = ("tests/gem/test_bounds.py",)
GRAMIAN = ("tests/gem/test_gramian.py", "tests/gem/test_onestep.py")
ONESTEP = ("tests/gem/test_onestep.py", "tests/training/test_model.py")
UPDATE = ("tests/training/test_update.py", "tests/training/test_ways_to_run.py")
PRECONDITIONERS = ("tests/training/test_preconditioners.py", *UPDATE)
MODEL = ("tests/training/test_model.py", "tests/training/test_ways_to_run.py")
SAVING = ("tests/training/test_saving.py",)
MEMORY = ("tests/training/test_gradient_means.py",)
DIRECTIONS = ("tests/gem/test_directions.py",)
TARGETS = ("tests/training/test_targets.py",)
AUTO_ATTACK = ("tests/attacks/test_auto_attack.py",)
FLAGS = ("tests/evaluation/test_flags.py",)
WARM_START = ("tests/training/test_warm_start.py",)
METHODS = ("tests/training/test_methods.py",)
OBJECTIVES = ("tests/training/test_objectives.py", "tests/training/test_methods.py")
DISCRIMINATOR = ("tests/training/test_discriminator.py", "tests/training/test_methods.py")
NEAREST = ("tests/training/test_nearest.py",)
CHECKS = ("tests/test_checks.py", "tests/training/test_bad_input.py")
GEOMETRY = ("tests/geometry/test_balls.py", "tests/attacks/test_pgd.py")
PGD = (
    "tests/attacks/test_pgd.py",
    "tests/attacks/test_gradient_ascent.py",
    "tests/attacks/test_step.py",
)
SWEEP = (
    "tests/attacks/test_sweep.py",
    "tests/attacks/test_pgd.py",
    "tests/attacks/test_contract.py",
)
GUIDED = ("tests/attacks/test_guided.py", "tests/geometry/test_explored_region.py")
EXPLORED = ("tests/geometry/test_explored_region.py", "tests/training/test_nearest.py")
CELLS = (
    "tests/geometry/test_voronoi_cells.py",
    "tests/attacks/test_voronoi.py",
    "tests/evaluation/test_genuine.py",
)
DECISIONS = (
    "tests/attacks/test_decisions.py",
    "tests/attacks/test_boundary_attack.py",
    "tests/attacks/test_hop_skip_jump.py",
)
HYPERPLANE = (
    "tests/geometry/test_hyperplanes.py",
    "tests/attacks/test_deepfool.py",
    "tests/attacks/test_fab.py",
)
CURVE = ("tests/evaluation/test_accuracy_curve.py", "tests/evaluation/test_curve.py")
EVALUATE = ("tests/evaluation/test_evaluate.py", "tests/evaluation/test_curve.py")
CALLBACKS = ("tests/callbacks/test_callbacks.py",)
DATASETS = ("tests/datasets/test_datasets.py",)

MUTATIONS: Final = (
    # gem: Gramian, dual, weights.
    Mutation(
        "gem: sign of the dual's linear term flipped",
        "gem/active_set.py",
        "target = _solve_on(active | (entering & independent), unit, -inner)",
        "target = _solve_on(active | (entering & independent), unit, inner)",
        DUAL,
    ),
    Mutation(
        "gem: lower ranks rule over higher ones",
        "gem/dual.py",
        "return tf.constant(np.tri(ranks, k=-1))",
        "return tf.constant(np.tri(ranks, k=-1).T)",
        DUAL,
    ),
    Mutation(
        "gem: the ridge of the original, 1e-3",
        "gem/active_set.py",
        "RIDGE = 5e-15",
        "RIDGE = 1e-3",
        DUAL,
    ),
    Mutation(
        "gem: small gradients are divided by more than their norm",
        "gem/dual.py",
        "norms = tf.sqrt(tf.linalg.diag_part(gram))",
        "norms = tf.sqrt(tf.linalg.diag_part(gram) + 1e-12)",
        DUAL,
    ),
    Mutation(
        "gem: one constraint is looked for, and no second",
        "gem/active_set.py",
        "(count < 10 * ranks)",
        "(count < 1)",
        DUAL,
    ),
    Mutation(
        "gem: a constraint that no longer binds stays",
        "gem/active_set.py",
        "active = trial & ~(stops & (ratio <= reach))",
        "active = trial",
        DUAL,
    ),
    Mutation(
        "gem: margin ignored by the dual",
        "gem/dual.py",
        "shift = margin * _lower_ones(count(gram))",
        "shift = 0.0 * _lower_ones(count(gram))",
        DUAL,
    ),
    Mutation(
        "gem: bounds with the wrong sign",
        "gem/dual.py",
        "_in_units(gram, gram - least * norms, lengths)",
        "_in_units(gram, gram + least * norms, lengths)",
        BOUNDS,
    ),
    Mutation(
        "gem: a rank asks for more than its own projected gradient gives",
        "gem/dual.py",
        "capped = tf.minimum(wanted, given)",
        "capped = wanted",
        BOUNDS,
    ),
    Mutation(
        "gem: bounds are cut once, and not again where that changes lower ranks",
        "gem/dual.py",
        "return changed & (count < ranks)",
        "return changed & (count < 1)",
        BOUNDS,
    ),
    Mutation(
        "gem: a bound that rounding alone can keep is not lowered by it",
        "gem/dual.py",
        "given -= 2.0 * RIDGE * tf.where(added > 0, norms + added, 0.0)",
        "given += 2.0 * RIDGE * tf.where(added > 0, norms + added, 0.0)",
        BOUNDS,
    ),
    Mutation(
        "gem: bounds are forgotten where a projection is refined",
        "gem/onestep.py",
        "inner, lengths = inner - least, tf.maximum(lengths, asked)",
        "lengths = tf.maximum(lengths, asked)",
        BOUNDS,
    ),
    Mutation(
        "gem: inner products added up in float32",
        "gem/gramian.py",
        "return tf.linalg.matmul(left, right, transpose_b=True)",
        "left, right = tf.cast(left, tf.float32), tf.cast(right, tf.float32)\n"
        "        return tf.cast(tf.linalg.matmul(left, right, transpose_b=True), tf.float64)",
        GRAMIAN,
    ),
    Mutation(
        "gem: products with another set are those of the first with itself",
        "gem/gramian.py",
        "others = flat if columns is rows else as_vectors(columns, shape)",
        "others = flat",
        GRAMIAN,
    ),
    Mutation(
        "gem: metric forgotten for long gradients",
        "gem/gramian.py",
        "else _dot(row, column, diagonal)",
        "else _dot(row, column, None)",
        GRAMIAN,
    ),
    Mutation(
        "gem: metric forgotten for short variables",
        "gem/gramian.py",
        "return rows, columns, None if diagonals[0] is None else _joined_vectors(diagonals)",
        "return rows, columns, None",
        GRAMIAN,
    ),
    Mutation(
        "gem: of short variables, products with another set are those of the first with itself",
        "gem/gramian.py",
        "columns = rows if same else [_joined_vectors(parts)",
        "columns = rows if True else [_joined_vectors(parts)",
        GRAMIAN,
    ),
    Mutation(
        "gem: last elements of long gradients left out",
        "gem/gramian.py",
        "return tf.reduce_sum(functools.reduce(operator.add, lanes)) + tf.reduce_sum(rest)",
        "return tf.reduce_sum(functools.reduce(operator.add, lanes))",
        GRAMIAN,
    ),
    Mutation(
        "gem: last block of a long variable left out",
        "gem/gramian.py",
        "tf.while_loop(lambda index, _: index < whole, step",
        "tf.while_loop(lambda index, _: index < whole - 1, step",
        GRAMIAN,
    ),
    Mutation(
        "gem: multipliers weighed by the rank that they hold back",
        "gem/onestep.py",
        "tf.linalg.matvec(solution.multipliers, alphas, transpose_a=True)",
        "tf.linalg.matvec(solution.multipliers, alphas)",
        ONESTEP,
    ),
    Mutation(
        "gem: what is left of a gradient is not projected again",
        "gem/onestep.py",
        "for _ in range(5):",
        "for _ in range(0):",
        ONESTEP,
    ),
    # The step: metric, optimizer, correction.
    Mutation(
        "update: the applied step is not corrected",
        "training/step/update.py",
        "excess = tf.where(slope > most, slope - most + rounding, 0.0)",
        "excess = tf.zeros_like(slope)",
        UPDATE,
    ),
    Mutation(
        "update: correction along the plain gradient, by the metric's length",
        "training/step/update.py",
        "after, before, gradient, metric or [1.0] * len(after), strict=True",
        "after, before, gradient, [1.0] * len(after), strict=True",
        UPDATE,
    ),
    Mutation(
        "update: metric of the update before the projection",
        "training/step/update.py",
        "return metric_of(gradients.combined(share * weights))",
        "return metric",
        UPDATE,
    ),
    Mutation(
        "update: every one of the steps per rank is a whole one",
        "training/step/update.py",
        "update = gradients.combined(share * onestep.weights)",
        "update = gradients.combined(onestep.weights)",
        UPDATE,
    ),
    Mutation(
        "update: safeguard takes a half step that still rises",
        "training/step/update.py",
        "kept = tf.where(again > gradients.first_loss, 0.0, 1.0)",
        "kept = tf.ones_like(again)",
        UPDATE,
    ),
    Mutation(
        "update: each replica's part is clipped by itself",
        "training/step/update.py",
        "zip(update, clipped(innermost, update), strict=True)",
        "zip(update, update, strict=True)",
        UPDATE,
    ),
    Mutation(
        "update: replicas add up whole updates",
        "training/step/update.py",
        "scale = optimizer.scale_loss(1.0) / replicas",
        "scale = optimizer.scale_loss(1.0)",
        UPDATE,
    ),
    Mutation(
        "update: loss scale left out of what the optimizer divides by it",
        "training/step/update.py",
        "scale = optimizer.scale_loss(1.0) / replicas",
        "scale = 1.0 / replicas",
        UPDATE,
    ),
    Mutation(
        "update: a step that loss scaling skips leaves no numbers",
        "training/step/update.py",
        "there -= tf.math.multiply_no_nan(diagonal * g, tf.cast(amount, g.dtype))",
        "there -= diagonal * g * tf.cast(amount, g.dtype)",
        UPDATE,
    ),
    Mutation(
        "update: constraints are not applied to corrected weights",
        "training/step/update.py",
        "variable.assign(variable.constraint(variable))",
        "variable.constraint(variable)",
        UPDATE,
    ),
    Mutation(
        "preconditioners: moments of earlier steps ignored",
        "training/step/preconditioners.py",
        "return decay * moment + (1.0 - decay) * value",
        "return value",
        PRECONDITIONERS,
    ),
    Mutation(
        "preconditioners: clipping left out",
        "training/step/preconditioners.py",
        "applied = clipped(optimizer, gradient)",
        "applied = list(gradient)",
        PRECONDITIONERS,
    ),
    Mutation(
        "preconditioners: Adam's epsilon forgotten",
        "training/step/preconditioners.py",
        'return 1.0 / (tf.sqrt(moment) + values["epsilon"])',
        "return 1.0 / tf.sqrt(moment)",
        PRECONDITIONERS,
    ),
    Mutation(
        "preconditioners: AMSGrad looks at older moments alone",
        "training/step/preconditioners.py",
        'moment = tf.maximum(moments["_velocity_hats"], moment)',
        'moment = moments["_velocity_hats"]',
        PRECONDITIONERS,
    ),
    Mutation(
        "gradients: a step is corrected by the last rank's gradient",
        "training/step/gradients.py",
        "self.first = self._rows[0]",
        "self.first = self._rows[-1]",
        UPDATE,
    ),
    Mutation(
        "gradients: recomputed ones are of the rank before",
        "training/step/gradients.py",
        "row, _ = self._pass(index)",
        "row, _ = self._pass(index - 1)",
        UPDATE,
    ),
    Mutation(
        "gradients: means of earlier batches give the step",
        "training/step/gradients.py",
        "return self._kept.combined(weights)",
        "return gem.combine(self._means, weights)",
        MEMORY,
    ),
    Mutation(
        "gradients: with a memory a step is corrected by the batch's gradient",
        "training/step/gradients.py",
        "self.first = self._means[0]",
        "self.first = kept.first",
        MEMORY,
    ),
    # ObjectiveLosses, micro-batches, replicas.
    Mutation(
        "passes: regularization counts in every rank",
        "training/step/objective_losses.py",
        "if index == 0 and self._penalized:",
        "if self._penalized:",
        MODEL,
    ),
    Mutation(
        "passes: batch normalization learns from the last rank",
        "training/step/objective_losses.py",
        "if index == 0 and self._after is None:",
        "if index > 0 or self._after is None:",
        MODEL,
    ),
    Mutation(
        "passes: gradients of micro-batches are added up whole",
        "training/step/objective_losses.py",
        "loss = share * scores.total * self.scale",
        "loss = scores.total * self.scale",
        UPDATE,
    ),
    Mutation(
        "passes: gradients keep the loss scale",
        "training/step/objective_losses.py",
        "row = [None if g is None else g / self.scale for g in row]",
        "row = list(row)",
        UPDATE,
    ),
    Mutation(
        "passes: each replica projects its own gradients",
        "training/step/objective_losses.py",
        "return sum_over_replicas(row), losses._replace(logits=logits, clean=clean)",
        "return row, losses._replace(logits=logits, clean=clean)",
        UPDATE,
    ),
    Mutation(
        "passes: a mean over the samples that count is over all",
        "training/step/objective_losses.py",
        "return counts * tf.math.divide_no_nan(every, some)",
        "return counts",
        NEAREST,
    ),
    Mutation(
        "passes: each replica counts its own samples",
        "training/step/objective_losses.py",
        "some, every = tf.unstack(sum_over_replicas([sums])[0])",
        "some, every = tf.unstack(sums)",
        NEAREST,
    ),
    Mutation(
        "parts: later micro-batches begin at the first sample",
        "training/step/micro_batches.py",
        "inputs = cut(first + number * size + tf.range(size))",
        "inputs = cut(number * size + tf.range(size))",
        ("tests/training/test_micro_batches.py",),
    ),
    Mutation(
        "parts: micro-batches of all sizes have the same share",
        "training/step/micro_batches.py",
        "return tf.cast(length / count, keras.config.floatx())",
        "return 1.0 / tf.cast(rest + 1, tf.float32)",
        ("tests/training/test_micro_batches.py", *UPDATE),
    ),
    # Memory and warm starts.
    Mutation(
        "memory: a mean that never fades",
        "training/state/gradient_means.py",
        "share = 1.0 / tf.cast(tf.minimum(count, self._steps), keras.config.floatx())",
        "share = 1.0 / tf.cast(count, keras.config.floatx())",
        MEMORY,
    ),
    Mutation(
        "memory: a mean that leans to 0 at first",
        "training/state/gradient_means.py",
        "share = 1.0 / tf.cast(tf.minimum(count, self._steps), keras.config.floatx())",
        "share = tf.constant(1.0 / self._steps)",
        MEMORY,
    ),
    Mutation(
        "memory: goes on where weights are others",
        "training/state/gradient_means.py",
        "same = tf.reduce_all(tf.abs(fingerprint - self._fingerprint) <= 1e-6 * fingerprint[1])",
        "same = tf.constant(True)",
        MEMORY,
    ),
    Mutation(
        "memory: what is not a number is remembered",
        "training/state/gradient_means.py",
        "share = tf.where(finite, share, 0.0)",
        "share = tf.identity(share)",
        MEMORY,
    ),
    Mutation(
        "AutoAttack: what is broken is attacked again",
        "attacks/staged_run.py",
        "resists = self.found_by == RESISTS",
        "resists = np.ones(len(self.found_by), bool)",
        AUTO_ATTACK,
    ),
    Mutation(
        "AutoAttack: what resists at the largest magnitude is attacked at smaller ones",
        "attacks/auto_attack.py",
        "descending[rows[~broken]], resisted[rows[~broken]] = False, x_adv[~broken]",
        "level[rows[~broken]], resisted[rows[~broken]] = here[~broken], x_adv[~broken]",
        AUTO_ATTACK,
    ),
    Mutation(
        "AutoAttack: the farthest classes get all of an attack",
        "attacks/staged_run.py",
        "np.argsort(-reached, axis=1",
        "np.argsort(reached, axis=1",
        AUTO_ATTACK,
    ),
    Mutation(
        "AutoAttack: random search ends after its first part",
        "attacks/staged_run.py",
        "(batch.ways[number, rows] >= least)",
        "(batch.ways[number, rows] > 1.0)",
        AUTO_ATTACK,
    ),
    Mutation(
        "AutoAttack: random search is never cut short",
        "attacks/staged_run.py",
        "(batch.ways[number, rows] >= least)",
        "(batch.ways[number, rows] > -np.inf)",
        AUTO_ATTACK,
    ),
    Mutation(
        "targeted DLR: the spread is of the first two logits",
        "attacks/losses.py",
        "spread = largest[:, 0] - tf.reduce_mean(largest[:, 2:], axis=-1)",
        "spread = largest[:, 0] - largest[:, 1]",
        AUTO_ATTACK,
    ),
    Mutation(
        "targeted FAB: the boundary is crossed backward",
        "attacks/minimum_norm/linearization.py",
        "normals = -gradient_by(x, tape, gaps)",
        "normals = gradient_by(x, tape, gaps)",
        AUTO_ATTACK,
    ),
    Mutation(
        "WithinMagnitude: what is too far counts",
        "attacks/minimum_norm/within_magnitude.py",
        "near = found.success & (found.distances <=",
        "near = found.success | (found.distances <=",
        AUTO_ATTACK,
    ),
    Mutation(
        "randomized classifiers: one draw in place of a mean",
        "attacks/gradient/gradient_ascent.py",
        "tf.range(draws),",
        "tf.range(1),",
        AUTO_ATTACK,
    ),
    Mutation(
        "AutoAttack: what came near the boundary is not attacked again",
        "attacks/staged_run.py",
        "REPEATS: Final = 2",
        "REPEATS: Final = 0",
        AUTO_ATTACK,
    ),
    Mutation(
        "AutoAttack: what stayed far from the boundary is attacked again",
        "attacks/staged_run.py",
        "resists & (self.ways[number] >= NEAR) if self.repeat else resists",
        "resists",
        AUTO_ATTACK,
    ),
    Mutation(
        "l1: no search in larger balls",
        "attacks/gradient/larger_balls.py",
        "return tf.where(tf.less(steps, LEAST_STEPS), 0, share)",
        "return 0 * share",
        ("tests/attacks/test_larger_balls.py",),
    ),
    Mutation(
        "l1: both starts of a pair are near",
        "attacks/gradient/gradient_ascent.py",
        "begun = choose((index % 2 == 1) & ~given, far, begun)",
        "del far",
        ("tests/attacks/test_larger_balls.py",),
    ),
    Mutation(
        "flags: each attack is judged by itself",
        "evaluation/evaluate.py",
        "        curve.correct[row, : len(y)],",
        "        np.ones(len(y), bool),",
        FLAGS,
    ),
    Mutation(
        "flags: the share is of all samples looked at",
        "evaluation/flags.py",
        "np.sum(broken) / np.sum(self.resists)",
        "np.mean(broken)",
        FLAGS,
    ),
    Mutation(
        "targets: a rank that misses its target may be raised",
        "training/state/target_estimates.py",
        "return tf.where(excess < 0, tf.maximum(excess / left, FREE), pace * excess)",
        "return tf.minimum(tf.maximum(excess / left, FREE), 0.0)",
        TARGETS,
    ),
    Mutation(
        "targets: a rank that is late asks for no more than one on its way",
        "training/state/target_progress.py",
        "return tf.clip_by_value((ON_TIME - times) / (ON_TIME - LATE), 0.0, 1.0)",
        "return tf.zeros_like(times)",
        TARGETS,
    ),
    Mutation(
        "targets: a rank that only held-out data miss asks for most of each step",
        "training/state/target_estimates.py",
        "tf.minimum(tf.maximum(excess, 0.0), in_training)",
        "tf.maximum(excess, 0.0)",
        TARGETS,
    ),
    Mutation(
        "directions: a mix that is turned does not keep its length",
        "gem/directions.py",
        "kept = length * tf.math.divide_no_nan(",
        "kept = own * tf.math.divide_no_nan(",
        DIRECTIONS,
    ),
    Mutation(
        "directions: a turned rank takes more of a higher one than that gives",
        "gem/directions.py",
        "(most < 0) & (spent < most)",
        "(most < 0) & (spent < 2.0 * most)",
        DIRECTIONS,
    ),
    Mutation(
        "directions: an optimizer that does not normalize steps turns them as well",
        "training/step/update.py",
        "    if metric is None:\n        directions = None\n",
        "",
        TARGETS,
    ),
    Mutation(
        "evaluation draws from the random numbers of training",
        "training/model.py",
        "self._training_step.perturb(batch, self._test_seeds.next())",
        "self._training_step.perturb(batch, self.seed_generator.next())",
        ("tests/training/test_model.py",),
    ),
    Mutation(
        "attacks that objectives shared are loaded one by one",
        "training/step/perturbation.py",
        "term.attack = attacked[number].attack",
        "term.attack = term.attack",
        ("tests/training/test_saving.py",),
    ),
    Mutation(
        "the discriminator's loss is not scaled",
        "training/methods/regions.py",
        "shared = self.optimizer.scale_loss(loss / replicas)",
        "shared = loss / replicas",
        ("tests/training/test_discriminator.py",),
    ),
    Mutation(
        "probabilities of later batches are not looked at",
        "data_checks.py",
        "tf.debugging.assert_less_equal(values, tf.ones_like(values), message),",
        "tf.debugging.assert_less_equal(values, 9.0 * tf.ones_like(values), message),",
        ("tests/test_data_forms.py",),
    ),
    Mutation(
        "targets: held-out data are compared with the last steps alone",
        "training/state/target_estimates.py",
        "least = np.minimum(self._means.numpy(), whole)",
        "least = self._means.numpy()",
        TARGETS,
    ),
    Mutation(
        "attacks in training see averages that lag behind",
        "training/step/batch_statistics.py",
        "average.assign(tf.where(known, value, low))",
        "average.assign(low)",
        ("tests/training/test_batch_statistics.py",),
    ),
    Mutation(
        "targets: a rank that has met its target keeps its weight",
        "training/step/training_step.py",
        "alphas = tf.stack(shared_alphas(alphas, self.targets.targets, kept))",
        "alphas = tf.constant(alphas, tf.float64)",
        TARGETS,
    ),
    Mutation(
        "targets: estimates never catch up",
        "training/state/target_estimates.py",
        "lag = tf.square(tf.math.divide_no_nan(drift, spread))",
        "lag = tf.zeros_like(drift)",
        TARGETS,
    ),
    Mutation(
        "targets: accuracy in place of the error rate",
        "training/state/target_estimates.py",
        "wrong = tf.cast(classes_of(score.logits[0]) != most_likely(batch.y), tf.float64)",
        "wrong = tf.cast(classes_of(score.logits[0]) == most_likely(batch.y), tf.float64)",
        TARGETS,
    ),
    Mutation(
        "targets: batches without an allowed sample count as 0",
        "training/state/target_estimates.py",
        "return tf.where(counted > 0, total, np.nan)",
        "return total",
        NEAREST,
    ),
    Mutation(
        "targets: held-out losses weigh alike in balanced sums",
        "training/state/target_estimates.py",
        "weights = self.ranks[rank].weigh(tf.constant(losses, tf.float64))",
        "weights = [weight for weight, _ in terms]",
        TARGETS,
    ),
    Mutation(
        "targets: regularization counts",
        "training/state/target_estimates.py",
        "tf.cast(score.data_loss, tf.float64)",
        "tf.cast(score.total, tf.float64)",
        TARGETS,
    ),
    Mutation(
        "targets: held-out data move nothing",
        "training/state/target_estimates.py",
        "self._offsets.assign(offsets)",
        "del offsets",
        TARGETS,
    ),
    Mutation(
        "targets: estimates are not saved",
        "training/model.py",
        '"target": self._targets',
        '"target": None',
        TARGETS,
    ),
    Mutation(
        "targets: the applied step is corrected as if the rank must not rise",
        "training/step/update.py",
        "if bounds is not None:",
        "if False:",
        TARGETS,
    ),
    Mutation(
        "memory: not saved",
        "training/model.py",
        '"memory": self._memory',
        '"memory": None',
        MEMORY,
    ),
    Mutation(
        "warm start: rows are read by their place in the batch",
        "training/state/warm_start.py",
        "starts = [tf.gather(kept, batch.index) for kept in self._kept]",
        "starts = [kept[: tf.shape(batch.x)[0]] for kept in self._kept]",
        WARM_START,
    ),
    Mutation(
        "warm start: the perturbation of another image",
        "training/state/warm_start.py",
        "<= _SAME * size",
        ">= 0.0 * size",
        ("tests/training/test_augmentation.py", *WARM_START),
    ),
    Mutation(
        "augmentation: attacked as it is, trained on the augmented",
        "training/model.py",
        "            self._augmentation.trained,\n",
        "            self.classifier,\n",
        ("tests/training/test_augmentation.py",),
    ),
    Mutation(
        "augmentation: not clipped to the bounds",
        "training/augmentation.py",
        "            x = tf.clip_by_value(x, *bounds)\n",
        "            x = tf.identity(x)\n",
        ("tests/training/test_augmentation.py",),
    ),
    Mutation(
        "graph cache: a change is not seen",
        "attacks/graph_cache.py",
        "found[1].still_holds()",
        "bool(found[1])",
        ("tests/attacks/test_graph_cache.py",),
    ),
    Mutation(
        "checks: logits that are no numbers are class 0",
        "tensors.py",
        "tf.where(tf.reduce_any(tf.math.is_nan(logits), axis=-1), -1, classes)",
        "classes",
        ("tests/test_checks.py", "tests/attacks/test_attack.py"),
    ),
    Mutation(
        "warm start: reset_every ignored",
        "training/state/warm_start.py",
        "goes_on &= visits % self._settings.reset_every != 0",
        "goes_on &= visits >= 0",
        WARM_START,
    ),
    Mutation(
        "warm start: each replica writes its own samples alone",
        "training/state/warm_start.py",
        "index, *values = (gather_from_replicas(tensor) for tensor in given)",
        "index, *values = given",
        WARM_START,
    ),
    Mutation(
        "warm start: attacks and discriminator swap what they keep",
        "training/model.py",
        "[*next_starts(losses, self.classifier), *others]",
        "[*others, *next_starts(losses, self.classifier)]",
        WARM_START,
    ),
    # The model: logs, evaluation, saving.
    Mutation(
        "metrics: batches that a rank does not count are part of `loss`",
        "training/metrics.py",
        "counts = tf.stack([losses.counted(rank) for rank in range(len(scores))])",
        "counts = tf.stack([tf.cast(tf.shape(losses.batch.x)[0], tf.float64) for _ in scores])",
        NEAREST,
    ),
    Mutation(
        "model: batches count alike in the logs, whatever their size",
        "training/metrics.py",
        "count = tf.shape(batch.x)[0]",
        "count = tf.constant(1)",
        MODEL,
    ),
    Mutation(
        "model: logged accuracy is of samples that do not count, too",
        "training/metrics.py",
        "return tf.math.divide_no_nan(tf.reduce_sum(right * counts), total), total",
        "return tf.reduce_mean(right), total",
        (*NEAREST, *TARGETS, *MODEL),
    ),
    Mutation(
        "model: an accuracy weighs its samples",
        "training/step/objective_losses.py",
        "counts *= tf.sign(tf.cast(given, counts.dtype))",
        "counts *= tf.cast(given, counts.dtype)",
        (*TARGETS, *MODEL),
    ),
    Mutation(
        "model: logged loss of a replica ignores how many of its samples count",
        "training/metrics.py",
        "loss * _mean_reciprocal(weight)",
        "loss",
        NEAREST,
    ),
    Mutation(
        "model: evaluation calls the classifier as in training",
        "training/model.py",
        "losses.scores(rank, training=False)",
        "losses.scores(rank, training=True)",
        MODEL,
    ),
    Mutation(
        "model: a single rank is corrected too",
        "training/step/training_step.py",
        'in_metric=self.settings.metric == "optimizer" and len(self.objectives) > 1,',
        'in_metric=self.settings.metric == "optimizer",',
        UPDATE,
    ),
    Mutation(
        "model: a last batch that is smaller weighs as much in gradients",
        "training/step/objective_losses.py",
        "return tf.cast(tf.shape(self.batch.x)[0], tf.float64)",
        "return tf.ones([], tf.float64)",
        MODEL,
    ),
    Mutation(
        "model: random state not restored",
        "training/state/saved_variables.py",
        "            variable.assign(value)\n",
        "            del variable, value\n",
        SAVING,
    ),
    # Methods and objectives.
    Mutation(
        "discriminator: labels shifted by one",
        "training/methods/discriminator.py",
        "limits = tf.constant(known[:-1] + share * np.diff(known), values.dtype)",
        "limits = tf.constant(known[:-1], values.dtype)",
        DISCRIMINATOR,
    ),
    Mutation(
        "discriminator: neighbors are those of a part of a batch",
        "training/methods/regions.py",
        "labels = explored_from(moved, samples,",
        "labels = explored_from(moved, batch.x,",
        DISCRIMINATOR,
    ),
    Mutation(
        "discriminator: neighbors are those of a replica",
        "training/methods/regions.py",
        "samples, shape = gather_from_replicas(batch.x), tf.shape(batch.x)[1:]",
        "samples, shape = batch.x, tf.shape(batch.x)[1:]",
        DISCRIMINATOR,
    ),
    Mutation(
        "discriminator: surely outside is better than likely outside",
        "attacks/gradient/guided.py",
        "depth=lambda x_adv: tf.minimum(unexplored(x_adv, magnitude) - threshold, 0.0),",
        "depth=lambda x_adv: unexplored(x_adv, magnitude),",
        ("tests/attacks/test_guided.py", *DISCRIMINATOR),
    ),
    Mutation(
        "discriminator: a magnitude's own class counts as explored",
        "training/methods/discriminator.py",
        "considered = tf.range(len(magnitudes)) >= rank[:, None]",
        "considered = tf.range(len(magnitudes)) > rank[:, None]",
        DISCRIMINATOR,
    ),
    Mutation(
        "OLGRC: opponents missing",
        "training/methods/regions.py",
        "self.attacks = (attack, opponent)",
        "self.attacks = (attack, attack)",
        METHODS,
    ),
    Mutation(
        "TRADES: divergence in the other direction",
        "training/objectives/divergence.py",
        "clean, perturbed = forward(batch.x), forward(inputs)",
        "perturbed, clean = forward(batch.x), forward(inputs)",
        OBJECTIVES,
    ),
    Mutation(
        "TRADES: no gradient through the clean prediction",
        "training/objectives/divergence.py",
        "probabilities = tf.nn.softmax(clean)",
        "probabilities = tf.stop_gradient(tf.nn.softmax(clean))",
        METHODS,
    ),
    Mutation(
        "TRADES: weights of loss and divergence swapped",
        "training/methods/trades.py",
        "[1.0, beta]",
        "[beta, 1.0]",
        METHODS,
    ),
    Mutation(
        "MixTrain: the smaller loss weighs more",
        "training/objectives/balanced_sum.py",
        "tf.where(total > 0, positive / total,",
        "tf.where(total > 0, (total - positive) / total,",
        OBJECTIVES,
    ),
    Mutation(
        "objectives: sample weights left out of the natural loss",
        "training/objectives/natural.py",
        "return score(batch.y, logits, batch.sample_weight), logits",
        "return score(batch.y, logits, None), logits",
        (*MODEL, *OBJECTIVES),
    ),
    Mutation(
        "objectives: those of one attack see each other's inputs",
        "training/step/perturbation.py",
        "zip(indices, tf.unstack(swept), strict=True)",
        "zip(indices, tf.unstack(swept)[::-1], strict=True)",
        OBJECTIVES,
    ),
    # Checks and files.
    Mutation(
        "checks: alphas are equal by default",
        "checks.py",
        "[0.5] + [0.5 / (ranks - 1)] * (ranks - 1)",
        "[1.0 / ranks] * ranks",
        CHECKS,
    ),
    Mutation(
        "checks: a label one above the last class passes",
        "data_checks.py",
        "labels.max() >= classes",
        "labels.max() > classes",
        CHECKS,
    ),
    Mutation(
        "checks: a label one above the last class passes in later batches",
        "data_checks.py",
        "tests = _below(y, classes, message)",
        "tests = _below(y, classes + 1, message)",
        CHECKS,
    ),
    Mutation(
        "checks: inputs outside the bounds on one side pass",
        "data_checks.py",
        "(x.min() < bounds[0] or x.max() > bounds[1])",
        "(x.min() < bounds[0] and x.max() > bounds[1])",
        CHECKS,
    ),
    Mutation(
        "checks: a loss function on probabilities passes",
        "loss_checks.py",
        "from_logits = True if parameter is None else parameter.default",
        "from_logits = True",
        ("tests/test_loss_checks.py",),
    ),
    Mutation(
        "files: written in place",
        "atomic_files.py",
        """    unfinished = path.with_name(f".part-{path.name}")
    try:
        write(unfinished)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())  # The name must not be there before what it names.
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
""",
        "    write(path)\n",
        ("tests/test_reporting.py", "tests/callbacks/test_callbacks.py"),
    ),
    # Attacks: geometry, loop, gradients.
    Mutation(
        "geometry: l1 balls are projected onto as those of l2",
        "geometry/projections.py",
        "return _grow_l1(flat, radius, low, high)",
        "return _grow_l2(flat, radius, low, high)",
        GEOMETRY,
    ),
    Mutation(
        "geometry: upper side of the box ignored",
        "geometry/balls.py",
        "low, high = tf.maximum(low, flat_rows(box[0])), tf.minimum(high, flat_rows(box[1]))",
        "low = tf.maximum(low, flat_rows(box[0]))",
        GEOMETRY,
    ),
    Mutation(
        "geometry: the sphere of linf is its ball",
        "geometry/projections.py",
        "return tf.where(roomy, result, roomier), roomy[:, 0]",
        "return tf.where(roomy, inside, roomier), roomy[:, 0]",
        GEOMETRY,
    ),
    Mutation(
        "geometry: random points crowd at the middle of the ball",
        "geometry/balls.py",
        "draw *= share ** (1.0 / flat.shape[-1])",
        "draw *= share",
        GEOMETRY,
    ),
    Mutation(
        "geometry: what leaves an l2 ball changes its norm",
        "geometry/balls.py",
        "tf.maximum((radius - half) * (radius + half), 0.0)",
        "tf.square(radius - half)",
        EXPLORED,
    ),
    Mutation(
        "loop: the last point is kept, not the best",
        "attacks/gradient/gradient_ascent.py",
        "better = (done | is_better(values, best.values, ties=True)) & ~best.done",
        "better = counts & ~best.done",
        PGD,
    ),
    Mutation(
        "loop: the last restart is kept, not the best",
        "attacks/gradient/gradient_ascent.py",
        "better = (own.done | is_better(own.values, best.values, ties=True)) & ~best.done",
        "better = ~best.done",
        PGD,
    ),
    Mutation(
        "loop: no start at the antipode",
        "attacks/gradient/gradient_ascent.py",
        "side = tf.cast(1 - 2 * (index % 2), x.dtype)",
        "side = tf.ones([], x.dtype)",
        PGD,
    ),
    Mutation(
        "loop: all restarts begin where the first does",
        "attacks/gradient/gradient_ascent.py",
        "pair = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), index // 2)",
        "pair = tf.cast(seed, tf.int32)",
        (*PGD, "tests/evaluation/test_flags.py"),
    ),
    Mutation(
        "loop: steps are never halved",
        "attacks/gradient/step_size.py",
        "factor = tf.where(stalled, 0.5, tf.where(growing, 2.0, 1.0))",
        "factor = tf.where(stalled, 1.0, tf.where(growing, 2.0, 1.0))",
        ("tests/attacks/test_step.py", "tests/attacks/test_pgd.py"),
    ),
    Mutation(
        "loop: the second goal's gradient keeps what opposes the first",
        "attacks/gradient/gradient_ascent.py",
        "projected = lower - tf.minimum(inner, 0.0) * higher",
        "projected = lower",
        GUIDED,
    ),
    Mutation(
        "loop: a point that is better by the second goal alone is kept",
        "attacks/gradient/step_size.py",
        "better |= equal & ((value > old) | tf.math.is_nan(value))",
        "better |= (value > old) | tf.math.is_nan(value)",
        GUIDED,
    ),
    Mutation(
        "attack: classifiers are attacked as in training",
        "attacks/classifier.py",
        "logits = classifier(x, training=False) if is_layer else classifier(x)",
        "logits = classifier(x, training=True) if is_layer else classifier(x)",
        MODEL,
    ),
    Mutation(
        "attack: a sweep comes back in ascending order, not as asked",
        "attacks/base.py",
        "order = np.searchsorted(ascending, magnitudes)",
        "order = range(len(ascending))",
        SWEEP,
    ),
    Mutation(
        "attack: labels of a sweep are those of other samples",
        "attacks/base.py",
        "labels = tf.tile(y, tf.concat([[times], tf.ones_like(tf.shape(y)[1:])], axis=0))",
        "labels = tf.repeat(y, times, axis=0)",
        (*SWEEP, "tests/training/test_methods.py"),
    ),
    Mutation(
        "attacks: a gradient that is not there is not noted",
        "attacks/gradient_check.py",
        "trace.misses_gradient = True",
        "pass",
        ("tests/test_data_forms.py",),
    ),
    Mutation(
        "PGD: a target that is reached is no success",
        "attacks/gradient/pgd.py",
        "return tf.equal(given == labels, tf.less(self.sign, 0.0))",
        "return given != labels",
        PGD,
    ),
    Mutation(
        "PGD: a graph is reused for other bounds",
        "attacks/gradient/pgd.py",
        "return type(self), self.bounds, frozenset(config.items())",
        "return type(self), frozenset(config.items())",
        PGD,
    ),
    Mutation(
        "PGD: a larger ball forgets what succeeded in a smaller one",
        "attacks/gradient/restarts.py",
        "kept = last.is_adversarial & ~result.is_adversarial",
        "kept = last.is_adversarial & result.is_adversarial & ~last.is_adversarial",
        SWEEP,
    ),
    Mutation(
        "losses: the others' log-odds hold the label's own logit",
        "attacks/losses.py",
        "tf.where(own, logits.dtype.min, logits)",
        "logits",
        ("tests/attacks/test_losses.py", "tests/attacks/test_pgd.py"),
    ),
    Mutation(
        "losses: ratios of targets and of labels swapped",
        "attacks/losses.py",
        "tf.where(targeted, tf.reduce_mean(largest[:, 2:], axis=-1), largest[:, 2])",
        "tf.where(targeted, largest[:, 2], tf.reduce_mean(largest[:, 2:], axis=-1))",
        ("tests/attacks/test_losses.py", "tests/attacks/test_pgd.py"),
    ),
    Mutation(
        "DAA: samples are drawn together, not apart",
        "attacks/gradient/daa.py",
        "return (kernel @ gradient - 2.0 * rate * _pull(kernel, x)) / count",
        "return (kernel @ gradient + 2.0 * rate * _pull(kernel, x)) / count",
        ("tests/attacks/test_daa.py",),
    ),
    Mutation(
        "interval: bounds of the wrong side",
        "attacks/gradient/interval.py",
        "others = tf.where(targeted, known.low, known.high)",
        "others = tf.where(targeted, known.high, known.low)",
        ("tests/attacks/test_interval.py",),
    ),
    Mutation(
        "bounds: radius goes through signed weights",
        "attacks/bounds.py",
        "radius = product((known.high - known.low) / 2.0, tf.abs(kernel))",
        "radius = product((known.high - known.low) / 2.0, kernel)",
        ("tests/attacks/test_bounds.py", "tests/attacks/test_interval.py"),
    ),
    Mutation(
        "bounds: a layer that falls gives its ends in the wrong order",
        "attacks/bounds.py",
        "return Relaxation(tf.minimum(one, other), tf.maximum(one, other), in_use(known.line))",
        "return Relaxation(one, other, in_use(known.line))",
        ("tests/attacks/test_bounds.py", "tests/attacks/test_interval.py"),
    ),
    Mutation(
        "guided: the loss comes before leaving the explored region",
        "attacks/gradient/gradient_ascent.py",
        "[region.depth, goal]",
        "[goal, region.depth]",
        GUIDED,
    ),
    Mutation(
        "explored: a sample's own sphere is inside",
        "geometry/explored_region.py",
        "_OUTSIDE = 1.0 - 1e-4",
        "_OUTSIDE = 1.0 + 1e-4",
        EXPLORED,
    ),
    Mutation(
        "explored: led away from the point nearest to the clean input",
        "geometry/explored_region.py",
        "point = self._nearest(x_adv)",
        "point = self._nearest(x)",
        EXPLORED,
    ),
    Mutation(
        "cells: a sample's own point counts as another",
        "geometry/voronoi_cells.py",
        "nearest(x_adv, self.points, self.norm, self.weights, other_than=own)",
        "nearest(x_adv, self.points, self.norm, self.weights)",
        CELLS,
    ),
    Mutation(
        "cells: weights of own and other point swapped",
        "geometry/voronoi_cells.py",
        "self._weight(other, x_adv.dtype) / self._weight(own, x_adv.dtype)",
        "self._weight(own, x_adv.dtype) / self._weight(other, x_adv.dtype)",
        CELLS,
    ),
    Mutation(
        "cells: points between one and two radii away left out",
        "geometry/voronoi_cells.py",
        "reach = 2.0 * radius",
        "reach = radius",
        CELLS,
    ),
    Mutation(
        "voronoi: a perturbation that ends outside its cell is kept",
        "attacks/gradient/gradient_ascent.py",
        "x_adv = choose(region.holds(x_adv), x_adv, x)",
        "x_adv = tf.identity(x_adv)",
        ("tests/attacks/test_voronoi.py", "tests/geometry/test_voronoi_cells.py"),
    ),
    Mutation(
        "nearest: products of float32 decide, however far apart the data are",
        "geometry/nearest_neighbors.py",
        "doubt = tf.reduce_min(far) * _DOUBT < _rounding_of(inputs, some)",
        "doubt = tf.constant(False)",
        ("tests/geometry/test_explored_region.py",),
    ),
    Mutation(
        "cells: samples of doubles are in none",
        "geometry/voronoi_cells.py",
        "apart = balls.norm(self._at(index, tf.float32) - tf.cast(x, tf.float32), self.norm)",
        "apart = balls.norm(self._at(index, x.dtype) - x, self.norm)",
        CELLS,
    ),
    Mutation(
        "cells: samples of zeros and ones are mistaken for others",
        "geometry/voronoi_cells.py",
        "for shift in (23, 11):",
        "for shift in ():",
        CELLS,
    ),
    Mutation(
        "objectives that share an attack share the first one's target",
        "training/step/perturbation.py",
        "return target if target in (Objective.target, Divergence.target) else id(term)",
        "return target",
        OBJECTIVES,
    ),
    Mutation(
        "nearest: squared distances are weighed by plain weights",
        "geometry/nearest_neighbors.py",
        'far *= tf.square(factors) if norm == "l2" else factors',
        "far *= factors",
        CELLS,
    ),
    Mutation(
        "nearest: l1 and linf swapped",
        "geometry/nearest_neighbors.py",
        'reduce = tf.reduce_sum if norm == "l1" else tf.reduce_max',
        'reduce = tf.reduce_max if norm == "l1" else tf.reduce_sum',
        ("tests/geometry/test_explored_region.py", "tests/geometry/test_voronoi_cells.py"),
    ),
    # Attacks: searches, nearest points, images.
    Mutation(
        "Square: l1 windows hold the root of their norm",
        "attacks/square.py",
        '"l1": (tf.abs, tf.identity)',
        '"l1": (tf.abs, tf.sqrt)',
        ("tests/attacks/test_square.py",),
    ),
    Mutation(
        "Square: windows never shrink",
        "attacks/square.py",
        "return self.p_init * tf.pow(tf.constant(0.5, dtype), passed)",
        "return self.p_init * tf.pow(tf.constant(1.0, dtype), passed)",
        ("tests/attacks/test_square.py",),
    ),
    Mutation(
        "hyperplane: prices shape the way by linf, and not by l2",
        "geometry/hyperplanes.py",
        'pace = price if norm == "l2" else tf.ones_like(price)',
        'pace = price if norm == "linf" else tf.ones_like(price)',
        HYPERPLANE,
    ),
    Mutation(
        "DeepFool: every step begins at the clean input",
        "attacks/minimum_norm/deepfool.py",
        "stepped = self.inside(points + way)",
        "stepped = self.inside(x + way)",
        ("tests/attacks/test_deepfool.py",),
    ),
    Mutation(
        "FAB: restarts begin at the clean input",
        "attacks/minimum_norm/fab.py",
        "start = choose(index > 0, self._start(x, best, own), x)",
        "start = x",
        ("tests/attacks/test_fab.py",),
    ),
    Mutation(
        "FAB: no step back towards the clean input",
        "attacks/minimum_norm/fab.py",
        "choose(wrong, self._back(x, stepped), stepped)",
        "stepped",
        ("tests/attacks/test_fab.py",),
    ),
    Mutation(
        "HopSkipJump: probes that changed the class count against their way",
        "attacks/minimum_norm/hop_skip_jump.py",
        "direction = choose(tf.abs(mean) < 1, both - tilt, tilt)",
        "direction = choose(tf.abs(mean) < 1, tilt - both, tilt)",
        ("tests/attacks/test_hop_skip_jump.py",),
    ),
    Mutation(
        "boundary attack: sizes of steps never change",
        "attacks/minimum_norm/boundary_attack.py",
        "return tf.where(success, grown, size * _SHRINK)",
        "return size",
        ("tests/attacks/test_boundary_attack.py",),
    ),
    Mutation(
        "decisions: later starts are of the same class",
        "attacks/minimum_norm/decisions.py",
        "closed |= some[:, None] & (taken[:, None] == given[None])",
        "closed = tf.identity(closed)",
        DECISIONS,
    ),
    Mutation(
        "minimal: misclassified inputs count as robust",
        "attacks/minimum_norm/base.py",
        "success = found.success | ~problem.right",
        "success = found.success",
        ("tests/attacks/test_contract.py", "tests/attacks/test_minimum_norm.py"),
    ),
    Mutation(
        "spatial: a larger loss counts more than a mistake",
        "attacks/images/spatial.py",
        "worse = tf.where(wrong == was_wrong, loss > least, wrong) | tf.math.is_nan(loss)",
        "worse = (loss > least) | tf.math.is_nan(loss)",
        ("tests/attacks/test_spatial.py",),
    ),
    Mutation(
        "warp: images are turned clockwise",
        "geometry/image_warps.py",
        """        cosine * rows + sine * columns + middle[0],
        cosine * columns - sine * rows + middle[1],
""",
        """        cosine * rows - sine * columns + middle[0],
        cosine * columns + sine * rows + middle[1],
""",
        ("tests/geometry/test_image_warps.py", "tests/attacks/test_spatial.py"),
    ),
    Mutation(
        "worst: own magnitudes of the attacks ignored",
        "attacks/worst_case.py",
        "attack.perturb(classifier, x, y, own * magnitude, folded)",
        "attack.perturb(classifier, x, y, magnitude, folded)",
        ("tests/attacks/test_worst_case.py",),
    ),
    # Evaluation.
    Mutation(
        "curve: genuine accuracy is compared with accuracy",
        "evaluation/curve.py",
        "if cells[0] != cells[1]:",
        "if False:",
        CURVE,
    ),
    Mutation(
        "evaluate: a backup goes on with another classifier of the same weights",
        "evaluation/backup.py",
        "if np.shape(kept) != now.shape or not np.allclose(kept, now, rtol=0.0, atol=near):",
        "if False:",
        EVALUATE,
    ),
    Mutation(
        "AutoAttack: one round toward each class in graphs",
        "attacks/auto_attack.py",
        "return (turn <= last * stage.rounds)",
        "return (turn <= last)",
        AUTO_ATTACK,
    ),
    Mutation(
        "curve: interval of the error",
        "evaluation/curve.py",
        "stats.binomtest(int(right), int(count))",
        "stats.binomtest(int(count - right), int(count))",
        CURVE,
    ),
    Mutation(
        "curve: interval of 95 % whatever is asked",
        "evaluation/curve.py",
        'test.proportion_ci(confidence, method="wilson")',
        'test.proportion_ci(0.95, method="wilson")',
        CURVE,
    ),
    Mutation(
        "curve: samples that do not count are right all the same",
        "evaluation/curve.py",
        "return np.sum(self.correct & self.valid, axis=1)",
        "return np.sum(self.correct, axis=1)",
        (*CURVE, "tests/evaluation/test_genuine.py"),
    ),
    Mutation(
        "curve: the sum of two keeps what resisted one attack",
        "evaluation/curve.py",
        "worse = ~other.correct & self.correct",
        "worse = other.correct & ~self.correct",
        CURVE,
    ),
    Mutation(
        "evaluate: results of unsorted magnitudes are swapped",
        "evaluation/evaluate.py",
        "attacked = [magnitude for magnitude in magnitudes if magnitude > 0]",
        "attacked = sorted(magnitude for magnitude in magnitudes if magnitude > 0)",
        EVALUATE,
    ),
    Mutation(
        "evaluate: magnitudes are multiplied by priors",
        "evaluation/evaluate.py",
        "scale = None if priors is None else 1.0 / priors[y]",
        "scale = None if priors is None else priors[y]",
        ("tests/evaluation/test_genuine.py",),
    ),
    Mutation(
        "evaluate: what a backup holds is measured again",
        "evaluation/evaluate.py",
        "known = None if store is None else store.read(number, so_far)",
        "known = None",
        EVALUATE,
    ),
    Mutation(
        "evaluate: a backup of other data is gone on with",
        "evaluation/backup.py",
        'if str(content.pop("digest")) != digest:',
        'if not content.pop("digest"):',
        EVALUATE,
    ),
    Mutation(
        "devices: the last results come in the wrong order",
        "evaluation/devices.py",
        "while pending:\n            yield pending.popleft().result()",
        "while pending:\n            yield pending.pop().result()",
        ("tests/evaluation/test_devices.py",),
    ),
    Mutation(
        "flags: ten times as much may break without one",
        "evaluation/flags.py",
        "SHARE: Final = 0.03",
        "SHARE: Final = 0.3",
        ("tests/evaluation/test_flags.py",),
    ),
    Mutation(
        "order: the less robust classifier is ahead",
        "evaluation/order.py",
        "return Order(int(np.sign(apart[at])),",
        "return Order(-int(np.sign(apart[at])),",
        ("tests/evaluation/test_order.py",),
    ),
    Mutation(
        "order: the largest magnitude decides",
        "evaluation/order.py",
        "at = deciding[0]",
        "at = deciding[-1]",
        ("tests/evaluation/test_order.py",),
    ),
    # Callbacks.
    Mutation(
        "checkpoint: every rank is compared with the best of the first",
        "callbacks/checkpoint.py",
        "if value > best[rank] + self.tolerance:",
        "if value > best[0] + self.tolerance:",
        CALLBACKS,
    ),
    Mutation(
        "checkpoint: what the tolerance allows adds up",
        "callbacks/checkpoint.py",
        "if not value >= self._most[rank] - self.tolerance:",
        "if not value >= best[rank] - self.tolerance:",
        CALLBACKS,
    ),
    Mutation(
        "checkpoint: epochs are passed over in which some rank is no number",
        "callbacks/checkpoint.py",
        "if np.isnan(exact[0]):",
        "if np.isnan(exact).any():",
        CALLBACKS,
    ),
    Mutation(
        "backup: weights are not restored",
        "callbacks/backup.py",
        "self.model.load_weights(self._latest[epoch])",
        "pass",
        CALLBACKS,
    ),
    Mutation(
        "backup: the last epoch before a kill is made twice",
        "callbacks/backup.py",
        "done = epoch + 1",
        "done = epoch",
        CALLBACKS,
    ),
    Mutation(
        "backup: written in place",
        "callbacks/backup.py",
        'write_whole(self.folder / f"epoch-{done}.weights.h5", self.model.save_weights)',
        'self.model.save_weights(self.folder / f"epoch-{done}.weights.h5")',
        CALLBACKS,
    ),
    Mutation(
        "callbacks: epochs that were not measured count for patience",
        "callbacks/checkpoint.py",
        "if any(isinstance(logs[name], Repeated) for name in self.ranks):",
        "if False:",
        CALLBACKS,
    ),
    Mutation(
        "callbacks: every second epoch begins with the first",
        "callbacks/board.py",
        "if (epoch + 1) % self.every == 0 or unknown:",
        "if epoch % self.every == 0 or unknown:",
        CALLBACKS,
    ),
    # Data.
    Mutation(
        "toy: classes on each other's side",
        "datasets/toy.py",
        "return (starts[labels] + offsets)",
        "return (starts[1 - labels] + offsets)",
        DATASETS,
    ),
    Mutation(
        "toy: one boundary out of reach is enough for a maximum norm",
        "datasets/toy.py",
        "all(abs(x - end) >= norm for end in ends)",
        "any(abs(x - end) >= norm for end in ends)",
        DATASETS,
    ),
    Mutation(
        "MNIST: labels shifted by one",
        "datasets/mnist.py",
        "labels.numpy().astype(np.int32)",
        "(labels.numpy() + 1).astype(np.int32)",
        DATASETS,
    ),
    Mutation(
        "pipeline: every batch draws the same",
        "datasets/perturbed.py",
        "seed = tf.random.experimental.stateless_fold_in(drawn, number)",
        "seed = tf.constant(drawn)",
        ("tests/datasets/test_perturbed.py",),
    ),
    # Distances, interpretation, serving, reports.
    Mutation(
        "distances: a class is at 0 from itself",
        "geometry/class_distances.py",
        "itertools.combinations(range(classes), 2)",
        "itertools.combinations_with_replacement(range(classes), 2)",
        ("tests/geometry/test_class_distances.py",),
    ),
    Mutation(
        "distances: pairs that rounding leaves in doubt are not measured",
        "geometry/class_distances.py",
        "doubtful = np.argwhere(low <= min(high.min(), best))",
        "doubtful = np.argwhere(high <= min(high.min(), best))",
        ("tests/geometry/test_class_distances.py",),
    ),
    Mutation(
        "interpretation: neutral where the odds are the prior",
        "interpretation.py",
        "np.log(priors) - np.log1p(-priors)",
        "np.log(priors)",
        ("tests/test_interpretation.py",),
    ),
    Mutation(
        "interpretation: with priors, points of other inputs",
        "interpretation.py",
        "order = np.argsort(np.concatenate([rows for rows, _ in found]))",
        "order = np.concatenate([rows for rows, _ in found])",
        ("tests/test_interpretation.py",),
    ),
    Mutation(
        "serving: logits are served as probabilities",
        "serving.py",
        '"probabilities": tf.nn.softmax(logits)',
        '"probabilities": logits',
        ("tests/test_serving.py",),
    ),
    Mutation(
        "serving: serve takes serialized examples",
        "serving.py",
        '"serve": (serve, [inputs])',
        '"serve": (serve_examples, [texts])',
        ("tests/test_serving.py",),
    ),
    Mutation(
        "report: names are taken for HTML",
        "reporting/report.py",
        "autoescape=True",
        "autoescape=False",
        ("tests/test_reporting.py",),
    ),
    Mutation(
        "plots: test values at the first epochs, however seldom they were measured",
        "plotting/training.py",
        "epochs = every * np.arange(1, len(values) + 1)",
        "epochs = np.arange(1, len(values) + 1)",
        ("tests/test_plotting.py",),
    ),
)
"""All mutations, by what they touch."""


def copy_repository(folder: pathlib.Path) -> pathlib.Path:
    """Copy what the tests need into a folder, and check that Python imports the copy."""

    def left_out(where: str, names: list[str]) -> set[str]:
        patterns = (*LEFT_OUT, *(LEFT_OUT_OF_ROOT if pathlib.Path(where) == ROOT else ()))
        return shutil.ignore_patterns(*patterns)(where, names)

    copy = folder / ROOT.name
    shutil.copytree(ROOT, copy, ignore=left_out)
    code = "import importlib.util; print(importlib.util.find_spec('lexirobust').origin)"
    found = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=copy,
        env=_environment(copy),
        check=True,
        capture_output=True,
        text=True,
    )
    if not pathlib.Path(found.stdout.strip()).resolve().is_relative_to(copy.resolve()):
        raise RuntimeError(f"Python finds lexirobust at {found.stdout.strip()}, not in the copy.")
    return copy


@contextlib.contextmanager
def applied(mutation: Mutation, root: pathlib.Path) -> Iterator[None]:
    """Keep a fault in the repository at `root` while the context lasts."""
    path = root / "lexirobust" / mutation.file
    before = path.read_text(encoding="utf-8")
    path.write_text(mutation.apply(before), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(before, encoding="utf-8")


def first_failure(root: pathlib.Path, tests: Sequence[str], marker: str) -> str | None:
    """Run tests of the repository at `root` until one fails.

    Returns:
        The id of the test that failed, what else ended the run, or `None`.
    """
    options = ["-x", "-q", "--no-header", "-rfE", "-p", "no:cacheprovider", "-m", marker]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=root,
        env=_environment(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return TIMED_OUT
    finally:
        if process.poll() is None:  # Also on Control-C; with what the tests have started.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode in (0, 5):  # 5: the marker leaves no test.
        return None
    if process.returncode == 4:  # A test that is not there, or an import that fails.
        raise RuntimeError(f"pytest could not run {tests}:\n{output[-3000:]}")
    summary = output.rpartition("short test summary info")[2]
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", summary, re.MULTILINE)
    return failed[1] if failed else f"exit code {process.returncode} of pytest"


def _environment(root: pathlib.Path) -> dict[str, str]:
    """Variables for a process that imports the package at `root`.

    No bytecode is kept: Python tells it from that of another source by size and second alone.
    """
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def is_of(result: dict[str, Any], mutation: Mutation) -> bool:
    """Whether a result is one of the mutation as it is now."""
    return all(result[name] == getattr(mutation, name) for name in ("file", "old", "new"))


def is_test(caught_by: str | None) -> bool:
    """Whether a test has failed, and not the time run out."""
    return caught_by not in (None, TIMED_OUT)


class Results:
    """What has caught the mutations that were tried, kept in a file if one is given.

    Args:
        path: The file.
        marker: Which tests are run, as pytest's `-m`.
    """

    def __init__(self, path: pathlib.Path | None, marker: str) -> None:
        self._path, self._marker = path, marker
        self._content: dict[str, Any] = {"mutations": {}}
        if path is not None and path.exists():
            self._content = json.loads(path.read_text(encoding="utf-8"))

    def __contains__(self, mutation: Mutation) -> bool:
        known = self._content["mutations"].get(mutation.name)
        if known is None or not is_of(known, mutation):
            return False
        return is_test(known["caught_by"]) or known.get("marker") == self._marker

    def caught_by(self, mutation: Mutation) -> str | None:
        """What has caught a mutation that was tried; `None` if it survived."""
        return self._content["mutations"][mutation.name]["caught_by"]

    def add(self, mutation: Mutation, caught_by: str | None, seconds: float) -> None:
        """Keep what has caught a mutation, and how long that took."""
        self._content["mutations"][mutation.name] = {
            "file": mutation.file,
            "old": mutation.old,
            "new": mutation.new,
            "marker": self._marker,
            "caught_by": caught_by,
            "seconds": round(seconds, 1),
        }
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self._content, indent=1) + "\n"
            write_whole(self._path, lambda path: path.write_text(text, encoding="utf-8"))


def caught_earlier(path: pathlib.Path | None) -> dict[str, str]:
    """The tests that caught mutations in an earlier run, by the mutations' names."""
    if path is None:
        return {}
    known = json.loads(path.read_text(encoding="utf-8"))["mutations"].items()
    return {name: result["caught_by"] for name, result in known if is_test(result["caught_by"])}


def tests_of(mutation: Mutation, root: pathlib.Path) -> list[str]:
    """The tests that may see a mutation, as far as the repository at `root` has them."""
    tests = [*mutation.tests, f"lexirobust/{mutation.file}"]
    return [test for test in tests if (root / test).exists()]


def check_baseline(mutations: Sequence[Mutation], root: pathlib.Path, marker: str) -> None:
    """Run each file of tests once on the repository as it is.

    Raises:
        RuntimeError: If a test fails there.
    """
    for test in dict.fromkeys(test for each in mutations for test in tests_of(each, root)):
        failed = first_failure(root, [test], marker)
        if failed is not None:
            raise RuntimeError(f"Without any mutation, {test} ends by {failed}.")


def run(
    mutations: Sequence[Mutation], results: Results, marker: str, earlier: pathlib.Path | None
) -> None:
    """Try every mutation that was not tried yet, with a line for each."""
    waiting = [mutation for mutation in mutations if mutation not in results]
    print(f"{len(mutations) - len(waiting)} of {len(mutations)} mutations are known.", flush=True)
    if not waiting:
        return
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copy = copy_repository(pathlib.Path(folder))
        check_baseline(waiting, copy, marker)
        likely = caught_earlier(earlier)
        for number, mutation in enumerate(waiting, 1):
            start = time.monotonic()
            with applied(mutation, copy):
                caught_by = None
                if mutation.name in likely:
                    with contextlib.suppress(RuntimeError):  # A test that is no longer there.
                        caught_by = first_failure(copy, [likely[mutation.name]], marker)
                caught_by = caught_by or first_failure(copy, tests_of(mutation, copy), marker)
            seconds = time.monotonic() - start
            results.add(mutation, caught_by, seconds)
            print(
                f"{number}/{len(waiting)}, {seconds:.0f} s: {mutation.name}: {outcome(caught_by)}",
                flush=True,
            )


def outcome(caught_by: str | None) -> str:
    """What came of a mutation, in words that stand out where no test has seen it."""
    if is_test(caught_by):
        return f"caught by {caught_by}"
    return "SURVIVED" if caught_by is None else "TIMED OUT"


def show(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    table = rich.table.Table(*headings)
    for row in rows:
        table.add_row(*map(rich.text.Text, row))  # Brackets of a test's id are no markup.
    console = rich.console.Console()
    if not console.is_terminal:
        console.width = 160  # A pipe or a log has no width of its own.
    console.print(table)


def main(_: Sequence[str]) -> None:
    """Try the mutations that the flags choose; the exit code is 1 unless a test catches each."""
    only, marker, out = flags.FLAGS.only, flags.FLAGS.marker, flags.FLAGS.out
    earlier = flags.FLAGS.earlier
    chosen = [m for m in MUTATIONS if only.lower() in f"{m.name} {m.file}".lower()]
    if not chosen:
        raise app.UsageError(f"--only={only} is in no mutation's name or file.")
    if flags.FLAGS.list:
        show(["mutation", "file"], [[m.name, m.file] for m in chosen])
        return
    results = Results(pathlib.Path(out) if out else None, marker)
    run(chosen, results, marker, pathlib.Path(earlier) if earlier else None)
    found = [(mutation, results.caught_by(mutation)) for mutation in chosen]
    caught = sum(is_test(caught_by) for _, caught_by in found)
    timed_out = sum(caught_by == TIMED_OUT for _, caught_by in found)
    show(["mutation", "outcome"], [[m.name, outcome(caught_by)] for m, caught_by in found])
    print(f"{caught} of {len(found)} caught; {timed_out} timed out.")
    sys.exit(caught < len(found))


if __name__ == "__main__":
    # Here: where tests import this file, flags of the same names may be those of an example.
    flags.DEFINE_string("only", "", "What is in the name or the file of the mutations to try.")
    flags.DEFINE_string("marker", "", "Which tests to run, as pytest's -m; all if empty.")
    flags.DEFINE_string("out", None, "A JSON file that keeps what was found, and is gone on with.")
    flags.DEFINE_string("earlier", None, "Such a file of another run: its tests are tried first.")
    flags.DEFINE_bool("list", False, "Only names the mutations.")
    app.run(main)
