"""Values by name, and the files in which the peers find them.

A tensor's values follow from its name alone, so every peer computes with the same ones. They are kept in files that all can
read: ONNX models, safetensors and .npy.
"""

import json
import os
import zlib

import numpy as np

NAMES = "names.json"


def normal(name, shape, deviation=1.0, mean=0.0):
    """Normal values of f32, drawn from a stream that belongs to the name."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    values *= np.float32(deviation)
    values += np.float32(mean)
    return values


def write_tensors(path, tensors):
    """A safetensors file (huggingface.co/docs/safetensors): a header of JSON, then the bytes."""
    kinds = {"float32": "F32", "int64": "I64", "int32": "I32"}
    header, end = {}, 0
    for name, value in tensors.items():
        start, end = end, end + value.nbytes
        header[name] = {"dtype": kinds[str(value.dtype)], "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with whole(path) as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for value in tensors.values():
            file.write(np.ascontiguousarray(value).data)


def read_tensors(path):
    """The tensors of a safetensors file by name, mapped into memory."""
    data = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    kinds = {"F32": np.float32, "I64": np.int64, "I32": np.int32}
    tensors = {}
    for name, entry in json.loads(data[8:start].tobytes()).items():
        first, end = entry["data_offsets"]
        tensors[name] = data[start + first : start + end].view(kinds[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def write_inputs(folder, inputs):
    """Each array as a .npy file of its name, and the names in their order."""
    os.makedirs(folder, exist_ok=True)
    for name, value in inputs.items():
        np.save(os.path.join(folder, name + ".npy"), value)
    with whole(os.path.join(folder, NAMES)) as file:
        file.write(json.dumps(list(inputs)).encode())


def has_inputs(folder):
    """Whether the arrays of a folder were all written."""
    return os.path.exists(os.path.join(folder, NAMES))


def read_inputs(folder):
    """The arrays of a folder by name, in the order in which they were given."""
    return {name: np.load(os.path.join(folder, name + ".npy")) for name in input_names(folder)}


def input_names(folder):
    """The names of a folder's arrays, in the order in which they were given."""
    with open(os.path.join(folder, NAMES)) as file:
        return json.load(file)


def made_alike(folder):
    """Whether the files of a folder were made by these programs as they are now; marks a folder that is empty."""
    mark = 0
    for name in ("files.py", "in_onnx.py", "lines.py", "models.py"):
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), name), "rb") as file:
            mark = zlib.crc32(file.read(), mark)
    path = os.path.join(folder, "version")
    if not os.listdir(folder):
        with whole(path) as file:
            file.write(f"{mark:08x}".encode())
    if not os.path.exists(path):
        return False
    with open(path) as file:
        return file.read() == f"{mark:08x}"


class whole:
    """A file that takes its name when it is complete, so that a run that was stopped leaves none that look so."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        self.file = open(self.path + ".part", "wb")
        return self.file

    def __exit__(self, kind, error, trace):
        self.file.close()
        if kind is None:
            os.replace(self.path + ".part", self.path)
