"""Flow of images of any size."""

from vidscenic.evaluation import dense


class TiledFlow(dense.Flow):
  """`dense.Flow` for images that are larger than those of the training.

  The images of one batch have one size.
  """

  def place(self, batch):
    wanted = ('video', *self.targets, 'mask')
    missing = [name for name in wanted if name not in batch]
    if missing:
      raise ValueError(
        f'{self.name}.kwargs.data: TiledFlow needs {missing}, the data give '
        f'{sorted(batch)}'
      )
    # Refused here, where the data can be named.
    try:
      self.task.corners(batch['video'].shape[2:4])
    except ValueError as error:
      raise ValueError(f'{self.name}.kwargs.data: {error}') from error
    return self.put({name: batch[name] for name in wanted})
