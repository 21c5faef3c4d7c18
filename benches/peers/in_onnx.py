"""ONNX as a backend: a node, or several, for each layer, in the form that frameworks' exporters write.

Batch norms, GELU and attention are not fused: that is the work of those who run the model.
"""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import files

OPSET = 17


class Graph:
    """Collects nodes and weights. `tensors` has the weights by the models' names, as other peers load them."""

    def __init__(self):
        self.nodes, self.initializers, self.tensors, self.known = [], [], {}, set()

    def node(self, op, *inputs, outputs=1, **attributes):
        names = [f"{op.lower()}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, f"{op}_{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def initial(self, name, value):
        if name not in self.known:
            self.known.add(name)
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def constant(self, value, dtype=np.float32):
        value = np.array(value, dtype)
        return self.initial(f"{value.dtype}_{value.tolist()}".replace(" ", ""), value)

    def tensor(self, name, shape, deviation, mean=0.0):
        if name not in self.tensors:
            self.tensors[name] = files.normal(name, shape, deviation, mean)
        return self.tensors[name]

    def save(self, path, inputs, outputs):
        kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
        takes = [helper.make_tensor_value_info(name, kinds[kind], shape) for name, (kind, shape) in inputs.items()]
        gives = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "line", takes, gives, self.initializers)
        opset = [helper.make_opsetid("", OPSET)]
        with files.whole(path) as file:
            file.write(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())

    # Layers.

    def image(self, x):
        return x

    def relu(self, x):
        return self.node("Relu", x)

    def add(self, x, y):
        return self.node("Add", x, y)

    def multiply(self, x, y):
        return self.node("Mul", x, y)

    def matmul(self, x, y):
        return self.node("MatMul", x, y)

    def product(self, name, x, k, n):
        return self.matmul(x, self.initial(name, self.tensor(name, (k, n), k**-0.5)))

    def linear(self, name, x, n, m, gain=1):
        weight = self.tensor(name + ".weight", (n, m), (gain / n) ** 0.5)
        bias = self.initial(name + ".bias", self.tensor(name + ".bias", (m,), 0.01))
        return self.add(self.matmul(x, self.initial(name + ".weight", weight)), bias)

    def conv(self, name, x, channels, out, size, stride=1):
        deviation = (2 / (channels * size * size)) ** 0.5
        weight = self.tensor(name + ".weight", (out, channels, size, size), deviation)
        weight = self.initial(name + ".weight", weight)
        sides = dict(kernel_shape=[size] * 2, strides=[stride] * 2, pads=[size // 2] * 4)
        return self.node("Conv", x, weight, dilations=[1, 1], group=1, **sides)

    def batch_norm(self, name, x, channels, scale=1.0):
        values = {
            "scale": self.tensor(name + ".scale", (channels,), 0.05, scale),
            "shift": self.tensor(name + ".shift", (channels,), 0.05),
            "mean": self.tensor(name + ".mean", (channels,), 0.05),
            # Far enough from 0 whatever is drawn.
            "var": self.tensor(name + ".var", (channels,), 0.1, 1.0),
        }
        parts = [self.initial(f"{name}.{part}", value) for part, value in values.items()]
        return self.node("BatchNormalization", x, *parts, epsilon=1e-5)

    def max_pool(self, x):
        return self.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])

    def global_mean(self, x):
        return self.node("Flatten", self.node("GlobalAveragePool", x), axis=1)

    def embedding(self, name, ids, words, d):
        weight = self.tensor(name + ".weight", (words, d), 0.02)
        return self.node("Gather", self.initial(name + ".weight", weight), ids, axis=0)

    def leading_rows(self, name, rows, count, d):
        weight = self.tensor(name + ".weight", (rows, d), 0.02)
        return self.initial(name + ".rows", weight[None, :count])

    def scores(self, name, x, words, d):
        return self.matmul(x, self.initial(name + ".turned", self.tensor(name + ".weight", (words, d), 0.02).T))

    def layer_norm(self, name, x, d):
        scale = self.initial(name + ".scale", self.tensor(name + ".scale", (d,), 0.02, 1.0))
        shift = self.initial(name + ".shift", self.tensor(name + ".shift", (d,), 0.02))
        return self.node("LayerNormalization", x, scale, shift, axis=-1, epsilon=1e-5)

    def gelu(self, x):
        share = self.node("Erf", self.node("Div", x, self.constant(2**0.5)))
        return self.node("Mul", self.node("Mul", x, self.add(share, self.constant(1.0))), self.constant(0.5))

    def gelu_tanh(self, x):
        cube = self.node("Mul", self.node("Pow", x, self.constant(3.0)), self.constant(0.044715))
        turn = self.node("Tanh", self.node("Mul", self.add(x, cube), self.constant((2 / np.pi) ** 0.5)))
        return self.node("Mul", self.node("Mul", x, self.constant(0.5)), self.add(turn, self.constant(1.0)))

    def softmax(self, x):
        return self.node("Softmax", x, axis=-1)

    def total(self, x):
        return self.node("ReduceSum", x, keepdims=0)

    def mean_tokens(self, x):
        return self.node("ReduceMean", x, axes=[1], keepdims=0)

    def hidden(self, mask):
        mask = self.node("Cast", self.node("Unsqueeze", mask, self.constant([1, 2], np.int64)), to=TensorProto.FLOAT)
        return self.node("Mul", self.node("Sub", self.constant(1.0), mask), self.constant(-10000.0))

    def heads(self, x, heads, width):
        # 0 keeps a dim as it is.
        parts = self.node("Reshape", x, self.constant([0, 0, heads, width], np.int64))
        return self.node("Transpose", parts, perm=[0, 2, 1, 3])

    def join_heads(self, x):
        return self.node("Reshape", self.node("Transpose", x, perm=[0, 2, 1, 3]), self.constant([0, 0, -1], np.int64))

    def attend(self, q, k, v, width, hidden=None):
        scores = self.matmul(q, self.node("Transpose", k, perm=[0, 1, 3, 2]))
        scores = self.node("Div", scores, self.constant(width**0.5))
        return self.matmul(self.softmax(scores if hidden is None else self.add(scores, hidden)), v)

    def thirds(self, x, d):
        return self.node("Split", x, self.constant([d] * 3, np.int64), outputs=3, axis=-1)

    def append(self, past, new, position):
        return self.node("Concat", past, new, axis=2)

    def lstm(self, name, x, d):
        # PyTorch keeps the gates in the order i, f, g, o; ONNX in i, o, f, g.
        def gates(value):
            i, f, g, o = np.split(value, 4)
            return np.concatenate([i, o, f, g])

        parts = {
            part: self.tensor(f"{name}.{part}", (4 * d, *rest), d**-0.5)
            for part, rest in [("weight_in", (d,)), ("weight_back", (d,)), ("bias_in", ()), ("bias_back", ())]
        }
        w = self.initial(name + ".w", gates(parts["weight_in"])[None])
        r = self.initial(name + ".r", gates(parts["weight_back"])[None])
        both = np.concatenate([gates(parts["bias_in"]), gates(parts["bias_back"])])
        y = self.node("LSTM", x, w, r, self.initial(name + ".b", both[None]), outputs=3, hidden_size=d)[0]
        return self.node("Squeeze", y, self.constant([1], np.int64))


def write(path, line, inputs):
    """Writes the model of a line for inputs like these, with an open batch where the line has one; gives its weights."""
    graph = Graph()
    outputs = line.call(graph, *inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    takes = {
        name: (str(value.dtype), ["batch", *value.shape[1:]] if line.open_batch else list(value.shape))
        for name, value in inputs.items()
    }
    graph.save(path, takes, outputs)
    return graph.tensors
