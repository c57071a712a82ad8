"""Optimizers: what turns gradients into updates, and for which parameters.

One rule holds for all of them, the decoupled weight decay of `optax.adamw`:

  update = -lr(count) * multiplier * (direction + weight_decay(count) * param)

`direction` is Adam's (adamw), the momentum (sgd), the orthogonalised momentum
(muon, arXiv 2502.16982) or, for lamb (arXiv 1904.00962), Adam's direction and
the decay term together, times |param| / |that sum|. Without clipping of that
ratio and with the decay inside, as released with Perceiver IO.

Parameters are plain nested dicts with paths such as 'encoder/block_0/mlp/up/
kernel'; leaves below a component `blocks` hold one layer per slice of their
leading axis. Everything that is computed per tensor (lamb's ratio, muon's
orthogonalisation, layer-wise multipliers) is computed per slice there, so that
both layouts train alike. Gradient clipping is part of the training step: its
norm depends on what the phase trains.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from absl import logging

from vidscenic import config as config_lib
from vidscenic import config_checks
from vidscenic.train import gradient_transforms, paths, schedules


class ParamRow(NamedTuple):
  """One line of the parameter table.

  Attributes:
    path: 'a/b/kernel'.
    shape: of the whole leaf.
    lr_multiplier: factor on the learning rate, 0 if frozen; one per layer for
      a stacked leaf under layer-wise decay.
    decay: whether weight decay acts on it.
    frozen: never trained: no gradient, no moments, no average.
    rule: 'adam', 'lamb', 'sgd' or 'muon'; '' if frozen.
  """

  path: str
  shape: tuple[int, ...]
  lr_multiplier: float | tuple[float, ...]
  decay: bool
  frozen: bool
  rule: str


class Optimizer(NamedTuple):
  """An optimizer for the trained part of a parameter tree.

  Attributes:
    tx: acts on `split_params(params, never_trained)[0]`; its state is float32.
    lr: fn(count) -> float32[], the learning rate before multipliers.
    never_trained: regexes of the parameters that `tx` must not see.
    table: one row per parameter, frozen ones included.
  """

  tx: optax.GradientTransformation
  lr: schedules.Schedule
  never_trained: tuple[str, ...]
  table: tuple[ParamRow, ...]


def make_optimizer(
  config_optim: Mapping[str, Any],
  params_shapes,
  total_steps: int,
  never_trained: Sequence[str] = (),
) -> Optimizer:
  """Builds the optimizer that `config.optim` describes.

  Args:
    config_optim: fields of `base_config().optim`; absent ones take their
      defaults. muon uses `momentum` and `nesterov` for matrices (0.95 and True
      in the literature) and `b1`, `b2` for the rest.
    params_shapes: all parameters, arrays or ShapeDtypeStructs.
    total_steps: length of the run in updates.
    never_trained: regexes from the task, in addition to `config_optim.frozen`.

  Raises:
    ValueError: names the field, the value and what is allowed; also for
      expressions in `frozen`, `never_trained` and `lr_mult` that match nothing.
  """
  config = config_checks.completed(
    config_optim, config_lib.base_config().optim, 'optim'
  )
  _validate(config)
  lr = _scaled(config, 'lr', 'schedule', total_steps)
  weight_decay = _scaled(
    config, 'weight_decay', 'weight_decay_schedule', total_steps
  )
  table = describe(params_shapes, config, never_trained)
  rows = {row.path: row for row in table if not row.frozen}
  if not rows:
    raise ValueError(
      'nothing is left to train: optim.frozen and never_trained match all '
      f'{len(table)} parameters'
    )
  for regex in config['decay_exclude']:
    if not any(re.search(regex, row.path) for row in table):
      logging.warning('optim.decay_exclude: %r matches no parameter', regex)
  fixed = (*config['frozen'], *never_trained)
  trained, _ = split_params(params_shapes, fixed)

  steps = [_direction(config, trained, rows)]
  if config['weight_decay']:
    mask = paths.map_named(lambda path, _: rows[path].decay, trained)
    steps.append(optax.add_decayed_weights(weight_decay, mask))
  if config['name'] == 'lamb':
    steps.append(gradient_transforms.scale_by_trust_ratio())
  if any(row.lr_multiplier != 1.0 for row in rows.values()):
    factors = {path: row.lr_multiplier for path, row in rows.items()}
    steps.append(gradient_transforms.scale_leaves(factors))
  steps.append(optax.scale_by_learning_rate(lr))
  tx = gradient_transforms.in_float32(optax.chain(*steps))
  return Optimizer(tx, lr, fixed, tuple(table))


def optimizer_count(opt_state) -> jax.Array:
  """int32[]: updates applied so far, which is what `Optimizer.lr` wants.

  It is kept by the optimizer, so it does not count discarded updates if the
  old state is kept for them.

  Raises:
    ValueError: the state is not that of an `Optimizer`.
  """

  def is_count(x):
    return isinstance(x, optax.ScaleByScheduleState)

  parts = jax.tree.leaves(opt_state, is_leaf=is_count)
  found = [part for part in parts if is_count(part)]
  if len(found) != 1:
    raise ValueError(
      f'expected one learning rate count in the state, found {len(found)}'
    )
  return found[0].count


def split_params(
  params, regexes: Sequence[str], where: str = 'never_trained'
) -> tuple[dict, dict]:
  """Divides a nested dict of parameters, or of anything else of that shape.

  Args:
    params: nested dict.
    regexes: searched in paths such as 'a/b/kernel'.
    where: the origin of the expressions, for messages.

  Returns:
    (trainable, fixed), nested dicts without the other's leaves; `fixed` holds
    what any expression matches.

  Raises:
    ValueError: names an expression that matches nothing.
  """
  names = paths.dict_names(params)
  rules = paths.compile_rules(regexes, where, names=names)
  fixed = {name for name in names if paths.found(rules, name)}
  return (
    paths.prune(params, lambda name: name not in fixed),
    paths.prune(params, lambda name: name in fixed, keep_empty=False),
  )


def merge_params(trainable, fixed) -> dict:
  """Inverse of `split_params`.

  Raises:
    ValueError: a path is in both trees.
  """

  def merge(a, b, prefix):
    merged = dict(a)
    for key, value in b.items():
      if key not in merged:
        merged[key] = value
      elif isinstance(merged[key], Mapping) and isinstance(value, Mapping):
        merged[key] = merge(merged[key], value, f'{prefix}{key}/')
      else:
        raise ValueError(f'{prefix}{key!s} is in both trees')
    return merged

  return merge(trainable, fixed, '')


def describe(
  params_shapes,
  config_optim: Mapping[str, Any],
  never_trained: Sequence[str] = (),
) -> list[ParamRow]:
  """The parameter table, in the order of `jax.tree.leaves`.

  Args:
    params_shapes, config_optim, never_trained: as for `make_optimizer`.

  Raises:
    ValueError: as `make_optimizer`.
  """
  config = config_checks.completed(
    config_optim, config_lib.base_config().optim, 'optim'
  )
  _validate(config)
  leaves = paths.named_leaves(params_shapes)
  fixed = [
    *paths.compile_rules(config['frozen'], 'optim.frozen', names=leaves),
    *paths.compile_rules(never_trained, 'never_trained', names=leaves),
  ]
  exclude = paths.compile_rules(config['decay_exclude'], 'optim.decay_exclude')
  for_adam = paths.compile_rules(config['muon_exclude'], 'optim.muon_exclude')
  by_layer = _layer_multipliers(leaves, config)
  by_rule = _rule_multipliers(leaves, config)
  table = []
  for path, leaf in leaves.items():
    if paths.found(fixed, path):
      table.append(ParamRow(path, tuple(leaf.shape), 0.0, False, True, ''))
      continue
    decay = config['weight_decay'] > 0 and not paths.found(exclude, path)
    factor = by_layer[path] * by_rule[path]
    if np.ndim(factor):
      factor = tuple(float(f) for f in factor)
    rule = _rule(path, leaf.shape, config['name'], for_adam)
    table.append(ParamRow(path, tuple(leaf.shape), factor, decay, False, rule))
  return table


def _rule(path, shape, name, for_adam) -> str:
  if name != 'muon':
    return name.replace('adamw', 'adam')
  if paths.found(for_adam, path):
    return 'adam'
  axes = gradient_transforms.matrix_axes(path, shape)
  return 'adam' if axes is None else 'muon'


def _direction(config, trained, rows) -> optax.GradientTransformation:
  adam = optax.scale_by_adam(config['b1'], config['b2'], config['eps'])
  if config['name'] in ('adamw', 'lamb'):
    return adam
  if config['name'] == 'sgd':
    if not config['momentum']:
      return optax.identity()
    return optax.trace(config['momentum'], config['nesterov'])
  rules = paths.map_named(lambda path, _: rows[path].rule, trained)
  axes = {
    path: gradient_transforms.matrix_axes(path, row.shape)
    for path, row in rows.items()
    if row.rule == 'muon'
  }
  if not axes:
    raise ValueError(
      "optim.name='muon' but no trained parameter is a matrix; see "
      f'optim.muon_exclude={config["muon_exclude"]!r}'
    )
  muon = gradient_transforms.scale_by_muon(
    axes,
    {path: rows[path].shape for path in axes},
    momentum=config['momentum'],
    eps=config['eps'],
    nesterov=config['nesterov'],
  )
  return optax.partition(dict(muon=muon, adam=adam), rules)


def _rule_multipliers(leaves, config) -> dict[str, float]:
  where = 'optim.lr_mult'
  rules = [
    (paths.compile_rule(regex, where, names=leaves), float(factor))
    for regex, factor in config['lr_mult']
  ]
  return {
    path: next((f for rule, f in rules if rule.search(path)), 1.0)
    for path in leaves
  }


def _layer_multipliers(leaves, config) -> dict[str, float | np.ndarray]:
  """Layer-wise decay (BEiT, arXiv 2106.08254): d ** (depth + 1 - layer).

  Layer 0 is the stem, block i is layer i + 1 and everything else, such as a
  final norm and the head, layer depth + 1. A stacked leaf counts as a block if
  `layer_block` matches its path with block_0 in the place of blocks, so that
  one expression selects the same tower in both layouts.
  """
  rate = config['layer_decay']
  if rate == 1.0:
    return dict.fromkeys(leaves, 1.0)
  block = paths.compile_rule(config['layer_block'], 'optim.layer_block')
  stem = paths.compile_rule(
    config['layer_stem'], 'optim.layer_stem', names=leaves
  )
  layers, depths = {}, {}
  for path, leaf in leaves.items():
    unrolled = re.sub(rf'(^|/){paths.STACK}/', r'\1block_0/', path)
    if match := block.search(unrolled):
      if not (match[1] or '').isdecimal():
        raise ValueError(
          f'optim.layer_block={config["layer_block"]!r} finds {match[1]!r} in '
          f'{path!r} where it should find the index of a block'
        )
      tower = unrolled[: match.start(1)]
      if paths.is_stacked(path):
        layers[path], size = np.arange(leaf.shape[0]) + 1, leaf.shape[0]
      else:
        layers[path], size = int(match[1]) + 1, int(match[1]) + 1
      depths[tower] = max(depths.get(tower, 0), size)
    elif stem.search(path):
      layers[path] = 0
  if not depths:
    raise ValueError(
      f'optim.layer_block={config["layer_block"]!r} matches no block, but '
      f'optim.layer_decay={rate}'
    )
  if len(set(depths.values())) > 1:
    raise ValueError(
      f'optim.layer_block={config["layer_block"]!r} matches stacks of '
      f'different depth, {depths}; make it match one, as in '
      r"r'^encoder/block_(\d+)/'"
    )
  top = max(depths.values()) + 1
  return {path: rate ** (top - layers.get(path, top)) for path in leaves}


def _scaled(config, field, schedule, total_steps) -> schedules.Schedule:
  base = float(config[field])
  where = f'optim.{schedule}'
  spec = config[schedule]
  fn = schedules.make_schedule(spec, total_steps, where)
  for name in ('value', 'end', 'warmup_init', 'values'):
    if name in spec and np.any(np.asarray(spec[name]) < 0):
      raise ValueError(f'{where}.{name}={spec[name]!r}: must not be negative')
  return lambda count: base * fn(count)


def _validate(config) -> None:
  config_checks.check_optimizer(config)
  for field in ('decay_exclude', 'muon_exclude'):
    paths.compile_rules(config[field], f'optim.{field}')
  if config['layer_decay'] == 1.0:
    return
  for field in ('layer_stem', 'layer_block'):
    if not config[field]:
      raise ValueError(f"optim.{field}='': layer_decay needs it")
  groups = paths.compile_rule(config['layer_block'], 'optim.layer_block').groups
  if groups != 1:
    raise ValueError(
      f'optim.layer_block={config["layer_block"]!r} must have one group, the '
      f'index of the block; it has {groups}'
    )
