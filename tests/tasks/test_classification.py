"""The classification task: what counts, what is drawn, what is mixed."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic import task as task_lib
from vidscenic.tasks import classification

CLIP = (4, 8, 12)
CLASSES = 7
VIT = {
  'width': 24,
  'depth': 1,
  'num_heads': 3,
  'mlp_features': 40,
  'patch': (2, 4, 4),
  'positions': 'learned',
}
RESNET = {
  'features': (8, 8),
  'strides': (1, 2),
  'num_units': (1, 1),
  'stem_features': 4,
  'norm': 'batch',
}


class Means(nn.Module):
  """Mean colour of every quarter of a clip as tokens: fast, no parameters."""

  @nn.compact
  def __call__(self, video, *, train=False):
    return video.mean((2, 3))


class Pixels(nn.Module):
  """All pixels of a clip as one token."""

  @nn.compact
  def __call__(self, video, *, train=False):
    return video.reshape(video.shape[0], -1)


def make_task(**kwargs):
  """A linear model of the pixels; with backbone_kwargs a ViT."""
  if 'backbone' not in kwargs and 'backbone_kwargs' not in kwargs:
    kwargs['backbone'] = 'tests.tasks.test_classification:Pixels'
  return classification.Classification(clip=CLIP, num_classes=CLASSES, **kwargs)


def make_batch(num_rows=6, seed=0):
  rng = np.random.default_rng(seed)
  return {
    'video': jnp.asarray(
      rng.integers(0, 256, (num_rows, *CLIP, 3)).astype(np.uint8)
    ),
    'label': jnp.asarray(rng.integers(0, CLASSES, num_rows).astype(np.int32)),
    'mask': jnp.ones(num_rows, bool),
  }


def context(rows, train=True):
  return task_lib.StepContext(
    step=jnp.int32(0),
    rng=jax.random.key(3),
    rows=jnp.asarray(rows, jnp.int32),
    train=train,
  )


def randomized(task, batch):
  """Parameters and state; the head starts at zero, which would hide much."""
  params, model_state = jax.jit(task.init)(jax.random.key(0), batch)
  leaves, treedef = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  leaves = [
    leaf + 0.3 * jax.random.normal(key, leaf.shape)
    for leaf, key in zip(leaves, keys, strict=True)
  ]
  return jax.tree.unflatten(treedef, leaves), model_state


@functools.cache
def compiled_loss(task, train):
  return jax.jit(lambda p, s, b, rows: task.loss(p, s, b, context(rows, train)))


def loss_of(task, params, model_state, batch, rows=range(6), train=True):
  rows = jnp.asarray(rows, jnp.int32)
  out = compiled_loss(task, train)(params, model_state, batch, rows)
  return jax.device_get(out)


@functools.cache
def compiled_prediction(task):
  return jax.jit(lambda p, s, b: task.predict(p, s, b, context([0], False))[0])


def predict(task, params, model_state, batch):
  return jax.device_get(compiled_prediction(task)(params, model_state, batch))


def mean_loss(out):
  total, weight, _ = out.terms['cross_entropy']
  return total / weight


def test_loss_is_the_smoothed_cross_entropy_of_the_predicted_logits():
  task, batch = make_task(label_smoothing=0.2), make_batch()
  params, state = randomized(task, batch)
  out = loss_of(task, params, state, batch)
  outputs = predict(task, params, state, batch)
  logits = np.asarray(outputs['logits'], np.float64)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  target = 0.8 * np.eye(CLASSES)[batch['label']] + 0.2 / CLASSES
  want = -(target * log_p).sum()
  np.testing.assert_allclose(out.terms['cross_entropy'][0], want, rtol=1e-5)
  np.testing.assert_allclose(outputs['probabilities'], np.exp(log_p), atol=1e-5)
  # Without training there is no smoothing.
  plain = loss_of(task, params, state, batch, train=False)
  want = -np.take_along_axis(log_p, batch['label'][:, None], 1).sum()
  np.testing.assert_allclose(plain.terms['cross_entropy'][0], want, rtol=1e-5)


def test_metrics_count_hits_among_the_best():
  task, batch = make_task(), make_batch()
  params, state = randomized(task, batch)
  out = loss_of(task, params, state, batch, train=False)
  outputs = predict(task, params, state, batch)
  ranked = np.argsort(-outputs['logits'], -1)
  for k in (1, 5):
    hits = (ranked[:, :k] == batch['label'][:, None]).any(-1).sum()
    assert out.metrics[f'top{k}'] == (hits, 6)


def test_top5_is_left_out_where_it_would_be_trivial():
  task = classification.Classification(
    clip=CLIP,
    num_classes=5,
    backbone='tests.tasks.test_classification:Pixels',
  )
  batch = {**make_batch(), 'label': jnp.zeros(6, jnp.int32)}
  params, state = randomized(task, batch)
  out = loss_of(task, params, state, batch)
  assert set(out.metrics) == {'top1'}


RECIPE = {
  'augment': {'color': 0.8, 'gray': 0.3, 'noise': 0.5},
  'mixing': {'mixup': 1.0, 'cutmix': 1.0},
  'label_smoothing': 0.1,
}


@pytest.mark.parametrize('train', [False, True])
def test_padded_rows_change_nothing(train):
  task, batch = make_task(**RECIPE), make_batch()
  params, state = randomized(task, batch)
  mask = jnp.array([True, True, True, True, False, False])
  garbage = make_batch(seed=9)
  sums = []
  for other in (batch, garbage):
    keep = mask.reshape(-1, 1, 1, 1, 1)
    mixed = {
      'video': jnp.where(keep, batch['video'], other['video']),
      'label': jnp.where(mask, batch['label'], other['label']),
      'mask': mask,
    }
    sums.append(loss_of(task, params, state, mixed, train=train))
  assert sums[0].terms['cross_entropy'][1] == 4
  assert sums[0].metrics['top1'][1] == 4
  jax.tree.map(np.testing.assert_array_equal, *sums)


def test_augmentation_of_a_row_depends_on_its_global_number_only():
  task, batch = make_task(augment=RECIPE['augment']), make_batch()
  params, state = randomized(task, batch)
  whole = loss_of(task, params, state, batch)
  parts = [
    loss_of(
      task,
      params,
      state,
      {k: v[i::2] for k, v in batch.items()},
      range(i, 6, 2),
    )
    for i in range(2)
  ]
  total = sum(part.terms['cross_entropy'][0] for part in parts)
  np.testing.assert_allclose(whole.terms['cross_entropy'][0], total, rtol=1e-5)
  elsewhere = loss_of(task, params, state, batch, range(10, 16))
  assert abs(mean_loss(elsewhere) - mean_loss(whole)) > 1e-4


@pytest.mark.parametrize('name', ['color', 'gray', 'noise'])
def test_augmentation_happens_with_its_probability(name):
  rows = jnp.arange(200)
  video = jnp.asarray(
    np.random.default_rng(0).uniform(0.2, 0.8, (200, 2, 4, 4, 3)), jnp.float32
  )
  augment = classification.Augment(**{name: 0.3})
  out = jax.jit(lambda v: augment(jax.random.key(0), rows, v))(video)
  changed = np.any(np.asarray(out) != np.asarray(video), axis=(1, 2, 3, 4))
  # Three standard deviations of 200 draws are 0.1.
  assert 0.2 < changed.mean() < 0.4
  if name == 'gray':
    grey = np.ptp(np.asarray(out), axis=-1).max((1, 2, 3))
    np.testing.assert_array_equal(grey < 1e-6, changed)


def test_augmentation_is_off_outside_training_and_by_default():
  task, batch = make_task(**RECIPE), make_batch()
  plain = make_task()
  params, state = randomized(plain, batch)
  want = loss_of(plain, params, state, batch, train=False)
  got = loss_of(task, params, state, batch, train=False)
  default = loss_of(plain, params, state, batch)
  jax.tree.map(np.testing.assert_array_equal, got, want)
  np.testing.assert_allclose(mean_loss(default), mean_loss(want), rtol=1e-6)


@pytest.mark.parametrize('mixing', [None, {'mixup': 1.0}])
@pytest.mark.parametrize('label', [-1, CLASSES])
def test_a_label_outside_the_classes_is_no_silent_error(label, mixing):
  task, batch = make_task(mixing=mixing), make_batch()
  params, state = randomized(task, batch)
  batch['label'] = batch['label'].at[2].set(label)
  out = loss_of(task, params, state, batch)
  assert np.isnan(mean_loss(out))


@pytest.mark.parametrize('label', [-1, CLASSES])
def test_a_label_outside_the_classes_is_refused_before_training(label):
  task = make_task()
  task.check_batch({'label': np.array([0, CLASSES - 1], np.int32)})
  message = rf'label {label} .*\[0, {CLASSES}\).*task\.kwargs\.num_classes'
  with pytest.raises(ValueError, match=message):
    task.check_batch({'label': np.array([0, label], np.int32)})


def test_dropout_differs_between_microbatches_and_steps():
  task = make_task(backbone_kwargs={**VIT, 'depth': 2, 'drop_path': 0.5})
  batch = make_batch(1)
  params, state = randomized(task, batch)
  values = [
    mean_loss(loss_of(task, params, state, batch, [row])) for row in range(6)
  ]
  plain = mean_loss(loss_of(task, params, state, batch, [0], train=False))
  assert len({round(float(v), 5) for v in values}) > 1
  assert any(abs(v - plain) > 1e-4 for v in values)


def test_resnet_passes_batch_statistics_through():
  task = make_task(
    backbone='vidscenic.layers.resnet:ResNet', backbone_kwargs=RESNET
  )
  batch = make_batch()
  params, state = randomized(task, batch)
  assert set(state) == {'batch_stats'}
  trained = loss_of(task, params, state, batch)
  moved = jax.tree.map(
    lambda a, b: float(np.abs(a - np.asarray(b)).max()),
    trained.model_state,
    jax.device_get(state),
  )
  assert min(jax.tree.leaves(moved)) > 0
  assert jax.tree.structure(trained.model_state) == jax.tree.structure(
    jax.device_get(state)
  )
  same = loss_of(task, params, state, batch, train=False)
  jax.tree.map(
    np.testing.assert_array_equal, same.model_state, jax.device_get(state)
  )
  # Evaluation uses the running statistics, so rows are independent.
  one = {k: v[:1] for k, v in batch.items()}
  np.testing.assert_allclose(
    predict(task, params, state, one)['logits'][0],
    predict(task, params, state, batch)['logits'][0],
    rtol=1e-4,
    atol=1e-5,
  )


@pytest.mark.parametrize('pool', classification.POOLS)
def test_every_pool_trains_every_parameter(pool):
  kwargs = {**VIT, 'class_token': pool == 'token'}
  task = make_task(
    backbone_kwargs=kwargs,
    head={'pool': pool, 'pool_heads': 3, 'norm': True},
  )
  batch = make_batch()
  params, state = randomized(task, batch)
  ctx = context(range(6))
  grads = jax.jit(
    jax.grad(
      lambda p: task.loss(p, state, batch, ctx).terms['cross_entropy'][0]
    )
  )(params)
  idle = [
    jax.tree_util.keystr(path)
    for path, g in jax.tree_util.tree_leaves_with_path(grads)
    if not np.abs(g).max() > 0
  ]
  assert not idle
  assert ('attention_pool' in params) == (pool == 'attention')


@pytest.mark.parametrize('pool', classification.POOLS)
def test_features_are_what_the_head_reads(pool):
  kwargs = {**VIT, 'class_token': pool == 'token'}
  task = make_task(backbone_kwargs=kwargs, head={'pool': pool, 'pool_heads': 3})
  batch = make_batch()
  params, state = randomized(task, batch)
  assert not state
  outputs = predict(task, params, state, batch)
  assert outputs['features'].shape == (6, 24)
  layer = params['head']['classifier']
  want = outputs['features'] @ layer['kernel'] + layer['bias']
  np.testing.assert_allclose(outputs['logits'], want, atol=1e-4)


def test_backbone_may_return_one_array():
  name = 'tests.tasks.test_classification:Means'
  task = make_task(backbone=name, backbone_kwargs=None, normalize='unit')
  batch = make_batch()
  params, state = randomized(task, batch)
  outputs, carry = task.predict(
    params, state, batch, context(range(6), False), carry='unchanged'
  )
  features = np.asarray(batch['video'], np.float64).mean((1, 2, 3)) / 255
  layer = params['head']['classifier']
  want = features @ layer['kernel'] + layer['bias']
  np.testing.assert_allclose(outputs['logits'], want, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(outputs['features'], features, rtol=1e-4)
  assert carry == 'unchanged'


def test_bfloat16_is_close_and_keeps_parameters_and_loss_in_float32():
  batch = make_batch()
  exact = make_task(backbone_kwargs=VIT)
  rough = make_task(backbone_kwargs=VIT, dtype='bfloat16')
  params, state = randomized(exact, batch)
  fresh = jax.eval_shape(rough.init, jax.random.key(0), batch)[0]
  assert {x.dtype for x in jax.tree.leaves(fresh)} == {jnp.dtype('float32')}
  logits = [
    np.asarray(predict(t, params, state, batch)['logits'])
    for t in (exact, rough)
  ]
  assert logits[1].dtype == np.float32
  error = np.abs(logits[0] - logits[1]).max() / np.abs(logits[0]).max()
  assert 0 < error < 0.05  # bfloat16 has 8 bits


def test_sizes_by_name_and_grid_of_learned_positions():
  task = classification.Classification(
    clip=(4, 32, 48), num_classes=3, backbone_kwargs={'size': 'Ti', 'depth': 2}
  )
  batch = {
    k: jnp.zeros((1, *s.shape), s.dtype) for k, s in task.batch_spec().items()
  }
  params, _ = jax.eval_shape(task.init, jax.random.key(0), batch)
  shapes = jax.tree.map(lambda x: x.shape, params['backbone'])
  assert shapes['embedding']['projection']['bias'] == (192,)
  assert set(shapes['transformer']) == {'block_0', 'block_1', 'final_norm'}
  table = [
    s
    for s in jax.tree.leaves(
      shapes['position'], is_leaf=lambda x: isinstance(x, tuple)
    )
  ]
  assert sum(int(np.prod(s)) for s in table) == 2 * 2 * 3 * 192


def test_images_are_clips_of_one_frame():
  task = classification.Classification(
    clip=(1, 8, 12),
    num_classes=CLASSES,
    backbone_kwargs={**VIT, 'patch': (1, 4, 4)},
  )
  batch = make_batch()
  batch['video'] = batch['video'][:, :1]
  params, state = randomized(task, batch)
  out = loss_of(task, params, state, batch)
  assert np.isfinite(mean_loss(out))


@pytest.mark.parametrize(
  ('kwargs', 'words'),
  [
    ({'normalize': 'zero'}, "normalize='zero'"),
    ({'label_smoothing': 1.0}, 'label_smoothing=1.0'),
    ({'dtype': 'float16'}, "dtype='float16'"),
    (
      {'backbone_kwargs': {**VIT, 'dtype': 'bfloat16'}},
      'set task.kwargs.dtype',
    ),
    ({'backbone_kwargs': {'size': 'XXL'}}, 'XXL'),
    ({'backbone_kwargs': {'widht': 3}}, "did you mean 'width'"),
    ({'augment': {'colour': 1.0}}, "did you mean 'color'"),
    ({'augment': {'color': 1.5}}, 'augment.color=1.5'),
    ({'mixing': {'mixup': -1.0}}, 'mixing.mixup=-1.0'),
    ({'mixing': {'per': 'clip'}}, "mixing.per='clip'"),
    ({'head': {'pol': 'mean'}}, "did you mean 'pool'"),
    (
      {
        'backbone': 'tests.tasks.test_classification:Means',
        'backbone_kwargs': None,
        'dtype': 'bfloat16',
      },
      'has no dtype',
    ),
  ],
)
def test_unusable_arguments_are_named(kwargs, words):
  with pytest.raises(ValueError, match=words):
    make_task(**kwargs)
