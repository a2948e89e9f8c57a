"""What somebody does with a SavedModel of ours: adversarial samples in a TFRecord file.

It imports neither this package nor Keras. `examples/pipeline.py` runs it.

    python examples/pipeline_stranger.py results/pipeline/1 ~/tfds 500 2.0 moved.tfrecord
"""

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import tensorflow as tf
import tensorflow_datasets as tfds

BATCH = 100


def main(saved_model: str, data_dir: str | None, count: str, magnitude: str, out: str) -> None:
    """Perturbs test images, writes them, and prints how many are still classified right."""
    served = tf.saved_model.load(saved_model)

    def moved(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        inputs = tf.cast(image, tf.float32) / 255
        perturbed = served.perturb(inputs, label, float(magnitude))["perturbed"]
        logits = served.serving_default(perturbed)["logits"]
        return perturbed, label, tf.argmax(logits, axis=1) == label

    dataset = tfds.load("mnist", split="test", data_dir=data_dir or None, as_supervised=True)
    pipeline = dataset.take(int(count)).batch(BATCH).map(moved).prefetch(1)
    right = 0
    with tf.io.TFRecordWriter(out) as writer:
        for image, label, correct in pipeline.unbatch().as_numpy_iterator():
            features = {
                "inputs": tf.train.Feature(float_list=tf.train.FloatList(value=image.ravel())),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
            right += int(correct)
    print(json.dumps({"right": right}))


if __name__ == "__main__":
    main(*sys.argv[1:])
