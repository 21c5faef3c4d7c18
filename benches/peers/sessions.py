"""onnxruntime and OpenVINO: sessions of an ONNX model, of sizes that are known when they are made."""


def onnxruntime(path, line, inputs, threads):
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    if line.open_batch:
        options.add_free_dimension_override_by_name("batch", len(next(iter(inputs.values()))))
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, inputs)[0]


def openvino(path, line, inputs, threads, precision="f32"):
    import openvino as vino

    core = vino.Core()
    model = core.read_model(path)
    if line.open_batch:
        model.reshape({name: list(value.shape) for name, value in inputs.items()})
    # Where the processor has bf16, that is the default; the lines are of f32.
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": precision,
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    tensors = {name: vino.Tensor(value, shared_memory=True) for name, value in inputs.items()}

    def run():
        request.infer(tensors)
        return request.get_output_tensor(0).data

    return run
