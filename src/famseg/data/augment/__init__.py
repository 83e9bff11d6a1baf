"""Random changes of training images: one draw of their parameters, made by albumentations or in batches on a device."""
