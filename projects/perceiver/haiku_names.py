"""Keys of the Haiku pickles of the Perceivers and where they go.

The layout of the released code of Perceiver IO (arXiv 2107.14795): module paths
with numbers behind repeated names, of which the first has none. Our own golden
of the original Perceiver adds a name for its shared cross-attention.
"""

import numpy as np

from vidscenic.importers import transforms

PROJECTIONS = ('query', 'key', 'value', 'out')
MLP = ('up', 'down')
NORMS = {
  'self': ('self_norm', 'mlp_norm'),
  'cross': ('cross_norm', 'kv_norm', 'mlp_norm'),
}
_LEAF = {'w': 'kernel', 'b': 'bias', 'scale': 'scale', 'offset': 'bias'}
# What follows the name of an attention layer in Haiku's keys.
_HAIKU_LAYER = (
  r'(?:attention/linear(?P<a>_\d)?|mlp/linear(?P<m>_\d)?'
  r'|layer_norm(?P<n>_\d)?)/(?P<leaf>w|b|scale|offset)'
)


def _haiku_layer(match, path, kind):
  groups = match.groupdict()
  text = match[0]
  number = transforms.haiku_number
  if '/attention/' in text:
    part = f'{kind}_attention/{PROJECTIONS[number(groups["a"])]}'
  elif '/mlp/' in text:
    part = f'mlp/{MLP[number(groups["m"])]}'
  else:
    part = NORMS[kind][number(groups['n'])]
  return f'{path}/{part}/{_LEAF[groups["leaf"]]}'


def _haiku_cross(path):
  return lambda match: _haiku_layer(match, path, 'cross')


def _haiku_self(match):
  block = transforms.haiku_number(match['i'])
  path = f'encoder/self_attends/block_{block}'
  return _haiku_layer(match, path, 'self')


def _numbered(template):
  """Fills in {} of a path with the number behind a repeated module's name."""
  return lambda m: template.format(
    transforms.haiku_number(m['i']), leaf=_LEAF[m['leaf']]
  )


def _same(parts):
  """Means and variances are counted apart, and equally often."""
  if len({int(part) for part in parts}) > 1:
    raise ValueError(f'counters of mean and variance differ: {parts}')
  return np.asarray(parts[0])


ENCODER = r'(?:perceiver_)?encoder'
_WB = r'(?P<leaf>[wb])'
INPUTS = 'input_preprocessor'
_CONV = r'image_preprocessor/~/conv2_d_downsample/~/'
_POSITIONS = r'image_preprocessor/~_build_network_inputs/'


def _plain(path):
  return lambda match: f'{path}/{_LEAF[match["leaf"]]}'


# (published key, our path[, transform]); see `tree.Rule`. Keys are module/leaf,
# without the group params/ that some files have.
RULES = (
  (rf'{ENCODER}/~/trainable_position_encoding/pos_embs', 'encoder/latents'),
  (
    rf'{ENCODER}/~/cross_attention/{_HAIKU_LAYER}',
    _haiku_cross('encoder/cross_attend'),
    transforms.to_target,
  ),
  (
    rf'perceiver_encoder_shared_cross_attention/{_HAIKU_LAYER}',
    _haiku_cross('encoder/shared_cross_attend'),
    transforms.to_target,
  ),
  (
    rf'{ENCODER}/~/self_attention(?P<i>_\d+)?/{_HAIKU_LAYER}',
    _haiku_self,
    transforms.to_target,
  ),
  # Preprocessors.
  (
    rf'image_preprocessor/~/conv2_d/{_WB}',
    _plain(f'{INPUTS}/conv1x1'),
    transforms.to_target,
  ),
  (
    rf'{_POSITIONS}trainable_position_encoding/pos_embs',
    f'{INPUTS}/position_encoding/table',
  ),
  (
    rf'{_POSITIONS}position_encoding_projector/linear/{_WB}',
    _plain(f'{INPUTS}/position_encoding/projector'),
  ),
  (
    rf'{_POSITIONS}linear(?P<i>_\d+)?/{_WB}',
    _numbered(f'{INPUTS}/position_encoding/extra_{{}}/{{leaf}}'),
  ),
  (
    rf'{_CONV}conv(?P<i>_\d+)?/{_WB}',
    _numbered(f'{INPUTS}/conv_{{}}/{{leaf}}'),
  ),
  (
    rf'{_CONV}batchnorm(?P<i>_\d+)?/(?P<leaf>scale|offset)',
    _numbered(f'{INPUTS}/norm_{{}}/{{leaf}}'),
    transforms.to_target,
  ),
  (
    rf'image_preprocessor/patches_linear/{_WB}',
    _plain(f'{INPUTS}/patches_linear'),
  ),
  (
    r'multimodal_preprocessor/(\w+_(?:padding|mask_token))/pos_embs',
    rf'{INPUTS}/\1',
  ),
  (r'embed/embeddings', f'{INPUTS}/embedding'),
  (r'trainable_position_encoding/pos_embs', f'{INPUTS}/positions'),
  # Decoders. The queries of the label come before those of other decoders.
  (
    r'multimodal_decoder/~/basic_decoder/cross_attention/' + _HAIKU_LAYER,
    _haiku_cross('decoder/decoder/cross_attend'),
    transforms.to_target,
  ),
  (
    rf'multimodal_decoder/~/basic_decoder/output/{_WB}',
    _plain('decoder/decoder/output'),
  ),
  (
    r'multimodal_decoder/~decoder_query/(\w+_padding)/pos_embs',
    r'decoder/\1',
  ),
  (
    rf'(?:\w+_decoder/~/)?basic_decoder/cross_attention/{_HAIKU_LAYER}',
    _haiku_cross('decoder/cross_attend'),
    transforms.to_target,
  ),
  (
    rf'(?:\w+_decoder/~/)?basic_decoder/output/{_WB}',
    _plain('decoder/output'),
  ),
  (rf'projection_decoder/~/logits/{_WB}', _plain('decoder/logits')),
  # Postprocessors.
  (r'embedding_decoder/bias', 'output_postprocessor/bias'),
  (
    rf'audio_postprocessor/linear/{_WB}',
    _plain('output_postprocessor/modalities_audio/linear'),
  ),
  (
    rf'projection_postprocessor/linear/{_WB}',
    _plain('output_postprocessor/modalities_image/linear'),
  ),
  (
    rf'classification_postprocessor/linear/{_WB}',
    _plain('output_postprocessor/modalities_label/linear'),
  ),
)
QUERY = r'(?:\w+_decoder/~/)?basic_decoder/~/trainable_position_encoding/'

STATE = (
  (
    rf'{_CONV}batchnorm(?P<i>_\d+)?/~/(?P<s>mean|var)_ema/(?P<v>hidden|average)',
    lambda m: (
      f'{INPUTS}/norm_{transforms.haiku_number(m["i"])}/{m["s"]}/{m["v"]}'
    ),
    transforms.to_target,
  ),
  (
    rf'{_CONV}batchnorm(?P<i>_\d+)?/~/(?P<s>mean|var)_ema/counter',
    lambda m: (
      f'{INPUTS}/norm_{transforms.haiku_number(m["i"])}/counter'
      f'[{("mean", "var").index(m["s"])}]'
    ),
    (),
    _same,
  ),
)
