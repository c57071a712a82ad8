"""Relative camera poses and their errors.

Cameras look along +z, x to the right, y down; `cam_from_world` maps world
points to camera points, X_cam = R X_world + t.
"""

import itertools

import jax.numpy as jnp
import numpy as np

from vidscenic.ops import losses

# In front of the camera, a unit of length away: side 2 around (0, 0, 2).
CUBE = np.array(list(itertools.product((-1, 1), (-1, 1), (1, 3))), np.float32)


def relative(cam_from_world, reference):
  """Pose of a camera as seen from another one: maps its points.

  Args:
    cam_from_world: [..., 4, 4], rigid.
    reference: [..., 4, 4], rigid; in the readouts of arXiv 2412.15212 the
      first frame, while the other is the last one.

  Returns:
    float32[..., 4, 4], camera from reference camera.
  """
  cam_from_world = jnp.asarray(cam_from_world, jnp.float32)
  reference = jnp.asarray(reference, jnp.float32)
  # The inverse of a rigid map, without the rounding of a general one.
  rotation = jnp.swapaxes(reference[..., :3, :3], -1, -2)
  moved = -_apply(rotation, reference[..., :3, 3])
  top = jnp.concatenate([rotation, moved[..., None]], axis=-1)
  last = jnp.broadcast_to(
    jnp.array([0.0, 0.0, 0.0, 1.0]), (*top.shape[:-2], 1, 4)
  )
  inverse = jnp.concatenate([top, last], axis=-2)
  return jnp.matmul(cam_from_world, inverse, precision='highest')


def from_numbers(numbers):
  """Twelve predicted numbers -> the nearest rigid pose.

  Args:
    numbers: [..., 12], the 9 entries of a rotation row by row, then t. They
      are replaced by the nearest rotation (least squares, by singular values;
      determinant 1).

  Returns:
    float32[..., 4, 4].

  Raises:
    ValueError: another last axis.
  """
  numbers = jnp.asarray(numbers, jnp.float32)
  if numbers.shape[-1:] != (12,):
    raise ValueError(f'numbers must be [..., 12], got {numbers.shape}')
  lead = numbers.shape[:-1]
  left, _, right = jnp.linalg.svd(numbers[..., :9].reshape(*lead, 3, 3))
  sign = jnp.linalg.det(left) * jnp.linalg.det(right)
  # Of a reflection the direction of the smallest singular value is turned.
  left = left.at[..., 2].multiply(jnp.sign(sign)[..., None])
  rotation = jnp.matmul(left, right, precision='highest')
  pose = jnp.broadcast_to(jnp.eye(4), (*lead, 4, 4))
  pose = pose.at[..., :3, :3].set(rotation)
  return pose.at[..., :3, 3].set(numbers[..., 9:])


def errors(pose, target, *, mask=1.0, points=CUBE):
  """Errors of relative poses.

    rotation: angle between the two rotations, degrees.
    translation: distance of the two translations, in their unit.
    direction: angle between the two translations, degrees, for data whose
      scale is not known; pairs with a translation of length 0 are left out.
    end_point_error: mean distance between `points` moved by the one pose and
      by the other.

  Args:
    pose: [..., 4, 4], predicted, rigid (`from_numbers`).
    target: [..., 4, 4].
    mask: [...], or for its leading axes.
    points: [P, 3] that the poses move, by default the corners of a cube before
      the camera. Whether the published figures on RealEstate10K (arXiv
      2412.15212) move the same points is not known.

  Returns:
    {name: (sum, count)} over pairs of poses.
  """
  pose = jnp.asarray(pose, jnp.float32)
  target = jnp.asarray(target, jnp.float32)
  mask = losses.align(mask, target[..., 0, 0])
  moved, wanted = (
    jnp.matmul(
      points, jnp.swapaxes(p[..., :3, :3], -1, -2), precision='highest'
    )
    + p[..., None, :3, 3]
    for p in (pose, target)
  )
  turn = jnp.matmul(
    pose[..., :3, :3],
    jnp.swapaxes(target[..., :3, :3], -1, -2),
    precision='highest',
  )
  shift, wanted_shift = pose[..., :3, 3], target[..., :3, 3]
  known = jnp.linalg.norm(shift, axis=-1) * jnp.linalg.norm(
    wanted_shift, axis=-1
  )
  values = {
    'rotation': _turned(turn),
    'translation': jnp.linalg.norm(shift - wanted_shift, axis=-1),
    'direction': _angle(shift, wanted_shift),
    'end_point_error': jnp.linalg.norm(moved - wanted, axis=-1).mean(-1),
  }
  weights = {name: mask * jnp.ones_like(known) for name in values}
  weights['direction'] *= known > 0
  return {
    k: losses.weighted_sum(v, weight=weights[k]) for k, v in values.items()
  }


def _turned(rotation):
  """Angle of rotations in degrees; exact near 0, where arccos is not."""
  axis = jnp.stack(
    [
      rotation[..., 2, 1] - rotation[..., 1, 2],
      rotation[..., 0, 2] - rotation[..., 2, 0],
      rotation[..., 1, 0] - rotation[..., 0, 1],
    ],
    axis=-1,
  )
  sine = jnp.linalg.norm(axis, axis=-1)
  cosine = jnp.trace(rotation, axis1=-2, axis2=-1) - 1
  return jnp.degrees(jnp.arctan2(sine, cosine))


def _angle(a, b):
  sine = jnp.linalg.norm(jnp.cross(a, b), axis=-1)
  return jnp.degrees(jnp.arctan2(sine, jnp.sum(a * b, axis=-1)))


def _apply(matrix, vector):
  return jnp.einsum('...ij,...j->...i', matrix, vector, precision='highest')
