"""The reference AutoAttack on weights that benchmarks/autoattack.py has trained.

It is that of torchattacks; for l1, which that lacks, the gradient attacks of the reference as
adv-lib has them, five starts each, the second toward five classes. It needs torch, and nothing of
this project: run it in an environment of its own.

    pip install torch==2.13.0 numpy scipy requests tqdm
    pip install --no-deps torchattacks==3.5.1 adv-lib==0.2.8
    python benchmarks/autoattack_reference.py network.npz result.json
"""

import importlib.util
import json
import sys
import time
import types
from typing import Any

import numpy as np
import torch
from torch import nn


class Strided(nn.Module):
    """A convolution of stride 2, padded on one side more as TensorFlow does."""

    def __init__(self, kernel: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        rows, _, inputs, outputs = kernel.shape
        self.pad = nn.ZeroPad2d(((rows - 2) // 2, (rows - 1) // 2) * 2)
        self.convolution = nn.Conv2d(inputs, outputs, rows, stride=2)
        self.convolution.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1))
        self.convolution.bias.data = torch.tensor(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.convolution(self.pad(x)))


class Network(nn.Module):
    """The benchmarks' small network, or the paper's, by its weights; counts what it has seen."""

    def __init__(self, weights: list[np.ndarray], strided: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for kernel, bias in zip(weights[:4:2], weights[1:4:2], strict=True):
            if strided:
                layers.append(Strided(kernel, bias))
                continue
            convolution = nn.Conv2d(*kernel.shape[2:], kernel.shape[0], padding="same")
            convolution.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1))
            convolution.bias.data = torch.tensor(bias)
            layers += [convolution, nn.ReLU(), nn.MaxPool2d(2)]
        self.convolutions = nn.Sequential(*layers)
        self.dense = [torch.tensor(each) for each in weights[4:]]
        self.seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        # Channels last, as they are flattened in TensorFlow.
        hidden = self.convolutions(x).permute(0, 2, 3, 1).flatten(1)
        hidden = torch.relu(hidden @ self.dense[0] + self.dense[1])
        return hidden @ self.dense[2] + self.dense[3]


def linf_or_l2(network: Network, x: torch.Tensor, y: torch.Tensor, file: Any) -> torch.Tensor:
    """All attacks of AutoAttack."""
    import torchattacks

    norm = {"linf": "Linf", "l2": "L2"}[str(file["norm"])]
    attack = torchattacks.AutoAttack(
        network, norm=norm, eps=float(file["magnitude"]), seed=int(file["seed"])
    )
    for each in attack._autoattack.attacks:
        if hasattr(each, "steps"):
            each.steps = 100  # The paper's; 10 by default.
    return attack(x, y)


def l1(network: Network, x: torch.Tensor, y: torch.Tensor, file: Any) -> torch.Tensor:
    """The gradient attacks of AutoAttack, with three radii."""
    # The package's own attributes import torchvision; this module needs nothing of it.
    found = importlib.util.find_spec("adv_lib")
    assert found is not None
    assert found.submodule_search_locations is not None
    package = types.ModuleType("adv_lib.attacks")
    package.__path__ = [f"{found.submodule_search_locations[0]}/attacks"]
    sys.modules["adv_lib.attacks"] = package
    from adv_lib.attacks import auto_pgd

    torch.manual_seed(int(file["seed"]))
    magnitude, x_adv = float(file["magnitude"]), x.clone()
    settings = {"n_iter": 100, "n_restarts": 5, "use_large_reps": True}
    for attack, own in (
        (auto_pgd.apgd, {"loss_function": "ce"}),
        (auto_pgd.apgd_targeted, {"num_targets": 5}),
    ):
        with torch.no_grad():
            resists = network(x_adv).argmax(1) == y
        x_adv[resists] = attack(network, x[resists], y[resists], magnitude, 1, **settings, **own)
    return x_adv


LIBRARIES = {linf_or_l2: {"torchattacks": "3.5.1"}, l1: {"adv-lib": "0.2.8"}}


def main(network_file: str, result_file: str) -> None:
    torch.set_num_threads(1)
    file = np.load(network_file)
    weights = [file[f"weight_{index}"] for index in range(8)]
    network = Network(weights, bool(file["strided"])).eval()
    x = torch.tensor(file["x"].transpose(0, 3, 1, 2))
    y = torch.tensor(file["y"].astype(np.int64))
    with torch.no_grad():
        logits = network(x).numpy()
    np.testing.assert_allclose(logits, file["logits"], atol=1e-3)
    attack = l1 if str(file["norm"]) == "l1" else linf_or_l2
    # What is misclassified already is not attacked.
    clean = torch.tensor(logits.argmax(1)) == y
    network.seen, begun = 0, time.perf_counter()
    x_adv = attack(network, x[clean], y[clean], file)
    seconds = time.perf_counter() - begun
    passes = network.seen
    with torch.no_grad():
        resisting = network(x_adv).argmax(1) == y[clean]
    resists = np.zeros(len(y), int)
    resists[clean.numpy()] = resisting.numpy()
    result = {
        "resists": "".join(map(str, resists)),
        "seconds": round(seconds, 1),
        "passes": passes,
        "versions": {"torch": torch.__version__, **LIBRARIES[attack]},
    }
    with open(result_file, "w", encoding="utf-8") as out:
        json.dump(result, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
