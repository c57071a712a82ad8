"""Published weights of 4DS: both layouts, sizes, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from projects.layerlock import importer
from projects.layerlock.configs import eval_scannet_4ds
from tests.data import test_png16
from vidscenic import config as vc
from vidscenic.importers import published
from vidscenic.layers import vit
from vidscenic.tools import load
from vidscenic.train import evaluate, paths

FULL = {
  'scaling4d_base': 87_439_104,
  'scaling4d_e': 3_809_464_064,
  'scaling4d_base_depth': 105_026_944,
}


def hollow(*shape):
  """Zeros without memory."""
  return np.broadcast_to(np.zeros((), np.float32), shape)


def backbone_file(size, root='params/'):
  width, depth, heads, mlp = vit.SIZES[size]
  head = width // heads
  arrays = {
    f'{root}encoder/patch_embedding/Conv_0/kernel': hollow(2, 16, 16, 3, width),
    f'{root}encoder/patch_embedding/Conv_0/bias': hollow(width),
    f'{root}encoder/posenc/embeddings': hollow(8, 14, 14, width),
  }
  for i in range(depth):
    layer = f'{root}processor/layers_{i}/'
    for name in ('attention_norm', 'mlp_norm'):
      for part in ('scale', 'bias'):
        arrays[f'{layer}{name}/{part}'] = hollow(width)
    for name in ('query', 'key', 'value'):
      arrays[f'{layer}attention/{name}/kernel'] = hollow(width, heads, head)
      arrays[f'{layer}attention/{name}/bias'] = hollow(heads, head)
    arrays[f'{layer}attention/out/kernel'] = hollow(heads, head, width)
    arrays[f'{layer}attention/out/bias'] = hollow(width)
    arrays[f'{layer}mlp/dense_in/kernel'] = hollow(width, mlp)
    arrays[f'{layer}mlp/dense_in/bias'] = hollow(mlp)
    arrays[f'{layer}mlp/dense_out/kernel'] = hollow(mlp, width)
    arrays[f'{layer}mlp/dense_out/bias'] = hollow(width)
  return arrays


def depth_file():
  readout = {
    'query': (6272, 16, 64),
    'temporal_posenc/embeddings': (16, 1, 768),
    'LayerNorm_0/scale': (768,), 'LayerNorm_0/bias': (768,),
    'LayerNorm_1/scale': (1024,), 'LayerNorm_1/bias': (1024,),
    'key_embedding/kernel': (768, 16, 64), 'key_embedding/bias': (16, 64),
    'value_embedding/kernel': (768, 16, 64), 'value_embedding/bias': (16, 64),
    'Dense_0/kernel': (1024, 1024), 'Dense_0/bias': (1024,),
    'MLP_0/Dense_0/kernel': (1024, 4096), 'MLP_0/Dense_0/bias': (4096,),
    'MLP_0/Dense_1/kernel': (4096, 1024), 'MLP_0/Dense_1/bias': (1024,),
    'Dense_1/kernel': (1024, 128), 'Dense_1/bias': (128,),
  }  # fmt: skip
  arrays = backbone_file('B', 'params/layers_0/')
  assert len(arrays) + len(readout) == 213
  return arrays | {
    f'params/layers_2/{name}': hollow(*shape) for name, shape in readout.items()
  }


@functools.cache
def target(name, **changes):
  entry = published.find(name)
  kwargs = dict(entry.task_kwargs)
  if changes:
    kwargs['model'] = kwargs['model'] | changes
  task = vc.build(entry.task, **kwargs)
  video = jax.ShapeDtypeStruct((1, 16, 224, 224, 3), jnp.uint8)
  params, _ = jax.eval_shape(task.init, jax.random.key(0), {'video': video})
  return params


@pytest.mark.parametrize('name', FULL)
def test_every_key_of_a_published_file_has_its_place(name):
  arrays = {
    'scaling4d_base': lambda: backbone_file('B'),
    'scaling4d_e': lambda: backbone_file('e'),
    'scaling4d_base_depth': depth_file,
  }[name]()
  assert sum(a.size for a in arrays.values()) == FULL[name]
  shapes = target(name)
  made = importer.convert(arrays, shapes)
  assert jax.tree.map(np.shape, made) == jax.tree.map(np.shape, shapes)


def test_backbone_alone_leaves_decoder_and_heads():
  shapes = target('scaling4d_base', decoder=True, scan=True)
  made = importer.convert(backbone_file('B'), shapes)
  left = set(paths.named_leaves(shapes)) - set(paths.named_leaves(made))
  assert left == {'decode_tokens', 'pixel_head/bias', 'pixel_head/kernel'}
  # The file with a readout serves as a backbone too.
  both = importer.convert(depth_file(), shapes)
  assert set(paths.named_leaves(both)) == set(paths.named_leaves(made))


@pytest.mark.parametrize(
  ('arrays', 'message'),
  [
    (lambda: backbone_file('S'), 'holds one with width=384, depth=12'),
    (lambda: {'params/x': hollow(3)}, 'no weights of 4DS'),
    (lambda: backbone_file('B') | {'params/y': hollow(3)}, 'params/y'),
    (
      lambda: {
        k: a
        for k, a in backbone_file('B').items()
        if 'layers_3/mlp_norm/bias' not in k
      },
      'block_3/mlp_norm/bias',
    ),
  ],
)
def test_other_files_are_refused(arrays, message):
  with pytest.raises(ValueError, match=message):
    importer.convert(arrays(), target('scaling4d_base'))


@pytest.fixture
def golden(tmp_path):
  """(small weights as published, AbsRel of the reference on `scans`).

  The scans hold the frames that the reference was given, without loss, and
  depths in millimetres.
  """
  with np.load('tests/golden/scaling4d_depth.npz') as file:
    arrays = {
      key.removeprefix('params/'): file[key]
      for key in file.files
      if key.startswith('params/')
    }
    videos, said = file['inputs/video_uint8'], file['outputs/depth'][..., 0]
  np.savez(tmp_path / 'weights.npz', **arrays)
  rng = np.random.default_rng(0)
  depth = rng.integers(500, 4000, said.shape, np.uint16)
  depth[:, :, :3] = 0  # unknown
  names = [f'scene{i:04d}_00' for i in range(len(videos))]
  (tmp_path / 'scannetv2_val.txt').write_text('\n'.join(names))
  for name, frames, maps in zip(names, videos, depth, strict=True):
    folder = tmp_path / 'scans' / name
    for part in ('color', 'depth'):
      (folder / part).mkdir(parents=True)
    for i, (frame, map_) in enumerate(zip(frames, maps, strict=True)):
      with (folder / 'color' / f'{i}.jpg').open('wb') as picture:
        Image.fromarray(frame).save(picture, 'png')
      path = folder / 'depth' / f'{i}.png'
      path.write_bytes(test_png16.encode(map_[..., None]))
  metres = depth / 1000
  known = depth > 0
  return np.mean(np.abs(said - metres)[known] / metres[known])


def test_depth_of_scannet_is_that_of_the_reference(golden, tmp_path):
  """The config, with a small model, from the file to the figure."""
  config = eval_scannet_4ds.get_config()
  with config.unlocked():
    config.task.kwargs.clip = (8, 32, 48)
    config.task.kwargs.backbone_kwargs = dict(
      size='B', grid=(4, 4, 6), patch=(2, 8, 8), width=48, depth=5, num_heads=4,
      mlp_features=160,
    )  # fmt: skip
    config.task.kwargs.heads.depth.update(
      width=64, num_heads=4, decode_patch=(2, 4, 4), query_chunk=100
    )
    data = config.evals.depth.kwargs.data
    data.source_kwargs.update(root=str(tmp_path), num_frames=8)
    data.transform_kwargs.update(num_frames=8, size=(32, 48))
  load.make_run(
    str(tmp_path / 'weights.npz'),
    tmp_path / 'run',
    config=config,
    importer='projects.layerlock.importer:load',
  )
  figures = evaluate.evaluate(config, tmp_path / 'run')
  assert figures['depth/pixels'] == 2 * 8 * 29 * 48
  np.testing.assert_allclose(figures['depth/abs_rel'], golden, rtol=1e-5)
