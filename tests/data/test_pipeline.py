"""The stream of batches is a function of (seed, batch number)."""

import numpy as np
import pytest

from tests.data import numbered
from vidscenic.data import pipeline


def test_stream_depends_on_the_seed_only():
  numbered.assert_same(
    numbered.take(numbered.spec_of(), 4), numbered.take(numbered.spec_of(), 4)
  )
  other = numbered.take(numbered.spec_of(), 4, seed=2)
  assert any(
    (a['index'] != b['index']).any()
    for a, b in zip(numbered.take(numbered.spec_of(), 4), other, strict=True)
  )


EACH_KIND = pytest.mark.parametrize('kind', numbered.KINDS)


def rows_of(kind, rows):
  return {'a': rows, 'b': rows} if kind == 'streams' else rows


@EACH_KIND
def test_resuming_is_slicing(kind):
  spec = numbered.spec_of(**numbered.KINDS[kind])
  numbered.assert_same(
    numbered.flat(numbered.take(spec, 7)[4:]),
    numbered.flat(numbered.take(spec, 3, start=4)),
  )
  rows = rows_of(kind, range(4, 8))
  numbered.assert_same(
    numbered.flat(numbered.take(spec, 7, rows=rows)[4:]),
    numbered.flat(numbered.take(spec, 3, rows=rows, start=4)),
  )


def test_workers_resume_like_threads():
  want = numbered.take(numbered.spec_of(), 7)[4:]
  spec = numbered.spec_of(num_workers=2)
  numbered.assert_same(want, numbered.take(spec, 3, start=4))
  half = numbered.take(spec, 3, rows=range(4, 8), start=4)
  numbered.assert_same([{k: v[4:] for k, v in b.items()} for b in want], half)


def test_workers_resume_mixtures_and_streams_like_threads():
  streams = numbered.KINDS['streams']['streams']  # of which b is a mixture
  want = numbered.take(numbered.spec_of(streams=streams), 7)[4:]
  streams = {**streams, 'b': {**streams['b'], 'num_workers': 2}}
  numbered.assert_same(
    numbered.flat(want),
    numbered.flat(numbered.take(numbered.spec_of(streams=streams), 3, start=4)),
  )


def test_workers_leave_jax_on_the_cpu(monkeypatch):
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  spec = numbered.spec_of(
    num_workers=1, transform=f'{numbered.__name__}:Platform'
  )
  (batch,) = numbered.take(spec, 1)
  assert batch['is_cpu'].all()


@pytest.mark.parametrize('changes', [{'num_threads': 3}, {'num_workers': 2}])
def test_readers_do_not_change_the_batches(changes):
  numbered.assert_same(
    numbered.take(numbered.spec_of(num_threads=1), 4),
    numbered.take(numbered.spec_of(**changes), 4),
  )


@EACH_KIND
def test_rows_of_processes_make_up_the_global_batch(kind):
  spec = numbered.spec_of(**numbered.KINDS[kind])
  whole = numbered.flat(numbered.take(spec, 5))
  parts = [
    numbered.flat(
      numbered.take(spec, 5, rows=rows_of(kind, range(p * 2, p * 2 + 2)))
    )
    for p in range(4)
  ]
  joined = [
    {k: np.concatenate([p[i][k] for p in parts]) for k in whole[i]}
    for i in range(5)
  ]
  numbered.assert_same(whole, joined)


def test_processes_draw_different_augmentations():
  first, second = (
    numbered.take(numbered.spec_of(), 3, rows=range(p, p + 4)) for p in (0, 4)
  )
  for a, b in zip(first, second, strict=True):
    assert not np.intersect1d(a['sampled'], b['sampled']).size


@pytest.mark.parametrize('small', [0, 20])
def test_every_epoch_holds_every_row_once_in_a_new_order(small, monkeypatch):
  monkeypatch.setattr(pipeline, '_SMALL_SOURCE', small)  # both ways to shuffle
  batches = numbered.take(numbered.spec_of(), 10, batch_size=4)
  rows = np.concatenate([b['index'] for b in batches])
  first, second = rows[:20], rows[20:]
  assert sorted(first) == sorted(second) == list(range(20))
  assert (first != second).any()


def test_mixture_follows_its_weights():
  part = {
    'source': f'{numbered.__name__}:Rows',
    'transform': f'{numbered.__name__}:Noise',
  }
  spec = numbered.spec_of(
    mixture={
      'a': {**part, 'weight': 1.0},
      'b': {**part, 'weight': 3.0, 'source_kwargs': {'offset': 100}},
    }
  )
  rows = np.concatenate([b['index'] for b in numbered.take(spec, 50)])
  assert np.mean(rows >= 100) == pytest.approx(0.75, abs=0.01)


def test_adding_a_source_leaves_the_others_order():
  part = {
    'source': f'{numbered.__name__}:Rows',
    'transform': f'{numbered.__name__}:Noise',
  }
  far = {**part, 'source_kwargs': {'offset': 100}}
  one = numbered.spec_of(mixture={'a': part, 'b': far})
  two = numbered.spec_of(mixture={'a': part, 'b': far, 'c': far})
  rows = [
    [i for b in numbered.take(s, 9) for i in b['index'] if i < 100][:20]
    for s in (one, two)
  ]
  np.testing.assert_array_equal(*rows)


def test_repeats_that_processes_would_cut_are_refused():
  with pytest.raises(ValueError, match='repeats=4 must divide'):
    numbered.take(numbered.spec_of(repeats=4), 1, rows=range(2))


def test_streams_have_their_own_batch_sizes():
  part = {
    'source': f'{numbered.__name__}:Rows',
    'transform': f'{numbered.__name__}:Noise',
  }
  spec = numbered.spec_of(
    streams={
      'labelled': {**part, 'batch_size': 2},
      'unlabelled': {**part, 'batch_size': 6},
    }
  )
  (batch,) = numbered.take(spec, 1)
  assert batch['labelled']['index'].shape == (2,)
  assert batch['unlabelled']['index'].shape == (6,)
  assert (batch['labelled']['index'] != batch['unlabelled']['index'][:2]).any()


# --- names and checks ---


def test_missing_source_names_the_field():
  with pytest.raises(ValueError, match='^data.train.source is empty'):
    numbered.take(numbered.spec_of(source=''), 1)
  with pytest.raises(ValueError, match='^data.source is empty'):
    pipeline.make_eval_iter(numbered.spec_of(source=''), batch_size=8)
  with pytest.raises(ValueError, match='^evals.a.kwargs.data.source is empty'):
    pipeline.make_eval_iter(
      numbered.spec_of(source=''), batch_size=8, name='evals.a.kwargs.data'
    )


@pytest.mark.parametrize('field', ['num_threads', 'num_workers'])
def test_parts_of_a_mixture_have_no_readers(field):
  with pytest.raises(ValueError, match=f'data.train.mixture.a.{field}=2: set'):
    numbered.spec_of(mixture={'a': {**numbered.PART, field: 2}})


def test_check_spec_reads_no_example():
  spec = numbered.spec_of(source_kwargs={'broken': tuple(range(20))})
  assert pipeline.check_spec(spec, 'data.train') is None


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({}, 'x'),
    ({'mixture': {'a': numbered.PART, 'b': None}}, 'x.mixture.b'),
    ({'streams': {'b': {'batch_size': 1}}}, 'x.streams.b'),
    (
      {'streams': {'b': {'batch_size': 1, 'mixture': {'c': None}}}},
      'x.streams.b.mixture.c',
    ),
  ],
)
@pytest.mark.parametrize(
  ('wrong', 'error'),
  [
    ({'source': ''}, r'\.source is empty'),
    ({'source': 'no.such:Source'}, r"\.source='no.such:Source': no module"),
    ({'source_kwargs': {'sise': 3}}, ": .*'sise' is unknown"),
    ({'source_kwargs': {'size': 0}}, ': the source .* is empty'),
    ({'transform': f'{numbered.__name__}:Nose'}, r'\.transform=.*did you mean'),
  ],
)
def test_check_spec_names_the_field(changes, message, wrong, error):
  wrong = {**numbered.PART, **wrong}

  def fill(value):
    if value is None:
      return wrong
    if isinstance(value, dict):
      value = {k: fill(v) for k, v in value.items()}
      if 'batch_size' in value and 'mixture' not in value:
        value = {**wrong, **value}
    return value

  spec = numbered.spec_of(**(fill(changes) if changes else wrong))
  with pytest.raises(ValueError, match=f'^{message}{error}'):
    pipeline.check_spec(spec, 'x')


def test_evaluation_refuses_repeats():
  with pytest.raises(ValueError, match='^data.repeats=2: evaluation wants 1'):
    pipeline.make_eval_iter(numbered.spec_of(repeats=2), batch_size=8)


class OneWay(numbered.Rows):
  """A mirrored example would be of another class."""

  flip_allowed = False


@pytest.mark.parametrize('group', ['', 'mixture', 'streams'])
def test_mirrors_that_a_source_forbids_are_refused(group):
  part = {
    'source': f'{__name__}:OneWay',
    'transform': 'vidscenic.data.clips:ClipTransform',
  }
  if group == 'streams':
    part['batch_size'] = 8
  where = f'x.{group}.a' if group else 'x'
  where = f'{where}.transform_kwargs.flip'

  def check(**kwargs):
    one = {**part, 'transform_kwargs': kwargs}
    spec = numbered.spec_of(**({group: {'a': one}} if group else one))
    pipeline.check_spec(spec, 'x')

  message = f'^{where}=0.5: mirrored videos of .*OneWay .*set {where}=0$'
  with pytest.raises(ValueError, match=message):
    check()
  check(flip=0.0)
  check(train=False)  # evaluation mirrors nothing


def test_training_refuses_forbidden_mirrors_before_it_reads():
  spec = numbered.spec_of(
    source=f'{__name__}:OneWay',
    transform='vidscenic.data.clips:ClipTransform',
  )
  with pytest.raises(ValueError, match='^data.train.transform_kwargs.flip=0.5'):
    numbered.take(spec, 1)
