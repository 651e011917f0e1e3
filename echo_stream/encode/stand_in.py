"""ECHO with random weights, to measure how fast the real one would be. Main thread."""

from __future__ import annotations

import torch

from echo_stream.encode.echo import SIZES, EchoModel


def random_model(size: str, seed: int = 1) -> EchoModel:
    """A net of a published size, the same for a seed; speed does not depend on what the weights are."""
    generator = torch.Generator().manual_seed(seed)
    model = EchoModel(SIZES[size]).eval().requires_grad_(False)
    for name, weight in model.state_dict().items():
        fan_in = weight.numel() // len(weight) if weight.ndim > 1 and "embed" not in name[:9] else 2500
        offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        weight.copy_(offset + torch.randn(weight.shape, generator=generator) * fan_in**-0.5)
    return model
