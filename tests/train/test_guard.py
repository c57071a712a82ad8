"""When a run stops, and when it goes back."""

import pytest

from vidscenic import config as vc
from vidscenic.train import guard


def make_guard(**fields):
  config = vc.base_config().guard
  config.update(fields)
  return guard.Guard(config)


def test_too_many_unreadable_examples_stop_the_run():
  watch = make_guard()
  watch.check_data(10, 1000)
  with pytest.raises(guard.TrainingFailed, match='11 of 1001.*repair'):
    watch.check_data(1, 1)


def test_one_bad_file_among_the_first_few_is_no_failure():
  make_guard().check_data(1, 2)


def test_counts_of_examples_survive_a_restart():
  watch, restarted = make_guard(), make_guard()
  watch.check_data(10, 1000)
  restarted.restore(watch.meta())
  with pytest.raises(guard.TrainingFailed, match='11 of 1001'):
    restarted.check_data(1, 1)


def test_rollbacks_begin_beyond_the_limit_and_end_with_a_remedy():
  watch = make_guard(max_bad_steps=3, max_rollbacks=2)
  assert not watch.must_roll_back(3)
  assert watch.must_roll_back(4)
  assert watch.must_roll_back(4)
  with pytest.raises(guard.TrainingFailed, match='after 2 rollbacks.*optim.lr'):
    watch.must_roll_back(4)
