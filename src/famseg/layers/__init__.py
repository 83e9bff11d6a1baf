"""The building blocks of FAMSeg, one idea of the paper in each file."""
