"""The reference AutoAttack of torchattacks on weights that benchmarks/autoattack.py has trained.

It needs torch, and nothing of this project: run it in an environment of its own.

    pip install torch==2.13.0 numpy scipy requests tqdm && pip install --no-deps torchattacks==3.5.1
    python benchmarks/autoattack_reference.py network.npz result.json
"""

import json
import sys
import time

import numpy as np
import torch
import torchattacks
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
    norm = {"linf": "Linf", "l2": "L2"}[str(file["norm"])]
    attack = torchattacks.AutoAttack(
        network, norm=norm, eps=float(file["magnitude"]), seed=int(file["seed"])
    )
    for each in attack._autoattack.attacks:
        if hasattr(each, "steps"):
            each.steps = 100  # The paper's; 10 by default.
    # What is misclassified already is not attacked.
    clean = torch.tensor(logits.argmax(1)) == y
    network.seen, begun = 0, time.perf_counter()
    x_adv = attack(x[clean], y[clean])
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
        "versions": {"torch": torch.__version__, "torchattacks": "3.5.1"},
    }
    with open(result_file, "w", encoding="utf-8") as out:
        json.dump(result, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
