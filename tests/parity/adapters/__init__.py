"""One module per project; each has ADAPTERS = {kind: run(golden)}.

REQUIRED = {kind: expression} stands beside it for results without an npz.
"""
