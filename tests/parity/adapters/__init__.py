"""One module per project; each has ADAPTERS = {kind: run(golden)}."""
