"""Published ViViT, V-JEPA 2 and VideoMAE files: classifiers and readouts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.videomae import importer as videomae
from projects.videomae import model as videomae_model
from projects.vivit import importer as vivit
from projects.vivit import model as vivit_model
from projects.vivit.configs import finetuned as vivit_config
from projects.vjepa import importer as vjepa
from projects.vjepa.configs import finetuned as vjepa_config
from vidscenic import config as vc
from vidscenic.tasks import readout
from vidscenic.train import paths


def hollow(shapes):
  """Zeros without memory."""
  zero = np.zeros((), np.float32)
  return {name: np.broadcast_to(zero, shape) for name, shape in shapes.items()}


def linear(name, inputs, outputs):
  return {f'{name}.weight': (outputs, inputs), f'{name}.bias': (outputs,)}


def norm(name, width):
  return {f'{name}.weight': (width,), f'{name}.bias': (width,)}


def vivit_file(num_classes):
  """Of `VivitForVideoClassification`, ViT-B at 32 x 224 x 224."""
  root, d = 'vivit.embeddings.', 768
  shapes = {
    f'{root}cls_token': (1, 1, d),
    f'{root}position_embeddings': (1, 16 * 14 * 14 + 1, d),
    f'{root}patch_embeddings.projection.weight': (d, 3, 2, 16, 16),
    f'{root}patch_embeddings.projection.bias': (d,),
  }
  for i in range(12):
    layer = f'vivit.encoder.layer.{i}.'
    for name in ('query', 'key', 'value'):
      shapes |= linear(f'{layer}attention.attention.{name}', d, d)
    shapes |= linear(f'{layer}attention.output.dense', d, d)
    shapes |= linear(f'{layer}intermediate.dense', d, 4 * d)
    shapes |= linear(f'{layer}output.dense', 4 * d, d)
    shapes |= norm(f'{layer}layernorm_before', d)
    shapes |= norm(f'{layer}layernorm_after', d)
  return (
    shapes | norm('vivit.layernorm', d) | linear('classifier', d, num_classes)
  )


def vjepa_tower(root, layers, d):
  shapes = {}
  for i in range(layers):
    layer = f'{root}layer.{i}.'
    for name in ('query', 'key', 'value', 'proj'):
      shapes |= linear(f'{layer}attention.{name}', d, d)
    shapes |= linear(f'{layer}mlp.fc1', d, 4 * d)
    shapes |= linear(f'{layer}mlp.fc2', 4 * d, d)
    shapes |= norm(f'{layer}norm1', d) | norm(f'{layer}norm2', d)
  return shapes | norm(f'{root}layernorm', d)


def vjepa_file(num_classes):
  """Of `VJEPA2ForVideoClassification`, ViT-L."""
  d, encoder, predictor = 1024, 'vjepa2.encoder.', 'vjepa2.predictor.'
  shapes = {
    f'{encoder}embeddings.patch_embeddings.proj.weight': (d, 3, 2, 16, 16),
    f'{encoder}embeddings.patch_embeddings.proj.bias': (d,),
    f'{predictor}embeddings.mask_tokens': (10, 1, 1, 384),
    **linear(f'{predictor}embeddings.predictor_embeddings', d, 384),
    **linear(f'{predictor}proj', 384, d),
    **vjepa_tower(encoder, 24, d),
    **vjepa_tower(predictor, 12, 384),
    'pooler.query_tokens': (1, 1, d),
  }
  for i in range(3):
    layer = f'pooler.self_attention_layers.{i}.'
    for name in ('q_proj', 'k_proj', 'v_proj', 'out_proj'):
      shapes |= linear(f'{layer}self_attn.{name}', d, d)
    shapes |= pooler_mlp(layer, d)
  cross = 'pooler.cross_attention_layer.'
  for name in ('q_proj', 'k_proj', 'v_proj'):
    shapes |= linear(f'{cross}cross_attn.{name}', d, d)
  return shapes | pooler_mlp(cross, d) | linear('classifier', d, num_classes)


def pooler_mlp(layer, d):
  return {
    **norm(f'{layer}layer_norm1', d),
    **norm(f'{layer}layer_norm2', d),
    **linear(f'{layer}mlp.fc1', d, 4 * d),
    **linear(f'{layer}mlp.fc2', 4 * d, d),
  }


@pytest.mark.parametrize(
  ('config', 'importer', 'shapes', 'millions'),
  [
    (vivit_config.get_config('classes=7'), vivit, vivit_file(7), 88.7),
    # The predictor's 22 million are in the file and not used.
    (vjepa_config.get_config('classes=7'), vjepa, vjepa_file(7), 353.2),
  ],
)
def test_every_key_of_a_published_classifier_has_its_place(
  config, importer, shapes, millions
):
  task = vc.build(config.task.factory, **vc.plain(config.task.kwargs))
  video = jax.ShapeDtypeStruct((1, *task.clip, 3), jnp.uint8)
  target, _ = jax.eval_shape(task.init, jax.random.key(0), {'video': video})
  made = importer.convert(hollow(shapes), target)
  assert jax.tree.map(np.shape, made) == jax.tree.map(np.shape, target)
  count = sum(leaf.size for leaf in jax.tree.leaves(target))
  assert round(count / 1e6, 1) == millions


SMALL = dict(width=48, num_heads=2, patch=(2, 8, 8))
VIT = 'vidscenic.layers.vit:VisionTransformer'
READ = {
  'videomae_pretrain': (videomae, VIT, dict(
    SMALL, depth=3, mlp_features=96, positions='sincos_flat',
    block=videomae_model.block_fields(),
  )),
  'videomae_cls': (videomae, VIT, dict(
    SMALL, depth=3, mlp_features=96, positions='sincos_flat', final_norm=False,
    block=videomae_model.block_fields(),
  )),
  'vivit_cls': (vivit, VIT, vivit_model.backbone_fields(
    **SMALL, depth=3, mlp_features=96, grid=(3, 4, 4)
  )),
  'vjepa2_cls': (vjepa, 'vidscenic.tasks.any_backbone:Backbone', {
    'module': 'vidscenic.layers.jepa:JointEmbedding',
    'fields': dict(SMALL, depth=2, mlp_features=192, predictor=False),
    'method': 'encode',
  }),
}  # fmt: skip


@pytest.mark.parametrize('golden', READ)
def test_readouts_take_the_encoder_of_a_published_file(golden):
  importer, backbone, fields = READ[golden]
  label = {
    'factory': 'vidscenic.tasks.attentive_heads:Classes',
    'num_classes': 3,
    'width': 8,
    'num_heads': 1,
  }
  task = readout.Readout(
    clip=(6, 32, 32),
    backbone=backbone,
    backbone_kwargs=fields,
    heads={'label': label},
  )
  video = jax.ShapeDtypeStruct((1, 6, 32, 32, 3), jnp.uint8)
  target, _ = jax.eval_shape(task.init, jax.random.key(0), {'video': video})
  with np.load(f'tests/golden/{golden}.npz') as file:
    arrays = {
      key.removeprefix('params/'): file[key]
      for key in file.files
      if key.startswith('params/')
    }
  made = importer.convert(arrays, target)
  wanted = set(paths.named_leaves(target['backbone']))
  assert set(paths.named_leaves(made)) == {f'backbone/{n}' for n in wanted}
