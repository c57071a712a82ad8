"""Where the released weights go: published files, and trees of the code."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.moog import decodings, importer
from projects.moog import model as model_lib
from projects.moog import task as task_lib
from tests.projects import moog_small as small
from vidscenic.importers import published

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
KEYS = json.loads((GOLDEN / 'moog_ckpt_keys_full.json').read_text())
BACKBONE = np.load(GOLDEN / 'moog_backbone.npz')


def arrays(part):
  """Arrays of the published shapes that take no memory."""
  shapes = KEYS[part]['keys']
  return {k: np.broadcast_to(np.float32(0), s) for k, s in shapes.items()}


def target_of(task):
  batch = {
    name: jnp.zeros((1, *spec.shape), spec.dtype)
    for name, spec in task.batch_spec().items()
  }
  return jax.eval_shape(task.init, jax.random.key(0), batch)[0]


def size(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def small_backbone():
  """Arrays of a small published model, and the fields that they show."""
  prefix = 'params/'
  source = {k: BACKBONE[k] for k in BACKBONE.files if k.startswith(prefix)}
  return source, importer.model_fields(source)


def test_published_backbone_fills_the_model():
  task = task_lib.NextFrame(variant='checkpoint', clip=(2, 128, 128))
  params = importer.convert(arrays('backbone'), target_of(task))
  assert size(params) == published.find('moog_backbone').parameters


@pytest.mark.parametrize('name', ['point', 'box'])
def test_published_heads_fill_their_tasks(name):
  make = {'point': task_lib.PointReadout, 'box': task_lib.BoxReadout}[name]
  target = target_of(make())
  source = arrays(f'{name}_head') | arrays('backbone')
  params = importer.convert(source, target)
  parameters = published.find(f'moog_{name}_head').parameters
  assert size(params['heads']) == parameters
  assert jax.tree.structure(params) == jax.tree.structure(target)


def test_backbone_without_its_decoder_keeps_ours():
  task = task_lib.NextFrame(variant='checkpoint', clip=(2, 128, 128))
  source = arrays('backbone')
  source = {k: v for k, v in source.items() if '/decoder/' not in k}
  params = importer.convert(source, target_of(task))
  assert 'decoder' not in params['backbone']
  assert 19e6 < size(params) < 20e6


def test_keys_left_over_are_an_error():
  task = task_lib.NextFrame(variant='checkpoint', clip=(2, 128, 128))
  source = arrays('backbone') | {'pretrained_model/more': np.zeros(3)}
  with pytest.raises(ValueError, match='pretrained_model/more'):
    importer.convert(source, target_of(task))


def test_arrays_show_the_configuration():
  want = {'hidden_features': 512, 'depth': 0}
  fields = importer.model_fields(arrays('backbone'))
  assert fields == {
    'variant': 'checkpoint',
    'token_size': 512,
    'conv_features': (64, 128, 128, 256, 256, 512),
    'position': 'concat',
    'encoder_bases': 20,
    'encoder': want,
    'predictor': dict(
      depth=3, num_heads=4, qkv_features=256, mlp_features=2048
    ),
    'corrector': dict(
      depth=2, num_heads=8, qkv_features=512, mlp_features=2048
    ),
    'decoder': dict(depth=6, num_heads=2, qkv_features=128, mlp_features=2048),
    'decoder_bases': 16,
    'use_loss_gradient': False,
  }


def test_head_file_takes_the_backbone_beside_it(tmp_path, monkeypatch, capsys):
  source, fields = small_backbone()
  fields.pop('variant')
  head = {
    'width': 48,
    'num_frames': 6,
    'num_heads': 4,
    'tiles': 3,
    'query_features': 24,
    'num_bases': 5,
  }
  task = task_lib.PointReadout(
    clip=(6, 24, 32),
    model={**fields, 'num_tokens': 10},
    head={'layers': head},
  )
  point = np.load(GOLDEN / 'moog_point_head.npz')
  path = tmp_path / 'head.npz'
  np.savez(path, **{k: point[k] for k in point.files if k[:7] == 'params/'})
  target = target_of(task)
  with pytest.raises(FileNotFoundError, match='there is no backbone'):
    importer.load(path, target)
  np.savez(tmp_path / importer.BACKBONE_FILE, **source)
  psnr = {'predicted': 9.5, 'entered': 12.25}
  monkeypatch.setattr(decodings, 'compare', lambda *unused: psnr)
  params = importer.load(path, target)
  printed = capsys.readouterr().out
  assert '9.50 dB' in printed and 'kwargs.decode=entered' in printed
  assert jax.tree.structure(params) == jax.tree.structure(target)


def test_both_decodings_are_compared_on_a_clip():
  """The figure is that of the stored reference decodings."""
  source, fields = small_backbone()
  model = model_lib.Moog(
    **model_lib.variant('checkpoint')
    | {k: v for k, v in fields.items() if k != 'variant'}
  )
  video = np.zeros((1, 1, 24, 32, 3), np.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), video)['params']
  params = importer.convert(source, shapes)
  clip = np.round(255 * BACKBONE['inputs/video'][0]).astype(np.uint8)
  found = decodings.compare(
    fields, params, clip, initial=BACKBONE['inputs/state0'][0], factor=1
  )
  for name, stored in (
    ('entered', 'decoded_from_raw_state'),
    ('predicted', 'decoded_from_predicted_state'),
  ):
    error = BACKBONE[f'outputs/{stored}'][0] - clip / 255
    want = np.mean(-10 * np.log10(np.mean(error[2:] ** 2, (1, 2, 3))))
    np.testing.assert_allclose(found[name], want, atol=0.1)  # rounded pixels


def test_training_tree_with_all_readouts_is_read():
  golden = np.load(GOLDEN / 'moog_train.npz')
  source = {
    k: np.broadcast_to(np.float32(0), golden[k].shape)
    for k in golden.files
    if k.startswith('params/')
  }
  fields = importer.model_fields(source)
  assert fields.pop('variant') == 'config'
  assert fields['conv_features'] == (8, 12, 12, 16, 16, 24)
  assert fields['position'] == 'add' and fields['encoder_bases'] == 6
  stack = dict(num_heads=2, qkv_features=16, mlp_features=32)
  layers = dict(features=24, depth=2, num_bases=4, **stack)
  heads = {
    'points': small.HEADS['points'] | {'layers': layers},
    'depth': small.HEADS['depth']
    | {'layers': dict(depth=2, num_bases=4, **stack)},
  }
  task = task_lib.NextFrame(
    clip=(2, 16, 32), model={**fields, 'num_tokens': 6}, heads=heads
  )
  params = importer.convert(source, target_of(task))
  assert size(params) == size(source)
