"""The detector, which gives the binary feature vector of an image: networks, calibration, files, judgements."""
