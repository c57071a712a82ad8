"""jit for what runs once: compiling takes longer than running here."""

import functools

import jax

jit = functools.partial(
  jax.jit,
  compiler_options={
    'xla_backend_optimization_level': 0,
    'xla_llvm_disable_expensive_passes': True,
  },
)
