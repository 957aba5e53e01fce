"""Muon (momentum, orthogonalised) for the matrices of the layers, AdamW for everything else.

Muon after Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), the
fifth-order Newton-Schulz iteration with its published coefficients, here in float32.
"""

import torch
from transformers import PreTrainedModel

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_MUON_FACTOR = 8.0  # Muon's learning rate over AdamW's: one schedule drives both


def orthogonalised(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """A matrix of the same shape and singular vectors, its singular values near 1."""
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix) / (matrix.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Optimizers:
    """Both optimisers behind one `step`; the learning rate is given per step."""

    def __init__(
        self, model: PreTrainedModel, weight_decay: float = 0.05, momentum: float = 0.95
    ) -> None:
        layers = [
            parameter for parameter in model.model.layers.parameters() if parameter.dim() == 2
        ]
        taken = {id(parameter) for parameter in layers}
        others = [parameter for parameter in model.parameters() if id(parameter) not in taken]
        self._matrices = [(parameter, torch.zeros_like(parameter)) for parameter in layers]
        self._momentum, self._decay = momentum, weight_decay
        self._adam = torch.optim.AdamW(
            others, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True
        )

    @torch.no_grad()
    def step(self, rate: float) -> None:
        muon_rate = _MUON_FACTOR * rate
        self._adam.param_groups[0]["lr"] = rate
        self._adam.step()
        for parameter, average in self._matrices:
            average.lerp_(parameter.grad, 1 - self._momentum)
            update = orthogonalised(parameter.grad.lerp(average, self._momentum))
            rows, columns = parameter.shape
            parameter.mul_(1 - muon_rate * self._decay)
            parameter.add_(update, alpha=-muon_rate * max(1, rows / columns) ** 0.5)

    def zero_grad(self) -> None:
        self._adam.zero_grad(set_to_none=True)
        for parameter, _ in self._matrices:
            parameter.grad = None
