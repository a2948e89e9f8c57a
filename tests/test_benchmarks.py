"""Ways of training that benchmarks have: some take parts of a model over that are private."""

import pytest

from tests.benchmark_steps import STEPS
from tests.forks import ROOT, run_forked


@pytest.mark.release
@pytest.mark.parametrize("benchmark", STEPS)
def test_every_way_of_a_benchmark_takes_a_step(benchmark):
    # A process for each: flags of several benchmarks have the same names.
    done = run_forked(ROOT / "tests" / "benchmark_steps.py", benchmark)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
