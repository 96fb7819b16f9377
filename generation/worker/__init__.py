"""The generation worker: the process that uses a device and generates images."""
