"""Conversion of weights: naming schemes, strict accounting, types, tables."""

import re
import types

import numpy as np
import pytest

from vidscenic.importers import transforms, tree


def leaf(*shape, dtype=np.float32):
  return types.SimpleNamespace(shape=shape, dtype=np.dtype(dtype))


def numbers(*shape, dtype=np.float32):
  return np.random.default_rng(len(shape)).normal(size=shape).astype(dtype)


def layers(count, **leaves):
  """{block_i: leaves} and the same stacked."""
  unrolled = {f'block_{i}': leaves for i in range(count)}
  stacked = {
    name: leaf(count, *child.shape, dtype=child.dtype)
    for name, child in leaves.items()
  }
  return unrolled, {'blocks': stacked}


def test_flat_keys_are_renamed():
  source = {
    'params/tokenizer/Conv_0/kernel': numbers(2, 4, 4, 3, 8),
    'params/layers_0/scale': numbers(8),
    'params/layers_1/scale': numbers(8, dtype=np.float32) + 1,
  }
  blocks, _ = layers(2, scale=leaf(8))
  target = {'embedding': {'kernel': leaf(2, 4, 4, 3, 8)}, 'vit': blocks}
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
  target, _ = layers(3, kernel=leaf(2, 3))

  def place(match):
    return f'block_{transforms.haiku_number(match[1])}/kernel'

  got, _ = tree.convert(source, target, ((r'net/~/block(_\d+)?/.*', place),))
  assert [got[f'block_{i}']['kernel'][0, 0] for i in range(3)] == [0, 1, 2]


def test_hugging_face_linear_layers_get_heads():
  weight, bias = numbers(6, 4), numbers(6)  # [out, in]
  out = numbers(4, 6)
  target = {
    'query': {'kernel': leaf(4, 2, 3), 'bias': leaf(2, 3)},
    'out': {'kernel': leaf(2, 3, 4)},
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
  x = numbers(4)
  q = np.einsum('d,dhe->he', x, got['query']['kernel']) + got['query']['bias']
  np.testing.assert_allclose(q.reshape(-1), weight @ x + bias, rtol=1e-5)
  y = np.einsum('he,hed->d', q, got['out']['kernel'])
  np.testing.assert_allclose(y, out @ q.reshape(-1), rtol=1e-5)


def test_fused_projection_becomes_three():
  weight = np.arange(24, dtype=np.float32).reshape(6, 4)
  target = {
    'attention': {n: {'kernel': leaf(4, 1, 2)} for n in ('q', 'k', 'v')}
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
    {'qkv': leaf(4, 6)},
    tuple((n, f'qkv[{i}]', (), join) for i, n in enumerate(names)),
  )
  np.testing.assert_array_equal(got['qkv'][0], [0, 0, 1, 1, 2, 2])


def test_parts_without_join_are_stacked():
  source = {f'mask_tokens.{j}': np.full((1, 4), j, np.float32) for j in (1, 0)}
  rule = (r'mask_tokens\.(\d)', r'tokens[\1]', transforms.squeeze)
  got, _ = tree.convert(source, {'tokens': leaf(2, 4)}, (rule,))
  np.testing.assert_array_equal(got['tokens'][:, 0], [0, 1])


def test_position_of_the_class_token_is_added_to_it():
  token, table = numbers(1, 1, 4), numbers(1, 7, 4)
  target = {'class_token': leaf(1, 4), 'position': {'table': leaf(2, 3, 4)}}

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
  source = {f'layer.{i}.weight': numbers(3, 2) + i for i in (1, 0, 2)}
  unrolled, stacked = layers(3, kernel=leaf(2, 3))
  one_by_one, _ = tree.convert(source, {'net': unrolled}, (RULE,))
  together, report = tree.convert(source, {'net': stacked}, (RULE,))
  np.testing.assert_array_equal(
    together['net']['blocks']['kernel'],
    [one_by_one['net'][f'block_{i}']['kernel'] for i in range(3)],
  )
  assert report.parameters == 18


@pytest.mark.parametrize('scan', [False, True])
def test_stacked_source_is_taken_apart(scan):
  source = {'stack/weight': numbers(3, 3, 2)}
  target = layers(3, kernel=leaf(2, 3))[scan]
  rule = ('stack/weight', 'blocks/kernel', transforms.LINEAR)
  got, _ = tree.convert(source, target, (rule,))
  want = source['stack/weight'].transpose(0, 2, 1)
  if scan:
    np.testing.assert_array_equal(got['blocks']['kernel'], want)
  else:
    for i in range(3):
      np.testing.assert_array_equal(got[f'block_{i}']['kernel'], want[i])


def test_missing_layer_of_a_stack_is_named():
  source = {f'layer.{i}.weight': numbers(3, 2) for i in (0, 2)}
  _, stacked = layers(3, kernel=leaf(2, 3))
  with pytest.raises(ValueError, match='net/block_1/kernel'):
    tree.convert(source, {'net': stacked}, (RULE,))
  with pytest.raises(ValueError, match='net/blocks/kernel is one stack'):
    tree.convert(source, {'net': stacked}, (RULE,), keep=('net/block_1/.*',))


def test_kernels_of_convolutions_change_their_layout():
  image, video = numbers(8, 3, 5, 4), numbers(8, 3, 2, 5, 4)
  target = {'a': leaf(5, 4, 3, 8), 'b': leaf(2, 5, 4, 3, 8)}
  rule = (r'(\w)', r'\1', transforms.conv)
  got, _ = tree.convert({'a': image, 'b': video}, target, (rule,))
  assert got['a'][4, 3, 2, 7] == image[7, 2, 4, 3]
  assert got['b'][1, 4, 3, 2, 7] == video[7, 2, 1, 4, 3]


def test_transposing_without_axes_reverses_them():
  array = numbers(2, 1, 3)
  assert transforms.transpose()(array).shape == (3, 1, 2)
  assert transforms.transpose(1, 0, 2)(array).shape == (1, 2, 3)


def test_the_first_rule_that_matches_counts():
  got, _ = tree.convert(
    {'a/x': np.ones(2, np.float32)},
    {'first': leaf(2)},
    (('a/x', 'first'), ('a/.*', 'second')),
  )
  assert set(got) == {'first'}


def test_ignored_and_kept_names_are_reported():
  source = {
    'opt_state/m': numbers(3),
    'w': numbers(2),
    'step': numbers(),
  }
  target = {'w': leaf(2), 'head': {'kernel': leaf(2, 5), 'bias': leaf(5)}}
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
    'enc.left_over': numbers(4),
    'enc.mlp.wight': numbers(2, 3),
    'enc.a': numbers(3, 2),
    'enc.b': numbers(2),
    'enc.b2': numbers(2),
    'enc.c': np.ones(2, np.int32),
    'enc.d': numbers(5),
  }
  target = {
    'enc': {'mlp': {'weight': leaf(2, 3)}, 'a': leaf(2, 3)},
    'b': leaf(2),
    'c': leaf(2),
    'q': leaf(2),
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
  source = {f'x{i}': numbers(1) for i in range(300)}
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
  source = {'a': numbers(2), 'b': numbers(2)}
  rules = tuple(zip('ab', parts, strict=True))
  with pytest.raises(ValueError, match=message):
    tree.convert(source, {'w': leaf(2, 2)}, rules)


def test_same_number_of_values_is_not_reshaped_unless_asked():
  source, target = {'w': numbers(4, 6)}, {'w': leaf(6, 4)}
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
  got, report = tree.convert(source, {'w': leaf(2, dtype=want)}, (('w', 'w'),))
  assert got['w'].dtype == want
  np.testing.assert_array_equal(got['w'], np.array(values, have).astype(want))
  assert report.lossy == (('w',) if lossy else ())
  assert ('lost digits' in str(report)) == lossy
  assert list(report.cast) == ['w']


def test_bfloat16_counts_as_float():
  ml_dtypes = pytest.importorskip('ml_dtypes')
  half = np.array([1.5, 3.0], ml_dtypes.bfloat16)
  got, report = tree.convert({'w': half}, {'w': leaf(2)}, (('w', 'w'),))
  np.testing.assert_array_equal(got['w'], np.float32([1.5, 3.0]))
  assert report.lossy == ()
  fine = {'w': np.float32([1.0, 1.001])}
  target = {'w': leaf(2, dtype=ml_dtypes.bfloat16)}
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
    tree.convert({'w': values}, {'w': leaf(2, dtype=want)}, (('w', 'w'),))


def test_tables_of_another_grid_are_resized_on_request():
  table = np.arange(4, dtype=np.float32).reshape(1, 4, 1)
  target = {'position': {'table': leaf(4, 2, 1)}}
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
  source, target = {'p': numbers(4, 2)}, {'p': leaf(4, 2)}
  got, report = tree.convert(
    source, target, (('p', 'p'),), resize=(('p', lambda a, s: a * 0),)
  )
  np.testing.assert_array_equal(got['p'], source['p'])
  assert report.resized == {}


def test_regex_that_does_not_compile_is_shown():
  with pytest.raises(ValueError, match=r"'\(a' is not a regular expression"):
    tree.convert({}, {}, (('(a', 'b'),))
  with pytest.raises(ValueError, match="got the string 'opt.*'"):
    tree.convert({}, {}, (), ignore='opt.*')


def test_reshaping_must_come_last():
  with pytest.raises(ValueError, match='to_target must be the last'):
    tree.convert(
      {'w': numbers(4)},
      {'w': leaf(2, 2)},
      (('w', 'w', (transforms.to_target, transforms.squeeze)),),
    )


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
