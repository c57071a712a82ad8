"""What the Perceivers of published size cost, before any is run."""

import functools

import pytest

from benchmarks import perceiver
from vidscenic.train import inspect


@functools.cache
def trace(name):
  """The traced forward pass of one example.

  Loops count as often as they run, so a scan over layers changes nothing but
  the time that this takes.
  """
  args = perceiver.parser().parse_args([name, '--scan'])
  run, shapes = perceiver.program(perceiver.make_task(name, args), False, 1)
  return run.trace(*shapes)


@pytest.mark.parametrize('name', perceiver.REFERENCE)
def test_models_do_the_work_of_the_reference(name):
  flops = sum(inspect.matmul_flops(trace(name)).values())
  assert flops / 1e9 == pytest.approx(perceiver.REFERENCE[name][0], rel=0.03)


def test_flow_of_a_patch_needs_less_than_a_gigabyte():
  compiled = trace('flow').lower().compile()
  # One attention matrix alone has 1.4 GiB.
  assert inspect.cost(compiled)['temp_bytes'] < 1e9


def test_unknown_model_is_refused(capsys):
  with pytest.raises(SystemExit):
    perceiver.main(['no_such_model'])
  assert "no model 'no_such_model'" in capsys.readouterr().err
