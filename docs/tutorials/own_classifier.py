# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Robustness of a classifier you already have
#
# Any Keras classifier can be measured, however it was trained. This tutorial takes one that was
# saved with Keras, measures it under AutoAttack, looks at what the attack found, compares it with a
# second one, and writes a report. It needs `pip install ".[plots,report]"`.

# %%
import keras
import tqdm.keras

import lexirobust as lr
from lexirobust import plotting

# %matplotlib inline

# %% [markdown]
# ## The classifier
#
# In place of yours: a small network for Fashion-MNIST, trained as usual and saved. Like most, it
# ends in a softmax. The second one has noise added to its inputs in training, which is often said
# to make classifiers robust.

# %%
x, y = lr.datasets.fashion_mnist("train[:12000]")
names = ["T-shirt", "trousers", "pullover", "dress", "coat"]
names += ["sandal", "shirt", "sneaker", "bag", "boot"]


def train(noise, path):
    """Trains a classifier as one does, and saves it."""
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.GaussianNoise(noise),
            keras.layers.Conv2D(16, 5, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(100, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    classifier.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    bar = tqdm.keras.TqdmCallback(verbose=0, desc=path)
    classifier.fit(x, y, batch_size=128, epochs=8, verbose=0, callbacks=[bar])
    classifier.save(path)


train(0.0, "plain.keras")
train(0.2, "noise.keras")

# %% [markdown]
# ## Logits, not probabilities
#
# Attacks follow gradients. Behind a softmax that is sure of itself gradients are nearly 0, and the
# attack finds less than there is. `lr.logits` makes a copy of a classifier that ends before its
# softmax.

# %%
plain = lr.logits(keras.saving.load_model("plain.keras"))
noise = lr.logits(keras.saving.load_model("noise.keras"))

# %% [markdown]
# An evaluation looks for such reasons not to trust its numbers, and calls them flags. This is what
# it says if the softmax stays on:

# %%
x_test, y_test = lr.datasets.fashion_mnist("test[:200]")
pgd = lr.attacks.PGD("l2", steps=10, seed=0)
softmax = keras.saving.load_model("plain.keras")
curve = lr.evaluate_robustness(softmax, x_test, y_test, pgd, [0, 0.5])
for flag in curve.flags:
    print(f"{flag.name}: {flag.message} {flag.advice}")

# %% [markdown]
# ## AutoAttack
#
# AutoAttack is the attack that published numbers are measured with. A magnitude is the most that
# the l2 norm of a perturbation may be; at 0 it is the natural accuracy that is measured.

# %%
attack = lr.attacks.AutoAttack("l2", seed=0)
magnitudes = [0, 0.25, 0.5, 1.0]
curve = lr.evaluate_robustness(plain, x_test, y_test, attack, magnitudes)
for magnitude, accuracy, (low, high) in zip(
    curve.magnitudes, curve.accuracy, curve.interval(), strict=True
):
    print(f"l2 {magnitude:.2f}: accuracy {accuracy:.1%}, 95 % interval {low:.1%} to {high:.1%}")
print("flags:", curve.flags)
curve.plot()

# %% [markdown]
# What each of its attacks found: PGD on the cross entropy first, then attacks toward the most
# likely wrong classes, then a random search that needs no gradients. Each sees only the images that
# have resisted so far.

# %%
for stage in curve.settings["attacks"][0]["stages"]:
    print(stage)

# %% [markdown]
# ## What was found
#
# The curve keeps a few images with their perturbations.

# %%
shown, row = curve.shown, magnitudes.index(0.5)
columns = {
    "image": shown.x[:4],
    "perturbed, l2 0.5": shown.x_adv[row][:4],
    "perturbation": (shown.x_adv[row] - shown.x)[:4],
}
captions = {
    "image": [names[label] for label in shown.y[:4]],
    "perturbed, l2 0.5": [names[label] for label in shown.decisions[row][:4]],
}
plotting.explanations(columns, captions)

# %% [markdown]
# ## Does noise in training help?

# %%
noise_curve = lr.evaluate_robustness(noise, x_test, y_test, attack, magnitudes)
print(noise_curve.accuracy, noise_curve.flags)
plotting.accuracy_curves({"plain": curve, "noise": noise_curve})

# %% [markdown]
# `lr.compare` orders two classifiers by the smallest magnitude at which they differ by more than
# chance explains (an exact test on the images that one has right and the other wrong).

# %%
print(lr.compare(noise_curve, curve, significance=0.05))

# %% [markdown]
# ## Report

# %%
lr.report(
    {"plain": curve, "noise": noise_curve},
    "report.html",
    class_names=names,
    data="200 test images of Fashion-MNIST",
)

# %% [markdown]
# ## Next
#
# - [Evaluate so that others believe it](../evaluation.md): what to name beside a number, and all
#   flags.
# - [Choose a magnitude](../choose_magnitude.md) for your data.
# - Train for robustness: [MNIST in five minutes](mnist.ipynb).
