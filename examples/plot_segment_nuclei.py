"""
Segment nuclei in a stained tissue section
==========================================

The default model finds nuclei in fluorescence images and in stained histology. Here it gets a section
of colon with brown immunostaining and blue nuclei, which ships with scikit-image.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage.data import immunohistochemistry
from skimage.measure import regionprops
from skimage.segmentation import mark_boundaries

from napari_fcnseg import segment

# %%
# A trailing axis of length 3 could be colour or three slices. Nothing is guessed, so we say that it is
# the channel axis. The stain is then separated once for the whole image.

image = immunohistochemistry()
labels = segment(image, channel_axis=-1)
print(f"{labels.max()} nuclei in {image.shape[1]} x {image.shape[0]} pixels, labels are {labels.dtype}")

# %%
# Outlines over the image show at a glance what was found, joined or missed.

overlay = mark_boundaries(image, labels, color=(1, 1, 0), mode="inner")

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
left.imshow(image)
left.set_title("image")
right.imshow(overlay)
right.set_title(f"{labels.max()} nuclei")
for axes in (left, right):
    axes.set_axis_off()

# %%
# Labels are an ordinary integer array: 0 is background, the objects are 1..N. So everything that takes
# labels takes these.

areas = np.array([region.area for region in regionprops(labels)])

figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.hist(areas, bins=30)
axes.set_xlabel("area in pixels")
axes.set_ylabel("nuclei")
plt.show()
