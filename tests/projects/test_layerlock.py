"""LayerLock: what freezes, what is predicted, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.layerlock import flops, windows
from projects.layerlock import task as task_lib
from vidscenic import task as task_api
from vidscenic.layers import transformer
from vidscenic.ops import targets
from vidscenic.ops import video as video_ops
from vidscenic.train import freezing, hlo, optim, paths
from vidscenic.train import state as state_lib

CLIP = (4, 16, 24)  # 2 x 2 x 3 patches
SMALL = dict(
  width=16, depth=3, num_heads=2, mlp_features=24, patch=(2, 8, 8),
  num_decoder_layers=1,
)  # fmt: skip
FREEZE = dict(freeze_start_step=2, freeze_interval=2, max_frozen_layers=2)
NUM_ROWS = 3
# Compiling takes longer than running here.
FAST = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}


def make_task(model=None, clip=CLIP, **layerlock):
  return task_lib.MaskedVideo(
    clip=clip,
    mask_ratio=0.6,
    model=SMALL | (model or {}),
    layerlock=FREEZE | layerlock,
  )


def make_batch(clip=CLIP):
  rng = np.random.default_rng(0)
  video = rng.integers(0, 256, (NUM_ROWS, *clip, 3), np.uint8)
  return {'video': video, 'mask': np.ones(NUM_ROWS, bool)}


def make_params(task):
  """Random values everywhere: zero biases would hide mistakes."""
  shapes, _ = jax.eval_shape(
    task.init, jax.random.key(0), make_batch(task.clip)
  )
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda s: jnp.asarray(0.2 * rng.standard_normal(s.shape), s.dtype), shapes
  )


def context(phase, num_rows=NUM_ROWS):
  return task_api.StepContext(
    step=jnp.int32(0),
    rng=jax.random.key(1),
    rows=jnp.arange(num_rows, dtype=jnp.int32),
    phase=phase,
  )


def gradient(task, phase, *, stop=True):
  """(loss, gradients) of a phase, as the training step computes them."""

  def objective(params, batch):
    if stop:
      mask = freezing.frozen_mask(params, task.frozen(phase))
      params = freezing.stop_frozen(params, mask)
    out = task.loss(params, {}, batch, context(phase))
    return sum(s * t / w for t, w, s in out.terms.values())

  run = jax.jit(jax.value_and_grad(objective), compiler_options=FAST)
  return run(make_params(task), make_batch(task.clip))


@functools.cache
def all_frozen():
  """(loss, gradients) of LayerLock with both blocks of the encoder frozen."""
  return gradient(make_task(), 2)


def test_a_phase_freezes_blocks_embedding_and_idle_heads():
  task = make_task({'posenc': 'both'})
  shapes, _ = jax.eval_shape(task.init, jax.random.key(0), make_batch())

  def frozen(phase):
    mask = freezing.frozen_mask(shapes, task.frozen(phase))
    return {n for n, part in paths.named_leaves(mask).items() if part}

  tops = lambda names: {'/'.join(n.split('/')[:3]) for n in names}
  assert [task.phase(s) for s in range(9)] == [0, 0, 1, 1, 2, 2, 2, 2, 2]
  assert tops(frozen(0)) == {'latent_head/bias', 'latent_head/kernel'}
  assert tops(frozen(2)) == {
    'backbone/embedding/projection',
    'backbone/position/table',
    'backbone/transformer/block_0',
    'backbone/transformer/block_1',
    'pixel_head/bias',
    'pixel_head/kernel',
  }


def test_frozen_parameters_get_no_gradient_and_the_others_do():
  _, grads = all_frozen()
  mask = freezing.frozen_mask(grads, make_task().frozen(2))
  for name, part in paths.named_leaves(mask).items():
    value = paths.named_leaves(grads)[name]
    # Keys' biases never change a softmax.
    if not name.endswith('key/bias'):
      assert np.any(value) != part, name


def test_scanned_blocks_give_the_same_gradients():
  task = make_task({'scan': True})

  def objective(params, batch):
    out = task.loss(params, {}, batch, context(2))
    return sum(s * t / w for t, w, s in out.terms.values())

  params = transformer.stack_blocks(make_params(make_task()))
  loss, grads = jax.jit(jax.value_and_grad(objective), compiler_options=FAST)(
    params, make_batch()
  )
  np.testing.assert_allclose(loss, all_frozen()[0], rtol=1e-5)
  grads = transformer.unstack_blocks(grads)
  for name, value in paths.named_leaves(all_frozen()[1]).items():
    np.testing.assert_allclose(
      paths.named_leaves(grads)[name], value, atol=1e-5, rtol=1e-3
    )
  assert task.frozen(2)[1] == ('^backbone/transformer/blocks/', 2)


def test_freezing_changes_no_gradient_of_what_trains():
  """Pixels as targets: the loss of every phase is the same function."""
  task = make_task(latent_targets=False)
  loss, grads = gradient(task, 0)
  frozen_loss, frozen_grads = gradient(task, 2)
  np.testing.assert_allclose(frozen_loss, loss, rtol=1e-6)
  mask = paths.named_leaves(freezing.frozen_mask(grads, task.frozen(2)))
  for name, value in paths.named_leaves(grads).items():
    want = np.zeros_like(value) if mask[name] else value
    np.testing.assert_allclose(
      paths.named_leaves(frozen_grads)[name], want, atol=1e-6
    )


def test_target_is_the_stream_after_the_newest_frozen_block():
  task = make_task()
  params, batch = make_params(task), make_batch()
  video = video_ops.normalize(batch['video'], 'unit')
  truth = jax.jit(
    lambda p: task.model.apply({'params': p}, video, (2,), method='streams')[0],
    compiler_options=FAST,
  )(params)
  predicted, _ = jax.jit(
    lambda p: task.model.apply(
      {'params': p}, video, task.mask(context(2)).keep_ids
    ),
    compiler_options=FAST,
  )(params)
  want = np.mean(np.square(predicted['latent_head'] - truth))
  np.testing.assert_allclose(all_frozen()[0], want, rtol=1e-5)


def test_target_subsets_agree_with_the_whole_pass():
  """All tokens chosen: the same loss. Some: that of a pass over those alone."""
  half = {'fraction': 0.5}
  full = gradient(make_task(latent_target={'mode': 'loss_only'}), 2)[0]
  np.testing.assert_allclose(full, all_frozen()[0], rtol=1e-6)
  task = make_task(latent_target=half)
  mask = task.mask(context(2))
  chosen = task.targets.choose(jax.random.key(2), jnp.arange(NUM_ROWS), mask)
  assert chosen.shape == (NUM_ROWS, 6)
  params = make_params(task)
  video = video_ops.normalize(make_batch()['video'], 'unit')
  run = functools.partial(jax.jit, compiler_options=FAST)
  (some,) = run(lambda p: task.targets.features(p, video, (2,), chosen))(params)
  (want,) = run(
    lambda p: task.model.apply(
      {'params': p}, video, (2,), ids=chosen, method='streams'
    )
  )(params)
  np.testing.assert_allclose(some, want, atol=1e-5)
  # The subset is drawn apart from the mask, or there were only copies to make.
  kept = task.mask(context(2)).keep_ids
  assert any(set(a) != set(b[: len(a)]) for a, b in
             zip(kept.tolist(), chosen.tolist(), strict=True))  # fmt: skip


def test_visible_targets_reuse_the_frozen_blocks():
  task = make_task(latent_target={'subset': 'visible'})
  loss, _ = gradient(task, 2)
  params, batch = make_params(task), make_batch()
  video = video_ops.normalize(batch['video'], 'unit')
  ids = task.mask(context(2)).keep_ids

  @functools.partial(jax.jit, compiler_options=FAST)
  def pieces(params):
    (truth,) = task.targets.features(params, video, (2,), ids)
    return truth, task.model.apply({'params': params}, video, ids)[0]

  truth, predicted = pieces(params)
  guess = jnp.take_along_axis(predicted['latent_head'], ids[..., None], axis=1)
  np.testing.assert_allclose(loss, np.mean((guess - truth) ** 2), rtol=1e-4)


def test_coarse_decode_tokens_predict_means():
  task = make_task({'decode_grid': (1, 2, 1)})
  assert task.model.cell == (2, 1, 3) and task.targets.num_decode == 2
  params, batch = make_params(task), make_batch()
  assert params['decode_tokens'].shape == (2, 16)
  video = video_ops.normalize(batch['video'], 'unit')
  truth, fine = jax.jit(
    lambda p: (
      task.targets.features(p, video, (2,))[0],
      task.streams(p, video, (2,))[0],
    ),
    compiler_options=FAST,
  )(params)
  fine = fine.reshape(NUM_ROWS, 2, 2, 3, 16).mean((1, 3))
  np.testing.assert_allclose(truth, fine, atol=1e-5)
  # A chosen box sends all its patches, and no others, through the blocks.
  np.testing.assert_array_equal(
    task.targets.patches_of(jnp.array([[1]])), [[3, 4, 5, 9, 10, 11]]
  )
  pixels = task.targets.pixels(video)
  assert pixels.shape == (NUM_ROWS, 2, 3 * 2 * 8 * 8)
  np.testing.assert_allclose(
    pixels.mean((1, 2)), video.mean((1, 2, 3, 4)), rtol=1e-4
  )


def test_multi_targets_average_over_all_frozen_blocks():
  task = make_task(target_mode='multi', latent_head='per_target')
  assert task.model.heads == (
    'pixel_head', 'latent_head_1', 'latent_head_2'
  )  # fmt: skip
  assert task._heads(2) == ('latent_head_1', 'latent_head_2')
  out = jax.jit(
    lambda p, b: task.loss(p, {}, b, context(2)).terms, compiler_options=FAST
  )(make_params(task), make_batch())
  assert set(out) == {'latent_1', 'latent_2'}
  assert [float(term[2]) for term in out.values()] == [0.5, 0.5]
  assert task.newest_terms(2) == ('latent_2',) and not task.newest_terms(0)
  with_pixels = make_task(
    target_mode='multi', latent_head='per_target', multi_include_pixels=True
  )
  assert with_pixels._heads(1) == ('pixel_head', 'latent_head_1')


def test_new_head_at_a_switch_starts_without_moments():
  task = make_task(latent_head='reinit')
  params = make_params(task)
  tx = optim.make_optimizer({'lr': 1e-3}, params, 9).tx
  opt_state = jax.tree.map(jnp.ones_like, jax.eval_shape(tx.init, params))

  state = state_lib.TrainState(0, 0, params, opt_state, {}, None, 0)
  new = jax.jit(lambda s: task.on_phase(s, 1, 2), compiler_options=FAST)(state)
  moved = [
    name
    for name, before in paths.named_leaves(params).items()
    if np.any(before != paths.named_leaves(new.params)[name])
  ]
  assert moved == ['latent_head/bias', 'latent_head/kernel']
  owners = freezing.param_leaf_paths(new.opt_state, params)
  for owner, leaf in zip(owners, jax.tree.leaves(new.opt_state), strict=True):
    if owner is not None:
      assert np.any(leaf) != owner.startswith('latent_head/')
  assert make_task().on_phase(state, 1, 2) is state


def counted_flops(task, k, num_rows):
  """Matrix products of loss and gradient, off the lowered program."""
  video = jax.ShapeDtypeStruct((num_rows, *task.clip, 3), jnp.uint8)
  batch = {'video': video, 'mask': jax.ShapeDtypeStruct((num_rows,), bool)}
  params, _ = jax.eval_shape(task.init, jax.random.key(0), batch)

  def loss(params, batch):
    mask = freezing.frozen_mask(params, task.frozen(k))
    params = freezing.stop_frozen(params, mask)
    out = task.loss(params, {}, batch, context(k, num_rows))
    return sum(s * t / w for t, w, s in out.terms.values())

  lowered = jax.jit(jax.grad(loss)).lower(params, batch)
  return hlo.dot_flops(lowered.as_text('hlo'))


def sizes_of(task):
  model = task.model
  return flops.Sizes(
    model.width, model.depth, model.mlp_features, model.num_decoder_layers,
    task.num_keep, task.targets.num_decode, model.num_outputs('pixel_head'),
  )  # fmt: skip


def test_flops_are_those_of_the_formula_in_every_stage():
  for latent in (False, True):
    task = make_task(clip=(4, 32, 32), latent_targets=latent)
    for k in range(3):
      tokens = task.num_tokens if latent and k else 0
      cost = sizes_of(task).cost(k, latent=tokens > 0, target_tokens=tokens)
      assert counted_flops(task, k, NUM_ROWS) == NUM_ROWS * cost.total


def test_flops_of_the_largest_model_are_those_of_the_formula():
  """With three quarters of the blocks frozen and 5 % of the features."""
  task = task_lib.MaskedVideo(
    model={'size': 'e'},
    layerlock={'max_frozen_layers': 42, 'latent_target': {'fraction': 0.05}},
  )
  cost = sizes_of(task).cost(
    42, latent=True, target_tokens=task.targets.num_chosen
  )
  assert counted_flops(task, 42, 1) == cost.total


def test_control_predicts_both_and_freezes_nothing():
  """It costs an unfrozen step, a second head and the pass for the targets."""
  task = make_task(freeze=False)
  assert task._heads(2) == ('pixel_head', 'latent_head')
  assert task.frozen(2) == ()
  sizes, count = sizes_of(task), task.num_tokens
  head = 3 * 2 * task.targets.num_decode * task.model.width**2
  target = sizes.cost(2, latent=True, target_tokens=count).target
  want = sizes.cost(0).total + head + target
  assert counted_flops(task, 2, NUM_ROWS) == NUM_ROWS * want


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'max_frozen_layers': 3}, 'max_frozen_layers=3, but the encoder has 2'),
    ({'freeze_interval': 0}, 'layerlock.freeze_interval=0: want 1'),
    ({'freeze_jump': 0}, 'layerlock.freeze_jump=0: want 1'),
    ({'freeze_start_step': -1}, 'layerlock.freeze_start_step=-1: want 0'),
    ({'max_frozen_layers': 0}, 'layerlock.max_frozen_layers=0: want 1'),
    ({'latent_head': 'two'}, "latent_head='two'"),
    ({'target_mode': 'all'}, "target_mode='all'"),
    ({'target_mode': 'multi'}, "needs latent_head='per_target'"),
    ({'latent_target': {'fraction': 0.0}}, 'fraction=0.0'),
    ({'latent_target': {'fraction': 0.01}}, 'leaves none of 12'),
    ({'latent_target': {'part': 1}}, "'part'"),
    ({'mini_warmup': {'init': 2.0}}, 'mini_warmup.init=2.0'),
    ({'freez': True}, "'freez'"),
    ({'model': {'decode_grid': (2, 2, 2)}}, 'decode_grid=.* does not divide'),
    ({'model': {'num_decoder_layers': 3}}, 'num_decoder_layers=3'),
    ({'model': {'size': 'XL'}}, "model.size='XL'"),
    ({'model': {'widht': 3}}, 'model.widht'),
    (
      {'latent_target': {'subset': 'visible'}, 'loss_tokens': 'masked'},
      'leave no token for the loss of features',
    ),
    ({'model': {'posenc': 'rope'}}, "model.posenc='rope'"),
    ({'model': {'decode_token': 'one'}}, "model.decode_token='one'"),
    ({'model': {'rope_fractions': (0.5, 0.5, 0.5)}}, 'model.rope_fractions='),
    ({'model': {'num_heads': 3}}, 'model.num_heads=3 does not divide'),
    ({'model': {'decode_grid': (2, 2)}}, 'decode_grid=.* does not divide'),
    ({'clip': (4, 16, 20)}, 'not made of whole patches'),
  ],
)
def test_wrong_settings_are_refused_by_name(options, message):
  with pytest.raises(ValueError, match=message):
    make_task(**options)


@pytest.mark.parametrize('ratio', [0.0, 0.95, 95])
def test_ratio_that_hides_nothing_or_all_is_refused(ratio):
  with pytest.raises(ValueError, match=f'mask_ratio={ratio}(:| leaves)'):
    task_lib.MaskedVideo(clip=CLIP, mask_ratio=ratio, model=SMALL)


def test_windows_pad_the_last_one_and_cut_it_again():
  task = make_task({'posenc': 'learned'})
  params = make_params(task)
  video = make_batch()['video'][0]
  long = np.concatenate([video, video[:2]])
  parts = list(
    windows.dense_features(task.model, params, [long[:4], long[4:]], window=4)
  )
  assert [part.shape for part in parts] == [(4, 2, 3, 16), (2, 2, 3, 16)]
  black = np.concatenate([video[:2], np.zeros_like(video[:2])])
  (want,) = windows.dense_features(task.model, params, [black], window=4)
  np.testing.assert_array_equal(parts[1], want[:2])
  with pytest.raises(ValueError, match='a window of 6 frames'):
    list(windows.dense_features(task.model, params, [long], window=4))


def test_pixel_targets_may_be_normalised():
  task = make_task(pixel_target={'norm': 'patch'})
  video = video_ops.normalize(make_batch()['video'], 'unit')
  np.testing.assert_allclose(task.targets.pixels(video).mean(-1), 0, atol=1e-5)
  np.testing.assert_array_equal(
    task.targets.pixels(video),
    targets.pixels(video, (2, 8, 8), norm='patch'),
  )
