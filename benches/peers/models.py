"""The models, each written once.

A model is a function of a backend and its inputs. The backend says what a layer is: PyTorch's and JAX's compute it, ONNX's
writes a node for it. So all of them compute the same function of the same parameters.

Parameters are named by their layer. Weights of linear layers are [inputs, outputs], those of convolutions [out, in, h, w]; the
backends bring them into the layouts that are usual with them.
"""

WORDS, PLACES = 30522, 512
PARTS = ("query", "key", "value")
GPT_WORDS, GPT_PLACES, CACHE = 50257, 1024, 512


def mlp(b, x):
    """784-512-512-10 with ReLU."""
    h = b.relu(b.linear("hidden1", x, 784, 512, gain=2))
    h = b.relu(b.linear("hidden2", h, 512, 512, gain=2))
    return b.linear("out", h, 512, 10, gain=2)


def resnet50(b, x):
    """ResNet-50 (He et al. 2016) with the stride in the 3x3 convolutions, as is usual since."""
    h = b.relu(b.batch_norm("stem.norm", b.conv("stem.conv", b.image(x), 3, 64, 7, stride=2), 64))
    h = b.max_pool(h)
    channels = 64
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)]):
        for i in range(blocks):
            name = f"stage.{stage}.{i}"
            stride = 2 if stage > 0 and i == 0 else 1
            y = b.relu(b.batch_norm(name + ".norm1", b.conv(name + ".conv1", h, channels, width, 1), width))
            y = b.relu(b.batch_norm(name + ".norm2", b.conv(name + ".conv2", y, width, width, 3, stride), width))
            y = b.batch_norm(name + ".norm3", b.conv(name + ".conv3", y, width, 4 * width, 1), 4 * width, scale=0.3)
            if i == 0:
                h = b.conv(name + ".past.conv", h, channels, 4 * width, 1, stride)
                h = b.batch_norm(name + ".past.norm", h, 4 * width)
            h = b.relu(b.add(y, h))
            channels = 4 * width
    return b.linear("out", b.global_mean(h), channels, 1000)


def encoder(b, ids, mask, layers, d, heads):
    """The encoder of BERT (Devlin et al. 2019): norms after the sums, GELU with erf, a mask that is added."""
    h = b.embedding("words", ids, WORDS, d)
    h = b.add(h, b.add(b.leading_rows("places", PLACES, 128, d), b.leading_rows("types", 2, 1, d)))
    h = b.layer_norm("norm", h, d)
    hidden, width = b.hidden(mask), d // heads
    for i in range(layers):
        name = f"block.{i}."
        q, k, v = (b.heads(b.linear(f"{name}attention.{part}", h, d, d), heads, width) for part in PARTS)
        y = b.linear(name + "attention.mix", b.join_heads(b.attend(q, k, v, width, hidden)), d, d)
        h = b.layer_norm(name + "norm1", b.add(h, y), d)
        y = b.linear(name + "down", b.gelu(b.linear(name + "up", h, d, 4 * d)), 4 * d, d)
        h = b.layer_norm(name + "norm2", b.add(h, y), d)
    return h


def bert_base(b, ids, mask):
    """12 layers, 768 wide."""
    return encoder(b, ids, mask, 12, 768, 12)


def small_encoder(b, ids, mask):
    """6 layers, 384 wide, and two classes from the mean over the tokens."""
    return b.linear("classes", b.mean_tokens(encoder(b, ids, mask, 6, 384, 12)), 384, 2)


def gpt2_token(b, token, position, *past):
    """GPT-2 small (Radford et al. 2019) for one token after 511 others, whose keys and values are kept."""
    d, heads, width = 768, 12, 64
    h = b.add(b.embedding("words", token, GPT_WORDS, d), b.embedding("places", position, GPT_PLACES, d))
    kept = []
    for i in range(12):
        name = f"block.{i}."
        q, k, v = b.thirds(b.linear(name + "qkv", b.layer_norm(name + "norm1", h, d), d, 3 * d), d)
        keys = b.append(past[2 * i], b.heads(k, heads, width), position)
        values = b.append(past[2 * i + 1], b.heads(v, heads, width), position)
        kept += [keys, values]
        y = b.join_heads(b.attend(b.heads(q, heads, width), keys, values, width))
        h = b.add(h, b.linear(name + "mix", y, d, d))
        y = b.gelu_tanh(b.linear(name + "up", b.layer_norm(name + "norm2", h, d), d, 4 * d))
        h = b.add(h, b.linear(name + "down", y, 4 * d, d))
    return b.scores("words", b.layer_norm("norm", h, d), GPT_WORDS, d), *kept


def lstm(b, x):
    """Two layers of 512 over [steps, batch, 512]."""
    return b.lstm("memory.1", b.lstm("memory.0", x, 512), 512)


def gelu_erf(b, x, w, c):
    """GELU by the error function, of rows that are scaled and shifted."""
    return b.gelu(b.add(b.multiply(x, w), c))


def gelu_tanh(b, x, w, c):
    """The approximation of GELU by tanh, of the same."""
    return b.gelu_tanh(b.add(b.multiply(x, w), c))


def softmax(b, x):
    """Over the last dim."""
    return b.softmax(x)


def layer_norm(b, x):
    """Over the last dim of 768."""
    return b.layer_norm("norm", x, 768)


def total(b, x):
    """The sum of all."""
    return b.total(x)


def product(b, x, k, n):
    """A product with a weight that is known beforehand."""
    return b.product("weight", x, k, n)


def batched(b, x, w):
    """Products of a batch, neither side known."""
    return b.matmul(x, w)
