"""Readers of published data sets in the layouts that they are distributed in.

`READERS` is the table of all of them. A reader is a random-access source, so in
a config it stands as

  source='vidscenic.data.datasets.kinetics:Kinetics',
  source_kwargs={'root': '/data/k400', 'split': 'val', 'version': '400'}

and python -m vidscenic.tools.check_dataset --name=kinetics400 --root=/data/k400
tells whether the files are where they should be. The first argument is always
the folder.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Reader(NamedTuple):
  """How a data set is read.

  Attributes:
    factory: 'package.module:Class'.
    kwargs: arguments that choose this data set among those of the class.
  """

  factory: str
  kwargs: Mapping[str, Any] = {}


def _reader(module, name, **kwargs):
  return Reader(f'vidscenic.data.datasets.{module}:{name}', kwargs)


READERS = {
  'audioset': _reader('audioset', 'AudioSet'),
  'davis': _reader('dense', 'Davis'),
  'hmdb51': _reader('ucf_hmdb', 'Hmdb51'),
  'imagenet': _reader('imagenet', 'ImageNet'),
  'jhmdb': _reader('jhmdb', 'Jhmdb'),
  'kinetics400': _reader('kinetics', 'Kinetics', version='400'),
  'kinetics600': _reader('kinetics', 'Kinetics', version='600'),
  'kinetics700': _reader('kinetics', 'Kinetics', version='700'),
  'kinetics700_2020': _reader('kinetics', 'Kinetics', version='700-2020'),
  'kitti_flow': _reader('flow', 'KittiFlow'),
  'movi': _reader('kubric', 'Movi'),
  'perception_test_boxes': _reader(
    'perception_test', 'PerceptionTest', task='object_tracking'
  ),
  'perception_test_points': _reader(
    'perception_test', 'PerceptionTest', task='point_tracking'
  ),
  'realestate10k': _reader('real_estate', 'RealEstate10K'),
  'robotap': _reader('tapvid', 'TapVid', split='robotap'),
  'scannet': _reader('dense', 'ScanNet'),
  'sintel': _reader('flow', 'Sintel'),
  'something_something_v2': _reader(
    'something_something', 'SomethingSomething'
  ),
  'tapvid_csv': _reader('tapvid', 'TapVidCsv'),
  'tapvid_davis': _reader('tapvid', 'TapVid', split='davis'),
  'tapvid_kinetics': _reader('tapvid', 'TapVid', split='kinetics'),
  'tapvid_rgb_stacking': _reader('tapvid', 'TapVid', split='rgb_stacking'),
  'ucf101': _reader('ucf_hmdb', 'Ucf101'),
  'vip': _reader('dense', 'Vip'),
  'waymo_boxes': _reader('waymo', 'WaymoBoxes'),
  # One's own.
  'array_records': Reader('vidscenic.data.array_records:ArrayRecords'),
  'video_folder': Reader('vidscenic.data.sources:VideoFolder'),
}
