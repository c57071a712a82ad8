"""Parameter paths: the 'a/b/kernel' strings that all rules are written on.

Parameters are plain nested dicts. A leaf is *stacked* if one component of its
path is exactly `blocks`: equal blocks in one `nn.scan`, the leading axis being
the layer. Rules are regular expressions that are searched, not matched, so
anchors are the writer's choice.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

STACK = 'blocks'


def named_leaves(tree) -> dict[str, Any]:
  """{'a/b/kernel': leaf} in the order of `jax.tree.leaves`."""
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {_join(path): leaf for path, leaf in flat}


def map_named(fn: Callable[..., Any], tree, *rest):
  """`jax.tree.map` whose function gets the path first."""
  return jax.tree_util.tree_map_with_path(
    lambda path, *leaves: fn(_join(path), *leaves), tree, *rest
  )


def is_stacked(path: str) -> bool:
  """True if the leading axis of this leaf counts layers."""
  return STACK in path.split('/')


def compile_rules(
  regexes: Iterable[str],
  where: str,
  *,
  names: Iterable[str] | None = None,
) -> list[re.Pattern]:
  """Compiles regular expressions and finds mistakes in them.

  Args:
    regexes: the expressions, a sequence and not one string.
    where: the name of the config field or method that holds them.
    names: if given, every expression must be found in one of these paths.

  Raises:
    ValueError: names `where`, the expression and what is wrong with it.
  """
  if isinstance(regexes, str):
    raise ValueError(
      f'{where}={regexes!r}: must be a sequence of regular expressions, as in '
      f'({regexes!r},)'
    )
  return [compile_rule(regex, where, names=names) for regex in regexes]


def compile_rule(
  regex: str, where: str, *, names: Iterable[str] | None = None
) -> re.Pattern:
  """One expression, checked as in `compile_rules`."""
  try:
    rule = re.compile(regex)
  except (re.error, TypeError) as error:
    raise ValueError(
      f'{where}: {regex!r} is not a regular expression: {error}'
    ) from error
  if names is not None:
    names = list(names)
    if not any(rule.search(name) for name in names):
      shown = ', '.join(names[:8]) + (', ...' if len(names) > 8 else '')
      raise ValueError(
        f'{where}: {regex!r} matches no parameter; there are {len(names)}: '
        f'{shown}'
      )
  return rule


def found(rules: Iterable[re.Pattern], name: str) -> bool:
  """True if any rule is found in the path."""
  return any(rule.search(name) for rule in rules)


def dict_names(tree: Mapping[str, Any], prefix: str = '') -> list[str]:
  """The paths of a nested dict, whatever its leaves are."""
  names = []
  for key, child in tree.items():
    path = f'{prefix}{key}'
    if isinstance(child, Mapping):
      names += dict_names(child, f'{path}/')
    else:
      names.append(path)
  return names


def prune(
  tree: Mapping[str, Any],
  keep: Callable[[str], bool],
  *,
  keep_empty: bool = True,
) -> dict[str, Any]:
  """The nested dict with the leaves whose path is kept.

  Dicts that become empty disappear; dicts that were empty before stay with
  `keep_empty`.
  """

  def visit(node, prefix):
    kept = {}
    for key, child in node.items():
      path = f'{prefix}{key}'
      if not isinstance(child, Mapping):
        if keep(path):
          kept[key] = child
      elif not child:
        if keep_empty:
          kept[key] = {}
      elif rest := visit(child, f'{path}/'):
        kept[key] = rest
    return kept

  return visit(tree, '')


def _join(path) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')
