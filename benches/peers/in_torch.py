"""PyTorch as a backend: each layer by the function of torch.nn.functional that a user would take."""

import os
import tempfile

import torch
import torch.nn.functional as F

NOT_TURNED = ("words.", "places.", "types.")


class Torch:
    def __init__(self, tensors, training, channels_last):
        self.p, self.training, self.channels_last = {}, training, channels_last
        for name, value in tensors.items():
            value = torch.from_numpy(value.copy())
            if value.ndim == 2 and name.endswith(".weight") and not name.startswith(NOT_TURNED):
                value = value.t().contiguous()
            if value.ndim == 4 and channels_last:
                value = value.to(memory_format=torch.channels_last)
            self.p[name] = value

    def trained(self):
        """What the optimizer changes; the rest are statistics."""
        trained = [value for name, value in self.p.items() if not name.endswith((".mean", ".var"))]
        return [value.requires_grad_() for value in trained]

    def image(self, x):
        return x.to(memory_format=torch.channels_last) if self.channels_last else x

    def relu(self, x):
        return F.relu(x)

    def add(self, x, y):
        return x + y

    def multiply(self, x, y):
        return x * y

    def matmul(self, x, y):
        return x @ y

    def product(self, name, x, k, n):
        return x @ self.p[name]

    def linear(self, name, x, n, m, gain=1):
        return F.linear(x, self.p[name + ".weight"], self.p[name + ".bias"])

    def conv(self, name, x, channels, out, size, stride=1):
        return F.conv2d(x, self.p[name + ".weight"], None, stride, size // 2)

    def batch_norm(self, name, x, channels, scale=1.0):
        p = self.p
        return F.batch_norm(
            x, p[name + ".mean"], p[name + ".var"], p[name + ".scale"], p[name + ".shift"], self.training
        )

    def max_pool(self, x):
        return F.max_pool2d(x, 3, 2, 1)

    def global_mean(self, x):
        return F.adaptive_avg_pool2d(x, 1).flatten(1)

    def embedding(self, name, ids, words, d):
        return F.embedding(ids, self.p[name + ".weight"])

    def leading_rows(self, name, rows, count, d):
        return self.p[name + ".weight"][:count]

    def scores(self, name, x, words, d):
        return F.linear(x, self.p[name + ".weight"])

    def layer_norm(self, name, x, d):
        return F.layer_norm(x, (d,), self.p[name + ".scale"], self.p[name + ".shift"])

    def gelu(self, x):
        return F.gelu(x)

    def gelu_tanh(self, x):
        return F.gelu(x, approximate="tanh")

    def softmax(self, x):
        return F.softmax(x, -1)

    def total(self, x):
        return x.sum()

    def mean_tokens(self, x):
        return x.mean(1)

    def hidden(self, mask):
        return ((1.0 - mask.float()) * -10000.0)[:, None, None, :]

    def heads(self, x, heads, width):
        return x.unflatten(-1, (heads, width)).transpose(1, 2)

    def join_heads(self, x):
        return x.transpose(1, 2).flatten(2)

    def attend(self, q, k, v, width, hidden=None):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=hidden)

    def thirds(self, x, d):
        return x.split(d, -1)

    def append(self, past, new, position):
        # The cache has room for the new token and is written in place.
        return past.index_copy_(2, position.flatten(), new)

    def lstm(self, name, x, d):
        weights = [self.p[f"{name}.{part}"] for part in ("weight_in", "weight_back", "bias_in", "bias_back")]
        start = x.new_zeros(1, x.shape[1], d)
        return torch.lstm(x, (start, start), weights, True, 1, 0.0, False, False, False)[0]


def prepare(line, tensors, inputs, threads, compiled):
    """The call to measure, and what makes numbers of what it gives."""
    torch.set_num_threads(threads)
    if compiled:
        # A cache of its own, so that the first call is one that compiles.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(prefix="peers-inductor-")
        torch._dynamo.config.allow_rnn = True
    training = line.optimizer is not None
    # Without compiling, the usual layout of pictures is slower on processors with wide vectors.
    backend = Torch(tensors, training, line.model == "resnet50" and not compiled)
    inputs = {name: torch.from_numpy(value) for name, value in inputs.items()}
    if line.name == "gpt2_token":
        inputs = {name: F.pad(x, (0, 0, 0, 1)) if "_" in name else x for name, x in inputs.items()}
    wanted = inputs.pop("y", None) if training else None
    arguments = list(inputs.values())
    if not training:
        # Frozen parameters are constants for the compiler.
        torch._inductor.config.freezing = compiled
        call = torch.compile(lambda *x: line.call(backend, *x)) if compiled else lambda *x: line.call(backend, *x)
        guard = torch.no_grad if compiled else torch.inference_mode

        def run():
            with guard():
                result = call(*arguments)
            return result[0] if isinstance(result, tuple) else result

        return run, lambda result: result.numpy()
    trained = backend.trained()
    optimizer = {
        "adam": lambda: torch.optim.Adam(trained, 1e-3, fused=True),
        "adamw": lambda: torch.optim.AdamW(trained, 5e-5, weight_decay=0.01, fused=True),
        "sgd": lambda: torch.optim.SGD(trained, 0.01, momentum=0.9, fused=True),
    }[line.optimizer]()

    def loss(*x):
        return F.cross_entropy(line.call(backend, *x), wanted)

    loss = torch.compile(loss) if compiled else loss

    def step():
        optimizer.zero_grad(set_to_none=True)
        result = loss(*arguments)
        result.backward()
        optimizer.step()
        return result.detach()

    return step, lambda result: result.numpy()
