"""One's own videos as a TFDS data set of ArrayRecord files.

  from vidscenic.data import sources
  from vidscenic.data.builders import videos

  videos.prepare(
    {'train': sources.VideoFolder('/data/mine', split='train'),
     'test': sources.VideoFolder('/data/mine', split='test')},
    data_dir='/data/tfds',
  )

or, with re-encoding, `tools/prepare_videos --array_record`. What comes out is
read by `array_records.ArrayRecords` and by TFDS itself, TensorFlow is needed
neither here nor there:

  builder = tfds.builder_from_directory('/data/tfds/videos/1.0.0')
  builder.as_data_source('train[:10%]')

Files go in as they are, so decoding stays a matter of the reader.
"""

import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping

import numpy as np
import tensorflow_datasets as tfds

from vidscenic.data import sources
from vidscenic.data.datasets import tables

# Shards have between half of this and this many bytes.
MAX_SHARD_BYTES = 256 << 20


class Videos(tfds.core.GeneratorBasedBuilder):
  """Fields: video (bytes of the file), id (its path), label if there are any.

  TFDS orders records by a hash of the id: fixed, but mixed, so that a part of a
  split such as 'train[:10%]' holds all classes.

  Args:
    folders: {split: source}. Sources with class names must have the same ones;
      classes without names are counted over all of them.
    content: describes what is in it; another one tells that a prepared data set
      is out of date.
    **kwargs: of the base class: data_dir, file_format='array_record'.

  Raises:
    ValueError: some videos have labels and some have none, or class names
      differ.
  """

  VERSION = tfds.core.Version('1.0.0')
  # As of a class in a notebook. Beside a module TFDS looks for checksums of
  # downloads, with the package importlib_resources, which it does not install.
  code_path = None

  def __init__(
    self,
    *,
    folders: Mapping[str, sources.VideoFolder],
    content: str = '',
    **kwargs,
  ):
    self._folders = dict(folders)
    self._content = content
    self._labels = _class_label(self._folders)
    super().__init__(**kwargs)

  def _info(self):
    features = {
      # Not features.Video, which would import TensorFlow and decode all.
      'video': tfds.features.Tensor(shape=(), dtype=np.object_),
      'id': tfds.features.Text(),
    }
    if self._labels is not None:
      features['label'] = self._labels
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(features),
      metadata=tfds.core.MetadataDict(content=self._content),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {
      split: self._generate_examples(folder)
      for split, folder in self._folders.items()
    }

  def _generate_examples(self, folder):
    for number, record in enumerate(folder):
      with open(record['video'].path, 'rb') as f:
        data = f.read()
      example = {'video': data, 'id': os.fsencode(record['path'])}
      if 'label' in record:
        example['label'] = int(record['label'])
      yield f'{record["path"]} {number}', example


def prepare(
  folders: Mapping[str, sources.VideoFolder],
  data_dir: str,
  *,
  content: str = '',
) -> str:
  """Writes `data_dir`/videos/1.0.0 unless it is there with this `content`.

  Complete or not there at all: an interrupted call leaves nothing under the
  final name, and the next one begins anew.

  Args:
    folders: {split: source}; split names consist of letters, digits and '_'.
    data_dir: folder for data sets.
    content: see `Videos`; '' rebuilds always.

  Returns:
    The folder with the shards.

  Raises:
    ValueError: see `Videos`.
    OSError: a video cannot be read, or the disk is full.
  """
  folder = os.path.join(data_dir, Videos.name, str(Videos.VERSION))
  parts = os.path.join(glob.escape(os.path.dirname(folder)), 'incomplete.*')
  for part in glob.glob(parts):  # of a call that was interrupted
    shutil.rmtree(part)
  if os.path.isdir(folder):
    if content and _content(folder) == content:
      return folder
    shutil.rmtree(folder)
  builder = Videos(
    folders=folders,
    content=content,
    data_dir=data_dir,
    file_format='array_record',
  )
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  with tempfile.TemporaryDirectory() as nothing:
    builder.download_and_prepare(
      download_dir=nothing,
      download_config=tfds.download.DownloadConfig(
        min_shard_size=MAX_SHARD_BYTES // 2,
        max_shard_size=MAX_SHARD_BYTES,
        try_download_gcs=False,
      ),
    )
  return folder


# --- private ---


def _content(folder):
  """What `prepare` was told the last time; '' if nobody knows."""
  path = os.path.join(folder, 'metadata.json')
  if not os.path.isfile(path):
    return ''
  return tables.read_json(path, 'TFDS writes it').get('content', '')


def _class_label(folders):
  """The feature of the label, None without labels."""
  kinds = {tuple(folder.class_names) for folder in folders.values()}
  if len(kinds) > 1:
    raise ValueError(
      f'the splits {sorted(folders)} do not have the same class names'
    )
  labels = [
    record.get('label') for folder in folders.values() for record in folder
  ]
  if all(label is None for label in labels):
    return None
  if any(label is None for label in labels):
    raise ValueError(f'only some videos of {sorted(folders)} have labels')
  (names,) = kinds
  if names:
    return tfds.features.ClassLabel(names=names)
  return tfds.features.ClassLabel(num_classes=int(max(labels)) + 1)
