"""The binary feature vector of an image: network, calibration, thresholds. Knows no generator and no data set."""
