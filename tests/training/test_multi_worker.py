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


def results(out):
    """Weights and last logs of each worker."""
    found = []
    for path in sorted(out.glob("weights-*.npz")):
        logs = json.loads(path.with_name(f"logs-{path.stem.split('-')[1]}.json").read_text())
        saved = np.load(path)
        found.append((np.concatenate([saved[name].ravel() for name in saved.files]), logs))
    return found


@pytest.mark.release
def test_a_worker_that_dies_is_replaced(tmp_path):
    """Both end where one process does. Without a death: tests/compatibility.py, by every method."""
    settings = ["--method=olgrc", "--epochs=20"]
    finished = run_forked(SCRIPT, *settings, f"--out={tmp_path / 'one'}")
    assert finished.returncode == 0, finished.stderr[-3000:]
    ((alone, logs),) = results(tmp_path / "one")
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
    workers = results(out)
    assert len(workers) == 2
    for weights, told in workers:
        np.testing.assert_allclose(weights, alone, atol=1e-5)
        assert told == pytest.approx(logs, abs=1e-5, nan_ok=True)
    assert not (out / "backup").exists()
