"""Kubric's MOVi scenes: from stored fields to our conventions.

MOVi-A to -F (arXiv 2203.03570) hold 24 frames at 12 per second with everything
the renderer knew. What differs from our conventions, and is changed here:
  depth is the distance to the camera's centre, uint16 between two limits;
  flow is (rows, columns), uint16 between two limits;
  segmentations are the instance's index + 1, 0 is the background;
  boxes exist only for the frames in which an instance is seen;
  quaternions are (w, x, y, z), and cameras look along -z with y up.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vidscenic.data import array_records, augment
from vidscenic.data.datasets import kubric_scene, listed_videos, tables

FPS = 12.0
_SCENE_FIELDS = (
  'metadata/num_frames',
  'metadata/height',
  'metadata/width',
  'metadata/video_name',
  'video',
)
_CAMERA_FIELDS = (
  'camera/focal_length',
  'camera/sensor_width',
  'camera/positions',
  'camera/quaternions',
)
_LABEL_FIELDS = {
  'depth': ('depth', 'metadata/depth_range', *_CAMERA_FIELDS),
  'segmentations': ('segmentations',),
  'boxes': ('instances/bboxes', 'instances/bbox_frames'),
  'forward_flow': ('forward_flow', 'metadata/forward_flow_range'),
  'backward_flow': ('backward_flow', 'metadata/backward_flow_range'),
  'camera': _CAMERA_FIELDS,
}
LABELS = tuple(_LABEL_FIELDS)
_TRACK_FIELDS = (
  'segmentations',
  'depth',
  'metadata/depth_range',
  'object_coordinates',
  'normal',
  'instances/bboxes_3d',
  'instances/quaternions',
  *_CAMERA_FIELDS,
)
_ORIGIN = (
  'MOVi, free from gs://kubric-public/tfds (gcloud storage cp), made '
  'random-access by vidscenic.tools.tfrecord_to_array_record'
)
# Kubric's camera axes (x right, y up, z back) in ours (x right, y down, z
# forward).
_FLIP = np.array([1.0, -1.0, -1.0])


def check_labels(names: Sequence[str]) -> None:
  """Raises a ValueError if a name is not among LABELS."""
  unknown = sorted(set(names) - set(LABELS))
  if unknown:
    raise ValueError(f'labels must be among {LABELS}, got {unknown}')


def labels(
  record: Mapping[str, Any],
  names: Sequence[str],
  frames: Sequence[int] | None = None,
  *,
  max_boxes: int = 25,
) -> dict[str, np.ndarray]:
  """Labels of a scene in the conventions of `vidscenic.data.augment`.

  Args:
    record: stored fields of a scene.
    names: some of LABELS.
    frames: which frames; None: all.
    max_boxes: K, boxes are padded to; MOVi-E has up to 23 instances.

  Returns:
    depth: float32[n, H, W, 1], along the optical axis, in scene units.
    segmentations: uint8[n, H, W, 1].
    boxes, boxes_mask: float32[n, K, 4], (ymin, xmin, ymax, xmax) in [0, 1], and
      bool[n, K]; row k is instance k, masked where it is not seen.
    forward_flow, backward_flow: float32[n, H, W, 2], (dx, dy) in pixels to the
      next and the previous frame, also where the target is hidden.
    camera: cam_from_world float32[n, 4, 4], x right, y down, z forward, and
      intrinsics float32[4], (fx, fy, cx, cy) divided by (W, H, W, H).

  Raises:
    ValueError: an unknown name, or a field is missing or has another size.
    VideoError: a picture is damaged.
  """
  check_labels(names)
  scene = kubric_scene.Scene(record)
  frames = list(range(scene.num_frames) if frames is None else frames)
  out = {}
  if 'depth' in names:
    out['depth'] = _z_depth(scene, frames)[..., None]
  if 'segmentations' in names:
    out['segmentations'] = scene.segments(frames)[..., None]
  if 'boxes' in names:
    out['boxes'], out['boxes_mask'] = _boxes(scene, frames, max_boxes)
  for name in augment.FLOW_MASKS:
    if name in names:
      out[name] = _flow(scene, name, frames)
  if 'camera' in names:
    out.update(_pose(scene.camera(frames)))
  return out


class Movi:
  """MOVi scenes as records for `clips.ClipTransform`.

    source='vidscenic.data.datasets.kubric:Movi',
    source_kwargs={'root': '.../movi_e/256x256/1.0.0', 'labels': ('depth',)}

  Of the video only the chosen frames are decoded, of the labels all. For point
  tracks see `scenes`.

  Args:
    root: folder DATASET/CONFIG/VERSION of ArrayRecord files.
    split: as in TFDS: 'train', 'validation[:10]', for C, D and E also 'test'.
    labels: some of LABELS.
    max_boxes: see `labels`.

  Raises:
    FileNotFoundError: nothing is there; says where MOVi comes from.
    ValueError: an unknown split or label, or a field is not there.
  """

  def __init__(
    self,
    root: str,
    split: str = 'train',
    labels: Sequence[str] = (),
    max_boxes: int = 25,
  ):
    fields = _fields(labels)
    listed_videos.require_root(root, _ORIGIN)
    self._records = array_records.ArrayRecords(root, split, fields=fields)
    self._labels, self._max_boxes = tuple(labels), max_boxes

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One scene.

    Returns:
      dict(video=list of encoded frames, path=the scene's name, fps=12, and the
      fields of `labels`).

    Raises:
      IndexError: index outside [-len, len).
      ValueError, VideoError: as `labels`.
    """
    record = self._records[index]
    scene = kubric_scene.Scene(record)
    return {
      'video': list(scene.images('video')),
      'path': scene.name,
      'fps': FPS,
      **labels(record, self._labels, max_boxes=self._max_boxes),
    }


def scenes(
  root: str, split: str = 'train', labels: Sequence[str] = ()
) -> array_records.ArrayRecords:
  """MOVi scenes with the stored fields that point tracks are made of.

    source='vidscenic.data.datasets.kubric:scenes',
    transform='vidscenic.data.datasets.point_tracks:KubricTracks'

  Args:
    root, split: as of `Movi`.
    labels: some of LABELS, for which the fields are read too.

  Raises: as `Movi`.
  """
  fields = _fields(labels, *_TRACK_FIELDS)
  tables.require_folder(root, _ORIGIN)
  return array_records.ArrayRecords(root, split, fields=fields)


# --- private ---


def _fields(labels, *more):
  """{name: stored name} of what is read for some labels."""
  check_labels(labels)
  names = [*_SCENE_FIELDS, *more]
  names += [name for label in labels for name in _LABEL_FIELDS[label]]
  return {name: name for name in names}


def _z_depth(scene, frames):
  camera = scene.camera(frames)
  height, width = camera.size
  rays = camera.rays(np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5)
  return scene.distance(frames) * -rays[..., 2].astype(np.float32)


def _flow(scene, name, frames):
  values = scene.numbers(name, (scene.num_frames, *scene.size, 2))[frames]
  # (rows, columns) -> (dx, dy)
  return scene.unpack(name, values[..., ::-1])


def _boxes(scene, frames, max_boxes):
  boxes = np.zeros((scene.num_frames, max_boxes, 4), np.float32)
  mask = np.zeros((scene.num_frames, max_boxes), bool)
  values = scene.field('instances/bboxes')
  seen = scene.field('instances/bbox_frames')
  if len(values) != len(seen) or len(values) > max_boxes:
    raise ValueError(
      f'{scene.name}: {len(values)} instances have bboxes, {len(seen)} have '
      f'bbox_frames, max_boxes={max_boxes}'
    )
  for k, (own, numbers) in enumerate(zip(values, seen, strict=True)):
    numbers = np.asarray(numbers, np.int64).reshape(-1)
    boxes[numbers, k] = np.asarray(own, np.float32).reshape(-1, 4)
    mask[numbers, k] = True
  return boxes[frames], mask[frames]


def _pose(camera):
  # The world's axes in the camera's, in our order.
  turn = _FLIP[:, None] * camera.rotation.swapaxes(1, 2)
  pose = np.zeros((len(turn), 4, 4))
  pose[:, :3, :3] = turn
  pose[:, :3, 3] = -np.einsum('tij,tj->ti', turn, camera.position)
  pose[:, 3, 3] = 1
  return {
    'cam_from_world': pose.astype(np.float32),
    'intrinsics': np.array([*camera.focal, 0.5, 0.5], np.float32),
  }
