"""What lies beside a model's weights: JSON files, and what they say about its inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from edgedistill.errors import TeacherError
from edgedistill.teachers import images
from edgedistill.teachers.audio import AudioInputs
from edgedistill.teachers.request import Request


def read_json(source: str, path: Path) -> dict[str, Any]:
    """A JSON object beside a model.  Raises TeacherError."""
    name = path.name
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TeacherError(
            f"{source}: no {name}; save the model with what prepares its input by save_pretrained"
        ) from None
    except (OSError, ValueError) as error:
        raise TeacherError(f"{source}: {name} cannot be read ({reason(error)})") from error
    if not isinstance(plain, dict):
        raise TeacherError(f"{source}: {name} is not a JSON object; save the model again")
    return plain


def reason(error: BaseException) -> str:
    """The first line of an error of another library, at most 200 characters."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if " " not in text:  # a KeyError is its key
        text = f"{type(error).__name__} {text}".strip()
    return (text if len(text) <= 200 else text[:199] + "…").rstrip(".:")


def media_inputs(
    request: Request, folder: Path, image_side: Any, name: str = "pixel_values"
) -> tuple[nn.Module, bytes]:
    """An image's or audio clip's way into a model, as its preprocessor_config.json says."""
    plain = read_json(request.source, folder / "preprocessor_config.json")
    if request.task == "audio-classification":
        import transformers

        auto: Any = transformers.AutoFeatureExtractor
        try:
            extractor = auto.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            raise TeacherError(
                f"{request.source}: its feature extractor cannot be loaded ({reason(error)})"
            ) from error
        return AudioInputs(extractor), json.dumps(plain, sort_keys=True).encode()
    assert request.norm is not None, "an image teacher needs the student's normalisation"
    try:
        steps = images.read(plain, image_side if isinstance(image_side, int) else None)
    except TeacherError as error:
        raise TeacherError(f"{request.source}: preprocessor_config.json: {error}") from None
    about = json.dumps(steps.plain(), sort_keys=True).encode()
    return images.ImageInputs(steps, request.norm, name), about
