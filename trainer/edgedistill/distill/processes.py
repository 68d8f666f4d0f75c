"""The processes that train together: one, or those that `accelerate launch` started.

All of them walk the same way through a fit; only the first one writes, and what it read or decided
is what the others go on with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch

from edgedistill.distill.allocator import keep_freed_memory
from edgedistill.errors import SettingsError

T = TypeVar("T")


class Processes:
    """Device, precision, gradients and logs of a training, by Hugging Face accelerate."""

    def __init__(self, device: str, mixed_precision: str, log: str, folder: Path) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        keep_freed_memory()
        # another fit of this process may have had another device or precision
        AcceleratorState._reset_state(reset_partial_state=device != "auto")
        if device in ("cuda", "mps") and not getattr(torch, device).is_available():
            raise SettingsError(f"this machine has no {device} device; leave --device out")
        try:
            self.accelerator = Accelerator(
                # told that there is nothing else, it lets processes train together on a CPU
                cpu=device == "cpu" or not torch.accelerator.is_available(),
                mixed_precision=mixed_precision,
                log_with=log or None,
                project_dir=folder if log else None,
            )
        except (ValueError, ImportError) as error:
            raise SettingsError(_first_sentence(error, mixed_precision)) from error
        self.device: torch.device = self.accelerator.device
        if mixed_precision == "fp16" and self.device.type == "cpu":  # accelerate would leave it out
            raise SettingsError("mixed_precision 'fp16' is not possible on a CPU; use bf16 or no")
        self.rank, self.count = self.accelerator.process_index, self.accelerator.num_processes
        self.main: bool = self.accelerator.is_main_process
        self._logs = bool(log)

    def agree(self, value: T) -> T:
        """The first process's value, in every process."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        shared = [value]
        broadcast_object_list(shared, from_process=0)
        return shared[0]

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()

    def start_log(self, name: str) -> None:
        """Begin a curve of its own."""
        if self._logs:
            self.accelerator.init_trackers(name)

    def log(self, values: dict[str, float], step: int) -> None:
        if self._logs:
            self.accelerator.log(values, step=step)

    def end_log(self) -> None:
        """End the curve.  Accelerate's own way would end the processes' group too."""
        for tracker in self.accelerator.trackers if self._logs else ():
            tracker.finish()

    def prepare(self, network: Any, optimizer: Any) -> tuple[Any, Any]:
        """Both as accelerate wraps them: on the device, and with shared gradients."""
        prepared = self.accelerator.prepare(network, optimizer)
        return prepared[0], prepared[1]

    def release(self, network: Any) -> None:
        """Take off what `prepare` put on the network, such as autocast, and forget all it knew."""
        for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
            vars(network).pop(name, None)
        for known in (self.accelerator._models, self.accelerator._optimizers):
            known.clear()  # free_memory would collect garbage too, a third of a second


def _first_sentence(error: Exception, mixed_precision: str) -> str:
    if mixed_precision != "no":
        return f"mixed_precision {mixed_precision!r} is not possible here: {error}"
    return f"training cannot start: {error}"
