"""
Segment from a few strokes
==========================

No model for your images, and no time to draw masks? Draw some strokes in each kind of tissue: a forest
learns from them in about a second, and runs on images of any size.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage.data import immunohistochemistry
from skimage.draw import line
from skimage.morphology import dilation, disk
from skimage.segmentation import mark_boundaries

from napari_fcnseg import predict, segment, train_forest, train_texton_forest

# %%
# In a viewer these strokes would be drawn by hand. 0 is unlabelled; here 1 is empty glass, 2 is stroma
# and 3 is epithelium: 12 strokes, less than half a percent of the pixels.

image = immunohistochemistry()
strokes = {
    1: [(310, 15, 370, 30), (400, 440, 450, 445), (120, 336, 180, 370), (60, 303, 90, 318)],
    2: [(250, 120, 300, 240), (370, 190, 460, 200), (60, 480, 250, 490), (330, 400, 420, 390)],
    3: [(60, 40, 200, 200), (100, 380, 230, 420), (400, 300, 470, 340), (420, 110, 330, 130)],
}
marks = np.zeros(image.shape[:2], np.uint8)
for value, drawn in strokes.items():
    for ends in drawn:
        marks[line(*ends)] = value
print(f"{(marks > 0).mean():.2%} of the pixels are labelled")

# %%
# The result is a model like any other. ``background=1`` makes the glass 0 in the result.

names = ["glass", "stroma", "epithelium"]
model = train_forest(image, marks, classes=names, background=1, channel_axis=-1)
labels = segment(image, model, channel_axis=-1)
probability = predict(image, model, channel_axis=-1)[2]

# %%
# A texton forest compares raw pixels, and then looks at which patterns lie around.

textons = train_texton_forest(image, marks, classes=names, background=1, channel_axis=-1)
other = segment(image, textons, channel_axis=-1)

thick = dilation(marks, disk(2))  # strokes of one pixel would hardly be seen
painted = np.where(thick[..., None] > 0, plt.get_cmap("Set1")(thick)[..., :3] * 255, image).astype(np.uint8)

figure, panels = plt.subplots(2, 2, figsize=(9, 9), layout="constrained")
shown = {
    "12 strokes": painted,
    "random forest": mark_boundaries(image, labels, color=(1, 1, 0), mode="thick"),
    "its probability of epithelium": probability,
    "texton forest": mark_boundaries(image, other, color=(1, 1, 0), mode="thick"),
}
for axes, (title, picture) in zip(panels.flat, shown.items(), strict=True):
    axes.imshow(picture)
    axes.set_title(title)
    axes.set_axis_off()
plt.show()
