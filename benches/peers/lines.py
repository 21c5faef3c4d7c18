"""What is measured: the lines of the table."""

import functools

import numpy as np

import models

BATCH = 128


class Line:
    """A model, the inputs that it is given, and how it is trained if it is.

    `model` names the file of weights, which lines of the same model share. `open_batch`: whether the ONNX model leaves the
    first size of its inputs open, as exported models do. `optimizer` is absent where the line is a call.
    """

    def __init__(self, name, what, model, call, inputs, open_batch=False, optimizer=None):
        self.name, self.what, self.model, self.call = name, what, model, call
        self.make, self.open_batch, self.optimizer = inputs, open_batch, optimizer
        # Where the first size is open, lines of the same model share its file.
        self.onnx = (model if open_batch else name) + ".onnx"

    def inputs(self):
        """The inputs by name; of a training, `y` is what should come out."""
        return self.make(np.random.default_rng(1234))


def floats(random, *shape):
    return random.standard_normal(shape, dtype=np.float32)


def images(count):
    return lambda random: {"x": floats(random, count, 3, 224, 224)}


def tokens(count):
    def make(random):
        return {"ids": random.integers(0, models.WORDS, (count, 128)), "mask": np.ones((count, 128), np.int64)}

    return make


def with_classes(make, classes):
    def both(random):
        inputs = make(random)
        count = len(next(iter(inputs.values())))
        return {**inputs, "y": random.integers(0, classes, count)}

    return both


def digits(random):
    return {"x": floats(random, BATCH, 784)}


def token(random):
    inputs = {"token": np.array([[1234]]), "position": np.array([[models.CACHE - 1]])}
    for i in range(12):
        inputs[f"keys_{i}"] = floats(random, 1, 12, models.CACHE - 1, 64)
        inputs[f"values_{i}"] = floats(random, 1, 12, models.CACHE - 1, 64)
    return inputs


def affine(random):
    return {"x": floats(random, 4096, 3072), "w": floats(random, 3072), "c": floats(random, 3072)}


def one(*shape):
    return lambda random: {"x": floats(random, *shape)}


LINES = [
    Line("mlp", "MLP 784-512-512-10, batch 128", "mlp", models.mlp, digits, True),
    Line("mlp_adam", "the same, a step of Adam", "mlp", models.mlp, with_classes(digits, 10), True, "adam"),
    Line("resnet50_b1", "ResNet-50, one picture", "resnet50", models.resnet50, images(1), True),
    Line("resnet50_b8", "ResNet-50, 8 pictures", "resnet50", models.resnet50, images(8), True),
    Line("resnet50_sgd", "ResNet-50, a step of SGD with momentum, 8 pictures", "resnet50", models.resnet50,
         with_classes(images(8), 1000), True, "sgd"),
    Line("bert_b1", "BERT-base, 128 tokens", "bert_base", models.bert_base, tokens(1), True),
    Line("bert_b8", "BERT-base, 8 x 128 tokens", "bert_base", models.bert_base, tokens(8), True),
    Line("encoder_adamw", "encoder of 6 layers, 384 wide, a step of AdamW, 16 x 128 tokens", "small_encoder",
         models.small_encoder, with_classes(tokens(16), 2), True, "adamw"),
    Line("gpt2_token", "GPT-2 small, one token after 511", "gpt2", models.gpt2_token, token),
    Line("gelu_erf", "gelu(x w + c) with erf, [4096, 3072]", "none", models.gelu_erf, affine),
    Line("gelu_tanh", "gelu(x w + c) with tanh, [4096, 3072]", "none", models.gelu_tanh, affine),
    Line("softmax", "softmax, [12288, 128]", "none", models.softmax, one(12288, 128)),
    Line("layer_norm", "layer norm, [4096, 768]", "layer_norm", models.layer_norm, one(4096, 768)),
    # Not of mean 0, as the relative error of a sum that is almost 0 would say nothing.
    Line("sum", "sum of 64 Mi", "none", models.total, lambda random: {"x": random.random(2**26, dtype=np.float32)}),
    Line("lstm", "LSTM, 2 x 512, 64 steps, batch 32", "lstm", models.lstm, one(64, 32, 512)),
]


def product(name, m, k, n):
    call = functools.partial(models.product, k=k, n=n)
    return Line(f"product_{name}", f"[{m}, {k}] x [{k}, {n}]", f"product_{k}_{n}", call, one(m, k))


def batched(name, m, k, n):
    def make(random):
        return {"x": floats(random, 12, m, k), "w": floats(random, 12, k, n)}

    return Line(f"product_{name}", f"12 of [{m}, {k}] x [{k}, {n}], both varying", "none", models.batched, make)


LINES += [product(f"{size}", size, size, size) for size in (256, 512, 1024, 2048)]
LINES += [
    product("bert_mix", 128, 768, 768),
    product("bert_up", 128, 768, 3072),
    product("bert_down", 128, 3072, 768),
    product("bert_mix_b8", 1024, 768, 768),
    product("bert_up_b8", 1024, 768, 3072),
    product("bert_down_b8", 1024, 3072, 768),
    batched("bert_scores", 128, 64, 128),
    batched("bert_values", 128, 128, 64),
    product("vector_768_3072", 1, 768, 3072),
    product("vector_4096", 1, 4096, 4096),
    product("vector_words", 1, 768, models.GPT_WORDS),
]
BY_NAME = {line.name: line for line in LINES}
