"""Scripts in processes of their own that need not import TensorFlow again.

They are forks of a process that has imported the package and done nothing with it: 5 s less each.
"""

import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import warnings
from typing import Final

from tests.pipelines import leave_pipelines_untuned

ROOT: Final = pathlib.Path(__file__).parents[1]
SERVER: Final = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["lexirobust.plotting"])


def run_forked(
    script: str | os.PathLike[str],
    *arguments: object,
    cwd: pathlib.Path = ROOT,
    timeout: float = 600.0,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run a script as `python script arguments`, its own deprecated calls being errors.

    Of the environment, what is read where TensorFlow or Keras is imported was read already.

    Args:
        script: Path of the script, from `cwd`.
        *arguments: What `sys.argv` holds besides.
        cwd: The folder to run in.
        timeout: Seconds after which the process is killed.
        **environment: Variables to set.
    """
    command = [str(script), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        shown = [pathlib.Path(folder) / name for name in ("stdout", "stderr")]
        process = SERVER.Process(
            target=_run, args=(command, cwd, {**os.environ, **environment}, shown)
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(
                command, timeout, *(path.read_bytes() for path in shown)
            )
        stdout, stderr = (path.read_text("utf-8") for path in shown)
    return subprocess.CompletedProcess(command, process.exitcode, stdout, stderr)


def _run(
    command: list[str], cwd: pathlib.Path, environment: dict[str, str], shown: list[pathlib.Path]
) -> None:
    """In the fork: do what Python does with a script."""
    for number, path in enumerate(shown, 1):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    leave_pipelines_untuned()
    sys.argv[:] = command
    sys.path.insert(0, str(pathlib.Path(command[0]).resolve().parent))
    warnings.filterwarnings("error", category=DeprecationWarning, module="__main__")
    runpy.run_path(command[0], run_name="__main__")
