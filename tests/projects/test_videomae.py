"""VideoMAE and its relatives: targets, masks, both layouts of weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.videomae import importer
from projects.videomae import model as model_lib
from projects.videomae import task as task_lib
from projects.videomae.configs import finetuned, pretrain
from vidscenic import config as vc
from vidscenic import task as task_api
from vidscenic.train import paths

CLIP = (4, 32, 32)  # 2 x 4 x 4 patches
SMALL = dict(
  width=16, depth=1, num_heads=2, mlp_features=24, decoder_width=12,
  decoder_depth=1, decoder_heads=2, decoder_mlp_features=16, patch=(2, 8, 8),
)  # fmt: skip
FAST = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}
MAE_ST = {
  'positions': 'learned_separable',
  'decoder_positions': 'learned_separable',
  'class_token': True,
}


def make_task(model=None, **options):
  fixed = {'clip': CLIP, 'mask_ratio': 0.75, 'model': SMALL | (model or {})}
  return task_lib.MaskedVideo(**fixed | options)


def make_batch():
  rng = np.random.default_rng(0)
  video = rng.integers(0, 256, (2, *CLIP, 3), np.uint8)
  return {'video': video, 'mask': np.array([True, False])}


def context():
  return task_api.StepContext(
    step=jnp.int32(0), rng=jax.random.key(1), rows=jnp.arange(2)
  )


@pytest.mark.parametrize(
  ('options', 'model', 'counts'),
  [
    ({}, {}, (8, 24, 384)),
    ({'decode_ratio': 0.5}, {}, (8, 12, 384)),
    ({'masker': 'random', 'target': 'strided_pixels'}, MAE_ST, (8, 24, 192)),
    ({'masker': 'cube', 'target': 'hog', 'loss': 'l1'}, {}, (8, 24, 27)),
  ],
)
def test_loss_is_the_error_at_hidden_places(options, model, counts):
  task = make_task(model, **options)
  outputs = task.model.num_outputs
  assert (task.num_keep, task.num_predict, outputs) == counts
  batch = make_batch()

  shapes, _ = jax.eval_shape(task.init, jax.random.key(0), batch)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda s: jnp.asarray(0.2 * rng.standard_normal(s.shape), s.dtype), shapes
  )

  def run(params):
    clips, _ = task.predict(params, {}, batch, context())
    return task.loss(params, {}, batch, context()).terms, clips

  terms, clips = jax.device_get(jax.jit(run, compiler_options=FAST)(params))
  ((total, weight, scale),) = terms.values()
  mask = task.mask(context())
  error = clips['predicted'][0] - clips['truth'][0]
  np.testing.assert_array_equal(error[np.asarray(mask.keep_ids[0])], 0)
  assert scale == 1 and weight == task.num_predict * outputs
  if task.num_predict == 24:  # all hidden tokens of the one row that counts
    error = np.abs(error) if options.get('loss') == 'l1' else error**2
    np.testing.assert_allclose(total, error.sum(), rtol=1e-4)
  assert clips['features'].shape == (2, 2, 4, 4, 16)


def test_tubes_hide_the_same_places_in_all_slots():
  hidden = np.asarray(make_task().mask(context()).hidden).reshape(2, 2, 16)
  np.testing.assert_array_equal(hidden[:, 0], hidden[:, 1])


def test_sizes_have_the_published_parameters():
  """Of VideoMAE-B, from the layout of transformers."""
  task = task_lib.MaskedVideo(model={'variant': 'videomae', 'size': 'B'})
  shapes, _ = jax.eval_shape(
    task.init,
    jax.random.key(0),
    {'video': jax.ShapeDtypeStruct((1, 16, 224, 224, 3), jnp.uint8)},
  )
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  block = lambda d: 4 * d * d + 3 * d + 2 * 4 * d * d + 5 * d + 4 * d
  want = 1536 * 768 + 768 + 12 * block(768) + 2 * 768
  want += 768 * 384 + 384 + 4 * block(384) + 2 * 384 + 385 * 1536
  assert count == want


def original_layout(arrays):
  """The same weights as the original code names them."""
  found = {}
  for key, array in arrays.items():
    key = key.replace('videomae.encoder.layer', 'encoder.blocks')
    key = key.replace('decoder.decoder_layers', 'decoder.blocks')
    for theirs, ours in (
      ('videomae.embeddings.patch_embeddings.projection',
       'encoder.patch_embed.proj'),
      ('videomae.layernorm', 'encoder.norm'),
      ('attention.output.dense', 'attn.proj'),
      ('attention.attention.', 'attn.'),
      ('intermediate.dense', 'mlp.fc1'),
      ('output.dense', 'mlp.fc2'),
      ('layernorm_before', 'norm1'),
      ('layernorm_after', 'norm2'),
    ):  # fmt: skip
      key = key.replace(theirs, ours)
    found[key] = array
  for key in [k for k in found if k.endswith('attn.query.weight')]:
    stem = key.removesuffix('query.weight')
    parts = [found.pop(f'{stem}{n}.weight') for n in ('query', 'key', 'value')]
    found[f'{stem}qkv.weight'] = np.concatenate(parts)
  return found


def test_both_layouts_of_weights_give_the_same_parameters():
  with np.load('tests/golden/videomae_pretrain.npz') as file:
    arrays = {
      key.removeprefix('params/'): file[key]
      for key in file.files
      if key.startswith('params/')
    }
  fields = importer.model_fields(arrays)
  model = model_lib.VideoAutoencoder(num_heads=4, decoder_heads=2, **fields)
  ids = jnp.zeros((1, 4), int)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 6, 32, 32, 3)), ids, ids
  )['params']
  first = importer.convert(arrays, shapes)
  original = original_layout(arrays)
  assert importer.model_fields(original) == fields
  second = importer.convert(original, shapes)
  jax.tree.map(np.testing.assert_array_equal, first, second)
  # Without the decoder, for features.
  some = importer.convert(arrays, shapes, features_only=True)
  assert set(some) == {'encoder'}
  arrays['decoder.extra'] = np.zeros(3)
  with pytest.raises(ValueError, match='decoder.extra'):
    importer.convert(arrays, shapes)


def test_published_recipes_build():
  for recipe in pretrain.RECIPES:
    config = pretrain.get_config(f'recipe={recipe}')
    vc.build(config.task.factory, **config.task.kwargs)
  config = finetuned.get_config('classes=7,heldout=VIDEOS')
  assert config.evals.heldout.kwargs.data.source_kwargs.path == 'VIDEOS'
  task = vc.build(config.task.factory, **config.task.kwargs)
  shapes, _ = jax.eval_shape(
    task.init,
    jax.random.key(0),
    {'video': jax.ShapeDtypeStruct((1, 16, 224, 224, 3), jnp.uint8)},
  )
  names = set(paths.named_leaves(shapes))
  assert 'head/norm/scale' in names
  assert not any('key/bias' in name for name in names)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'masker': 'blocks'}, "masker='blocks'"),
    ({'target': 'rgb'}, "target='rgb'"),
    ({'target_norm': 'frame'}, "target_norm='frame'"),
    ({'decode_ratio': 0.3}, 'decode_ratio=0.3'),
    ({'mask_ratio': 0.0}, 'mask_ratio=0.0 leaves'),
    ({'mask_ratio': 90}, 'mask_ratio=90: want'),
    ({'clip': (4, 32)}, r'clip=\(4, 32\) is not made of whole patches'),
    ({'model': {'patch': (2, 4, 4)}, 'target': 'hog'}, 'whole cells'),
    ({'model': {'patch': (2, 8, 5)}}, 'whole patches'),
    ({'model': {'size': 'G'}}, "model.size='G'"),
    ({'model': {'wdth': 4}}, 'model.wdth'),
  ],
)
def test_wrong_settings_are_refused_by_name(options, message):
  with pytest.raises(ValueError, match=message):
    make_task(**options)
