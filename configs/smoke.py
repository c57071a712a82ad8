"""Masked video modelling on synthetic clips: the first run of a newcomer.

  python main.py --config=configs/smoke.py --workdir=runs/smoke

About two minutes on 2 CPU cores. The experiment is that of the template
project, whose config says what to expect; `make train` runs it under this name.
"""

from projects._template.configs import synthetic


def get_config(arg=''):
  """Argument: steps, the length of the run (smoke.py:steps=1000)."""
  return synthetic.get_config(arg)
