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
import tqdm

import lexirobust as lr
from lexirobust import plotting

# %matplotlib inline

# %% [markdown]
# ## The classifier
#
# In place of yours: a small network for Fashion-MNIST, trained as usual and saved. Like most, it
# ends in a softmax. The second one differs in one thing: in training, and only there, noise is
# added to its inputs. Does that make it more robust?

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
    with tqdm.tqdm(total=8, desc=path) as bar:
        update = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: bar.update())
        classifier.fit(x, y, batch_size=128, epochs=8, verbose=0, callbacks=[update])
    classifier.save(path)


train(0.0, "plain.keras")
train(0.2, "noise.keras")

# %% [markdown]
# ## Logits, not probabilities
#
# Attacks follow gradients. Where a softmax gives nearly 0 or 1 its gradients are nearly 0, and an
# attack finds less than there is. `lr.logits` makes a copy of a classifier that ends before its
# softmax; the weights are the same.

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
misled = lr.evaluate_robustness(softmax, x_test, y_test, pgd, [0, 0.5])
print(misled.accuracy)
for flag in misled.flags:
    print(f"{flag.name}: {flag.advice}")

# %% [markdown]
# This network is not so sure of itself that it matters: PGD found as much at magnitude 0.5 as
# AutoAttack finds below. That is not known beforehand.
#
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
# 84.0 % of the images are classified as labeled, and at magnitude 0.5 only 44.5 % still are. Such a
# perturbation is hard to see, as the pictures below show. There are no flags. The intervals say
# what 200 images are worth: 5 to 7 percentage points either way. More images take more time.
#
# AutoAttack is several attacks in turn: PGD on the cross entropy, attacks toward the most likely
# wrong classes, and a random search that needs no gradients (`Square`). Each sees only the images
# that have resisted so far. This is how many each one broke, at 0.25, 0.5 and 1:

# %%
for stage in curve.settings["attacks"][0]["stages"]:
    print(f"{stage['name']}: {stage['broken']}")

# %% [markdown]
# The first one found nearly all, and the last two found nothing more. If the search without
# gradients had found many, gradients would have misled the others.
#
# ## What was found
#
# The curve keeps a few images with what was made of them. These are the ones that are classified as
# labeled when they are clean, and as something else at magnitude 0.5:

# %%
shown, row = curve.shown, magnitudes.index(0.5)
broken = (shown.decisions[0] == shown.y) & (shown.decisions[row] != shown.y)
images, x_adv = shown.x[broken], shown.x_adv[row][broken]
columns = {"image": images, "perturbed, l2 0.5": x_adv, "perturbation": x_adv - images}
captions = {
    "image": [names[label] for label in shown.y[broken]],
    "perturbed, l2 0.5": [names[label] for label in shown.decisions[row][broken]],
}
plotting.explanations(columns, captions)

# %% [markdown]
# ## Does noise in training help?

# %%
noise_curve = lr.evaluate_robustness(noise, x_test, y_test, attack, magnitudes)
print(noise_curve.accuracy, noise_curve.flags)
plotting.accuracy_curves({"plain": curve, "noise": noise_curve})

# %% [markdown]
# At magnitude 1 noise in training leaves 35 % in place of 18 %. Is that more than chance?
# `lr.compare` orders two classifiers by the smallest magnitude at which it is, by an exact test on
# the images that one has right and the other wrong.

# %%
print(lr.compare(noise_curve, curve, significance=0.05))

# %% [markdown]
# The first one given, with noise, is ahead (`order=1`), and the difference shows from 0.25 on. In
# natural accuracy 200 images do not tell the two apart.
#
# ## Report
#
# All of it on one HTML page, with the ranking on top and the images at its end.

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
