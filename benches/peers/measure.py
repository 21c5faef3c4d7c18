"""Measures one peer on one line, in a process of its own; prints one line of JSON, in the fields of `thalweg bench`.

    python3 measure.py PEER LINE FOLDER [--threads N] [--runs N] [--seconds S] [--warm-up N]
"""

import argparse
import json
import os
import resource
import statistics
import time

RUNS_MAX = 2000

arguments = argparse.ArgumentParser()
arguments.add_argument("peer", choices=["onnxruntime", "openvino", "torch", "torch-compile", "jax"])
arguments.add_argument("line")
arguments.add_argument("folder")
arguments.add_argument("--threads", type=int, default=2)
arguments.add_argument("--runs", type=int, default=10)
arguments.add_argument("--seconds", type=float, default=2.0)
arguments.add_argument("--warm-up", type=int, default=3)


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def scheduled():
    """Seconds that the threads of this process ran, and that they waited for a core while they could have run."""
    ran = waited = 0
    for thread in os.listdir("/proc/self/task") if os.path.isdir("/proc/self/task") else []:
        try:
            with open(f"/proc/self/task/{thread}/schedstat") as file:
                fields = file.read().split()
        except OSError:
            continue
        ran, waited = ran + int(fields[0]), waited + int(fields[1])
    return ran * 1e-9, waited * 1e-9


def checksum(result):
    """The mean magnitude, the first and the middle value."""
    import numpy as np

    values = np.asarray(result, np.float64).ravel()
    return [float(np.abs(values).mean()), float(values[0]), float(values[values.size // 2])]


def main():
    args = arguments.parse_args()
    # Before the libraries are loaded, which read these.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    os.environ["JAX_PLATFORMS"] = "cpu"
    started = time.perf_counter()
    module = __import__(args.peer.split("-")[0])
    import_s = time.perf_counter() - started
    import files
    import lines

    line = lines.BY_NAME[args.line]
    inputs = files.read_inputs(os.path.join(args.folder, line.name))
    numbers = lambda result: result
    started = time.perf_counter()
    if args.peer in ("onnxruntime", "openvino"):
        import sessions

        path = os.path.join(args.folder, line.onnx)
        call = getattr(sessions, args.peer)(path, line, inputs, args.threads)
    else:
        backend = __import__("in_" + args.peer.split("-")[0])
        tensors = files.read_tensors(os.path.join(args.folder, line.model + ".safetensors"))
        call, numbers = backend.prepare(line, tensors, inputs, args.threads, args.peer.endswith("-compile"))
    ready_s = time.perf_counter() - started
    before_mb = peak_mb()
    losses = []

    def timed():
        started = time.perf_counter()
        result = call()
        seconds = time.perf_counter() - started
        if line.optimizer and len(losses) < 2 + args.warm_up:
            losses.append(float(numbers(result)))
        return result, seconds

    result, first_call_s = timed()
    check = checksum(numbers(result))
    _, second_call_s = timed()
    for _ in range(args.warm_up):
        timed()
    milliseconds, (ran, waited), started = [], scheduled(), time.perf_counter()
    passed = lambda: time.perf_counter() - started
    while len(milliseconds) < args.runs or passed() < args.seconds and len(milliseconds) < RUNS_MAX:
        milliseconds.append(timed()[1] * 1e3)
    wall, (ran_then, waited_then) = passed(), scheduled()
    milliseconds.sort()
    measured = {
        "peer": args.peer,
        "version": module.__version__,
        "mode": "train" if line.optimizer else "infer",
        "workload": line.name,
        "threads": args.threads,
        "median_ms": statistics.median(milliseconds),
        "min_ms": milliseconds[0],
        "p90_ms": milliseconds[int(0.9 * (len(milliseconds) - 1))],
        "runs": len(milliseconds),
        "core_wait": (waited_then - waited) / wall / args.threads,
        "cores_busy": (ran_then - ran) / wall,
        "ready_s": ready_s,
        "first_call_s": first_call_s,
        "second_call_s": second_call_s,
        "first_result_s": ready_s + first_call_s,
        "rss_before_mb": before_mb,
        "peak_rss_mb": peak_mb(),
        "import_s": import_s,
        "checksum": check,
    }
    if line.optimizer:
        measured["losses"] = losses
    print(json.dumps(measured), flush=True)


if __name__ == "__main__":
    main()
