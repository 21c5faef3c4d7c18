"""The expressions of the programs beside this file in NumPy: median milliseconds of each, on one thread."""
import os, time

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy as np

rng = np.random.default_rng(0)
f = lambda *shape: rng.standard_normal(shape, dtype=np.float32)
wide, scale, shift, scores, rows, long = f(4096, 3072), f(3072), f(3072), f(12288, 128), f(4096, 768), f(1 << 26)


def gelu():
    h = wide * scale + shift
    return 0.5 * h * (1 + np.tanh(np.float32(0.7978845608) * (h + np.float32(0.044715) * h * h * h)))


def softmax():
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def layer_norm():
    d = rows - rows.mean(-1, keepdims=True)
    return d / np.sqrt((d * d).mean(-1, keepdims=True) + np.float32(1e-5))


WORK = {
    "gelu": gelu,
    "softmax": softmax,
    "layer_norm": layer_norm,
    "sum": lambda: long.sum(),
    "column_sums": lambda: wide.sum(0),
    "transpose": lambda: np.maximum(wide.T, 0, order="C"),
}
for name, run in WORK.items():
    run()
    times = []
    for _ in range(10):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    print(f"{name:12} {sorted(times)[5] * 1e3:8.2f} ms")
