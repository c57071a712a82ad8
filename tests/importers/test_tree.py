"""Conversion of weights: naming schemes, strict accounting, types, tables."""

import numpy as np
import pytest

from tests.importers import arrays
from vidscenic.importers import transforms, tree


def layers(count, **leaves):
  """{block_i: leaves} and the same stacked."""
  unrolled = {f'block_{i}': leaves for i in range(count)}
  stacked = {
    name: arrays.leaf(count, *child.shape, dtype=child.dtype)
    for name, child in leaves.items()
  }
  return unrolled, {'blocks': stacked}


def test_flat_keys_are_renamed():
  source = {
    'params/tokenizer/Conv_0/kernel': arrays.numbers(2, 4, 4, 3, 8),
    'params/layers_0/scale': arrays.numbers(8),
    'params/layers_1/scale': arrays.numbers(8, dtype=np.float32) + 1,
  }
  blocks, _ = layers(2, scale=arrays.leaf(8))
  target = {'embedding': {'kernel': arrays.leaf(2, 4, 4, 3, 8)}, 'vit': blocks}
  got, report = tree.convert(
    source,
    target,
    (
      ('params/tokenizer/Conv_0/(.*)', r'embedding/\1'),
      (r'params/layers_(\d+)/(\w+)', r'vit/block_\1/\2'),
    ),
  )
  np.testing.assert_array_equal(
    got['embedding']['kernel'], source['params/tokenizer/Conv_0/kernel']
  )
  for i in range(2):
    np.testing.assert_array_equal(
      got['vit'][f'block_{i}']['scale'], source[f'params/layers_{i}/scale']
    )
  assert str(report) == '3 arrays -> 3 leaves, 784 parameters'


def test_haiku_modules_without_suffix_have_number_zero():
  source = {
    f'net/~/block{suffix}/linear/w': np.full((2, 3), i, np.float32)
    for i, suffix in enumerate(('', '_1', '_2'))
  }
  target, _ = layers(3, kernel=arrays.leaf(2, 3))

  def place(match):
    return f'block_{transforms.haiku_number(match[1])}/kernel'

  got, _ = tree.convert(source, target, ((r'net/~/block(_\d+)?/.*', place),))
  assert [got[f'block_{i}']['kernel'][0, 0] for i in range(3)] == [0, 1, 2]


def test_hugging_face_linear_layers_get_heads():
  weight, bias = arrays.numbers(6, 4), arrays.numbers(6)  # [out, in]
  out = arrays.numbers(4, 6)
  target = {
    'query': {'kernel': arrays.leaf(4, 2, 3), 'bias': arrays.leaf(2, 3)},
    'out': {'kernel': arrays.leaf(2, 3, 4)},
  }
  got, _ = tree.convert(
    {
      'layer.attention.query.weight': weight,
      'layer.attention.query.bias': bias,
      'layer.output.weight': out,
    },
    target,
    (
      (r'.*\.query\.weight', 'query/kernel', transforms.LINEAR),
      (r'.*\.query\.bias', 'query/bias', transforms.to_target),
      (r'.*\.output\.weight', 'out/kernel', transforms.LINEAR),
    ),
  )
  x = arrays.numbers(4)
  q = np.einsum('d,dhe->he', x, got['query']['kernel']) + got['query']['bias']
  np.testing.assert_allclose(q.reshape(-1), weight @ x + bias, rtol=1e-5)
  y = np.einsum('he,hed->d', q, got['out']['kernel'])
  np.testing.assert_allclose(y, out @ q.reshape(-1), rtol=1e-5)


def test_fused_projection_becomes_three():
  weight = np.arange(24, dtype=np.float32).reshape(6, 4)
  target = {
    'attention': {n: {'kernel': arrays.leaf(4, 1, 2)} for n in ('q', 'k', 'v')}
  }
  split = transforms.split(('q/kernel', 'k/kernel', 'v/kernel'))
  got, report = tree.convert(
    {'qkv.weight': weight},
    target,
    ((r'qkv\.weight', 'attention', (split, *transforms.LINEAR)),),
  )
  for i, name in enumerate('qkv'):
    np.testing.assert_array_equal(
      got['attention'][name]['kernel'][:, 0], weight[2 * i : 2 * i + 2].T
    )
  assert (report.sources, report.targets) == (1, 3)


@pytest.mark.parametrize('order', [(0, 1, 2), (2, 0, 1)])
def test_three_projections_are_fused_in_the_order_of_their_numbers(order):
  names = ('query', 'key', 'value')
  source = {names[i]: np.full((4, 2), i, np.float32) for i in order}
  join = transforms.concatenate(-1)
  got, _ = tree.convert(
    source,
    {'qkv': arrays.leaf(4, 6)},
    tuple((n, f'qkv[{i}]', (), join) for i, n in enumerate(names)),
  )
  np.testing.assert_array_equal(got['qkv'][0], [0, 0, 1, 1, 2, 2])


def test_parts_without_join_are_stacked():
  source = {f'mask_tokens.{j}': np.full((1, 4), j, np.float32) for j in (1, 0)}
  rule = (r'mask_tokens\.(\d)', r'tokens[\1]', transforms.squeeze)
  got, _ = tree.convert(source, {'tokens': arrays.leaf(2, 4)}, (rule,))
  np.testing.assert_array_equal(got['tokens'][:, 0], [0, 1])


def test_position_of_the_class_token_is_added_to_it():
  token, table = arrays.numbers(1, 1, 4), arrays.numbers(1, 7, 4)
  target = {
    'class_token': arrays.leaf(1, 4),
    'position': {'table': arrays.leaf(2, 3, 4)},
  }

  def cut(array):
    return {'class_token[1]': array[0, :1], 'position/table': array[0, 1:]}

  got, _ = tree.convert(
    {'m.cls': token, 'm.positions': table},
    {'vit': target},
    (
      (r'm\.cls', 'vit/class_token[0]', lambda x: x[0], transforms.add),
      (r'm\.positions', 'vit', (cut, transforms.to_target)),
    ),
  )
  np.testing.assert_array_equal(
    got['vit']['class_token'], (token + table)[0, :1]
  )
  np.testing.assert_array_equal(
    got['vit']['position']['table'], table[0, 1:].reshape(2, 3, 4)
  )


RULE = (r'layer\.(\d+)\.weight', r'net/block_\1/kernel', transforms.LINEAR)


def test_layers_are_stacked_where_the_model_scans():
  source = {f'layer.{i}.weight': arrays.numbers(3, 2) + i for i in (1, 0, 2)}
  unrolled, stacked = layers(3, kernel=arrays.leaf(2, 3))
  one_by_one, _ = tree.convert(source, {'net': unrolled}, (RULE,))
  together, report = tree.convert(source, {'net': stacked}, (RULE,))
  np.testing.assert_array_equal(
    together['net']['blocks']['kernel'],
    [one_by_one['net'][f'block_{i}']['kernel'] for i in range(3)],
  )
  assert report.parameters == 18


@pytest.mark.parametrize('scan', [False, True])
def test_stacked_source_is_taken_apart(scan):
  source = {'stack/weight': arrays.numbers(3, 3, 2)}
  target = layers(3, kernel=arrays.leaf(2, 3))[scan]
  rule = ('stack/weight', 'blocks/kernel', transforms.LINEAR)
  got, _ = tree.convert(source, target, (rule,))
  want = source['stack/weight'].transpose(0, 2, 1)
  if scan:
    np.testing.assert_array_equal(got['blocks']['kernel'], want)
  else:
    for i in range(3):
      np.testing.assert_array_equal(got[f'block_{i}']['kernel'], want[i])


def test_missing_layer_of_a_stack_is_named():
  source = {f'layer.{i}.weight': arrays.numbers(3, 2) for i in (0, 2)}
  _, stacked = layers(3, kernel=arrays.leaf(2, 3))
  with pytest.raises(ValueError, match='net/block_1/kernel'):
    tree.convert(source, {'net': stacked}, (RULE,))
  with pytest.raises(ValueError, match='net/blocks/kernel is one stack'):
    tree.convert(source, {'net': stacked}, (RULE,), keep=('net/block_1/.*',))


def test_kernels_of_convolutions_change_their_layout():
  image, video = arrays.numbers(8, 3, 5, 4), arrays.numbers(8, 3, 2, 5, 4)
  target = {'a': arrays.leaf(5, 4, 3, 8), 'b': arrays.leaf(2, 5, 4, 3, 8)}
  rule = (r'(\w)', r'\1', transforms.conv)
  got, _ = tree.convert({'a': image, 'b': video}, target, (rule,))
  assert got['a'][4, 3, 2, 7] == image[7, 2, 4, 3]
  assert got['b'][1, 4, 3, 2, 7] == video[7, 2, 1, 4, 3]


def test_transposing_without_axes_reverses_them():
  array = arrays.numbers(2, 1, 3)
  assert transforms.transpose()(array).shape == (3, 1, 2)
  assert transforms.transpose(1, 0, 2)(array).shape == (1, 2, 3)


def test_the_first_rule_that_matches_counts():
  got, _ = tree.convert(
    {'a/x': np.ones(2, np.float32)},
    {'first': arrays.leaf(2)},
    (('a/x', 'first'), ('a/.*', 'second')),
  )
  assert set(got) == {'first'}


def test_ignored_and_kept_names_are_reported():
  source = {
    'opt_state/m': arrays.numbers(3),
    'w': arrays.numbers(2),
    'step': arrays.numbers(),
  }
  target = {
    'w': arrays.leaf(2),
    'head': {'kernel': arrays.leaf(2, 5), 'bias': arrays.leaf(5)},
  }
  got, report = tree.convert(
    source,
    target,
    (('w', 'w'),),
    ignore=('opt_state/.*', 'step'),
    keep=('head/.*',),
  )
  assert set(got) == {'w'}
  assert report.ignored == ('opt_state/m', 'step')
  assert report.kept == ('head/kernel', 'head/bias')
  assert str(report).splitlines() == [
    '1 arrays -> 1 leaves, 2 parameters',
    'ignored 2 (opt_state/m, step)',
    'not in the source, kept as they are: 2 (head/kernel, head/bias)',
  ]


def test_one_error_names_everything_that_is_wrong():
  source = {
    'enc.left_over': arrays.numbers(4),
    'enc.mlp.wight': arrays.numbers(2, 3),
    'enc.a': arrays.numbers(3, 2),
    'enc.b': arrays.numbers(2),
    'enc.b2': arrays.numbers(2),
    'enc.c': np.ones(2, np.int32),
    'enc.d': arrays.numbers(5),
  }
  target = {
    'enc': {'mlp': {'weight': arrays.leaf(2, 3)}, 'a': arrays.leaf(2, 3)},
    'b': arrays.leaf(2),
    'c': arrays.leaf(2),
    'q': arrays.leaf(2),
  }
  rules = (
    (r'enc\.mlp\.wight', 'enc/mlp/wight'),
    (r'enc\.b2?', 'b'),
    (r'enc\.a', 'enc/a'),
    (r'enc\.c', 'c'),
    (r'enc\.d', 'q', transforms.split(('x', 'y'))),
  )
  with pytest.raises(ValueError) as error:
    tree.convert(source, target, rules)
  lines = [line.strip() for line in str(error.value).splitlines()]
  assert lines == [
    'the weights do not fit the model:',
    '1 source keys match no rule; name what is not needed in ignore:',
    'enc.left_over [4]',
    '1 have no place in the model; name their source keys in ignore:',
    'enc/mlp/wight (from enc.mlp.wight), nearest is enc/mlp/weight',
    '2 leaves of the model have no source; name what may stay new in keep:',
    'enc/mlp/weight [2, 3], nearest is enc/mlp/wight',
    'q [2]',
    '3 do not fit:',
    'enc/a: shape [3, 2], the model wants [2, 3] (from enc.a)',
    'b: given 2 times (from enc.b, enc.b2)',
    'c: type int32, the model wants float32 (from enc.c)',
    '1 cannot be transformed:',
    'enc.d [5]: axis 0 of [5] does not split into 2 equal parts',
  ]


def test_long_lists_are_cut():
  source = {f'x{i}': arrays.numbers(1) for i in range(300)}
  with pytest.raises(ValueError, match='300 source keys') as error:
    tree.convert(source, {}, ())
  assert len(str(error.value).splitlines()) == 2 + 8 + 1
  assert 'and 292 more' in str(error.value)


@pytest.mark.parametrize(
  ('parts', 'message'),
  [
    (('w[0]', 'w[2]'), r"given in parts \['0', '2'\], want 0, 1"),
    (('w[0]', 'w[0]'), r"given in parts \['0', '0'\]"),
    (('w[0]', 'w'), 'given 2 times'),
  ],
)
def test_parts_must_be_complete(parts, message):
  source = {'a': arrays.numbers(2), 'b': arrays.numbers(2)}
  rules = tuple(zip('ab', parts, strict=True))
  with pytest.raises(ValueError, match=message):
    tree.convert(source, {'w': arrays.leaf(2, 2)}, rules)


def test_regex_that_does_not_compile_is_shown():
  with pytest.raises(ValueError, match=r"'\(a' is not a regular expression"):
    tree.convert({}, {}, (('(a', 'b'),))
  with pytest.raises(ValueError, match="got the string 'opt.*'"):
    tree.convert({}, {}, (), ignore='opt.*')


@pytest.mark.parametrize('scan', [False, True])
def test_a_vision_transformer_takes_weights_in_the_layout_of_timm(scan):
  """One list of rules fills our ViT, unrolled and scanned."""
  import jax

  from vidscenic.layers import transformer, vit

  model = vit.VisionTransformer(
    width=12,
    depth=2,
    num_heads=3,
    mlp_features=20,
    patch=(2, 4, 4),
    grid=(2, 2, 3),
    class_token=True,
    scan=scan,
  )
  video = np.zeros((1, 4, 8, 12, 3), np.float32)
  target = jax.eval_shape(model.init, jax.random.key(0), video)['params']
  rng = np.random.default_rng(0)
  shapes = {
    'patch_embed.proj.weight': (12, 3, 2, 4, 4),
    'patch_embed.proj.bias': (12,),
    'cls_token': (1, 1, 12),
    'pos_embed': (1, 12, 12),
    'norm.weight': (12,),
    'norm.bias': (12,),
  }
  for i in range(2):
    for name, size in (
      ('norm1', ()),
      ('norm2', ()),
      ('attn.qkv', (36, 12)),
      ('attn.proj', (12, 12)),
      ('mlp.fc1', (20, 12)),
      ('mlp.fc2', (12, 20)),
    ):
      shapes[f'blocks.{i}.{name}.weight'] = size or (12,)
      shapes[f'blocks.{i}.{name}.bias'] = size[:1] or (12,)
  source = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
  block, t = r'blocks\.(\d+)', r'transformer/block_\1'
  names = [f'{n}/%s' for n in ('query', 'key', 'value')]
  stem = 'embedding/projection'
  linear, fit = transforms.LINEAR, transforms.to_target
  rules = (
    (r'patch_embed\.proj\.weight', f'{stem}/kernel', transforms.conv),
    (r'patch_embed\.proj\.bias', f'{stem}/bias'),
    ('cls_token', 'class_token', fit),
    ('pos_embed', 'position/table', fit),
    (
      rf'{block}\.attn\.qkv\.weight',
      f'{t}/self_attention',
      (transforms.split([n % 'kernel' for n in names]), *linear),
    ),
    (
      rf'{block}\.attn\.qkv\.bias',
      f'{t}/self_attention',
      (transforms.split([n % 'bias' for n in names]), fit),
    ),
    (rf'{block}\.attn\.proj\.weight', f'{t}/self_attention/out/kernel', linear),
    (rf'{block}\.attn\.proj\.bias', f'{t}/self_attention/out/bias'),
    (rf'{block}\.mlp\.fc1\.weight', f'{t}/mlp/up/kernel', linear),
    (rf'{block}\.mlp\.fc1\.bias', f'{t}/mlp/up/bias'),
    (rf'{block}\.mlp\.fc2\.weight', f'{t}/mlp/down/kernel', linear),
    (rf'{block}\.mlp\.fc2\.bias', f'{t}/mlp/down/bias'),
    (rf'{block}\.norm1\.weight', f'{t}/self_norm/scale'),
    (rf'{block}\.norm1\.bias', f'{t}/self_norm/bias'),
    (rf'{block}\.norm2\.weight', f'{t}/mlp_norm/scale'),
    (rf'{block}\.norm2\.bias', f'{t}/mlp_norm/bias'),
    (r'norm\.weight', 'transformer/final_norm/scale'),
    (r'norm\.bias', 'transformer/final_norm/bias'),
  )
  got, report = tree.convert(source, target, rules)
  assert jax.tree.map(np.shape, got) == jax.tree.map(lambda x: x.shape, target)
  assert report.parameters == sum(np.prod(s) for s in shapes.values())
  got = transformer.unstack_blocks(got)
  np.testing.assert_array_equal(
    got['transformer']['block_1']['self_attention']['key']['kernel'][:, 2, 1],
    source['blocks.1.attn.qkv.weight'][12 + 2 * 4 + 1],
  )
