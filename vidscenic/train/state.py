"""Everything that a checkpoint must hold to continue a run exactly."""

from typing import Any, NamedTuple

import jax


class TrainState(NamedTuple):
  """State of a run after `step` updates.

  The batch of the next update is number `step + skipped` of the stream and its
  random key is folded from the same number: there is no other data position
  and no stored key.

  Attributes:
    step: int32 scalar, completed updates, discarded ones included.
    skipped: int32 scalar, batches left out after rollbacks.
    params: nested dicts of arrays.
    opt_state: optax state over the trained parameters.
    model_state: batch statistics and the like, {} if none.
    ema_params: average of the trained parameters, or None.
    bad_steps: int32 scalar, updates discarded in a row.
  """

  step: jax.Array
  skipped: jax.Array
  params: Any
  opt_state: Any
  model_state: Any
  ema_params: Any
  bad_steps: jax.Array
