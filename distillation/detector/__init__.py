"""The detector, which predicts the bits of an image: networks, calibration, files, judgements."""
