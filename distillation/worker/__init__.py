"""The process that executes runs and designs."""
