import tensorflow as tf

from lexirobust.graphs import traced_once


def test_many_graphs_share_what_is_traced_once():
    traced = []

    @traced_once
    def scaled(x, by):
        traced.append(x.shape)
        return {"scaled": by * x}

    graphs = [tf.function(lambda x, n=n: scaled(x, 2.0)["scaled"] + n) for n in range(3)]
    assert [float(graph(tf.constant(3.0))) for graph in graphs] == [6.0, 7.0, 8.0]
    assert len(traced) == 1
    graphs[0](tf.ones(2))
    assert len(traced) == 2
    assert float(scaled(tf.constant(3.0), 4.0)["scaled"]) == 12.0  # Not in a graph: as it is.
    assert len(traced) == 3
    compiled = tf.function(lambda x: scaled(x, 2.0)["scaled"], jit_compile=True)
    assert float(compiled(tf.constant(5.0))) == 10.0
    assert len(traced) == 3
