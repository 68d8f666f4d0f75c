"""A teacher as an ONNX file: its logits and nothing else.

Beside it lie the files that Optimum writes: tokenizer.json (text), preprocessor_config.json
(images, audio) and, for names of its classes, config.json.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedistill.errors import TeacherError
from edgedistill.teachers.files import media_inputs, read_json, reason
from edgedistill.teachers.loaded import LoadedTeacher, Network, own_names
from edgedistill.teachers.request import Request
from edgedistill.teachers.text import TeacherEncoder, TextInputs

TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
TYPES = {
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
}
FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")


class OnnxModel(nn.Module):
    """Called with the inputs by name -> its logits.  Runs on the CPU and has no gradient."""

    def __init__(self, session: Any, output: str, pad_id: int = 0) -> None:
        super().__init__()
        self.session, self.output, self.pad_id = session, output, pad_id
        self.inputs = {i.name: (TYPES[i.type], i.shape) for i in session.get_inputs()}

    def forward(self, **given: Tensor) -> Tensor:
        if "token_type_ids" in self.inputs:
            given["token_type_ids"] = torch.zeros_like(given["input_ids"])
        device = next(iter(given.values())).device
        feeds = {name: self._fed(name, given[name]).cpu().numpy() for name in self.inputs}
        count = len(next(iter(feeds.values())))
        one_by_one = next(iter(self.inputs.values()))[1][0] == 1
        size = 1 if one_by_one else max(count, 1)
        try:
            parts = [
                self.session.run([self.output], {n: f[i : i + size] for n, f in feeds.items()})[0]
                for i in range(0, count, size)
            ]
        except Exception as error:  # of the engine
            raise TeacherError(f"onnxruntime cannot run the teacher ({reason(error)})") from error
        return torch.from_numpy(np.concatenate(parts)).float().to(device)

    def _fed(self, name: str, value: Tensor) -> Tensor:
        dtype, shape = self.inputs[name]
        if name in TEXT_INPUTS and isinstance(shape[1], int):  # as long as the file demands
            filler = self.pad_id if name == "input_ids" else 0
            value = F.pad(value, (0, shape[1] - value.shape[1]), value=filler)
        return value.to(dtype)


def load(request: Request) -> LoadedTeacher:
    path = Path(request.source).expanduser()
    if not path.is_file():
        raise TeacherError(
            f"{request.source}: there is no such file; give the path of an .onnx file"
        )
    session, digest = _session(request.source, path)
    output, outputs = _output(request.source, session)
    name = _check_inputs(request, session)
    encoder = None
    if request.task == "text-classification":
        encoder = _encoder(request, path, session)
        inputs: nn.Module = TextInputs()
        preprocessing = f"{encoder.max_length} {encoder.pad_id} ".encode() + encoder.json
    else:
        inputs, preprocessing = media_inputs(request, path.parent, None, name)
    model = OnnxModel(session, output, encoder.pad_id if encoder else 0)
    digest.update(preprocessing)
    return LoadedTeacher(
        name=path.name,
        digest=digest.hexdigest(),
        labels=_labels(request.source, path),
        trained=True,
        network=Network(inputs, model).eval(),
        encoder=encoder,
        tokenizer_json=None if encoder is None else encoder.json,
        body=None,
        outputs=outputs,
        sample_rate_hz=getattr(inputs, "sample_rate_hz", None),
    )


def _session(source: str, path: Path) -> tuple[Any, Any]:
    """The file in its engine, and the SHA-256 over it and the weights stored beside it."""
    import onnx
    import onnxruntime
    from onnx.external_data_helper import ExternalDataInfo, _get_all_tensors, uses_external_data

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    try:
        graph = onnx.load(path, load_external_data=False)
        beside = {
            ExternalDataInfo(t).location for t in _get_all_tensors(graph) if uses_external_data(t)
        }
        digest = hashlib.sha256()
        for file in (path, *(path.parent / name for name in sorted(beside))):
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # of protobuf, onnx, onnxruntime, the system
        raise TeacherError(
            f"{source}: not an ONNX file that onnxruntime can read ({reason(error)}); export the "
            "model again"
        ) from error
    return session, digest


def _output(source: str, session: Any) -> tuple[str, int | None]:
    """The name of the logits, and how many they are, where the file says so."""
    outputs = {o.name: o for o in session.get_outputs()}
    found = outputs.get("logits") or (next(iter(outputs.values())) if len(outputs) == 1 else None)
    if found is None or len(found.shape) != 2 or found.type not in FLOATS:
        told = ", ".join(f"{o.name} {_shape(o)} {o.type}" for o in outputs.values())
        raise TeacherError(
            f"{source}: its outputs are {told}; a teacher has float logits of shape "
            "[batch, classes], as its only output or by the name 'logits'"
        )
    return found.name, found.shape[1] if isinstance(found.shape[1], int) else None


def _check_inputs(request: Request, session: Any) -> str:
    """The first input's name, once all inputs are such as can be given."""
    inputs = {i.name: i for i in session.get_inputs()}
    if request.task == "text-classification":
        fits = {"input_ids", "attention_mask"} <= inputs.keys() <= set(TEXT_INPUTS) and all(
            len(i.shape) == 2 for i in inputs.values()
        )
        wanted = "input_ids and attention_mask, and may take token_type_ids"
    else:
        rank = 4 if request.task == "image-classification" else None
        fits = len(inputs) == 1 and all(rank in (None, len(i.shape)) for i in inputs.values())
        wanted = "images [batch, channels, height, width]" if rank else "one input"
    fits = fits and all(
        i.type in TYPES and (i.shape[0] == 1 or not isinstance(i.shape[0], int))
        for i in inputs.values()
    )
    if not fits:
        told = ", ".join(f"{i.name} {_shape(i)} {i.type}" for i in inputs.values())
        raise TeacherError(
            f"{request.source}: its inputs are {told}; a teacher for {request.task} takes "
            f"{wanted}, in batches of any size or of 1"
        )
    return str(next(iter(inputs)))


def _shape(tensor: Any) -> str:
    return f"[{', '.join(str(side) for side in tensor.shape)}]"


def _encoder(request: Request, path: Path, session: Any) -> TeacherEncoder:
    from tokenizers import Tokenizer

    source, folder = request.source, path.parent
    if not (folder / "tokenizer.json").exists():
        raise TeacherError(
            f"{source}: no tokenizer; its tokenizer.json must lie beside it, as Optimum writes it"
        )
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises a bare Exception
        raise TeacherError(f"{source}: tokenizer.json cannot be read ({reason(error)})") from error
    config = _beside(source, folder / "config.json")
    about = _beside(source, folder / "tokenizer_config.json")
    fixed = [i.shape[1] for i in session.get_inputs()]
    asked = [about.get("model_max_length"), config.get("max_position_embeddings")]
    limits = [int(n) for n in (*fixed, *asked) if isinstance(n, int | float) and n > 0]
    pad_id = config.get("pad_token_id")
    return TeacherEncoder(
        tokenizer,
        min(request.max_length, *limits) if limits else request.max_length,
        pad_id if isinstance(pad_id, int) else None,
    )


def _labels(source: str, path: Path) -> tuple[str, ...] | None:
    names = _beside(source, path.parent / "config.json").get("id2label")
    if not isinstance(names, dict) or {str(i) for i in range(len(names))} != names.keys():
        return None
    return own_names([str(names[str(i)]) for i in range(len(names))])


def _beside(source: str, path: Path) -> dict[str, Any]:
    return read_json(source, path) if path.exists() else {}
