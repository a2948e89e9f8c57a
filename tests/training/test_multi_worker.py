"""Workers in processes of their own, as on a cluster."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.forks import ROOT, run_forked

SCRIPT = "examples/multi_worker.py"


def trained(out, *settings):
    """Weights and last logs of each worker."""
    finished = run_forked(SCRIPT, *settings, f"--out={out}")
    assert finished.returncode == 0, finished.stderr[-3000:]
    return results(out)


def results(out):
    found = []
    for path in sorted(out.glob("weights-*.npz")):
        logs = json.loads(path.with_name(f"logs-{path.stem.split('-')[1]}.json").read_text())
        saved = np.load(path)
        found.append((np.concatenate([saved[name].ravel() for name in saved.files]), logs))
    return found


@pytest.mark.release
def test_two_workers_end_where_one_process_does(tmp_path):
    settings = ["--method=olgrc", "--epochs=10"]
    ((alone, logs),) = trained(tmp_path / "one", *settings)
    workers = trained(tmp_path / "two", *settings, "--workers=2", "--restarts=0")
    assert len(workers) == 2
    for weights, told in workers:
        np.testing.assert_allclose(weights, alone, atol=1e-5)
        assert told == pytest.approx(logs, abs=1e-5)


@pytest.mark.release
def test_a_worker_that_dies_is_replaced(tmp_path):
    settings = ["--method=olsrc", "--epochs=30"]
    ((alone, _),) = trained(tmp_path / "one", *settings)
    out = tmp_path / "two"
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *settings, "--workers=2", f"--out={out}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    (second,) = [
        int(line.split()[-1])
        for line in (process.stdout.readline(), process.stdout.readline())
        if line.startswith("worker 1")
    ]
    while not list(out.glob("backup/epoch-*")):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(second, signal.SIGKILL)
    shown, _ = process.communicate()
    assert process.returncode == 0, shown
    assert "a worker has died" in shown
    for weights, _ in results(out):
        np.testing.assert_allclose(weights, alone, atol=1e-4)
    assert not (out / "backup").exists()
