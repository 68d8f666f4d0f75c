"""Teachers of transformers: a local folder, or a model of the hub brought into one."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedistill.errors import TeacherError
from edgedistill.teachers.audio import AudioInputs
from edgedistill.teachers.files import media_inputs, read_json, reason
from edgedistill.teachers.loaded import (
    LoadedTeacher,
    Network,
    after_the_layers,
    own_names,
    state_digest,
)
from edgedistill.teachers.request import Request
from edgedistill.teachers.text import TeacherEncoder, TextInputs

HEADS = {
    "text-classification": "ForSequenceClassification",
    "image-classification": "ForImageClassification",
    "audio-classification": "ForAudioClassification",
}
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(@[\w./-]+)?")
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "*.tiktoken")
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
UNUSED = ("mask_token", "masked_spec_embed", "position_ids")  # weights that no answer depends on


def load(request: Request) -> LoadedTeacher:
    with _silence():
        folder = _folder(request)
        return _Folder(request, folder).load()


@contextmanager
def _silence() -> Iterator[None]:
    """Without the warnings, bars and reports that transformers prints while it loads."""
    import huggingface_hub.utils
    import transformers.utils.logging

    log: Any = transformers.utils.logging
    hub: Any = huggingface_hub.utils
    verbosity = log.get_verbosity()
    bars, hub_bars = log.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    log.set_verbosity(logging.CRITICAL)
    log.disable_progress_bar()
    hub.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
        if hub_bars:
            hub.enable_progress_bars()


def _folder(request: Request) -> Path:
    """A local folder, or where the hub's files now lie."""
    source = request.source
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or HUB_ID.fullmatch(source) is None:
        found = "a file of another kind" if folder.exists() else "not there"
        raise TeacherError(
            f"{source}: {found}; a teacher is a folder or hub id of transformers, an .onnx file, "
            "or module:function"
        )
    return _download(source, request.trust_remote_code)


def _download(source: str, code: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, _, revision = source.partition("@")

    def fetch(*patterns: str) -> Path:
        return Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=[*patterns])
        )

    try:
        folder = fetch("*.json", "*.txt", "*.model", "*.tiktoken", *(["*.py"] if code else []))
        for pattern in WEIGHTS:
            fetch(pattern)
            if any(folder.glob(pattern)):
                break
    except Exception as error:  # the hub's, the network's and the file system's
        why = reason(error)
        if isinstance(error, LocalEntryNotFoundError):
            why = "it cannot be reached, and the model is not in its cache"
        raise TeacherError(
            f"{source}: neither a folder here nor to be had from the hub ({why}); download it "
            "where there is a network, and give its folder"
        ) from error
    return folder


class _Folder:
    """One folder that is being loaded."""

    def __init__(self, request: Request, folder: Path) -> None:
        self.request, self.folder = request, folder
        self.source, self.head = request.source, HEADS[request.task]
        self.plain = read_json(self.source, folder / "config.json")
        self.options: dict[str, Any] = {
            "trust_remote_code": request.trust_remote_code,
            "local_files_only": True,
        }

    def load(self) -> LoadedTeacher:
        self._refuse_strangers()
        if not any(next(self.folder.glob(pattern), None) for pattern in WEIGHTS):
            raise TeacherError(
                f"{self.source}: no weights; the folder needs model.safetensors or "
                "pytorch_model.bin beside its config.json"
            )
        text = self.request.task == "text-classification"
        tokenizer = self._tokenizer() if text else None
        model, missing = self._model()
        encoder = self._encoder(tokenizer, model) if text else None
        inputs, preprocessing = self._inputs(encoder, model.config)
        network = Network(inputs, model).eval()
        if encoder is not None:
            self._refuse_padding(network, encoder)
        trained = not missing
        config: Any = model.config
        digest = hashlib.sha256(state_digest(model, missing))
        digest.update(_plain_config(config, trained) + preprocessing)
        names = [str(config.id2label[i]) for i in range(config.num_labels)]
        return LoadedTeacher(
            name=_name(model),
            digest=digest.hexdigest(),
            labels=own_names(names) if trained else None,
            trained=trained,
            network=network,
            encoder=encoder,
            tokenizer_json=None if encoder is None else encoder.json,
            body=_body(model),
            outputs=config.num_labels,
            sample_rate_hz=inputs.sample_rate_hz if isinstance(inputs, AudioInputs) else None,
        )

    # What the folder says it is

    def _refuse_strangers(self) -> None:
        """A model of code that comes with it, or one that cannot do the task."""
        import transformers

        kind, auto_map = str(self.plain.get("model_type")), self.plain.get("auto_map") or {}
        if kind not in transformers.CONFIG_MAPPING:
            if not auto_map:
                raise TeacherError(
                    f"{self.source}: transformers {transformers.__version__} has no model "
                    f"{kind!r} (model_type in config.json); upgrade it, or give module:function"
                )
            if not self.request.trust_remote_code:
                raise self._needs_code()
        elif f"AutoModel{self.head}" not in auto_map and not self._classes_with_head():
            raise TeacherError(
                f"{self.source}: a {kind!r} cannot do {self.request.task}: transformers has no "
                f"AutoModel{self.head} for it"
            )

    def _needs_code(self) -> TeacherError:
        return TeacherError(
            f"{self.source}: this model runs Python code that comes with it; read that code, then "
            "allow it with trust_remote_code"
        )

    def _has_own_head(self) -> bool:
        architectures = self.plain.get("architectures")
        if not architectures:
            return "id2label" in self.plain
        with_head = self._classes_with_head()
        return any(name in with_head or str(name).endswith(self.head) for name in architectures)

    def _classes_with_head(self) -> tuple[str, ...]:
        """Names of the classes of transformers that do the task with this model."""
        from transformers.models.auto import modeling_auto

        words = "_".join(re.findall("[A-Z][a-z]+", self.head)).upper()
        names = getattr(modeling_auto, f"MODEL_{words}_MAPPING_NAMES")
        found = names.get(self.plain.get("model_type"), ())
        return (found,) if isinstance(found, str) else tuple(found)

    def _pools_by_mean(self) -> bool:
        """A sentence encoder (sentence-transformers), which was trained by the mean of its tokens.

        Its first token, which the heads of transformers read, says less: on tweets a head alone
        got 67 % right from it, and 69 % from the mean.
        """
        path = self.folder / "1_Pooling" / "config.json"
        if self.request.task != "text-classification" or self._has_own_head() or not path.exists():
            return False
        pooling = read_json(self.source, path)
        return bool(
            pooling.get("pooling_mode_mean_tokens") or pooling.get("pooling_mode") == "mean"
        )

    # Its parts

    def _model(self) -> tuple[nn.Module, set[str]]:
        """The network, and the names of those of its weights that the folder does not have."""
        import transformers

        own, pooled = self._has_own_head(), self._pools_by_mean()
        auto = transformers.AutoModel if pooled else getattr(transformers, f"AutoModel{self.head}")
        try:
            config = transformers.AutoConfig.from_pretrained(self.folder, **self.options)
            if not own:
                config.num_labels = self.request.classes
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # the same fresh head in every call
                model, info = auto.from_pretrained(
                    self.folder,
                    config=config,
                    dtype=torch.float32,
                    attn_implementation="eager",
                    weights_only=True,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,
                    **self.options,
                )
                missing = {m for m in info["missing_keys"] if not m.endswith(UNUSED)}
                self._refuse_misfits(info["mismatched_keys"])
                self._refuse_gaps(missing, model, own)
                if pooled:
                    model = MeanPooled(model, self.request.classes)
                    missing = {"head.weight", "head.bias"}
        except TeacherError:
            raise
        except Exception as error:  # of transformers, safetensors, pickle, torch, the system
            raise self._unloadable(error) from error
        return model, missing

    def _refuse_misfits(self, found: set[tuple[str, Any, Any]]) -> None:
        for name, stored, wanted in sorted(found):
            raise TeacherError(
                f"{self.source}: its weights hold {name!r} of shape {list(stored)}, its "
                f"config.json asks for {list(wanted)}; give the folder of one whole model"
            )

    def _refuse_gaps(self, missing: set[str], model: nn.Module, own: bool) -> None:
        """Only the head of a bare encoder may be missing, and a pooler before it."""
        body = _body(model)
        prefix = "" if body is None or body is model else f"{model.base_model_prefix}."
        fresh = {prefix + name for name in after_the_layers(body)} if body is not None else set()
        gaps = sorted(
            name for name in missing if own or (name.startswith(prefix) and name not in fresh)
        )
        if gaps:
            raise TeacherError(
                f"{self.source}: its weights lack {len(gaps)} of the tensors that its config.json "
                f"describes, such as {gaps[0]!r}; give the folder of one whole model"
            )

    def _unloadable(self, error: Exception) -> TeacherError:
        text = f"{type(error).__name__} {error}"
        if "trust_remote_code" in text:
            return self._needs_code()
        if "weights_only" in text.lower() or "UnpicklingError" in text:
            return TeacherError(
                f"{self.source}: its pytorch_model.bin holds more than tensors, and could run code "
                "when loaded; convert it to model.safetensors where you trust it"
            )
        return TeacherError(f"{self.source}: transformers cannot load it ({reason(error)})")

    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        if not any(next(self.folder.glob(pattern), None) for pattern in TOKENIZERS):
            raise TeacherError(
                f"{self.source}: no tokenizer; the folder needs its tokenizer.json beside its "
                "config.json"
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder, use_fast=True, **self.options)
        except Exception as error:
            if "trust_remote_code" in str(error):
                raise self._needs_code() from error
            raise TeacherError(
                f"{self.source}: its tokenizer cannot be loaded ({reason(error)})"
            ) from error
        if not getattr(tokenizer, "is_fast", False):
            raise TeacherError(
                f"{self.source}: its {type(tokenizer).__name__} has no fast form (tokenizer.json); "
                "give a teacher that has one"
            )
        return tokenizer

    def _encoder(self, tokenizer: Any, model: nn.Module) -> TeacherEncoder:
        config: Any = model.config
        limits = [self.request.max_length, int(tokenizer.model_max_length), *_positions(model)]
        own_pad = getattr(config, "pad_token_id", None)
        known = (tokenizer.pad_token_id, own_pad, getattr(config, "eos_token_id", None))
        pad_id = next((i for i in known if isinstance(i, int) and i >= 0), 0)
        encoder = TeacherEncoder(tokenizer.backend_tokenizer, min(limits), pad_id)
        table: Any = model.base_model.get_input_embeddings()  # type: ignore[operator,union-attr]
        if encoder.vocabulary_size > table.num_embeddings:
            raise TeacherError(
                f"{self.source}: its tokenizer has {encoder.vocabulary_size} entries, its weights "
                f"{table.num_embeddings}; the two are not of one model"
            )
        if own_pad is None:  # decoders read the last token that is not this one
            config.pad_token_id = pad_id
        return encoder

    def _refuse_padding(self, network: nn.Module, encoder: TeacherEncoder) -> None:
        """A model that reads the end of the batch as the end of the text, such as XLNet."""
        ids = torch.from_numpy(encoder.encode("a"))[None]
        more = F.pad(ids, (0, 3), value=encoder.pad_id)[:, : encoder.max_length]
        mask = torch.ones(more.shape)
        mask[:, ids.shape[1] :] = 0
        with torch.inference_mode():
            alone, padded = network(ids, mask[:, : ids.shape[1]]), network(more, mask)
        if not torch.allclose(alone, padded, rtol=0.01, atol=0.01):
            raise TeacherError(
                f"{self.source}: its answer to a text changes with the padding after it; wrap it "
                "in a function that pads as it wants, and give module:function"
            )

    def _inputs(self, encoder: TeacherEncoder | None, config: Any) -> tuple[nn.Module, bytes]:
        """What turns the student's batch into the model's, and all that decides how."""
        if encoder is not None:
            about = f"{encoder.max_length} {encoder.pad_id} ".encode()
            return TextInputs(), about + encoder.json
        return media_inputs(self.request, self.folder, getattr(config, "image_size", None))


class MeanPooled(nn.Module):
    """A bare encoder, the mean of its last layer over the tokens, dropout, a linear layer."""

    def __init__(self, body: nn.Module, classes: int) -> None:
        super().__init__()
        if getattr(body, "pooler", None) is not None:
            body.register_module("pooler", None)  # it would never get a gradient
        self.base_model = body
        self.config: Any = body.config
        hidden: int = body.config.hidden_size  # type: ignore[union-attr,assignment]
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(hidden, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        tokens = self.base_model(input_ids=input_ids, attention_mask=attention_mask)[0]
        weights = attention_mask[..., None].to(tokens.dtype)  # (batch, tokens, 1)
        mean = (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)
        logits: Tensor = self.head(self.dropout(mean))
        return logits


def _body(model: nn.Module) -> nn.Module | None:
    body: Any = getattr(model, "base_model", None)
    return body if isinstance(body, nn.Module) else None


def _positions(model: nn.Module) -> Iterator[int]:
    """Most tokens that the model has positions for: by its configuration, by its table."""
    config: Any = model.config
    if isinstance(limit := getattr(config, "max_position_embeddings", None), int) and limit > 0:
        yield limit
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            first = 0 if module.padding_idx is None else module.padding_idx + 1  # as in RoBERTa
            yield module.num_embeddings - first


def _plain_config(config: Any, trained: bool) -> bytes:
    plain = config.to_dict()
    names = ("id2label", "label2id") if not trained else ()  # of the data, not its own
    for key in ("_name_or_path", "transformers_version", *names):
        plain.pop(key, None)
    return json.dumps(plain, sort_keys=True, default=str).encode()


def _name(model: nn.Module) -> str:
    config: Any = model.config
    layers, width = (getattr(config, key, None) for key in ("num_hidden_layers", "hidden_size"))
    if isinstance(layers, int) and isinstance(width, int):
        return f"{config.model_type}, {layers} layers of {width}"
    millions = sum(w.numel() for w in model.parameters()) / 1e6
    return f"{config.model_type}, {millions:.3g} M parameters"
