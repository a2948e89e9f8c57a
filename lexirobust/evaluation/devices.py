"""Work that is cut in parts, on all devices at once."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import TypeVar

import tensorflow as tf

_Result = TypeVar("_Result")


def on_devices(tasks: Iterable[Callable[[], _Result]]) -> Iterator[_Result]:
    """Does tasks on the devices of the strategy that is in scope, one at a time on each.

    Tasks are whole batches, none of which is split or has to wait for another. So what one gives
    does not depend on how many devices there are.

    Args:
        tasks: What is to be done, in TensorFlow operations. Iterated in the caller's thread.

    Yields:
        What the tasks return, in their order.

    Example:

    >>> strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    >>> with strategy.scope():
    ...     list(on_devices(lambda i=i: float(tf.square(i)) for i in (1.0, 2.0, 3.0)))
    [1.0, 4.0, 9.0]
    """
    devices: tuple[str, ...] = ()
    if tf.distribute.has_strategy():
        devices = tf.distribute.get_strategy().extended.worker_devices
    if len(devices) < 2:
        for task in tasks:
            yield task()
        return

    def run(task: Callable[[], _Result], device: str) -> _Result:
        with tf.device(device):
            return task()

    pending: collections.deque[futures.Future[_Result]] = collections.deque()
    with futures.ThreadPoolExecutor(len(devices), "evaluate") as pool:
        for number, task in enumerate(tasks):
            if len(pending) == len(devices):
                yield pending.popleft().result()
            pending.append(pool.submit(run, task, devices[number % len(devices)]))
        while pending:
            yield pending.popleft().result()
