"""Crop, resize and flip a clip with all of its labels, on the host.

Every operation is a `windows.Window`, and `apply` moves each kind of label with
it once. Fields and their conventions (one clip, no batch axis; T frames, N
tracks, K boxes):

  video            uint8[T, H, W, 3]
  query_points     float32[N, 3]     (t, y, x), raster pixels
  target_points    float32[N, T, 2]  (x, y), raster pixels
  occluded         bool[N, T]        True also outside the picture
  boxes            float32[T, K, 4]  (ymin, xmin, ymax, xmax) in [0, 1]
  boxes_mask       bool[T, K]
  box_pixels       int32[T, K]       stays a count of source pixels
  depth            float32[T, H, W, 1], depth_mask bool[T, H, W, 1]: nearest
  segmentations    uint8[T, H, W, 1]: nearest pixel
  forward_flow, backward_flow   float32[T, H, W, 2] (dx, dy) in pixels: nearest
    pixel, scaled with the picture
  flow_mask, backward_flow_mask   bool[T, H, W]
  intrinsics       float32[4] or [T, 4]: fx / W, fy / H, cx / W, cy / H
  cam_from_world   float32[T, 4, 4]

A flip mirrors the world: x -> -x in the world and in the camera, so the pose
stays a rotation, focal lengths stay positive, and a mirrored world point
projects onto the mirrored pixel, and the two channels of stereo sound (audio
float32[S, 2]) change places. Other fields pass through: labels that tell left
from right must not be flipped.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vidscenic.data import resize as resizing
from vidscenic.data import windows

Clip = dict[str, Any]

# Each flow field and the mask of its valid pixels.
FLOW_MASKS = {
  'forward_flow': 'flow_mask',
  'backward_flow': 'backward_flow_mask',
}
_MASKS = {'depth': 'depth_mask', **FLOW_MASKS}
_DENSE = ('depth', 'segmentations', *FLOW_MASKS)
# diag(-1, 1, 1, 1): the mirror of world and camera coordinates.
_MIRROR = np.array([-1.0, 1.0, 1.0, 1.0])
# Fields that `apply` moves; with several views they carry a leading view axis.
MOVED = (
  'video',
  'query_points',
  'target_points',
  'occluded',
  'boxes',
  'boxes_mask',
  'box_pixels',
  *_DENSE,
  *_MASKS.values(),
  'intrinsics',
  'cam_from_world',
)


def apply(
  clip: Mapping[str, Any], window: windows.Window, *, method: str
) -> Clip:
  """Moves the video and every label of a clip through a window.

  Args:
    clip: fields of the module docstring, each optional.
    window: for the size of this clip's pictures.
    method: one of `resize.METHODS`, for the video.

  Returns:
    A new dict. Points that leave the picture become occluded, boxes that leave
    it are masked; padding is black, background, and masked for depth and flow.

  Raises:
    ValueError: the window belongs to another picture size.
  """
  out = move_labels(clip, window)
  if 'video' in clip:
    out['video'] = _move_video(clip['video'], window, method)
  return out


def move_labels(clip: Mapping[str, Any], window: windows.Window) -> Clip:
  """`apply` for everything but the video, which passes through."""
  for name in _DENSE:
    if name in clip and clip[name].shape[1:3] != window.source:
      raise ValueError(
        f'{name} has pictures of {clip[name].shape[1:3]}, expected '
        f'{window.source}'
      )
  out = dict(clip)
  _move_points(out, window)
  _move_boxes(out, window)
  _move_dense(out, window)
  _move_camera(out, window)
  if window.flip and np.ndim(out.get('audio')) == 2:
    if out['audio'].shape[1] == 2:
      out['audio'] = np.ascontiguousarray(out['audio'][:, ::-1])
  return out


def picture_size(clip: Mapping[str, Any]) -> windows.Size:
  """(height, width) of the clip's pictures.

  Raises:
    ValueError: no field holds pictures.
  """
  for name in ('video', *_DENSE):
    if name in clip:
      return tuple(clip[name].shape[1:3])
  raise ValueError(f'no pictures among the fields {sorted(clip)}')


def redraw_queries(clip: Mapping[str, Any], rng: np.random.Generator) -> Clip:
  """Replaces queries outside the picture by visible points of their tracks.

  After a crop, or after frames were dropped (t = NaN), a query may have nothing
  to look at. It moves to a uniformly drawn frame in which its track is visible,
  at the track's position there. N numbers are drawn from rng in any case, so
  what is drawn later does not depend on the crop.

  Args:
    clip: with query_points, picture fields, and target_points and occluded
      (without these two nothing can be redrawn). Where its query_mask is False
      already, the query counts as lost.
    rng: numpy generator.

  Returns:
    The clip with query_points inside the picture, and query_mask bool[N]: False
    where the track is never visible. Such queries are clamped into the picture,
    at frame 0 if theirs was dropped, and all their targets are occluded.
  """
  if 'query_points' not in clip:
    return dict(clip)
  height, width = picture_size(clip)
  queries = np.array(clip['query_points'])
  t, y, x = queries.T
  lost = ~_inside(y, x, (0, 0, height, width)) | np.isnan(t)
  draws = rng.random(len(queries))
  lost |= ~np.asarray(clip.get('query_mask', True))
  mask = ~lost
  if 'target_points' in clip and 'occluded' in clip:
    visible = ~clip['occluded']
    counts = visible.sum(1)
    found = lost & (counts > 0)
    # The k-th visible frame of each track, k uniform.
    k = (draws * counts).astype(np.int64)
    frame = np.argmax(np.cumsum(visible, axis=1) > k[:, None], axis=1)
    point = np.take_along_axis(
      clip['target_points'], frame[:, None, None], axis=1
    )[:, 0]
    drawn = np.stack([frame, point[:, 1], point[:, 0]], axis=-1)
    queries = np.where(found[:, None], drawn, queries)
    mask |= found
  queries[:, 0] = np.nan_to_num(queries[:, 0])
  queries[:, 1] = np.clip(queries[:, 1], 0, height)
  queries[:, 2] = np.clip(queries[:, 2], 0, width)
  return {
    **clip,
    'query_points': queries.astype(np.float32),
    'query_mask': mask,
  }


def _move_video(video, window, method):
  if video.shape[1:3] != window.source:
    raise ValueError(
      f'video has pictures of {video.shape[1:3]}, expected {window.source}'
    )
  top, left, height, width = window.box
  video = video[:, top : top + height, left : left + width]
  video = resizing.resize_frames(video, window.scaled, method=method)
  rows, into_rows = _overlap(window.offset[0], window.size[0], window.scaled[0])
  columns, into_columns = _overlap(
    window.offset[1], window.size[1], window.scaled[1]
  )
  out = video[:, rows, columns]
  if out.shape[1:3] != window.size:
    cut = out
    out = np.zeros((len(video), *window.size, 3), video.dtype)
    out[:, into_rows, into_columns] = cut
  return np.ascontiguousarray(out[:, :, ::-1] if window.flip else out)


def _overlap(offset, size, scaled):
  """Slices of the resized axis and of the output axis that coincide."""
  low, high = max(offset, 0), min(offset + size, scaled)
  high = max(low, high)
  return slice(low, high), slice(low - offset, high - offset)


def _inside(y, x, area):
  """In (ymin, xmin, ymax, xmax), closed so that a flip changes nothing."""
  ymin, xmin, ymax, xmax = area
  return (y >= ymin) & (y <= ymax) & (x >= xmin) & (x <= xmax)


def _move_points(clip, window):
  if 'query_points' in clip:
    queries = np.array(clip['query_points'], np.float32)
    queries[..., 1] = window.map_y(queries[..., 1])
    queries[..., 2] = window.map_x(queries[..., 2])
    clip['query_points'] = queries
  if 'target_points' in clip:
    targets = np.array(clip['target_points'], np.float32)
    targets[..., 0] = window.map_x(targets[..., 0])
    targets[..., 1] = window.map_y(targets[..., 1])
    clip['target_points'] = targets
    if 'occluded' in clip:
      inside = _inside(targets[..., 1], targets[..., 0], window.content)
      clip['occluded'] = clip['occluded'] | ~inside


def _move_boxes(clip, window):
  if 'boxes' not in clip:
    return
  height, width = window.source
  ymin, xmin, ymax, xmax = np.moveaxis(
    np.asarray(clip['boxes'], np.float64), -1, 0
  )
  ymin, ymax = (window.map_y(y * height) for y in (ymin, ymax))
  xmin, xmax = (window.map_x(x * width) for x in (xmin, xmax))
  if window.flip:
    xmin, xmax = xmax, xmin
  top, left, bottom, right = window.content
  height, width = window.size
  boxes = np.stack(
    [
      np.clip(ymin, top, bottom) / height,
      np.clip(xmin, left, right) / width,
      np.clip(ymax, top, bottom) / height,
      np.clip(xmax, left, right) / width,
    ],
    axis=-1,
  )
  mask = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
  mask &= clip.get('boxes_mask', True)
  clip['boxes'] = (boxes * mask[..., None]).astype(np.float32)
  clip['boxes_mask'] = mask
  if 'box_pixels' in clip:
    clip['box_pixels'] = clip['box_pixels'] * mask


def _move_dense(clip, window):
  names = [n for n in (*_DENSE, *_MASKS.values()) if n in clip]
  if not names:
    return
  rows, columns, inside = window.pixels()
  for name in names:
    values = clip[name][:, rows[:, None], columns]
    if name in FLOW_MASKS:
      sign = -1 if window.flip else 1
      factor = [sign * window.scale[1], window.scale[0]]
      values = values * np.array(factor, values.dtype)
    if not inside.all():
      values[:, ~inside] = 0
    clip[name] = values
  if 'depth' in clip and 'depth_mask' not in clip and not inside.all():
    clip['depth_mask'] = np.broadcast_to(
      inside[..., None], clip['depth'].shape
    ).copy()
  for name, mask in FLOW_MASKS.items():
    if name in clip:
      _mask_leaving_flow(clip, name, mask, window, inside)


def _mask_leaving_flow(clip, name, mask, window, inside):
  """A flow mask says that the target is seen: not so outside the picture."""
  flow = clip[name]
  height, width = window.size
  y = np.arange(height)[:, None] + 0.5 + flow[..., 1]
  x = np.arange(width) + 0.5 + flow[..., 0]
  seen = _inside(y, x, window.content) & inside
  clip[mask] = clip.get(mask, True) & seen


def _move_camera(clip, window):
  if 'intrinsics' in clip:
    fx, fy, cx, cy = np.moveaxis(
      np.asarray(clip['intrinsics'], np.float64), -1, 0
    )
    height, width = window.source
    clip['intrinsics'] = np.stack(
      [
        fx * width * window.scale[1] / window.size[1],
        fy * height * window.scale[0] / window.size[0],
        window.map_x(cx * width) / window.size[1],
        window.map_y(cy * height) / window.size[0],
      ],
      axis=-1,
    ).astype(np.float32)
  if window.flip and 'cam_from_world' in clip:
    pose = np.asarray(clip['cam_from_world'])
    mirror = _MIRROR.astype(pose.dtype)
    clip['cam_from_world'] = mirror[:, None] * pose * mirror
