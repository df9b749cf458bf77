"""Patches of the sample photographs of scikit-learn, see `photo_patches.PhotoPatches`."""
