# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From training to a served SavedModel
#
# This tutorial trains a robust classifier of handwritten digits, keeps the best epoch, and exports
# it as a SavedModel for TensorFlow Serving or any other program that reads such models. What serves
# it needs neither this package nor Keras. It needs `pip install ".[plots]"`.

# %%
import json
import subprocess
import sys

import keras
import numpy as np
import tensorflow as tf
import tqdm

import lexirobust as lr
from lexirobust import plotting

# %matplotlib inline

# %% [markdown]
# ## Train, and keep the best epoch
#
# Three callbacks watch training:
#
# - `RobustnessCurve` measures natural and robust accuracy on held-out images every two epochs;
# - `LexicographicCheckpoint` keeps the best model: by natural accuracy, and among epochs that tie
#   within half a percentage point, by robust accuracy;
# - `Backup` lets the same script go on where it was if it is stopped.

# %%
keras.utils.set_random_seed(0)
x, y = lr.datasets.mnist("train[:6000]")
x_held_out, y_held_out = lr.datasets.mnist("train[50000:50500]")
layers = [
    keras.Input((28, 28, 1)),
    keras.layers.Conv2D(16, 5, strides=2, activation="relu"),
    keras.layers.Flatten(),
    keras.layers.Dense(100, activation="relu"),
    keras.layers.Dense(10),
]
attack = lr.attacks.PGD("l2", steps=3)
model = lr.OLSRC(keras.Sequential(layers), attack, [2.0], memory=lr.RunningMean())
model.compile("adam", metrics=["accuracy"])

pgd = lr.attacks.PGD("l2", steps=20, seed=0)
watch = lr.callbacks.RobustnessCurve(x_held_out, y_held_out, pgd, [0, 2.0], every=2)
best = lr.callbacks.LexicographicCheckpoint("best.keras", watch.names, tolerance=0.005)
callbacks = [watch, best, lr.callbacks.Backup("backup")]
history = model.fit(x, y, batch_size=128, epochs=8, callbacks=callbacks).history

# %%
print("best epoch:", best.best_epoch + 1)
for name, value in zip(watch.names, best.best, strict=True):
    print(f"{name}: {value:.1%}")
plotting.training_curves({"OLSRC": history})

# %% [markdown]
# The dashed lines are the held-out images. They were attacked with 20 steps, the training images
# with three. `best.keras` holds the best epoch, and is an ordinary Keras file:

# %%
model = keras.saving.load_model("best.keras")

# %% [markdown]
# ## Export
#
# `lr.export` writes the SavedModel. Given an attack, it can also make adversarial examples wherever
# it is served. TensorFlow Serving wants the folder's name to be a version number.

# %%
lr.export(model, "serving/digits/1", pgd)
served = tf.saved_model.load("serving/digits/1")
for name, signature in served.signatures.items():
    outputs = {key: tuple(spec.shape) for key, spec in signature.structured_outputs.items()}
    print(f"{name}: {outputs}")

# %% [markdown]
# ## Use it where this package is not
#
# A program that imports TensorFlow and NumPy alone loads the SavedModel and classifies 500 test
# images. Its logits are those of the trained model.

# %%
program = """
import numpy as np
import tensorflow as tf

served = tf.saved_model.load("serving/digits/1")
answer = served.signatures["serving_default"](tf.constant(np.load("images.npy")))
np.save("logits.npy", answer["logits"])
"""
x_test, y_test = lr.datasets.mnist("test[:500]")
np.save("images.npy", x_test)
subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
logits = np.load("logits.npy")
difference = np.abs(logits - model.predict(x_test, verbose=0)).max()
print("same logits:", difference < 1e-4)
print(f"natural accuracy {np.mean(logits.argmax(axis=1) == y_test):.1%}")

# %% [markdown]
# ## Adversarial examples from the SavedModel
#
# The signature `perturb` takes inputs, labels and a magnitude. Here it runs in a loop over batches,
# as it would in somebody else's pipeline.

# %%
batches = tf.data.Dataset.from_tensor_slices((x_test, y_test.astype("int64"))).batch(50)
magnitude = tf.constant(2.0)
x_adv = np.concatenate(
    [
        served.perturb(images, labels, magnitude)["perturbed"]
        for images, labels in tqdm.tqdm(batches, "perturb")
    ]
)
decisions = model.predict(x_adv, verbose=0).argmax(axis=1)
print(f"accuracy under this attack {np.mean(decisions == y_test):.1%}")

# %% [markdown]
# 96.2 % of the clean images are classified as labeled, and 60.2 % of these. That is no robust
# accuracy: this attack is weaker than AutoAttack, which [another tutorial](mnist.ipynb) measures
# with. Four of the images:

# %%
columns = {
    "image": x_test[:4],
    "perturbed, l2 2": x_adv[:4],
    "perturbation": (x_adv - x_test)[:4],
}
captions = {
    "image": [f"label {label}" for label in y_test[:4]],
    "perturbed, l2 2": [f"classified as {decision}" for decision in decisions[:4]],
}
plotting.explanations(columns, captions)

# %% [markdown]
# ## Serve
#
# TensorFlow Serving takes the folder above the version. With Docker:
#
# ```bash
# docker run --rm -p 8501:8501 -v "$PWD/serving/digits:/models/digits" \
#     -e MODEL_NAME=digits tensorflow/serving
# ```
#
# A request holds images as nested lists. This writes one for three images:

# %%
request = {"signature_name": "serving_default", "instances": x_test[:3].round(3).tolist()}
with open("request.json", "w", encoding="utf-8") as file:
    json.dump(request, file)

# %% [markdown]
# ```bash
# curl -d @request.json http://localhost:8501/v1/models/digits:predict
# ```
#
# ## Next
#
# - All signatures, other requests and other runtimes: [save, resume, export, serve](../saving.md).
# - A robust accuracy that others believe: [evaluation](../evaluation.md).
