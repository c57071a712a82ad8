"""vidscenic: video models in JAX/Flax on one small core."""

__version__ = '0.1.0'
