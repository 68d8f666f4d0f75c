"""A process in the environment of litert-torch: PyTorch programs to TFLite, and TFLite to int8.

    python litert_worker.py FOLDER

FOLDER/job.json says what to do; the answer is FOLDER/model.tflite, or one line in FOLDER/error.
This file imports nothing of EdgeDistill: that environment has none of it.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    try:
        {"convert": convert, "quantize": quantize}[job["do"]](folder, job)
    except Exception as error:  # the converter has many failures and no common base
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        text = str(cause).strip() or type(cause).__name__
        (folder / "error").write_text(text, encoding="utf-8")


def convert(folder: Path, job: dict[str, Any]) -> None:
    """programs: (signature, file) pairs; their inputs are zeros of the declared shapes."""
    import litert_torch
    import torch

    converter = litert_torch
    for key, name in job["programs"]:
        program = torch.export.load(folder / name)
        converter = converter.signature(key, program.module(), program.example_inputs[0])
    converter.convert().export(str(folder / "model.tflite"))


def quantize(folder: Path, job: dict[str, Any]) -> None:
    """static: activations get the ranges that they have over inputs.npy; else each call's own."""
    import numpy as np
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

    operator, grain = qtyping.TFLOperationName, qtyping.QuantGranularity
    made = quantizer.Quantizer(str(folder / "float32.tflite"))
    ranges = None
    if job["static"]:
        made.add_static_config(".*", operator.ALL_SUPPORTED, 8, 8)
        for end in (operator.INPUT, operator.OUTPUT):
            made.update_quantization_recipe(
                ".*", end, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE
            )
        key, name = job["input"]
        rows = np.load(folder / "inputs.npy", mmap_mode="r")
        ranges = made.calibrate({key: [{name: rows[i : i + 1]} for i in range(len(rows))]})
    else:
        each = grain.TENSORWISE if job["tensorwise"] else grain.CHANNELWISE
        made.add_dynamic_config(".*", operator.ALL_SUPPORTED, 8, each)
    made.quantize(ranges).export_model(folder / "model.tflite", overwrite=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
