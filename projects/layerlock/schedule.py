"""When blocks are frozen and what is predicted (LayerLock, arXiv 2509.10156).

A pure function of the step: k(s) blocks are frozen in update s,

  k(s) = 0                                                     s < S0
  k(s) = min(k_max, jump * (1 + floor((s - S0) / interval)))   s >= S0

and the target of update s is what block k(s) returns. The update that freezes
first has the new target already. All steps count completed updates.
"""

import dataclasses

import jax.numpy as jnp

TARGET_MODES = ('single', 'multi')


@dataclasses.dataclass(frozen=True)
class Schedule:
  """When blocks are frozen.

  The recipe for ViT-G is 160,000, 10,000, 1 and 32 of 48 blocks; the general
  description says three quarters of the blocks. The mini warm-up is ours in
  length and shape; only that there is one is known.
  """

  start: int  # S0, updates with pixel targets
  interval: int  # updates between two freezes
  max_frozen: int  # k_max, blocks that are frozen at the end
  jump: int = 1  # blocks per freeze
  first_at_start: bool = True  # False: the first freeze is at start + interval
  latent: bool = True  # False: pixels are predicted all the time
  mode: str = (
    'single'  # target: the newest frozen block, or 'multi': all so far
  )
  warmup_steps: int = 0  # of the learning rate after each freeze
  warmup_init: float = 0.0  # factor on the learning rate at a freeze

  def __post_init__(self):
    for name, field, least in (
      ('start', 'freeze_start_step', 0),
      ('interval', 'freeze_interval', 1),
      ('max_frozen', 'max_frozen_layers', 1),
      ('jump', 'freeze_jump', 1),
      ('warmup_steps', 'mini_warmup.steps', 0),
    ):
      value = getattr(self, name)
      if value < least:
        raise ValueError(
          f'task.kwargs.layerlock.{field}={value}: want {least} or more, so '
          'that every stage begins after the one before'
        )
    if self.mode not in TARGET_MODES:
      raise ValueError(
        f'task.kwargs.layerlock.target_mode={self.mode!r}: want one of '
        f'{TARGET_MODES}'
      )
    if not 0 <= self.warmup_init <= 1:
      raise ValueError(
        f'task.kwargs.layerlock.mini_warmup.init={self.warmup_init}: want a '
        'number in [0, 1]'
      )

  @property
  def first(self) -> int:
    """The update that freezes first."""
    return self.start + (0 if self.first_at_start else self.interval)

  def depths(self) -> tuple[int, ...]:
    """Numbers of frozen blocks after each freeze, ascending."""
    depths = range(self.jump, self.max_frozen + self.jump, self.jump)
    return tuple(min(k, self.max_frozen) for k in depths)

  def switches(self) -> tuple[int, ...]:
    """The updates at which blocks are frozen, as many as `depths`."""
    count = len(self.depths())
    return tuple(self.first + i * self.interval for i in range(count))

  def frozen_blocks(self, step: int) -> int:
    """k(step), on the host."""
    if step < self.first:
      return 0
    freezes = 1 + (step - self.first) // self.interval
    return min(self.max_frozen, self.jump * freezes)

  def targets(self, num_frozen: int) -> tuple[int, ...]:
    """Blocks whose outputs are predicted; () stands for pixels.

    Counted from 1: block k returns the residual stream after k blocks.

    Args:
      num_frozen: k, a value of `frozen_blocks`.
    """
    if not num_frozen or not self.latent:
      return ()
    if self.mode == 'single':
      return (num_frozen,)
    return tuple(k for k in self.depths() if k <= num_frozen)

  def steps_since_switch(self, step: int) -> int | None:
    """Updates since the latest freeze, None before the first one."""
    past = [s for s in self.switches() if s <= step]
    return step - past[-1] if past else None

  def lr_scale(self, step):
    """Factor on the learning rate: float32[], step may be traced.

    From `warmup_init` at a freeze to 1, in a line, over `warmup_steps`.
    """
    step = jnp.asarray(step)
    if not self.warmup_steps:
      return jnp.ones(step.shape, jnp.float32)
    last = len(self.depths()) - 1
    freezes = jnp.clip((step - self.first) // self.interval, 0, last)
    since = step - self.first - freezes * self.interval
    part = jnp.clip(since / self.warmup_steps, 0.0, 1.0)
    scale = self.warmup_init + (1 - self.warmup_init) * part
    return jnp.where(step < self.first, 1.0, scale).astype(jnp.float32)
