"""Configs of the Perceivers read tiny data sets of the official layouts."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from projects.perceiver.configs import (
  audioset,
  eval_imagenet,
  imagenet,
  kinetics_autoencoding,
)
from tests.data import tfds_folders
from tests.data.datasets import miniature
from vidscenic import config as vc
from vidscenic.data import device, pipeline, writer


def picture(value, height=30, width=40, kind='JPEG'):
  buffer = io.BytesIO()
  pixels = np.full((height, width, 3), value, np.uint8)
  Image.fromarray(pixels).save(buffer, kind)
  return buffer.getvalue()


def write_tfds(folder, name, features, splits):
  """Prepared by TFDS: {split: [{field: bytes, list of bytes or int}, ...]}."""
  folder.mkdir(parents=True)
  entries = []
  for split, records in splits.items():
    messages = []
    for record in records:
      example = tfds_folders.tf_example_pb2.Example()
      for field, value in record.items():
        feature = example.features.feature[field]
        if isinstance(value, int):
          feature.int64_list.value.append(value)
        else:
          values = value if isinstance(value, list) else [value]
          feature.bytes_list.value.extend(values)
      messages.append(example.SerializeToString())
    shard = folder / f'{name}-{split}.array_record-00000-of-00001'
    tfds_folders.write_array_record(shard, messages)
    entries.append(
      {
        'name': split,
        'shardLengths': [str(len(records))],
        'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
        'numBytes': '1',
      }
    )
  info = {'name': name, 'fileFormat': 'array_record', 'splits': entries}
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  declared = {'featuresDict': {'features': features}}
  (folder / 'features.json').write_text(json.dumps(declared))
  return str(folder)


def batch_of(config, spec, *, train=False, rows=2, **kwargs):
  """The first batch of a spec, checked against the config's task."""
  spec = vc.data_spec(**spec.to_dict())
  spec.source_kwargs.update(kwargs)
  if train:
    batches = pipeline.make_train_iter(spec, batch_size=rows, seed=0)
  else:
    batches = pipeline.make_eval_iter(spec, batch_size=rows)
  batch = next(batches)
  batches.close()
  task = vc.build(config.task.factory, **config.task.kwargs)
  wanted = task.batch_spec()
  task.check_batch(device.check(batch, wanted, where='data'))
  return batch


@pytest.fixture
def imagenet_of_tfds(tmp_path):
  records = [
    {
      'file_name': b'n01440764_%d.JPEG' % label,
      'image': picture(20 * label),
      'label': label,
    }
    for label in (3, 7)
  ]
  features = {
    'file_name': {'text': {}},
    'image': {'image': {'encodingFormat': 'jpeg'}},
    'label': {'classLabel': {'numClasses': '1000'}},
  }
  return write_tfds(
    tmp_path / 'imagenet2012' / '5.1.0',
    'imagenet2012',
    features,
    {'train': records, 'validation': records[::-1]},
  )


def test_imagenet_of_tfds(imagenet_of_tfds):
  config = imagenet.get_config('reader=tfds')
  batch = batch_of(config, config.data.train, train=True, path=imagenet_of_tfds)
  assert batch['video'].shape == (2, 1, 224, 224, 3)
  assert sorted(batch['label']) == [3, 7]
  for module in (imagenet, eval_imagenet):
    config = module.get_config('reader=tfds')
    data = config.evals.val.kwargs.data
    batch = batch_of(config, data, path=imagenet_of_tfds)
    np.testing.assert_array_equal(batch['label'], [7, 3])
    means = batch['video'].mean((1, 2, 3, 4))
    np.testing.assert_allclose(means, [140, 60], atol=2)


def test_ucf101_of_tfds_has_pictures_and_no_sound(tmp_path):
  record = {
    'label': 5,
    'video': [picture(10 * i, kind='PNG') for i in range(20)],
  }
  features = {
    'label': {'classLabel': {'numClasses': '101'}},
    'video': {'video': {'shape': {'dimensions': ['-1', '256', '256', '3']}}},
  }
  path = write_tfds(
    tmp_path / 'ucf101' / '2.0.0', 'ucf101', features, {'test': [record]}
  )
  config = kinetics_autoencoding.get_config('dataset=ucf101_tfds')
  batch = batch_of(config, config.evals.val.kwargs.data, rows=1, path=path)
  # The middle 16 of 20.
  np.testing.assert_array_equal(
    batch['video'][0, :, 0, 0, 0], 10 * np.arange(2, 18)
  )
  assert batch['label'] == [5]
  assert not batch['audio_mask'].any() and not batch['audio'].any()


def test_audioset_has_sixteen_clips_with_their_sound(tmp_path):
  miniature.write(
    tmp_path,
    'eval_segments.csv',
    '# 1\n# 2\n# YTID, start_seconds, end_seconds, positive_labels\n'
    '--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/0bt9lr"\n',
  )
  seconds = np.arange(3 * 48_000) / 48_000
  writer.write_video(
    tmp_path / '--4gqARaEJE.mp4',
    np.zeros((75, 16, 16, 3), np.uint8),
    fps=25,
    # Louder and louder.
    audio=0.3 * seconds * np.sin(2 * np.pi * 440 * seconds),
  )
  config = audioset.get_config()
  data = config.evals.eval.kwargs.data
  spec = vc.data_spec(**data.to_dict())
  spec.source_kwargs.root = str(tmp_path)
  spec.transform_kwargs.size = (8, 8)
  batches = pipeline.make_eval_iter(spec, batch_size=1)
  batch = next(batches)
  batches.close()
  assert batch['video'].shape == (1, 16, 32, 8, 8, 3)
  assert batch['audio'].shape == (1, 16, 61_440, 1)
  assert batch['audio_mask'].all()
  loudness = np.square(batch['audio'][0]).mean((1, 2))
  assert (np.diff(loudness) > 0).all()
  assert batch['label'].sum() == 2
