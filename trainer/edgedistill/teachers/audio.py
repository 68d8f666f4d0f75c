"""An audio teacher's own features, from raw waveforms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class AudioInputs(nn.Module):
    """Waveforms (batch, samples) float32, at the teacher's own rate -> its inputs by name.

    extractor: a feature extractor of transformers.  That of Wav2Vec2 is done here, in torch;
    others (log-mel spectrograms) run as they are, in numpy.
    """

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.extractor = extractor
        self.sample_rate_hz = int(extractor.sampling_rate)
        self.raw = type(extractor).__name__ == "Wav2Vec2FeatureExtractor"

    def forward(self, waveform: Tensor) -> dict[str, Tensor]:
        if self.raw:
            if self.extractor.do_normalize:
                variance, mean = torch.var_mean(waveform, 1, correction=0, keepdim=True)
                waveform = (waveform - mean) / torch.sqrt(variance + 1e-7)
            return {"input_values": waveform}
        features = self.extractor(
            list(waveform.cpu().numpy()),
            sampling_rate=self.extractor.sampling_rate,
            return_tensors="pt",
        )
        return {name: value.to(waveform.device) for name, value in features.items()}
