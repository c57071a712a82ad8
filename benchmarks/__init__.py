"""Speed and memory against what the machine can do."""
