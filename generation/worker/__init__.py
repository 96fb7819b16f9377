"""The process that holds a device and generates images."""
