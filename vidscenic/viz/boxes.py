"""Boxes with names drawn onto frames."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vidscenic.viz import colors as colors_lib
from vidscenic.viz import images


def draw_boxes(
  frames: np.ndarray,
  boxes: np.ndarray,
  mask: np.ndarray | None = None,
  *,
  labels: Sequence[str] | None = None,
  colors: np.ndarray | None = None,
  width: int | None = None,
) -> np.ndarray:
  """Draws boxes; a later one covers an earlier one.

  Borders are rounded to whole pixels and the line lies inside the box. Boxes
  that are empty or not finite are left out; parts outside the image are cut.

  Args:
    frames: uint8[T, H, W, 3], or one frame uint8[H, W, 3].
    boxes: float[T, K, 4] or [K, 4], (ymin, xmin, ymax, xmax) in [0, 1] of the
      frame; 0 and 1 are its borders.
    mask: bool[T, K] or [K], True where there is a box; None: everywhere.
    labels: K short texts; '' for none.
    colors: uint8[K, 3]; None: `colors.distinct`.
    width: of the line in pixels; None makes it fit the picture.

  Returns:
    uint8 of the shape of frames, a copy.

  Raises:
    ValueError: shapes that do not fit each other.
  """
  frames = images.checked(frames, ndim=4 if np.ndim(frames) == 4 else 3).copy()
  boxes = np.asarray(boxes, np.float64)
  lead = frames.shape[:-3]
  if boxes.shape[:-2] != lead or boxes.ndim < 2 or boxes.shape[-1] != 4:
    raise ValueError(
      f'boxes must be float{[*lead, "K", 4]}, got {[*boxes.shape]}'
    )
  count = boxes.shape[-2]
  mask = np.ones((*lead, count), bool) if mask is None else np.asarray(mask)
  if colors is None:
    colors = colors_lib.distinct(count)
  colors = colors_lib.checked(colors, count)
  labels = [''] * count if labels is None else list(labels)
  for name, got, want in (
    ('mask', mask.shape, (*lead, count)),
    ('labels', (len(labels),), (count,)),
  ):
    if got != want:
      raise ValueError(f'{name} must be {[*want]} for the boxes, got {[*got]}')
  size = min(frames.shape[-3:-1])
  width = max(1, round(size / 240)) if width is None else width
  text = max(10, round(size / 45))
  chips = [
    _chip(name, color, text) if name else None
    for name, color in zip(labels, colors, strict=True)
  ]
  # Far beyond the image all boxes look alike, and numbers stay small.
  limits = np.tile(frames.shape[-3:-1], 2)
  borders = np.rint(np.clip(boxes, -2, 3) * limits)
  shown = np.isfinite(boxes).all(-1) & mask.astype(bool)
  shown &= (borders[..., 2:] > borders[..., :2]).all(-1)
  for *index, k in np.argwhere(shown):
    index = tuple(index)
    border = borders[index][k].astype(int)
    _draw(frames[index], border, colors[k], width, chips[k])
  return frames


def _draw(frame, border, color, width, chip):
  """Draws one box in place; border is (top, left, bottom, right) in pixels."""
  top, left, bottom, right = border
  for rows, columns in (
    ((top, min(top + width, bottom)), (left, right)),
    ((max(bottom - width, top), bottom), (left, right)),
    ((top, bottom), (left, min(left + width, right))),
    ((top, bottom), (max(right - width, left), right)),
  ):
    frame[_inside(*rows), _inside(*columns)] = color
  if chip is None or bottom <= 0 or right <= 0:
    return
  if top >= frame.shape[0] or left >= frame.shape[1]:
    return
  # Above the box, or inside if there is no room; never out at the left.
  top = top - len(chip) if top >= len(chip) else max(top, 0)
  left = max(min(left, frame.shape[1] - chip.shape[1]), 0)
  place = frame[top : top + len(chip), left : left + chip.shape[1]]
  place[:] = chip[: place.shape[0], : place.shape[1]]


def _inside(start, stop):
  # A negative number in a slice would count from the other end.
  return slice(max(start, 0), max(stop, 0))


def _chip(text, color, size):
  """The text on a patch of the box's colour, black or white to be read."""
  font = ImageFont.load_default(size)
  chip = Image.new(
    'RGB', (int(font.getlength(text)) + 7, size + 4), tuple(color)
  )
  bright = np.dot(color, (0.299, 0.587, 0.114)) > 127
  ImageDraw.Draw(chip).text(
    (3, size / 2 + 2),
    text,
    fill=(0, 0, 0) if bright else (255, 255, 255),
    font=font,
    anchor='lm',
  )
  return np.asarray(chip)
