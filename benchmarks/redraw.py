"""Writes the tables and pictures of README and docs anew, from the results that are kept there.

    python benchmarks/redraw.py

Nothing is run again. Each line of `COMMANDS` without `--norun` makes the runs, too.
"""

import multiprocessing
import os
import pathlib
import runpy
import shlex
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import tqdm
from absl import app

HERE = pathlib.Path(__file__).resolve().parent
# Of the README, what a reader compares; the page on targets has all ways.
README_WAYS = (
    "plain,weighted sum 0.5,weighted sum 0.8,TRADES 0.3,TRADES 1,ranked with memory 0.5,"
    "target loss 0.27,target loss 0.36,target accuracy 0.845,target accuracy 0.86"
)
COMMANDS = (
    "targets.py --norun --page=docs/targets.md --figure=docs/figures/targets.png",
    f"targets.py --norun --experiments=fashion_mnist --ways='{README_WAYS}' --page=README.md",
    "targets.py --norun --experiments=counterexample --page=docs/targets.md"
    " --ways='plain,weighted sum 0.5,weighted sum 0.8,target loss 0.4'",
    "targets.py --norun --experiments=augmented --page=docs/targets.md",
    "targets.py --norun --experiments=label_noise --page=docs/targets.md"
    " --ways='plain,weighted sum 0.5,ranked with memory 0.5,target loss 1,"
    "without issues: memory 0.5'",
    "mini_batch.py --norun --part=time --page=docs/mini_batches.md",
    "mini_batch.py --norun --precision=mixed_bfloat16 --magnitudes=4.0 --page=docs/mini_batches.md"
    " --ways='memory 0.5,ranked 0.5,weighted 0.5,weighted 0.8,TRADES 1,row/20 0.5'"
    " --figure=docs/figures/mini_batch.png",
    "mini_batch.py --norun --network=small --samples=12000 --epochs=15 --magnitudes=4.0"
    " --ways='natural alone,weighted 0.8,weighted 0.9,weighted 0.95,ranked 0.5,memory 0.2,"
    "memory 0.5,memory/5 0.5,memory/80 0.5,row/20 0.5,anchors/20 0.5,control variates 0.5'"
    " --page=docs/mini_batches.md",
    "augmentation.py --norun --page=docs/inputs.md",
    "autoattack.py --norun --page=docs/evaluation.md",
    "many_classes.py --norun --page=docs/attacks.md",
    "attacks.py --norun --page=docs/attacks.md",
    "warm_start.py --norun --part=mnist,time --epochs=150 --seeds=0,1 --page=docs/attacks.md",
    "cross_check.py --norun --page=docs/attacks.md",
    "genuine.py --norun --page=docs/evaluation.md",
    "versions.py --page=docs/compatibility.md",
    "paper_table.py --norun --page=docs/results.md --figure=docs/figures/paper_table.png",
    "claims.py --page=docs/results.md",
    "example_tables.py --page=docs/results.md",
    "optimizer_metric.py --norun --part=first,second --page=docs/guarantees.md",
    "optimizer_metric.py --norun --part=frontier",
    "gem.py --norun --page=docs/guarantees.md",
    "train_step.py --norun --page=docs/guarantees.md",
    "speed_options.py --norun --page=docs/scaling.md",
    "distribution.py --norun --out=docs/results/distribution.json --page=docs/scaling.md",
    "pretrained.py --norun --page=docs/pretrained.md",
    "human_labels.py --norun --page=docs/human_labels.md --figure=docs/figures/human_labels.png",
    "genuine_accuracy.py --norun --page=docs/genuine_accuracy.md"
    " --figure=docs/figures/genuine_accuracy.png",
    *(
        f"../examples/mnist_page.py --results=docs/results/{name}.json --out=docs/{name}.md"
        for name in ("mnist_h200", "mnist_ranked_h200", "mnist_nobox_h100")
    ),
)


def run(command: str) -> None:
    """Runs a script as a command line would."""
    script, *arguments = shlex.split(command)
    sys.argv = [str(HERE / script), *arguments]
    with open(os.devnull, "w", encoding="utf-8") as sys.stdout:  # Tables are in the pages.
        runpy.run_path(sys.argv[0], run_name="__main__")


def main(_: list[str]) -> None:
    # A process of its own each: flags of the same name differ. TensorFlow is imported once.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["lexirobust", "matplotlib.pyplot", "scipy.stats"])
    for command in tqdm.tqdm(COMMANDS, unit="command", disable=None):
        process = processes.Process(target=run, args=(command,))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"This failed: {command}")


if __name__ == "__main__":
    app.run(main)
