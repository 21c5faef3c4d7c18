#!/usr/bin/env python3
"""Measures Thalweg beside whichever of its peers are installed, and prints how they compare.

Each measurement is a process of its own. In every pass over a line all take their turn, so that what else the machine does
meets all alike; of the passes the median counts. All have the same weights and inputs, and what they compute is compared.

    python3 benches/peers/compare.py                             everything, which takes an hour or more
    python3 benches/peers/compare.py --only 'resnet50*,softmax'  some lines
    python3 benches/peers/compare.py --peers onnxruntime,jax     some peers
"""

import argparse
import fnmatch
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, HERE)

PEERS = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "torch": "torch",
    "torch-compile": "torch",
    "jax": "jax",
}
CALLS_ONLY = ("onnxruntime", "openvino")
# Waiting for a core for more of the time than this, a measurement says more of the machine than of the peer.
WAIT_MAX = 0.1
# Differences that the order of sums in f32 makes, with room: of results relative to their mean magnitude, of later losses
# relative to the first.
RESULT_TOLERANCE, LOSS_TOLERANCE = 1e-3, 1e-2


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 2)[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    folder = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    add = parser.add_argument
    add("--only", metavar="LINES", default="*", help="lines by name, with commas between; * stands for anything")
    add("--peers", metavar="PEERS", default=",".join(PEERS), help="peers, with commas between; by default all: %(default)s")
    add("--passes", metavar="N", type=int, default=3, help="turns of each on each line (default %(default)s)")
    add("--threads", metavar="N", type=int, default=2, help="threads of each (default %(default)s)")
    add("--runs", metavar="N", type=int, default=10, help="runs of a measurement, at least (default %(default)s)")
    add("--seconds", metavar="S", type=float, default=2.0, help="seconds of a measurement, at least (default %(default)s)")
    add("--format", choices=["text", "json"], default="text", help="a table, or JSON with every measurement")
    add("--thalweg", metavar="FILE", default=os.path.join(folder, "release", "thalweg"),
        help="the command to measure (default %(default)s)")
    add("--folder", metavar="DIR", default=os.path.join(folder, "peers"),
        help="where models and inputs are made, once; up to 3 GB (default %(default)s)")
    add("--list", action="store_true", help="name the lines and measure nothing")
    return parser.parse_args()


def note(text):
    print(text, file=sys.stderr, flush=True)


def prepare(line, folder):
    """Writes the files of a line that are not there yet."""
    import files

    inputs = os.path.join(folder, line.name)
    if not files.has_inputs(inputs):
        files.write_inputs(inputs, line.inputs())
    weights = os.path.join(folder, line.model + ".safetensors")
    onnx = os.path.join(folder, line.onnx)
    if not (os.path.exists(weights) and os.path.exists(onnx)):
        note(f"making {onnx}")
        import in_onnx

        values = {name: value for name, value in files.read_inputs(inputs).items() if name != "y"}
        files.write_tensors(weights, in_onnx.write(onnx, line, values))
    program = os.path.join(HERE, "programs", line.name + ".tw")
    if line.optimizer and os.path.exists(program):
        # Beside its data, where a program looks for it.
        shutil.copy(program, os.path.join(inputs, "program.tw"))


def command(peer, line, args):
    """What measures a peer on a line."""
    limits = ["--threads", str(args.threads), "--runs", str(args.runs), "--seconds", str(args.seconds)]
    if peer != "ours":
        return [sys.executable, os.path.join(HERE, "measure.py"), peer, line.name, args.folder, *limits]
    import files

    inputs = os.path.join(args.folder, line.name)
    call = [args.thalweg, "bench", "--format", "json", *limits]
    if line.optimizer:
        weights = os.path.join(args.folder, line.model + ".safetensors")
        return [*call, "--train", os.path.join(inputs, "program.tw"), "--weights", weights]
    given = [f"--input={name}={os.path.join(inputs, name)}.npy" for name in files.input_names(inputs)]
    return [*call, os.path.join(args.folder, line.onnx), *given]


def measure(peer, line, args):
    """One measurement, or what went wrong."""
    result = subprocess.run(command(peer, line, args), capture_output=True, text=True)
    for text in reversed(result.stdout.splitlines()):
        if text.startswith("{"):
            return json.loads(text)
    reasons = (result.stderr.strip() or f"exit code {result.returncode}").splitlines()
    return {"error": reasons[-1]}


class Summary:
    """What the passes of one peer over a line come to."""

    def __init__(self, passes):
        self.passes = [one for one in passes if "error" not in one]
        self.error = next((one["error"] for one in passes if "error" in one), None)

    def of(self, field):
        values = [one[field] for one in self.passes if one.get(field) is not None]
        return statistics.median(values) if values else None

    def agrees(self, other):
        """Whether both computed the same: results, or the losses of the first steps."""
        ours, theirs = self.passes[0], other.passes[0]
        size = max(abs(theirs["checksum"][0]), 1e-12)
        same = all(abs(a - b) <= RESULT_TOLERANCE * size for a, b in zip(ours["checksum"], theirs["checksum"]))
        losses = zip(ours.get("losses", []), theirs.get("losses", []))
        return same and all(abs(a - b) <= LOSS_TOLERANCE * size for a, b in losses)


def number(value, digits=3):
    """A number with that many digits that count."""
    if value is None:
        return ""
    whole = len(str(int(abs(value))))
    return f"{value:.{max(0, digits - whole)}f}"


def row(line, summaries):
    """A line of the table, and what has to be said of it."""
    ours = summaries["ours"]
    others = {peer: one for peer, one in summaries.items() if peer != "ours" and one.passes}
    remarks = [f"{peer} failed: {one.error}" for peer, one in summaries.items() if one.error]
    order = sorted(others, key=lambda peer: others[peer].of("median_ms"))
    best = others[order[0]] if order else None
    cells = [line.name, number(ours.of("median_ms")) if ours.passes else ""]
    if best is None or not ours.passes:
        cells += ["", "", "", "", "", "", ""]
    else:
        ratio = ours.of("median_ms") / best.of("median_ms")
        cells += [f"{order[0]} {number(best.of('median_ms'))}", f"{ratio:.2f}"]
        cells.append(", ".join(f"{peer} {number(others[peer].of('median_ms'))}" for peer in order[1:]))
        cells.append(f"{number(ours.of('core_wait'), 2)} / {number(best.of('core_wait'), 2)}")
        cells.append(f"{number(ours.of('first_result_s'))} / {number(best.of('first_result_s'))}")
        cells.append(f"{number(ours.of('peak_rss_mb'))} / {number(best.of('peak_rss_mb'))}")
        odd = [peer for peer, one in others.items() if not ours.agrees(one)]
        cells.append("no: " + ", ".join(odd) if odd else "yes")
        waiting = [peer for peer, one in [("ours", ours), (order[0], best)] if (one.of("core_wait") or 0) > WAIT_MAX]
        if waiting:
            remarks.append(f"{' and '.join(waiting)} waited for a core; run this line again")
    return cells, [f"{line.name}: {remark}" for remark in remarks]


HEADS = [
    "line", "ours, ms", "best peer, ms", "ours / best", "others, ms", "waiting share, ours / best",
    "first result, s", "peak, MB", "same results",
]


def table(rows):
    """The lines as a table of Markdown."""
    widths = [max(len(cells[i]) for cells in [HEADS, *rows]) for i in range(len(HEADS))]
    show = lambda cells: "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"
    return "\n".join([show(HEADS), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(show, rows)])


def machine():
    """What is measured on."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            model = next((text.split(":")[1].strip() for text in file if text.startswith("model name")), model)
    return {"processor": model, "cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version()}


def main():
    args = parse()
    from files import made_alike
    from lines import LINES

    wanted = [pattern.strip() for pattern in args.only.split(",")]
    lines = [line for line in LINES if any(fnmatch.fnmatch(line.name, pattern) for pattern in wanted)]
    if args.list:
        for line in lines:
            print(f"{line.name:24} {line.what}")
        return 0
    if not lines:
        note(f"no line is called {args.only}; --list names them")
        return 2
    peers = []
    for peer in args.peers.split(","):
        if peer not in PEERS:
            note(f"there is no peer `{peer}`; there are {', '.join(PEERS)}")
            return 2
        if importlib.util.find_spec(PEERS[peer]) is None:
            note(f"{peer} is not installed and left out")
        else:
            peers.append(peer)
    if not os.path.exists(args.thalweg):
        note(f"there is no {args.thalweg}; `cargo build --release -p thalweg-cli` makes it")
        return 2
    os.makedirs(args.folder, exist_ok=True)
    if not made_alike(args.folder):
        note(f"the files in {args.folder} were made by another version of these programs; remove them, or give another --folder")
        return 2
    rows, remarks, measured, agree = [], [], [], True
    for line in lines:
        try:
            prepare(line, args.folder)
        except Exception as error:
            # The other lines can be measured all the same.
            note(f"{line.name} cannot be made: {error!r}")
            remarks.append(f"{line.name} could not be made: {error!r}\n")
            agree = False
            continue
        able = ["ours"] + [peer for peer in peers if not (line.optimizer and peer in CALLS_ONLY)]
        results = {peer: [] for peer in able}
        for turn in range(args.passes):
            # Another one begins each time.
            first = turn % len(able)
            for peer in able[first:] + able[:first]:
                one = measure(peer, line, args)
                results[peer].append(one)
                note(f"{line.name} {turn + 1}/{args.passes} {peer}: " + one.get("error", number(one.get("median_ms")) + " ms"))
        summaries = {peer: Summary(passes) for peer, passes in results.items()}
        cells, remarked = row(line, summaries)
        rows.append(cells)
        remarks += remarked
        agree = agree and cells[-1] in ("yes", "") and not summaries["ours"].error
        measured.append({"line": line.name, "what": line.what, "passes": results})
    if args.format == "json":
        print(json.dumps({"machine": machine(), "threads": args.threads, "lines": measured}))
    else:
        of = machine()
        print(f"{of['processor']}, {of['cores']} cores, {args.threads} threads, medians of {args.passes} passes\n")
        print(table(rows))
        print("".join(f"\n{remark}" for remark in remarks))
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
