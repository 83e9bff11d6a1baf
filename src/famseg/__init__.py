"""FAMSeg: fetal head and femur segmentation in ultrasound images."""

__version__ = "0.1.0"
