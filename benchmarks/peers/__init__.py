"""Other libraries, each in an interpreter of its own (`make bench-peers` builds them under .venv-bench)."""
