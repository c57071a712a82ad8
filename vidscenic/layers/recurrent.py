"""Recurrence over the time axis: state in, state out.

`scan_time` runs a step module over a clip with one compiled step, whatever the
number of frames. Since it takes and returns the state, a clip can be run in
one go, in chunks, or frame by frame (streaming) with the same result: one
frame is `step(state, frame)` itself.
"""

from typing import Any

import flax.linen as nn


def scan_time(
  step: nn.Module,
  state: Any,
  inputs: Any,
  *,
  broadcast: tuple = (),
  time_axis: int = 1,
  remat: bool = False,
  unroll: int = 1,
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
    unroll: steps per iteration of the compiled loop.
    **static: Python values for every call, such as train=True.

  Returns:
    (last state, outputs with a time axis). Dropout differs between times;
    values that a step sows into 'intermediates' get a leading time axis.
  """

  def body(step, state, inputs, broadcast):
    return step(state, inputs, *broadcast, **static)

  if remat:
    # The loop already keeps XLA from merging both computations of a step.
    body = nn.remat(body, prevent_cse=False)
  run = nn.scan(
    body,
    variable_broadcast='params',
    variable_axes={'intermediates': 0},
    split_rngs={'params': False, 'dropout': True},
    in_axes=(time_axis, nn.broadcast),
    out_axes=time_axis,
    unroll=unroll,
  )
  return run(step, state, inputs, broadcast)
