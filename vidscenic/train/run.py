"""What a config builds: task, mesh, optimizer, and the shapes of everything.

Training, evaluation and the dry run all start from a `Run`. Building one needs
no data and allocates no parameters.
"""

import inspect
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from vidscenic import config as vc
from vidscenic import task as task_lib
from vidscenic.data import device
from vidscenic.train import optim, paths, schedules, sharding, step
from vidscenic.train import state as state_lib


class Run:
  """The parts of an experiment.

  Attributes:
    config: the resolved config.
    task: the experiment's task.
    mesh: all devices.
    optimizer: see `optim.make_optimizer`.
    state_shapes: TrainState of ShapeDtypeStructs that carry shardings.
    batch_shapes: the same for a global training batch.
    batch_sharding: how rows are spread.
  """

  def __init__(self, config: Any, devices: Sequence[Any] | None = None):
    """Builds everything.

    Args:
      config: a finalized config.
      devices: to run on; None: all devices of all processes.

    Raises:
      ValueError: a config that cannot run.
    """
    self.config = config
    if not config.task.factory:
      raise ValueError("task.factory is empty: want 'package.module:Task'")
    self.task: task_lib.Task = vc.build(
      config.task.factory, field='task.factory', **config.task.kwargs
    )
    self.mesh = sharding.make_mesh(config.mesh.to_dict(), devices)
    self.batch_sharding = sharding.batch_sharding(self.mesh)
    self.batch_shapes = self._batch_shapes()
    with jax.set_mesh(self.mesh):
      params, model_state = jax.eval_shape(self._init, self._one_row())
    self.optimizer = optim.make_optimizer(
      config.optim, params, config.steps, tuple(self.task.never_trained())
    )
    self.state_shapes = self._state_shapes(params, model_state)

  def _batch_shapes(self):
    config = self.config
    shards = sharding.num_batch_shards(self.mesh)
    streams = config.data.train.streams
    sizes = {name: part.batch_size for name, part in streams.items()}
    for name, size in (sizes or {'': config.batch_size}).items():
      if size % (config.accum_steps * shards):
        where = (
          f'data.train.streams.{name}.batch_size' if name else 'batch_size'
        )
        raise ValueError(
          f'{where}={size} is not a multiple of accum_steps='
          f'{config.accum_steps} times data*fsdp={shards} devices'
        )
    spec = self.task.batch_spec()
    if sizes and set(sizes) != set(spec):
      raise ValueError(
        f'data.train.streams {sorted(sizes)} but the task wants {sorted(spec)}'
      )
    return device.batch_shapes(
      spec, sizes or config.batch_size, self.batch_sharding
    )

  def _one_row(self):
    return jax.tree.map(
      lambda s: jax.ShapeDtypeStruct((1, *s.shape[1:]), s.dtype),
      self.batch_shapes,
    )

  def _init(self, batch):
    return self.task.init(jax.random.key(self.config.seed), batch)

  def _state_shapes(self, params, model_state):
    config, mesh = self.config, self.mesh
    whole = sharding.replicated(mesh)
    param_shardings = sharding.shardings_from_rules(
      params, config.sharding, mesh
    )
    trained, _ = optim.split_params(params, self.optimizer.never_trained)
    trained_shardings, _ = optim.split_params(
      param_shardings, self.optimizer.never_trained
    )
    opt_state = jax.eval_shape(self.optimizer.tx.init, trained)
    put = lambda shapes, shardings: jax.tree.map(
      lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
      shapes,
      shardings,
    )
    count = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    return state_lib.TrainState(
      step=count,
      skipped=count,
      params=put(params, param_shardings),
      opt_state=put(
        opt_state,
        sharding.shard_like(opt_state, trained, trained_shardings, mesh),
      ),
      model_state=put(model_state, jax.tree.map(lambda _: whole, model_state)),
      # float32: a decay of 0.9999 is lost in fewer bits.
      ema_params=put(_float32(trained), trained_shardings)
      if config.ema.decay
      else None,
      bad_steps=count,
    )

  def fresh_state(self) -> state_lib.TrainState:
    """Initializes on the devices, with what `init_from` names."""
    shardings = jax.tree.map(lambda s: s.sharding, self.state_shapes)
    with jax.set_mesh(self.mesh):
      return jax.jit(
        self._state_of, out_shardings=shardings, donate_argnums=(0, 1)
      )(*self.fresh_weights())

  def fresh_weights(self) -> tuple[task_lib.Params, task_lib.ModelState]:
    """New parameters and model state; over them what `init_from` names.

    Raises:
      ValueError: the factory of `init_from` gave what the model lacks.
    """
    shapes = self.state_shapes.params, self.state_shapes.model_state
    loaded = {}, {}
    if self.config.init_from.path:
      loaded = self._load()
      if jax.tree.leaves(shapes[1]) and not loaded[1]:
        logging.warning('init_from: batch statistics and the like start new')
    if all(map(_covers, loaded, shapes)):
      return loaded

    def init():
      batch = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype), self._one_row()
      )
      return self._init(batch)

    shardings = jax.tree.map(lambda s: s.sharding, shapes)
    with jax.set_mesh(self.mesh):
      fresh = jax.jit(init, out_shardings=shardings)()
    return tuple(map(_over, fresh, loaded))

  def _state_of(self, params, model_state):
    trained, _ = optim.split_params(params, self.optimizer.never_trained)
    zero = jnp.zeros((), jnp.int32)
    return state_lib.TrainState(
      step=zero,
      skipped=zero,
      params=params,
      opt_state=self.optimizer.tx.init(trained),
      model_state=model_state,
      ema_params=jax.tree.map(lambda p: p.astype(jnp.float32), trained)
      if self.config.ema.decay
      else None,
      bad_steps=zero,
    )

  def _load(self):
    """What `init_from` gives, checked: (parameters, model state).

    An importer is `load(path, target, **options)` and returns parameters. One
    that also takes `model_state`, the shapes of batch statistics and the like,
    is given them if the model has any and then returns a pair.
    """
    init = self.config.init_from
    shapes = self.state_shapes.params, self.state_shapes.model_state
    factory = vc.resolve(init.factory, 'init_from.factory')
    takes = inspect.signature(factory).parameters
    known = {n: init[n] for n in ('params', 'rules', 'ignore') if n in takes}
    if 'model_state' in takes and jax.tree.leaves(shapes[1]):
      known['model_state'] = shapes[1]
    loaded = vc.build(
      init.factory,
      init.path,
      shapes[0],
      field='init_from.factory',
      **known,
      **init.kwargs,
    )
    if 'model_state' not in known:
      loaded = loaded, {}
    return tuple(
      _placed(init.factory, *pair) for pair in zip(loaded, shapes, strict=True)
    )

  def compile_step(self, phase: Hashable) -> step.CompiledStep:
    """Compiles the training step of a phase."""
    fn = step.make_step_fn(
      self.task, self.optimizer, self.config, self.mesh, phase
    )
    return step.compile_step(
      fn, self.state_shapes, self.batch_shapes, self.mesh
    )

  def change_phase(
    self, state: state_lib.TrainState, old: Hashable, new: Hashable
  ) -> state_lib.TrainState:
    """Applies `Task.on_phase`, compiled; shapes must stay."""
    if type(self.task).on_phase is task_lib.Task.on_phase:
      return state
    shardings = jax.tree.map(lambda s: s.sharding, self.state_shapes)
    logging.info('phase %s -> %s', old, new)
    with jax.set_mesh(self.mesh):
      return jax.jit(
        lambda s: self.task.on_phase(s, old, new),
        out_shardings=shardings,
        donate_argnums=0,
      )(state)

  def evaluators(self) -> dict[str, Any]:
    """Builds the evaluators of `config.evals` and checks their data.

    Raises:
      ValueError, OSError: arguments or data that cannot be used; found here
        and not when the first evaluation is due.
    """
    scheduled = {
      name: schedules.make_schedule(
        spec, self.config.steps, where=f'schedules.{name}'
      )
      for name, spec in self.config.schedules.items()
    }
    result = {}
    for name, spec in self.config.evals.items():
      result[name] = vc.build(
        spec.factory,
        self.task,
        self.mesh,
        field=f'evals.{name}.factory',
        **spec.kwargs,
      )
      result[name].bind(f'evals.{name}', scheduled)
    return result

  def state_to_evaluate(
    self, state: state_lib.TrainState, params: str
  ) -> state_lib.TrainState:
    """The state as evaluators see it.

    Args:
      state: of training.
      params: 'params', or 'ema' to put the averages in their place.

    Returns:
      A state whose `ema_params`, if any, are whole trees, never-trained
      parameters included.
    """
    if state.ema_params is None:
      return state
    _, fixed = optim.split_params(state.params, self.optimizer.never_trained)
    average = optim.merge_params(state.ema_params, fixed)
    state = state._replace(ema_params=average)
    return state if params == 'params' else state._replace(params=average)


def _placed(factory, loaded, shapes):
  """Puts what a factory gave on the devices, if it is what the model wants."""
  wanted = paths.named_leaves(shapes)
  for name, leaf in paths.named_leaves(loaded).items():
    if name not in wanted:
      raise ValueError(f'{factory} gave {name!r}, which the model lacks')
    have, want = jax.eval_shape(lambda x: x, leaf), wanted[name]
    if (have.shape, have.dtype) != (want.shape, want.dtype):
      raise ValueError(
        f'{factory} gave {name} as {have.dtype}{list(have.shape)}, the '
        f'model wants {want.dtype}{list(want.shape)}'
      )
  return jax.tree.map(
    lambda x, like: jax.device_put(x, like.sharding),
    loaded,
    _underlay(shapes, loaded),
  )


def _covers(loaded, shapes):
  """Whether nothing is left to initialize."""
  return jax.tree.structure(loaded) == jax.tree.structure(shapes)


def _float32(tree):
  return jax.tree.map(
    lambda s: jax.ShapeDtypeStruct(s.shape, jnp.float32), tree
  )


def _underlay(shapes, loaded):
  """The part of `shapes` that `loaded` has."""
  return {
    name: _underlay(shapes[name], value)
    if isinstance(value, dict)
    else shapes[name]
    for name, value in loaded.items()
  }


def _over(fresh, loaded):
  """What was loaded, and the rest fresh."""
  names = set(paths.dict_names(loaded))
  return optim.merge_params(
    loaded, paths.prune(fresh, lambda name: name not in names)
  )
