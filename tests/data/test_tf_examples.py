"""Fields of tf.train.Example records, by hand-written features.json files."""

import json
import zlib

import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from vidscenic.data import tf_examples


def tensor(dtype, shape=(), encoding='none'):
  dimensions = {'dimensions': [str(d) for d in shape]} if shape else {}
  return {'tensor': {'dtype': dtype, 'shape': dimensions, 'encoding': encoding}}


def sequence(feature):
  return {'sequence': {'feature': feature, 'length': '-1'}}


def declare(tmp_path, **features):
  path = tmp_path / 'features.json'
  path.write_text(json.dumps({'featuresDict': {'features': features}}))
  return tf_examples.read_features(str(path))


def example(**lists):
  """A serialized record; '__' in names stands for '/'."""
  message = tf_example_pb2.Example()
  for name, values in lists.items():
    feature = message.features.feature[name.replace('__', '/')]
    kinds = {int: 'int64_list', float: 'float_list', bytes: 'bytes_list'}
    kind = kinds[type(values[0])] if values else 'int64_list'
    getattr(feature, kind).value.extend(values)
  return message.SerializeToString()


def parse(features, record, **names):
  return tf_examples.Parser(features, names)(record)


def test_numbers_get_their_declared_type_and_shape(tmp_path):
  features = declare(
    tmp_path,
    image=tensor('uint8', (2, 3)),
    flags=tensor('bool', (-1,)),
    scale=tensor('float64'),
    big=tensor('uint64'),
    label={'classLabel': {'numClasses': '3'}},
    box={'boundingBox': {}},
  )
  record = example(
    image=[0, 1, 2, 3, 4, 255],
    flags=[1, 0],
    scale=[1.5],
    big=[-1],  # stored as int64 of the same bits
    label=[2],
    box=[0.0, 0.25, 0.5, 1.0],
  )
  got = parse(features, record)
  np.testing.assert_array_equal(got['image'], [[0, 1, 2], [3, 4, 255]])
  assert got['image'].dtype == np.uint8
  np.testing.assert_array_equal(got['flags'], [True, False])
  assert got['scale'] == 1.5 and got['scale'].dtype == np.float64
  assert got['big'] == 2**64 - 1
  assert got['label'] == 2 and got['label'].dtype == np.int32
  np.testing.assert_array_equal(got['box'], [0, 0.25, 0.5, 1])


def test_media_stay_bytes_and_text_becomes_str(tmp_path):
  features = declare(
    tmp_path,
    video=tensor('string'),
    frames=sequence({'image': {'dtype': 'uint8'}}),
    clip={'video': {'dtype': 'uint8'}},
    name={'text': {}},
    captions=sequence({'text': {}}),
  )
  record = example(
    video=[b'mp4'],
    frames=[b'one', b'two'],
    clip=[b'png'],
    name=['caf\u00e9'.encode()],
    captions=[b'a', b'b'],
  )
  assert parse(features, record) == {
    'video': b'mp4',
    'frames': [b'one', b'two'],
    'clip': [b'png'],  # a video of one frame
    'name': 'caf\u00e9',
    'captions': ['a', 'b'],
  }


def test_nested_names_are_joined(tmp_path):
  inner = {'featuresDict': {'features': {'z': tensor('float32')}}}
  objects = sequence({'featuresDict': {'features': {'id': tensor('int32')}}})
  features = declare(tmp_path, camera=inner, objects=objects)
  record = example(camera__z=[2.0], objects__id=[7, 8])
  got = parse(features, record, depth='camera/z', ids='objects/id')
  assert got['depth'] == 2
  np.testing.assert_array_equal(got['ids'], [7, 8])


def test_packed_arrays_are_unpacked(tmp_path):
  tracks = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
  features = declare(
    tmp_path,
    tracks=tensor('float32', (-1, -1, 2), 'zlib'),
    depth=tensor('uint16', (2, 1), 'bytes'),
    rows=sequence(tensor('uint8', (2,), 'zlib')),
  )
  record = example(
    tracks__value=[zlib.compress(tracks.tobytes())],
    tracks__shape=[3, 2, 2],
    depth=[np.array([1, 65535], '<u2').tobytes()],
    rows=[zlib.compress(b'\1\2'), zlib.compress(b'\3\4')],
  )
  got = parse(features, record)
  np.testing.assert_array_equal(got['tracks'], tracks)
  np.testing.assert_array_equal(got['depth'], [[1], [65535]])
  np.testing.assert_array_equal(got['rows'], [[1, 2], [3, 4]])
  got['tracks'][:] = 0  # may be changed


def test_packed_array_does_not_unfold_beyond_its_shape(tmp_path):
  features = declare(tmp_path, x=tensor('uint8', (4,), 'zlib'))
  bomb = example(x=[zlib.compress(bytes(10_000_000))])
  with pytest.raises(ValueError, match="field 'x': expected 4 bytes"):
    parse(features, bomb)


def test_sequences_in_sequences_become_lists(tmp_path):
  features = declare(tmp_path, words=sequence(sequence(tensor('int32', (2,)))))
  # [[(1, 2)], [], [(3, 4), (5, 6)]]
  record = example(
    words__ragged_flat_values=[1, 2, 3, 4, 5, 6],
    words__ragged_row_lengths_0=[1, 0, 2],
  )
  rows = parse(features, record, words='words')['words']
  assert [row.tolist() for row in rows] == [[[1, 2]], [], [[3, 4], [5, 6]]]
  wrong = example(
    words__ragged_flat_values=[1, 2], words__ragged_row_lengths_0=[3]
  )
  with pytest.raises(ValueError, match='rows of 3 values'):
    parse(features, wrong)


def test_three_levels_of_sequences(tmp_path):
  features = declare(tmp_path, x=sequence(sequence(sequence(tensor('string')))))
  # [[[a], []], [[b, c]]]
  record = example(
    x__ragged_flat_values=[b'a', b'b', b'c'],
    x__ragged_row_lengths_0=[2, 1],
    x__ragged_row_lengths_1=[1, 0, 2],
  )
  assert parse(features, record)['x'] == [[[b'a'], []], [[b'b', b'c']]]


def test_empty_sequences(tmp_path):
  features = declare(
    tmp_path,
    boxes=sequence({'boundingBox': {}}),
    frames=sequence({'image': {}}),
  )
  got = parse(features, example(boxes=[], frames=[]))
  assert got['boxes'].shape == (0, 4)
  assert got['frames'] == []


def test_undeclared_fields_are_as_stored():
  got = parse({}, example(video=[b'mp4'], frames=[b'a', b'b'], size=[4, 5]))
  assert got['video'] == b'mp4' and got['frames'] == [b'a', b'b']
  np.testing.assert_array_equal(got['size'], [4, 5])


def test_old_declarations_are_told(tmp_path, caplog):
  path = tmp_path / 'features.json'
  path.write_text(json.dumps({'type': 'a.b.FeaturesDict', 'content': {}}))
  assert tf_examples.read_features(str(path)) == {}
  assert f'{path} is of a TFDS version before 4.5' in caplog.text


def test_broken_declaration_names_the_file(tmp_path):
  with pytest.raises(ValueError, match="features.json: KeyError 'dtype'"):
    declare(tmp_path, x={'tensor': {}})


@pytest.mark.parametrize(
  ('record', 'names', 'message'),
  [
    (example(label=[1]), {'x': 'lable'}, "'lable' is unknown; did you mean 'l"),
    (example(a__b=[1], a__c=[1]), {'x': 'a'}, 'name one: a/b, a/c'),
    (example(label=[b'1']), {}, "field 'label': expected int32, got bytes"),
    (example(name=[1]), {}, "field 'name': expected bytes, got numbers"),
    (example(label=[1, 2]), {}, "field 'label': expected one value, got 2"),
    (example(size=[1, 2, 3]), {}, "field 'size': cannot reshape"),
    (b'\xff\xff', {}, 'no tf.train.Example'),
  ],
  # Bytes in names of tests differ from process to process.
  ids=['unknown', 'ambiguous', 'type', 'kind', 'count', 'shape', 'damage'],
)
def test_what_does_not_fit_is_told(tmp_path, record, names, message):
  declared = {}
  if not names:
    declared = declare(
      tmp_path,
      label={'classLabel': {}},
      name={'text': {}},
      size=tensor('int64', (2, 2)),
    )
  with pytest.raises(ValueError, match=message):
    parse(declared, record, **names)


def test_field_that_is_not_declared_is_refused_at_once(tmp_path):
  features = declare(tmp_path, video=tensor('string'))
  with pytest.raises(ValueError, match="fields.v='vide' is unknown; did you"):
    tf_examples.Parser(features, {'v': 'vide'})
