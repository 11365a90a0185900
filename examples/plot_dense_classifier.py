"""
Turn a classifier into a heat map
=================================

A network that was trained to name one thing in a whole image can say where it is. Its linear layers
become convolutions, the weights stay as they are, and the network takes images of any size: each cell
of its output is the answer for one window. This is how fully convolutional networks began.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from skimage.data import chelsea, coffee
from skimage.transform import resize

from napari_fcnseg import FcnsegError
from napari_fcnseg.models.pretrained import load_pretrained, pretrained_record
from napari_fcnseg.networks.backbones import build_classifier
from napari_fcnseg.networks.dense_conversion import convolutionize

# %%
# MobileNetV2 knows the 1000 classes of ImageNet. Its weights come from a file beside the repository or
# from the cache; ``offline=True`` keeps this page from downloading them.

file = "shared/weights/mobilenet_v2_imagenet_fp16.safetensors"
local = [path for path in (Path("..", file), Path("../..", file)) if path.exists()]
record, classifier, trained = pretrained_record("mobilenet_v2"), build_classifier("mobilenet_v2"), True
try:
    print(load_pretrained(classifier, local[0] if local else record.name, offline=True))
except FcnsegError as error:
    print(f"Skipped, there are no heat maps on this page: {error}")
    trained = False

# %%
# One call makes it dense. The photograph is mirrored at its borders, so that each cell stands for the 32
# pixels in the middle of what it sees: 192 pixels in all, of which 80 come first, as odd windows in steps
# of two look 16 pixels farther to the left and up.

dense = convolutionize(classifier.eval())


@torch.inference_mode()
def heat_map(image, classes, enlarged):
    """Return the probability of any of some classes for each 32 x 32 pixels of the enlarged image."""
    pixels = resize(image, [32 * round(enlarged * side / 32) for side in image.shape[:2]])
    pixels = np.pad((pixels - record.mean) / record.std, ((80, 112), (80, 112), (0, 0)), mode="reflect")
    scores = dense(torch.from_numpy(pixels).float().movedim(-1, 0)[None])
    return scores.softmax(1)[0, classes].sum(0).numpy()


# %%
# ImageNet has five cats of the house, 281 to 285. Of coffee it has the espresso, 967, and the cup, 968.
# A cell equals what the classifier's head answers to its window of the feature map. The classifier on
# that crop of the photograph answers a little differently: zeros surround the crop, where the dense
# network sees the photograph go on.

things = {"cat": (chelsea(), [281, 282, 283, 284, 285], 1.5), "espresso or cup": (coffee(), [967, 968], 1)}
for name, (image, classes, enlarged) in things.items() if trained else ():
    heat = heat_map(image, classes, enlarged)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    left.imshow(image)
    right.imshow(image)
    extent = (0, image.shape[1], image.shape[0], 0)
    drawn = right.imshow(heat, extent=extent, vmin=0, vmax=1, alpha=0.6, cmap="inferno")
    right.set_title(f"probability of {name}, {heat.shape[0]} x {heat.shape[1]} windows")
    figure.colorbar(drawn, ax=right)
    for axes in (left, right):
        axes.set_axis_off()
    plt.show()
