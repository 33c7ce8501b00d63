"""Images and labelled data sets: the same code for training, calibration, validation and the device."""
