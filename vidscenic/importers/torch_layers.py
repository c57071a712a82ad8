"""Rules for layers of PyTorch models, to be put into `tree.convert`.

All take a regex of the published name without its last part, and the path of
our layer, which may refer to groups of the regex.
"""

from vidscenic.importers import transforms

_QKV = ('query', 'key', 'value')


def linear(theirs: str, ours: str) -> tuple:
  """A Linear layer [out, in]; heads are split or joined as in the target."""
  return (
    (rf'{theirs}\.weight', f'{ours}/kernel', transforms.LINEAR),
    (rf'{theirs}\.bias', f'{ours}/bias', transforms.to_target),
  )


def layer_norm(theirs: str, ours: str) -> tuple:
  """A LayerNorm, or any norm with weight and bias."""
  return (
    (rf'{theirs}\.weight', f'{ours}/scale'),
    (rf'{theirs}\.bias', f'{ours}/bias'),
  )


def conv(theirs: str, ours: str) -> tuple:
  """A convolution [out, in, ...], also one that embeds patches."""
  return (
    (rf'{theirs}\.weight', f'{ours}/kernel', transforms.conv),
    (rf'{theirs}\.bias', f'{ours}/bias'),
  )


def fused_qkv(theirs: str, ours: str) -> tuple:
  """One Linear layer for queries, keys and values, in this order.

  Args:
    theirs: regex of its name.
    ours: path of the attention layer.
  """
  rules = []
  for last, name, steps in (
    ('weight', 'kernel', transforms.LINEAR),
    ('bias', 'bias', (transforms.to_target,)),
  ):
    parts = transforms.split([f'{part}/{name}' for part in _QKV])
    rules.append((rf'{theirs}\.{last}', ours, (parts, *steps)))
  return tuple(rules)
