"""The random-access source of synthetic videos."""

import numbers
import operator

import numpy as np

from vidscenic.data.synthetic import labels, render
from vidscenic.data.synthetic import scene as scene_lib
from vidscenic.data.synthetic import textures as textures_lib
from vidscenic.data.synthetic import world as world_lib

_SPLITS = ('train', 'validation', 'test')
_SIZES = {'train': 1_000_000, 'validation': 256, 'test': 256}
_FPS = 12
_QUERIES = ('any', 'first')
# Last word of the seeds of the streams besides the scene itself.
_QUERY_STREAM, _SOUND_STREAM, _NOISE_STREAM = 1, 7, 99


class SyntheticVideos:
  """Clips of moving textured objects: `source[i]` is a dict of arrays.

  Example i is a pure function of (seed, split, i) and of the options: the same
  in any order, thread or process. One index shows the same scene and label at
  every size; only the query points differ. Safe to use from threads; pickles
  as its options.

  An example has, raster coordinates counted from the upper-left corner of the
  first pixel, whose centre is at (0.5, 0.5):
    video: uint8[T, H, W, 3], RGB.
    label: int32, index into `ACTIONS`: how object 0 and most others move. One
      frame does not tell. Actions tell left from right and the sense of a
      turn: a mirrored clip (`ClipTransform.flip`) has the wrong label.
    shape_label: int32, index into `SHAPES`: what object 0 is, to be read from
      one frame.
    fps: float32, 12, frames per second at which the sound fits.
  with num_tracks = N > 0:
    query_points: float32[N, 3], (t, y, x), t in frames, rest in raster pixels.
    target_points: float32[N, T, 2], (x, y) in raster pixels.
    occluded: bool[N, T], also True outside the image.
  with flow:
    forward_flow, backward_flow: float32[T, H, W, 2], (dx, dy) in pixels to the
      next and previous frame; zero in the last and first.
    flow_mask, backward_flow_mask: bool[T, H, W], True where the target is
      visible in that frame.
  with boxes (object k is segment k + 1; unused rows are zero):
    boxes: float32[T, 9, 4], (ymin, xmin, ymax, xmax) in [0, 1], around the
      visible part.
    boxes_mask: bool[T, 9], True where any pixel is visible.
    box_pixels: int32[T, 9], number of visible pixels.
  with depth:
    depth: float32[T, H, W, 1], along the optical axis, scene units.
    depth_mask: bool[T, H, W, 1], all True.
  with segmentations: uint8[T, H, W, 1], 0 is the room.
  with pose (x right, y down, z forward):
    cam_from_world: float32[T, 4, 4].
    intrinsics: float32[4], (fx, fy, cx, cy) divided by (W, H, W, H).
  with audio: float32[S, 2] in [-1, 1], stereo at 16 kHz; S = T * 16000 // 12.
  """

  def __init__(
    self,
    split: str = 'train',
    *,
    num_frames: int = 16,
    height: int = 64,
    width: int = 64,
    difficulty: str | scene_lib.Difficulty = 'medium',
    seed: int = 0,
    size: int | None = None,
    num_tracks: int = 0,
    queries: str = 'any',
    flow: bool = False,
    boxes: bool = False,
    depth: bool = False,
    segmentations: bool = False,
    pose: bool = False,
    audio: bool = False,
    textures: str = '',
    texture_seed: int = 0,
  ):
    """Chooses the scenes and what to return of them.

    Args:
      split: 'train', 'validation' or 'test'; different scenes.
      num_frames: frames per clip T. A clip shows the same motion at any T.
      height: H in pixels.
      width: W in pixels.
      difficulty: 'easy', 'medium', 'hard' or ranges of one's own.
      seed: of the scenes, not negative.
      size: number of examples; None: a million for training, else 256.
      num_tracks: point tracks N per clip.
      queries: 'any' frame or the 'first' frame.
      flow: forward and backward flow.
      boxes: boxes of the objects.
      depth: depth maps.
      segmentations: segment numbers.
      pose: camera pose and intrinsics.
      audio: a sound track.
      textures: folder of photographs to use as textures; empty: made by rule.
      texture_seed: of the textures made by rule, shared by all splits.

    Raises:
      ValueError: an argument out of its range.
    """
    _require_one_of('split', split, _SPLITS)
    _require_one_of('queries', queries, _QUERIES)
    for name, value, least in (
      ('num_frames', num_frames, 1),
      ('height', height, 1),
      ('width', width, 1),
      ('seed', seed, 0),
      ('size', 1 if size is None else size, 1),
      ('num_tracks', num_tracks, 0),
      ('texture_seed', texture_seed, 0),
    ):
      if not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f'{name} must be a whole number >= {least}: {value!r}')
    if not isinstance(difficulty, scene_lib.Difficulty):
      _require_one_of('difficulty', difficulty, tuple(scene_lib.DIFFICULTIES))
      difficulty = scene_lib.DIFFICULTIES[difficulty]
    least, most = difficulty.objects
    if not 1 <= least <= most <= scene_lib.MAX_OBJECTS:
      raise ValueError(
        f'difficulty.objects must be a range within '
        f'[1, {scene_lib.MAX_OBJECTS}]: {difficulty.objects}'
      )
    self._seed = [seed, _SPLITS.index(split)]
    self._size = _SIZES[split] if size is None else size
    self._shape = {'num_frames': num_frames, 'height': height, 'width': width}
    self._difficulty = difficulty
    self._num_tracks = num_tracks
    self._first = queries == 'first'
    self._flow = flow
    self._boxes = boxes
    self._depth = depth
    self._segmentations = segmentations
    self._pose = pose
    self._audio = audio
    self._bank = textures_lib.bank(texture_seed, textures)

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """Example `index`; IndexError outside [0, len)."""
    index = operator.index(index)
    if not 0 <= index < self._size:
      raise IndexError(f'index {index} outside [0, {self._size})')
    scene = scene_lib.draw_scene(
      self._rng(index), self._difficulty, num_textures=self._bank.count
    )
    world = world_lib.make_world(scene, **self._shape)
    single = world.single()
    noise = self._rng(index, _NOISE_STREAM)
    frames = render.render(
      single, scene, self._bank, noise, material=self._flow
    )
    shape = scene_lib.SHAPES.index(scene.things[0].look.shape)
    example = {
      'video': frames.video,
      'label': np.int32(scene.label),
      'shape_label': np.int32(shape),
      'fps': np.float32(_FPS),
    }
    if self._num_tracks:
      example.update(self._track(index, world, frames.surface))
    if self._flow:
      for name, mask, step in (
        ('forward_flow', 'flow_mask', 1),
        ('backward_flow', 'backward_flow_mask', -1),
      ):
        example[name], example[mask] = labels.flow(single, frames, step=step)
    if self._boxes:
      names = 'boxes', 'boxes_mask', 'box_pixels'
      example.update(zip(names, labels.boxes(frames.surface), strict=True))
    if self._depth:
      example['depth'] = frames.depth[..., None]
      example['depth_mask'] = np.ones_like(example['depth'], dtype=bool)
    if self._segmentations:
      example['segmentations'] = frames.surface[..., None]
    if self._pose:
      example.update(_pose(world))
    if self._audio:
      rng = self._rng(index, _SOUND_STREAM)
      example['audio'] = labels.sound(scene, world, rng)
    return example

  def _rng(self, index, *stream):
    return np.random.default_rng([*self._seed, index, *stream])

  def _track(self, index, world, surface):
    queries = labels.draw_queries(
      self._rng(index, _QUERY_STREAM),
      surface,
      count=self._num_tracks,
      first=self._first,
    )
    tracks = labels.track(world, queries)
    return {
      'query_points': tracks.queries,
      'target_points': tracks.points,
      'occluded': ~tracks.visible,
    }


def _pose(world):
  camera = np.zeros((world.num_frames, 4, 4))
  camera[:, :3, :3] = world.rotation.swapaxes(1, 2)
  camera[:, :3, 3] = -(camera[:, :3, :3] * world.centre[:, None]).sum(-1)
  camera[:, 3, 3] = 1
  intrinsics = world.focal / world.width, world.focal / world.height, 0.5, 0.5
  return {
    'cam_from_world': camera.astype(np.float32),
    'intrinsics': np.array(intrinsics, np.float32),
  }


def _require_one_of(name, value, allowed):
  if value not in allowed:
    raise ValueError(f'{name} must be one of {allowed}: {value!r}')
