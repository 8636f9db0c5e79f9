"""A web page of points and cameras in 3D: one file that works offline."""
