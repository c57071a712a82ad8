"""Parameters that stay bit-identical during a phase of training.

Which ones is said by rules: a regular expression on the parameter path, or
(expression, n) for the first n layers of a stacked leaf, one with a path
component `blocks` (see `paths.py`). A zero gradient is not enough: weight
decay and the decay of the moments still move the state (arXiv 2509.10156 trap;
measured: 5e-5 relative per step at rate 1e-3 and decay 0.05). So there are
three steps: `stop_frozen` before the loss (the backward pass disappears),
`zero_frozen` before the gradient norm, and `keep_frozen` on parameters,
optimizer state and EMA after the update.

`stop_frozen` of a partly frozen leaf joins its two slices again. Cotangents of
the frozen slice are then computed and dropped unless the model stops them too:
a model with scanned blocks splits its scan at n and puts a `stop_gradient`
between the two parts.
"""

import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vidscenic.train import paths

Rule = str | tuple[str, int]


def frozen_mask(params_shapes, rules: Sequence[Rule], where: str = 'frozen'):
  """Says for each parameter how much of it is frozen.

  Args:
    params_shapes: nested dict of arrays or ShapeDtypeStructs. Give the whole
      tree: rules may name parameters that are never trained. The mask is a
      nested dict too, so `optim.split_params` divides it like the parameters.
    rules: expressions searched in 'a/b/kernel', or (expression, n). If several
      match one leaf, the largest part is frozen. n = 0 freezes nothing.
    where: the origin of the rules, for messages.

  Returns:
    The same tree with Python values: False, True, or an int n with
    0 < n < size of the leading axis.

  Raises:
    ValueError: names the rule that matches nothing, that is no regular
      expression, whose n is negative or larger than a leaf's leading axis, or
      whose n meets a leaf that is not stacked.
  """
  leaves = paths.named_leaves(params_shapes)
  frozen = dict.fromkeys(leaves, 0)  # slices; all of a leaf is its size
  if isinstance(rules, str):
    raise ValueError(f'{where}={rules!r}: must be a sequence of rules')
  for rule in rules:
    regex, count = _parse(rule, where)
    pattern = paths.compile_rule(regex, where, names=leaves)
    for name, leaf in leaves.items():
      if pattern.search(name):
        part = True if count is None else _part(rule, name, leaf, where)
        frozen[name] = _larger(frozen[name], part)
  return paths.map_named(
    lambda name, _: False if frozen[name] == 0 else frozen[name], params_shapes
  )


def state_mask(state, params, mask):
  """Carries a mask over to the leaves of an optimizer state.

  Args:
    state: any tree, such as an optax state.
    params: the parameters that the optimizer sees, arrays or shapes.
    mask: their mask, of the same structure.

  Returns:
    A tree like `state`: leaves that belong to a parameter (see
    `param_leaf_paths`) have its mask value, all others False.
  """
  named = paths.named_leaves(mask)
  values = [
    False if name is None else named[name]
    for name in param_leaf_paths(state, params)
  ]
  return jax.tree.unflatten(jax.tree.structure(state), values)


def keep_frozen_state(new, old, params, mask):
  """`keep_frozen` for an optimizer state.

  Args:
    new, old: states after and before an update.
    params: the parameters that the optimizer sees, arrays or shapes.
    mask: their mask.

  Returns:
    `new`, in which the moments of frozen parameters are those of `old`. Counts
    that belong to no parameter go on.
  """
  return keep_frozen(new, old, state_mask(new, params, mask))


def param_leaf_paths(tree, params) -> list[str | None]:
  """Finds the parameter that each leaf of an optimizer state belongs to.

  A leaf belongs to a parameter if the dict keys that end its path are exactly
  the path of the parameter, and the shapes agree: `state[0].mu['a']['kernel']`
  belongs to 'a/kernel'; counts and factored moments belong to none.

  Args:
    tree: any tree, such as an optax state or the shapes of one.
    params: nested dict of arrays or shapes.

  Returns:
    One path or None per leaf, in the order of `jax.tree.leaves(tree)`.
  """
  shapes = {k: v.shape for k, v in paths.named_leaves(params).items()}
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  result = []
  for path, leaf in flat:
    keys = []
    for entry in reversed(path):
      if not isinstance(entry, jax.tree_util.DictKey):
        break
      keys.append(str(entry.key))
    name = '/'.join(reversed(keys))
    belongs = name in shapes and getattr(leaf, 'shape', None) == shapes[name]
    result.append(name if belongs else None)
  return result


def stop_frozen(params, mask):
  """Parameters of equal value that pass no gradient to their frozen part."""

  def stop(part, p):
    if isinstance(part, bool):
      return jax.lax.stop_gradient(p) if part else p
    return jnp.concatenate([jax.lax.stop_gradient(p[:part]), p[part:]])

  return jax.tree.map(stop, mask, params)


def zero_frozen(grads, mask):
  """Gradients with zeros in the frozen part, for norms over the rest."""
  zeros = jax.tree.map(jnp.zeros_like, grads)
  return keep_frozen(grads, zeros, mask)


def keep_frozen(new, old, mask):
  """`old` in the frozen part and `new` elsewhere, bit by bit.

  Args:
    new, old: trees of one structure, parameters or their averages.
    mask: their mask.

  Returns:
    The mixed tree. NaN in the frozen part of `new` does not get through.
  """

  def keep(part, n, o):
    if isinstance(part, bool):
      return o if part else n
    # A select and not a slice: an axis that is sharded stays where it is.
    layer = jnp.arange(n.shape[0]).reshape((-1,) + (1,) * (n.ndim - 1))
    return jnp.where(layer < part, o, n)

  return jax.tree.map(keep, mask, new, old)


def _parse(rule: Any, where: str) -> tuple[str, int | None]:
  if isinstance(rule, str):
    return rule, None
  if isinstance(rule, Sequence) and len(rule) == 2:
    regex, count = rule
    integral = isinstance(count, numbers.Integral)
    if isinstance(regex, str) and integral and not isinstance(count, bool):
      if count < 0:
        raise ValueError(f'{where}: {rule!r} has a negative number of layers')
      return regex, int(count)
  raise ValueError(
    f'{where}: {rule!r} must be a regular expression or (expression, number of '
    'layers)'
  )


def _part(rule, name, leaf, where) -> int | bool:
  """The mask value of one leaf under (expression, n)."""
  if not paths.is_stacked(name) or not leaf.shape:
    raise ValueError(
      f'{where}: {rule!r} matches {name!r}, which is not stacked: no component '
      f'of its path is {paths.STACK!r}'
    )
  count, size = int(rule[1]), leaf.shape[0]
  if count > size:
    raise ValueError(
      f'{where}: {rule!r} freezes {count} layers but {name!r} has {size}'
    )
  return True if count == size else count


def _larger(a: int | bool, b: int | bool) -> int | bool:
  # True is 1 in comparisons, hence not max().
  if a is True or b is True:
    return True
  return max(a, b)
