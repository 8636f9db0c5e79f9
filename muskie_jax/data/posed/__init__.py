"""Views with depth and cameras: what correspondence is measured on."""
