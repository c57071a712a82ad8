"""Conversion of weights: what happens to values, types and shapes."""

import re

import numpy as np
import pytest

from tests.importers import arrays
from vidscenic.importers import transforms, tree


def test_same_number_of_values_is_not_reshaped_unless_asked():
  source, target = {'w': arrays.numbers(4, 6)}, {'w': arrays.leaf(6, 4)}
  with pytest.raises(ValueError, match=r'shape \[4, 6\], the model wants'):
    tree.convert(source, target, (('w', 'w'),))
  got, _ = tree.convert(source, target, (('w', 'w', transforms.to_target),))
  np.testing.assert_array_equal(got['w'], source['w'].reshape(6, 4))


@pytest.mark.parametrize(
  ('have', 'want', 'values', 'lossy'),
  [
    ('float16', 'float32', [1.5, 0.1], False),
    ('float64', 'float32', [1.5, -2.0], False),
    ('float64', 'float32', [0.1, np.nan], True),
    ('>f4', 'float32', [1.5, 0.1], False),
    ('int64', 'int32', [3, -7], False),
  ],
)
def test_casts_are_reported_and_lost_digits_too(have, want, values, lossy):
  source = {'w': np.array(values, have)}
  got, report = tree.convert(
    source, {'w': arrays.leaf(2, dtype=want)}, (('w', 'w'),)
  )
  assert got['w'].dtype == want
  np.testing.assert_array_equal(got['w'], np.array(values, have).astype(want))
  assert report.lossy == (('w',) if lossy else ())
  assert ('lost digits' in str(report)) == lossy
  assert list(report.cast) == ['w']


def test_bfloat16_counts_as_float():
  ml_dtypes = pytest.importorskip('ml_dtypes')
  half = np.array([1.5, 3.0], ml_dtypes.bfloat16)
  got, report = tree.convert({'w': half}, {'w': arrays.leaf(2)}, (('w', 'w'),))
  np.testing.assert_array_equal(got['w'], np.float32([1.5, 3.0]))
  assert report.lossy == ()
  fine = {'w': np.float32([1.0, 1.001])}
  target = {'w': arrays.leaf(2, dtype=ml_dtypes.bfloat16)}
  _, report = tree.convert(fine, target, (('w', 'w'),))
  assert report.cast == {'w': 'float32 -> bfloat16'}
  assert report.lossy == ('w',)


@pytest.mark.parametrize(
  ('values', 'want', 'message'),
  [
    (np.ones(2, np.int32), 'float32', 'type int32, the model wants float32'),
    (np.ones(2, np.float32), 'int32', 'type float32, the model wants int32'),
    (np.ones(2, bool), 'float32', 'type bool'),
    (np.array(['a', 'b']), 'float32', 'type <U1'),
    (np.array([1, 2**40]), 'int32', 'int64 values that int32 cannot hold'),
    (np.array([1, 1e300]), 'float32', 'float64 values too large for float32'),
  ],
)
def test_values_of_another_kind_are_refused(values, want, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    tree.convert(
      {'w': values}, {'w': arrays.leaf(2, dtype=want)}, (('w', 'w'),)
    )


def test_tables_of_another_grid_are_resized_on_request():
  table = np.arange(4, dtype=np.float32).reshape(1, 4, 1)
  target = {'position': {'table': arrays.leaf(4, 2, 1)}}
  rules = (('pos', 'position/table', transforms.to_target),)

  def nearest(array, shape):  # the grid of the file is known: 2 x 2
    return array.reshape(2, 2, 1).repeat(shape[0] // 2, axis=0)

  with pytest.raises(ValueError, match=r'shape \[1, 4, 1\]'):
    tree.convert({'pos': table}, target, rules)
  got, report = tree.convert(
    {'pos': table}, target, rules, resize=((r'position/.*', nearest),)
  )
  np.testing.assert_array_equal(
    got['position']['table'][..., 0], [[0, 1], [0, 1], [2, 3], [2, 3]]
  )
  assert 'resized position/table from [1, 4, 1] to [4, 2, 1]' in str(report)
  with pytest.raises(ValueError, match=r'resized to \[1, 1\], the model wants'):
    tree.convert(
      {'pos': table},
      target,
      rules,
      resize=(('.*', lambda array, shape: array[0, :1]),),
    )


def test_table_that_fits_is_not_resized():
  source, target = {'p': arrays.numbers(4, 2)}, {'p': arrays.leaf(4, 2)}
  got, report = tree.convert(
    source, target, (('p', 'p'),), resize=(('p', lambda a, s: a * 0),)
  )
  np.testing.assert_array_equal(got['p'], source['p'])
  assert report.resized == {}


def test_reshaping_must_come_last():
  with pytest.raises(ValueError, match='to_target must be the last'):
    tree.convert(
      {'w': arrays.numbers(4)},
      {'w': arrays.leaf(2, 2)},
      (('w', 'w', (transforms.to_target, transforms.squeeze)),),
    )
