"""One training step: gradients, guard, update, averages, metrics.

The gradient is that of the loss of `task.LossOut` over the whole global batch,
for any number of microbatches: weights are summed over all microbatches first,
then each microbatch adds `scale * sum / total weight`. (Averaging microbatch
means is wrong as soon as their weights differ.)
"""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vidscenic import task as task_lib
from vidscenic.train import freezing, inspect, optim, schedules, sharding
from vidscenic.train import state as state_lib

PyTree = Any
Metrics = dict[str, tuple[jax.Array, jax.Array]]


def make_step_fn(
  task: task_lib.Task,
  optimizer: optim.Optimizer,
  config: Any,
  mesh: Mesh,
  phase: Hashable = 0,
) -> Callable[[state_lib.TrainState, PyTree], tuple[Any, Metrics]]:
  """Returns the step of one phase as a function to compile.

  Args:
    task: gives the loss, the frozen set and the learning rate factor.
    optimizer: from `optim.make_optimizer`.
    config: the resolved config.
    mesh: where the rows of a batch live.
    phase: static; one compiled step per phase.

  Returns:
    fn(state, batch) -> (state, {name: (sum, count)}). A non-finite update
    changes `step` and `bad_steps` only, and its metrics count nothing.
  """
  accum = config.accum_steps
  ema_decay = schedules.make_schedule(
    config.ema.schedule, config.steps, 'ema.schedule'
  )
  scheduled = {
    name: schedules.make_schedule(spec, config.steps, f'schedules.{name}')
    for name, spec in config.schedules.items()
  }

  def step_fn(state, batch):
    index = state.step + state.skipped
    rng = jax.random.fold_in(jax.random.key(config.seed), index)
    trained, fixed = optim.split_params(state.params, optimizer.never_trained)
    frozen, _ = optim.split_params(
      freezing.frozen_mask(state.params, task.frozen(phase)),
      optimizer.never_trained,
    )
    ema = state.ema_params
    context = task_lib.StepContext(
      step=state.step,
      rng=rng,
      rows=None,
      phase=phase,
      train=True,
      scheduled={name: fn(state.step) for name, fn in scheduled.items()},
      ema_params=None if ema is None else optim.merge_params(ema, fixed),
    )

    def run_loss(trained, model_state, batch, rows):
      params = optim.merge_params(freezing.stop_frozen(trained, frozen), fixed)
      context_ = context._replace(rows=rows)
      return task.loss(params, model_state, batch, context_)

    grads, loss, out = _gradients(
      run_loss, trained, state.model_state, batch, accum, mesh
    )
    grads = freezing.zero_frozen(grads, frozen)
    norm = optax.tree.norm(grads)
    if config.optim.clip_norm:
      scale = jnp.minimum(1.0, config.optim.clip_norm / (norm + 1e-12))
      grads = jax.tree.map(lambda g: g * scale, grads)
    updates, opt_state = optimizer.tx.update(grads, state.opt_state, trained)
    factor = task.lr_scale(state.step)
    updates = jax.tree.map(lambda u: u * factor, updates)
    new = freezing.keep_frozen(
      optax.apply_updates(trained, updates), trained, frozen
    )
    opt_state = freezing.keep_frozen_state(
      opt_state, state.opt_state, trained, frozen
    )
    if ema is not None:
      decay = config.ema.decay * ema_decay(state.step)
      averaged = jax.tree.map(
        lambda a, p: decay * a + (1 - decay) * p.astype(a.dtype), ema, new
      )
      averaged = freezing.keep_frozen(averaged, ema, frozen)
    else:
      averaged = None

    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    keep = lambda new, old: jax.tree.map(
      lambda a, b: jnp.where(finite, a, b), new, old
    )
    new_state = state_lib.TrainState(
      step=state.step + 1,
      skipped=state.skipped,
      params=optim.merge_params(keep(new, trained), fixed),
      opt_state=keep(opt_state, state.opt_state),
      model_state=keep(out.model_state, state.model_state),
      ema_params=None if ema is None else keep(averaged, ema),
      bad_steps=jnp.where(finite, 0, state.bad_steps + 1),
    )
    one = jnp.ones((), jnp.float32)
    count = optim.optimizer_count(state.opt_state)
    metrics = {
      **out.metrics,
      **{f'loss_{n}': (t[0], t[1]) for n, t in out.terms.items()},
      'loss': (loss, one),
      'grad_norm': (norm, one),
      'lr': (optimizer.lr(count) * factor, one),
    }
    metrics = jax.tree.map(
      lambda v: jnp.where(finite, jnp.asarray(v, jnp.float32), 0.0), metrics
    )
    metrics['discarded'] = (1.0 - finite.astype(jnp.float32), one)
    metrics['replaced'] = _replaced(batch)
    metrics['bad_steps'] = (new_state.bad_steps.astype(jnp.float32), one)
    return new_state, metrics

  return step_fn


class CompiledStep(NamedTuple):
  """A step that is ready to run.

  Attributes:
    run: fn(state, batch) -> (state, metrics); the state is donated.
    flops: {'float32': matmul FLOPs, ...} of one step over all devices.
  """

  run: jax.stages.Compiled
  flops: dict[str, float]


def compile_step(
  step_fn: Callable, state: PyTree, batch: PyTree, mesh: Mesh
) -> CompiledStep:
  """Compiles a step ahead of time, with the state donated.

  Args:
    step_fn: from `make_step_fn`.
    state: ShapeDtypeStructs that carry shardings.
    batch: ShapeDtypeStructs of the global batch that carry shardings.
    mesh: the mesh.
  """
  shardings = jax.tree.map(lambda x: x.sharding, state)
  with jax.set_mesh(mesh):
    traced = jax.jit(
      step_fn,
      out_shardings=(shardings, sharding.replicated(mesh)),
      donate_argnums=0,
    ).trace(state, batch)
    return CompiledStep(traced.lower().compile(), inspect.matmul_flops(traced))


# --- private ---


def _gradients(run_loss, trained, model_state, batch, accum, mesh):
  """Returns (gradients, loss, LossOut with sums over the whole batch)."""

  def objective(trained, model_state, batch, rows, weights):
    out = run_loss(trained, model_state, batch, rows)
    if not isinstance(out, task_lib.LossOut):
      raise TypeError(f'Task.loss must return a LossOut, got {type(out)}')
    loss = _total_loss(out, weights or {n: t[1] for n, t in out.terms.items()})
    return loss, out._replace(
      terms={n: (t[0], t[1]) for n, t in out.terms.items()}
    )

  grad_fn = jax.value_and_grad(objective, has_aux=True)
  rows = jax.tree.map(jnp.arange, _num_rows(batch))
  if accum == 1:
    (loss, out), grads = grad_fn(trained, model_state, batch, rows, None)
    return grads, loss, out

  micro = jax.tree.map(lambda x: _split_rows(x, accum, mesh), (batch, rows))

  def weights_of(totals, part):
    out = run_loss(trained, model_state, *part)
    weights = {n: jnp.asarray(t[1], jnp.float32) for n, t in out.terms.items()}
    return jax.tree.map(jnp.add, totals, weights), None

  # Only the weights leave this loop, so the compiler drops the forward pass.
  first = jax.tree.map(lambda x: x[0], micro)
  shapes = jax.eval_shape(
    lambda t, p: {
      k: v[1] for k, v in run_loss(t, model_state, *p).terms.items()
    },
    trained,
    first,
  )
  zeros = {n: jnp.zeros((), jnp.float32) for n in shapes}
  weights, _ = jax.lax.scan(weights_of, zeros, micro)

  def add(carry, part):
    grads, loss, model_state, sums = carry
    (part_loss, out), part_grads = grad_fn(trained, model_state, *part, weights)
    plus = lambda a, b: jax.tree.map(
      lambda x, y: x + jnp.asarray(y, x.dtype), a, b
    )
    carry = (
      plus(grads, part_grads),
      loss + part_loss,
      out.model_state,
      plus(sums, (out.terms, out.metrics)),
    )
    return carry, None

  (_, out_shape), _ = jax.eval_shape(
    grad_fn, trained, model_state, *first, weights
  )
  start = (
    # float32 whatever the parameters are, or sums would lose small parts.
    jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), trained),
    jnp.zeros((), jnp.float32),
    model_state,
    jax.tree.map(
      lambda s: jnp.zeros(s.shape, jnp.float32),
      (out_shape.terms, out_shape.metrics),
    ),
  )
  (grads, loss, model_state, (terms, metrics)), _ = jax.lax.scan(
    add, start, micro
  )
  return grads, loss, task_lib.LossOut(terms, metrics, model_state)


def _total_loss(out, weights):
  total = jnp.zeros((), jnp.float32)
  for name, (value, _, scale) in sorted(out.terms.items()):
    weight = jax.lax.stop_gradient(jnp.asarray(weights[name], jnp.float32))
    total += scale * jnp.asarray(value, jnp.float32) / jnp.maximum(weight, 1.0)
  return total


def _num_rows(batch):
  """Rows of a batch, or {stream: rows}."""
  if 'mask' in batch:
    return batch['mask'].shape[0]
  return {name: part['mask'].shape[0] for name, part in batch.items()}


def _split_rows(x, accum, mesh):
  """[B, ...] -> [A, B / A, ...]; row i goes to microbatch i mod A.

  So every device keeps its own rows and nothing moves between devices.
  """
  x = x.reshape(x.shape[0] // accum, accum, *x.shape[1:]).swapaxes(0, 1)
  spec = PartitionSpec(None, sharding.BATCH_AXES)
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def _replaced(batch):
  parts = [batch] if 'mask' in batch else list(batch.values())
  total = sum(part['replaced'].sum() for part in parts)
  rows = sum(part['replaced'].size for part in parts)
  return total.astype(jnp.float32), jnp.asarray(rows, jnp.float32)
