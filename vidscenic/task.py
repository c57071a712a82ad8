"""What a paper adds: a task owns the model, its loss and its predictions.

The training loop owns everything else. Between them pass pytrees only, so
nothing here knows about optimizers, devices or files.
"""

import abc
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax

PyTree = Any
Params = dict[str, Any]
ModelState = dict[str, Any]


class StepContext(NamedTuple):
  """What a loss may know about the step that it is part of.

  Attributes:
    step: int32 scalar, completed updates.
    rng: key of this batch, the same for all of its rows. Draw per example with
      `ops.masking.row_keys(ctx.rng, ctx.rows)`, so that the draws do not
      depend on sharding or accumulation.
    rows: int32[B], global row numbers of the batch; with streams a dict
      {stream: int32[B_stream]}.
    phase: what `Task.phase` returned; static, so a loss may branch on it.
    train: True in a training step, False in evaluation.
    scheduled: values of `config.schedules` at this step.
    ema_params: averaged parameters, or None when `config.ema.decay` is 0.
  """

  step: jax.Array
  rng: jax.Array
  rows: Any
  phase: Hashable = 0
  train: bool = True
  scheduled: dict[str, jax.Array] = {}  # noqa: RUF012, never mutated
  ema_params: PyTree = None


class LossOut(NamedTuple):
  """A loss as sums over the batch, so that parts of a batch can be added.

  loss = sum over names of scale * total(sum) / max(total(weight), 1), with
  totals over the whole global batch.

  Attributes:
    terms: {name: (sum, weight, scale)}; no gradient flows through weight.
    metrics: {name: (sum, count)}.
    model_state: new batch statistics and the like, {} if none.
  """

  terms: dict[str, tuple[jax.Array, jax.Array, Any]]
  metrics: dict[str, tuple[jax.Array, jax.Array]]
  model_state: ModelState


class Task(abc.ABC):
  """Base class: three methods are required, the rest have defaults."""

  @abc.abstractmethod
  def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of one row of a training batch, without the batch axis.

    The loop passes these fields (plus 'mask' and 'replaced') to the device,
    checks the data against them, and needs no data for a dry run. With
    streams: {stream: {field: shape}}.
    """

  @abc.abstractmethod
  def init(self, rng: jax.Array, batch: PyTree) -> tuple[Params, ModelState]:
    """Returns fresh parameters (plain nested dicts) and model state."""

  @abc.abstractmethod
  def loss(
    self,
    params: Params,
    model_state: ModelState,
    batch: PyTree,
    ctx: StepContext,
  ) -> LossOut:
    """Returns loss terms, metrics and the new model state."""

  def check_batch(self, batch: PyTree) -> None:  # noqa: B027, optional
    """Checks values on the host, where a wrong one can still be named.

    Args:
      batch: numpy rows of this process; shapes and types fit `batch_spec`.

    Raises:
      ValueError: names the field, the value and the remedy.
    """

  def predict(
    self,
    params: Params,
    model_state: ModelState,
    batch: PyTree,
    ctx: StepContext,
    carry: PyTree = None,
  ) -> tuple[dict[str, jax.Array], PyTree]:
    """Returns ({name: array}, carry); carry continues a stream of frames."""
    raise TypeError(f'{type(self).__name__} makes no predictions')

  def phase(self, step: int) -> Hashable:
    """Name of the phase of update `step`; pure and cheap, runs on the host."""
    del step
    return 0

  def frozen(self, phase: Hashable) -> Sequence:
    """Parameters that do not change in a phase.

    Returns:
      Regexes on paths such as 'encoder/block_0/mlp/up/kernel', or pairs
      (regex, n): only the first n layers of a scanned stack.
    """
    del phase
    return ()

  def never_trained(self) -> Sequence[str]:
    """Regexes of parameters without optimizer state and without average."""
    return ()

  def on_phase(self, state: PyTree, old: Hashable, new: Hashable) -> PyTree:
    """Changes the state before the first update of phase `new` (compiled).

    Shapes and dtypes must stay: checkpoints do not change between phases.
    """
    del old, new
    return state

  def lr_scale(self, step: jax.Array) -> Any:
    """Factor on the learning rate at a traced step (warm-up of a phase)."""
    del step
    return 1.0
