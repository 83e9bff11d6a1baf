"""Other formats to the folder layout of `famseg.data.folder`, and from any set to nnU-Net's."""
