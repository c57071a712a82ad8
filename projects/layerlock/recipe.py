"""The fields of `task.kwargs.layerlock`: freezing and what is predicted.

LayerLock (arXiv 2509.10156) has no public code. Defaults are those of its
ViT-G run as far as they are known; the rest is chosen here and is marked so.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from projects.layerlock import model as model_lib
from projects.layerlock import schedule as schedule_lib
from vidscenic import config as vc

SUBSETS = ('random', 'visible')
MODES = ('forward', 'loss_only')
HEADS = ('shared', 'reinit', 'per_target')
TOKENS = ('all', 'masked')
PIXEL_NORMS = ('none', 'patch', 'patch_channel')
LATENT_NORMS = ('none', 'layernorm')


@dataclasses.dataclass(frozen=True)
class LatentTarget:
  """Where features of a frozen block are predicted."""

  fraction: float = 1.0  # of the decode tokens, with subset 'random'
  subset: str = 'random'  # or 'visible': all of those and no others
  # 'forward': only the chosen tokens enter the pass that makes the targets;
  # 'loss_only': all do, and the loss is taken of the chosen ones.
  mode: str = 'forward'
  norm: str = 'none'  # or 'layernorm', without scale and bias


@dataclasses.dataclass(frozen=True)
class PixelTarget:
  """How pixels are normalised."""

  norm: str = 'none'  # or 'patch', 'patch_channel'


@dataclasses.dataclass(frozen=True)
class MiniWarmup:
  """Learning rate after a switch; length and shape are chosen here."""

  steps: int | None = None  # None: a tenth of freeze_interval
  init: float = 0.0  # first factor on the learning rate


@dataclasses.dataclass(frozen=True)
class Recipe:
  """When blocks freeze and what is predicted; see the fields."""

  freeze: bool = True
  latent_targets: bool = True
  freeze_start_step: int = 160_000
  freeze_interval: int = 10_000
  freeze_jump: int = 1
  max_frozen_layers: int = 32
  first_freeze_at_start: bool = True  # ours: no later than freeze_start_step
  target_mode: str = 'single'  # or 'multi': all frozen blocks so far
  multi_include_pixels: bool = False  # with 'multi'
  # With latent targets and no freezing, the control that collapses, pixels are
  # predicted besides; otherwise features take their place.
  latent_head: str = 'shared'  # or 'reinit' at a switch, or 'per_target'
  reset_moments_on_switch: bool = False  # of all parameters
  loss_tokens: str = 'all'  # or 'masked', those that are hidden
  latent_target: Mapping[str, Any] | LatentTarget = LatentTarget()
  pixel_target: Mapping[str, Any] | PixelTarget = PixelTarget()
  mini_warmup: Mapping[str, Any] | MiniWarmup = MiniWarmup()

  def __post_init__(self):
    for name, kind in (
      ('latent_target', LatentTarget),
      ('pixel_target', PixelTarget),
      ('mini_warmup', MiniWarmup),
    ):
      value = getattr(self, name)
      if not isinstance(value, kind):
        where = f'task.kwargs.layerlock.{name}'
        value = vc.build(f'{__name__}:{kind.__name__}', field=where, **value)
        object.__setattr__(self, name, value)
    latent = self.latent_target
    for name, value, known in (
      ('latent_head', self.latent_head, HEADS),
      ('loss_tokens', self.loss_tokens, TOKENS),
      ('latent_target.subset', latent.subset, SUBSETS),
      ('latent_target.mode', latent.mode, MODES),
      ('latent_target.norm', latent.norm, LATENT_NORMS),
      ('pixel_target.norm', self.pixel_target.norm, PIXEL_NORMS),
    ):
      if value not in known:
        raise ValueError(
          f'task.kwargs.layerlock.{name}={value!r}: want one of {known}'
        )
    if not 0 < latent.fraction <= 1:
      raise ValueError(
        f'task.kwargs.layerlock.latent_target.fraction={latent.fraction}: want '
        'a share in (0, 1]'
      )
    if self.target_mode == 'multi' and self.latent_head != 'per_target':
      raise ValueError(
        "task.kwargs.layerlock.target_mode='multi' needs latent_head="
        f"'per_target', got {self.latent_head!r}"
      )

  def schedule(self, encoder_depth: int) -> schedule_lib.Schedule | None:
    """The schedule, None if nothing ever changes.

    Args:
      encoder_depth: blocks in front of the decoder.

    Raises:
      ValueError: a field that cannot be used, named.
    """
    if not self.freeze and not self.latent_targets:
      return None
    if self.max_frozen_layers > encoder_depth:
      raise ValueError(
        f'task.kwargs.layerlock.max_frozen_layers={self.max_frozen_layers}, '
        f'but the encoder has {encoder_depth} blocks in front of the decoder, '
        'which always train'
      )
    warmup = self.mini_warmup.steps
    return schedule_lib.Schedule(
      start=self.freeze_start_step,
      interval=self.freeze_interval,
      max_frozen=self.max_frozen_layers,
      jump=self.freeze_jump,
      first_at_start=self.first_freeze_at_start,
      latent=self.latent_targets,
      mode=self.target_mode,
      warmup_steps=self.freeze_interval // 10 if warmup is None else warmup,
      warmup_init=self.mini_warmup.init,
    )

  def has_pixels(self, targets: Sequence[int]) -> bool:
    """Whether pixels are predicted beside the features of these blocks."""
    if not targets or not self.freeze:
      return True
    return self.target_mode == 'multi' and self.multi_include_pixels

  def head(self, target: int) -> str:
    """Name of the head that predicts block `target`."""
    if self.latent_head == 'per_target':
      return f'{model_lib.LATENT}_{target}'
    return model_lib.LATENT

  def heads(self, schedule: schedule_lib.Schedule | None) -> tuple[str, ...]:
    """Names of all heads of a run."""
    if schedule is None or not self.latent_targets:
      return (model_lib.PIXELS,)
    latent = dict.fromkeys(self.head(k) for k in schedule.depths())
    return (model_lib.PIXELS, *latent)
