"""JAX as a backend. Pictures are channels-last, which is what XLA is fast at on processors; buffers of a step are donated."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Jax:
    def __init__(self, p, training):
        self.p, self.training, self.statistics = p, training, {}

    def image(self, x):
        return x

    def relu(self, x):
        return jax.nn.relu(x)

    def add(self, x, y):
        return x + y

    def multiply(self, x, y):
        return x * y

    def matmul(self, x, y):
        return x @ y

    def product(self, name, x, k, n):
        return x @ self.p[name]

    def linear(self, name, x, n, m, gain=1):
        return x @ self.p[name + ".weight"] + self.p[name + ".bias"]

    def conv(self, name, x, channels, out, size, stride=1):
        sides = [(size // 2, size // 2)] * 2
        orders = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, self.p[name + ".weight"], (stride, stride), sides, dimension_numbers=orders)

    def batch_norm(self, name, x, channels, scale=1.0):
        mean, var = self.p[name + ".mean"], self.p[name + ".var"]
        if self.training:
            centre = x.mean((0, 1, 2))
            spread = jnp.square(x).mean((0, 1, 2)) - jnp.square(centre)
            self.statistics[name + ".mean"] = 0.9 * mean + 0.1 * centre
            self.statistics[name + ".var"] = 0.9 * var + 0.1 * spread
            mean, var = centre, spread
        factor = lax.rsqrt(var + 1e-5) * self.p[name + ".scale"]
        return x * factor + (self.p[name + ".shift"] - mean * factor)

    def max_pool(self, x):
        sides = ((0, 0), (1, 1), (1, 1), (0, 0))
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), sides)

    def global_mean(self, x):
        return x.mean((1, 2))

    def embedding(self, name, ids, words, d):
        return self.p[name + ".weight"][ids]

    def leading_rows(self, name, rows, count, d):
        return self.p[name + ".weight"][:count]

    def scores(self, name, x, words, d):
        return x @ self.p[name + ".weight"].T

    def layer_norm(self, name, x, d):
        centred = x - x.mean(-1, keepdims=True)
        spread = jnp.square(centred).mean(-1, keepdims=True)
        return centred * lax.rsqrt(spread + 1e-5) * self.p[name + ".scale"] + self.p[name + ".shift"]

    def gelu(self, x):
        return jax.nn.gelu(x, approximate=False)

    def gelu_tanh(self, x):
        return jax.nn.gelu(x, approximate=True)

    def softmax(self, x):
        return jax.nn.softmax(x, -1)

    def total(self, x):
        return x.sum()

    def mean_tokens(self, x):
        return x.mean(1)

    def hidden(self, mask):
        return ((1.0 - mask.astype(jnp.float32)) * -10000.0)[:, None, None, :]

    def heads(self, x, heads, width):
        return x.reshape(*x.shape[:2], heads, width).transpose(0, 2, 1, 3)

    def join_heads(self, x):
        return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)

    def attend(self, q, k, v, width, hidden=None):
        scores = jnp.einsum("bhqe,bhke->bhqk", q, k) * width**-0.5
        return jnp.einsum("bhqk,bhke->bhqe", jax.nn.softmax(scores if hidden is None else scores + hidden, -1), v)

    def thirds(self, x, d):
        return jnp.split(x, 3, -1)

    def append(self, past, new, position):
        return lax.dynamic_update_slice(past, new, (0, 0, position[0, 0], 0))

    def lstm(self, name, x, d):
        part = lambda which: self.p[f"{name}.{which}"]
        inputs = x @ part("weight_in").T + (part("bias_in") + part("bias_back"))
        back, start = part("weight_back").T, jnp.zeros((x.shape[1], d), x.dtype)

        def turn(carry, at):
            h, c = carry
            i, f, g, o = jnp.split(at + h @ back, 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        return lax.scan(turn, (start, start), inputs)[1]


def first_steps_adam(decay):
    """Adam, with decay of weights apart from the gradient, as a function of parameters, gradients and what is kept."""

    def start(p):
        zeros = jax.tree.map(jnp.zeros_like, p)
        return zeros, jax.tree.map(jnp.zeros_like, p), jnp.float32(0)

    def update(p, g, kept):
        m, v, steps = kept
        steps, rate = steps + 1, 5e-5 if decay else 1e-3
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        far, wide = 1 - 0.9**steps, 1 - 0.999**steps
        change = lambda p, m, v: p - rate * (m / far / (jnp.sqrt(v / wide) + 1e-8) + decay * p)
        return jax.tree.map(change, p, m, v), (m, v, steps)

    return start, update


def momentum():
    def update(p, g, velocity):
        velocity = jax.tree.map(lambda velocity, g: 0.9 * velocity + g, velocity, g)
        return jax.tree.map(lambda p, velocity: p - 0.01 * velocity, p, velocity), velocity

    return lambda p: jax.tree.map(jnp.zeros_like, p), update


OPTIMIZERS = {"adam": lambda: first_steps_adam(0.0), "adamw": lambda: first_steps_adam(0.01), "sgd": momentum}


def prepare(line, tensors, inputs, threads, compiled):
    """The call to measure, and what makes numbers of what it gives. JAX takes its threads from the processor."""
    kept_order = lambda value: value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
    p = {name: jnp.array(kept_order(value)) for name, value in tensors.items()}
    if line.model == "resnet50":
        inputs = {**inputs, "x": np.ascontiguousarray(inputs["x"].transpose(0, 2, 3, 1))}
    arguments = {name: jnp.array(value) for name, value in inputs.items()}
    if line.name == "gpt2_token":
        return with_cache(line, p, arguments), np.asarray
    if line.optimizer is None:
        call = jax.jit(lambda p, *x: line.call(Jax(p, False), *x))
        return lambda: jax.block_until_ready(call(p, *arguments.values())), np.asarray
    wanted = arguments.pop("y")
    start, update = OPTIMIZERS[line.optimizer]()
    statistics = {name: p.pop(name) for name in list(p) if name.endswith((".mean", ".var"))}

    def loss(p, statistics, *x):
        backend = Jax({**p, **statistics}, True)
        logs = jax.nn.log_softmax(line.call(backend, *x))
        return -jnp.take_along_axis(logs, wanted[:, None], 1).mean(), backend.statistics

    def step(state, *x):
        p, statistics, kept = state
        (value, statistics), g = jax.value_and_grad(loss, has_aux=True)(p, statistics, *x)
        p, kept = update(p, g, kept)
        return (p, statistics, kept), value

    step = jax.jit(step, donate_argnums=0)
    state = (p, statistics, start(p))

    def run():
        nonlocal state
        state, value = jax.block_until_ready(step(state, *arguments.values()))
        return value

    return run, np.asarray


def with_cache(line, p, arguments):
    """The cache has room for the new token, is donated and comes back."""
    token, position, *past = arguments.values()
    past = [jnp.pad(x, ((0, 0), (0, 0), (0, 1), (0, 0))) for x in past]
    call = jax.jit(lambda p, past: line.call(Jax(p, False), token, position, *past), donate_argnums=1)

    def run():
        nonlocal past
        result, *past = jax.block_until_ready(call(p, past))
        return result

    return run
