"""FLOPs of matrix products, read off a program in HLO's text form.

`inspect.matmul_flops` counts what was traced; this counts what a compiler was
given, or what is left after its optimisations: the proof that work which should
be gone is gone.
"""

import math
import re

_COMPUTATION = re.compile(r'^(ENTRY )?(%?[\w.-]+) (?:\(.*\) -> .*)?{\s*$')
_INSTRUCTION = re.compile(r'^\s+(?:ROOT )?(%?[\w.-]+) = (.*)$')
_KIND = re.compile(r'^(?:\(.*?\)|\S+) ([\w-]+)\(')
_SHAPE = re.compile(r'\w+\[([\d,]*)\]')
_CONTRACTING = re.compile(r'lhs_contracting_dims={([\d,]*)}')
_CALLED = re.compile(
  r'(?:calls|to_apply|body|condition|branch_computations)='
  r'(?:{([^}]*)}|(%?[\w.-]+))'
)
_LIBRARY = re.compile(r'custom_call_target="[^"]*(?:matmul|gemm|dot)', re.I)


def dot_flops(text: str) -> int:
  """FLOPs of all `dot` instructions that run, two per multiply-add.

  Args:
    text: `lowered.as_text('hlo')` or `compiled.as_text()` of a program.

  Raises:
    ValueError: matrix products in a loop, which run an unknown number of times,
      or a call of a library's product, whose FLOPs the text does not tell.
  """
  computations, entry = _parse(text)
  found: dict[str, int] = {}

  def count(name):
    if name not in found:
      total = 0
      for kind, line, own in computations[name]:
        inner = sum(count(called) for called in _called(line))
        if kind == 'while' and inner:
          raise ValueError(
            f'{name} has matrix products in a loop: count a program without '
            'scans'
          )
        total += own + inner
      found[name] = total
    return found[name]

  return count(entry)


def _parse(text):
  """({computation: [(kind, line, FLOPs of its own)]}, name of the entry)."""
  computations, entry, current, shapes = {}, '', '', {}
  for line in text.splitlines():
    if head := _COMPUTATION.match(line):
      current = head[2].lstrip('%')
      computations[current] = []
      entry = current if head[1] else entry
    elif current and (parts := _INSTRUCTION.match(line)):
      name, rest = parts[1].lstrip('%'), parts[2]
      kind = _KIND.match(rest)
      if kind is None:
        continue
      kind = kind[1]
      shape = _SHAPE.match(rest)
      shapes[name] = _numbers(shape[1]) if shape else None
      if kind == 'custom-call' and _LIBRARY.search(rest):
        raise ValueError(f'{name} calls a library: {rest[:200]}')
      own = _dot(rest, shapes) if kind == 'dot' else 0
      computations[current].append((kind, rest, own))
  return computations, entry


def _dot(line, shapes):
  """FLOPs of one product."""
  first = re.search(r' dot\(\s*(?:\w+\[[\d,]*\]\S* )?(%?[\w.-]+)', line)[1]
  lhs = shapes[first.lstrip('%')]
  depth = math.prod(lhs[i] for i in _numbers(_CONTRACTING.search(line)[1]))
  return 2 * math.prod(_numbers(_SHAPE.match(line)[1])) * depth


def _called(line):
  for several, one in _CALLED.findall(line):
    for name in (several or one).split(','):
      yield name.strip().lstrip('%')


def _numbers(text):
  return [int(n) for n in text.split(',') if n]
