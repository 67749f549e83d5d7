"""The objective: the noise or velocity in a clip that was noised to some step of the schedule.

Noise: DDPM (arXiv 2006.11239), eq. 4. Velocity: progressive distillation (arXiv 2202.00512), appendix D.
Weights by signal-to-noise ratio: arXiv 2303.09556, eq. 6 and its form for velocity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from animatediff.errors import UserError
from animatediff.sampling.conditions import added_conditions, per_frame
from animatediff.sampling.schedulers import no_betas


class Objective(nn.Module):
    """The noise schedule of the base model, and the prediction that the UNet is taught on it."""

    signal: Tensor
    noise: Tensor

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        betas: Mapping[str, Any] | None = None,
        snr_gamma: float | None = None,
    ) -> None:
        """config: that of the base model's scheduler; `betas` are laid over it, and its zero terminal SNR stays.

        Raises UserError where noise should be predicted at a last step that is nothing but noise, and for a base model
        that was trained on no table of betas.
        """
        from diffusers import DDPMScheduler

        super().__init__()
        if (reason := no_betas(config)) is not None:
            raise UserError(f"the base model cannot be trained further: {reason}; take one of Stable Diffusion's betas")
        known = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "num_train_timesteps")
        settings = {key: config[key] for key in known if config.get(key) is not None} | {
            key: value for key, value in (betas or {}).items() if key in known
        }
        if betas:
            settings.pop("trained_betas", None)
        zero_snr = bool(config.get("rescale_betas_zero_snr"))
        schedule: Any = DDPMScheduler(**settings, rescale_betas_zero_snr=zero_snr)
        self.prediction: str = config.get("prediction_type", "epsilon")
        if self.prediction not in ("epsilon", "v_prediction"):
            raise UserError(f"the image model predicts {self.prediction!r}; trained are epsilon and v_prediction")
        if zero_snr and self.prediction == "epsilon":
            raise UserError(
                "`prediction`=epsilon on a schedule with zero terminal SNR: at its last step the noise is the input "
                "itself, and nothing is learned; set `prediction` to v_prediction, or leave `zero_terminal_snr` out"
            )
        alphas = schedule.alphas_cumprod.clamp(0, 1)
        self.register_buffer("signal", alphas.sqrt(), persistent=False)
        self.register_buffer("noise", (1 - alphas).sqrt(), persistent=False)
        self.snr_gamma = snr_gamma

    @property
    def num_timesteps(self) -> int:
        """Steps of the schedule, 1000 in every published model."""
        return len(self.signal)

    def noisy(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Noise clean latents to timesteps t (b,); clean and noise (b, ...)."""
        return self._at(self.signal, t, clean) * clean + self._at(self.noise, t, clean) * noise

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The prediction that the UNet is taught, of the same shape."""
        if self.prediction == "epsilon":
            return noise
        return self._at(self.signal, t, clean) * noise - self._at(self.noise, t, clean) * clean

    def weights(self, t: Tensor) -> Tensor | None:
        """Weights of the samples' losses (b,), or None where all count alike."""
        if self.snr_gamma is None:
            return None
        snr = (self.signal[t] / self.noise[t]) ** 2
        least = snr.clamp(max=self.snr_gamma)
        return least / snr.clamp(min=1e-8) if self.prediction == "epsilon" else least / (snr + 1)

    def _at(self, table: Tensor, t: Tensor, like: Tensor) -> Tensor:
        return table[t].view(-1, *[1] * (like.ndim - 1))


class ClipLoss(nn.Module):
    """The whole of a forward pass as one module, as DDP and FSDP want it: clips and noise in, one loss a clip out."""

    def __init__(self, unet: nn.Module, objective: Objective, frames: Any | None = None) -> None:
        super().__init__()
        self.unet = unet
        self.objective = objective
        self.frames = frames
        """The frame count of the attached motion modules, or None where there are none."""

    def forward(
        self,
        latents: Tensor,
        noise: Tensor,
        t: Tensor,
        embeddings: Tensor,
        pooled: Tensor | None = None,
        time_ids: Tensor | None = None,
        **inputs: Tensor,
    ) -> Tensor:
        """Weighted losses (b,), float32, of latents and noise (b, f, c, h, w) at timesteps t (b,).

        embeddings (b, n, d), and SDXL's pooled (b, d) and time_ids (b, 6): as in `TextConditions`; inputs: the stage's.
        """
        b, f = latents.shape[:2]
        if self.frames is not None:
            self.frames.num_frames = f
        noisy, target = self.objective.noisy(latents, noise, t), self.objective.target(latents, noise, t)
        frames = range(f)
        timesteps, embeddings = per_frame(t, frames), per_frame(embeddings, frames)
        added = added_conditions(pooled, time_ids, frames)
        predicted = self.unet(
            noisy.flatten(0, 1),
            timesteps,
            encoder_hidden_states=embeddings,
            added_cond_kwargs=added,
            return_dict=False,
            **self.residuals(timesteps, embeddings, added, f, **inputs),
        )[0]
        error = torch.square(predicted.float() - target.flatten(0, 1).float())
        loss = error.view(b, -1).mean(1)
        weights = self.objective.weights(t)
        return loss if weights is None else loss * weights

    def residuals(
        self, t: Tensor, embeddings: Tensor, added: Mapping[str, Tensor] | None, num_frames: int, **inputs: Tensor
    ) -> dict[str, Any]:
        """What a stage adds inside the UNet, just before it is called: arguments of its `forward`, (b*f, ...) each."""
        return {}
