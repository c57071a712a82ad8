"""Recurrence over the time axis: state in, state out.

`scan_time` runs a step module over a clip with one compiled step, whatever the
number of frames. Since it takes and returns the state, a clip can be run in
one go, in chunks, or frame by frame (streaming) with the same result: one
frame is `step(state, frame)` itself.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def scan_time(
  step: nn.Module,
  state: Any,
  inputs: Any,
  *,
  broadcast: tuple = (),
  time_axis: int = 1,
  remat: bool = False,
  carry: Sequence[str] = (),
  **static,
):
  """state, output = step(state, input) along the time axis.

  To be called from a Linen module that owns `step`, whose parameters (the same
  at every time) stay under its own name.

  Args:
    step: module with __call__(state, input, *broadcast, **static) that returns
      (state, output); state keeps its structure, shapes and dtypes.
    state: first state, a tree.
    inputs: tree of arrays with a time axis of one length, which `step` gets
      without that axis; None is a valid leaf.
    broadcast: arrays or trees of them, the same at every time.
    time_axis: where time is, in inputs and in the outputs.
    remat: compute a step again in the backward pass instead of keeping its
      activations; then memory for T steps is that of T states and one step.
    carry: further collections of the step, such as 'batch_stats'. Where they
      are mutable, what a step writes is what the next one reads.
    **static: Python values for every call, such as train=True.

  Returns:
    (last state, outputs with a time axis). Every random stream of the step,
    'dropout' or another, differs between times, except 'params'. What a step
    sows into 'intermediates' or 'attention_weights' gets a leading time axis.
  """

  def body(step, state, inputs, broadcast):
    return step(state, inputs, *broadcast, **static)

  if remat:
    # The loop already keeps XLA from merging both computations of a step.
    body = nn.remat(body, prevent_cse=False)
  # Flax wants what nobody may change to be no part of what a loop carries.
  changing = [name for name in carry if step.is_mutable_collection(name)]
  fixed = [name for name in carry if name not in changing]
  if changing and step.is_initializing():
    # What a loop carries has to exist before it.
    first = jax.tree.map(lambda x: jnp.take(x, 0, axis=time_axis), inputs)
    step(state, first, *broadcast, **static)
  run = nn.scan(
    body,
    variable_broadcast=['params', *fixed],
    variable_axes={'intermediates': 0, 'attention_weights': 0},
    variable_carry=changing,
    split_rngs={'params': False, nn.DenyList('params'): True},
    in_axes=(time_axis, nn.broadcast),
    out_axes=time_axis,
  )
  return run(step, state, inputs, broadcast)
